"""Row policies by name."""

import inspect

import pytest

from dcache import DcacheError
from dcache.diffusion_lm import RowMethod, RowPolicy, available, find, make, preset, registry


def test_every_policy_has_a_summary_and_the_shared_options():
    assert set(available()) >= set(registry.BUILT_IN)
    for name, summary in available().items():
        assert summary.endswith(".")
        assert list(inspect.signature(find(name)).parameters)[-3:] == ["delay", "mask_id", "shift"]


def test_names_in_any_spelling():
    assert make("dKV", refresh=2) == make("dkv", refresh=2)
    assert make("Free-Cache").name == "freecache"
    assert make("dual", delay=0, mask_id=7, shift=True) == find("dual")(delay=0, mask_id=7, shift=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("duel", {}, r"row policy 'duel' is unknown: .* Did you mean 'dual'"),
        ("dual", {"blok": 3}, "dual has no option 'blok': it takes block"),
    ],
)
def test_what_is_unknown_is_refused(name, options, message):
    with pytest.raises(DcacheError, match=message):
        make(name, **options)


def test_a_name_is_taken_once():
    def dual() -> RowPolicy:
        """Another one."""
        return RowPolicy()

    def d_kv() -> RowPolicy:
        """In another spelling."""
        return RowPolicy()

    assert available()["dual"].startswith("Fast-dLLM")
    with pytest.raises(DcacheError, match="a row policy named 'dual' is registered already"):
        preset(dual)
    with pytest.raises(DcacheError, match="a row policy named 'd_kv' is registered already"):
        preset(d_kv)
    assert make("d_kv").name == "dkv"
    assert isinstance(make("dual"), RowMethod)
