import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv import registry
from dcache.lm_kv.reuse.method import reuse, reuse_of
from tests.lm_kv.reuse.common import PARTS, behind, chunks, close, usual, whole


@pytest.mark.parametrize("name", sorted(lm_kv.available("reuse")))
def test_every_way_is_exported_described_and_in_a_file_of_its_name(name):
    function = getattr(lm_kv, name)
    assert function.__module__ == f"dcache.lm_kv.reuse.{name}"
    assert lm_kv.available()[name].startswith("Reuse: ")
    assert lm_kv.available()[name].endswith(".")
    assert function().name == name


def test_a_way_knows_what_it_was_called_with_and_has_any_spelling():
    method = lm_kv.cacheblend(0.3)
    assert method.parameters == {"ratio": 0.3, "check": 1}
    assert reuse_of(method) is method
    assert reuse_of("CacheBlend", ratio=0.3) == method


def test_what_is_no_way_of_reuse_is_refused():
    with pytest.raises(DcacheError, match=r"one of .*cacheblend.*got 'cacheblnd'. Did you mean 'cacheblend'"):
        reuse_of("cacheblnd")
    with pytest.raises(DcacheError, match="got Policy"):
        reuse_of(lm_kv.snapkv())
    with pytest.raises(DcacheError, match="cacheblend has no option 'share'"):
        reuse_of("cacheblend", share=0.1)
    with pytest.raises(DcacheError, match="cacheblend is of the kind 'reuse'"):
        lm_kv.make("cacheblend")


def test_others_register_theirs(monkeypatch):
    monkeypatch.setattr(registry, "_others", dict(registry._others))

    @reuse
    def last_tokens(count: int = 4) -> lm_kv.Reuse:
        """Reuse: compute the last tokens again."""
        return lm_kv.Reuse(rule=lambda text: torch.arange(text.ids.shape[1]) >= text.ids.shape[1] - count)

    assert lm_kv.available("reuse")["last_tokens"] == "Reuse: compute the last tokens again."
    assert "last_tokens" not in lm_kv.available("policy")
    joined = lm_kv.join(usual(), chunks(), "last_tokens")
    assert joined.tokens[0].nonzero()[:, 0].tolist() == [30, 31, 32, 33]
    close(behind(usual(), lm_kv.join(usual(), chunks(), last_tokens(34))), whole(usual(), *PARTS))
    with pytest.raises(DcacheError, match="a reuse named 'last_tokens' is registered already"):
        reuse(last_tokens)
    with pytest.raises(DcacheError, match="a reuse named 'last_tokens' is registered already"):
        lm_kv.preset(last_tokens)
