import pytest

from dcache import DcacheError, lm_kv
from dcache.lm_kv import registry
from dcache.lm_kv.scoring.scorers import KeyDistance


def test_a_policy_knows_its_name_and_what_it_was_called_with():
    policy = lm_kv.make("snapkv", budget=0.5, window=8)
    assert policy.name == "snapkv"
    assert policy.parameters["window"] == 8
    assert policy.parameters["pool"] == 5


@pytest.mark.parametrize("name", sorted(lm_kv.available("policy")))
def test_every_policy_is_exported_described_and_in_a_file_of_its_name(name):
    function = getattr(lm_kv, name)
    assert function.__module__ == f"dcache.lm_kv.policies.{name}"
    assert lm_kv.available()[name].endswith(".")
    assert function(budget=0.5).budget == 0.5
    assert function(budget=0.5) == lm_kv.make(name, budget=0.5)


def test_methods_are_listed_by_kind():
    kinds = ("policy", "reuse", "sharing", "trained")
    assert lm_kv.available() == {name: text for kind in kinds for name, text in lm_kv.available(kind).items()}
    assert "snapkv" not in lm_kv.available("reuse")
    refusal = r"kind must be one of policy, reuse, sharing, trained, or None.*got 'method'"
    with pytest.raises(DcacheError, match=refusal):
        lm_kv.available("method")


def test_an_unknown_name_or_option_is_refused_with_what_there_is():
    with pytest.raises(DcacheError, match=r"policy 'snapvk' is unknown.*Did you mean 'snapkv'"):
        lm_kv.make("snapvk")
    with pytest.raises(DcacheError, match="keydiff has no option 'pool': it takes budget, sinks"):
        lm_kv.make("keydiff", pool=3)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("PIE", r"give it to lm_kv\.join\(model, chunks, 'pie'\)"),
        ("hydragen", r"call lm_kv\.hydragen\(\.\.\.\), which docs/lm_kv/policies/hydragen\.md describes"),
        ("trained_scorer", r"give what lm_kv\.trained_scorer\(\.\.\.\) returns in place of the name"),
    ],
)
def test_a_method_that_is_no_policy_is_refused_with_what_to_do(name, way):
    with pytest.raises(DcacheError, match=way):
        lm_kv.make(name)


@pytest.mark.parametrize("name", ["kvzip", "pie"])
def test_an_unknown_argument_names_the_function(name):
    with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected keyword argument 'codec'"):
        getattr(lm_kv, name)(codec=None)


def test_others_register_theirs_under_a_name_that_is_free(monkeypatch):
    monkeypatch.setattr(registry, "_presets", dict(registry._presets))

    @lm_kv.preset
    def mine(budget: float = 0.1) -> lm_kv.Policy:
        """Mine."""
        return lm_kv.Policy(scorer=KeyDistance(), budget=budget)

    assert lm_kv.available()["mine"] == "Mine."
    assert lm_kv.make("mine") == mine()
    with pytest.raises(DcacheError, match="a policy named 'mine' is registered already"):
        lm_kv.preset(mine)
