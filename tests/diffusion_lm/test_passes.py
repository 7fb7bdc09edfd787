"""`Pass`: counts attention calls, and is the running one inside its block alone."""

import pytest
import torch

from dcache import DcacheError
from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.passes import Observer, Pass, current, running
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.store import KVStore

FULL = Selection(torch.ones(1, 4, dtype=torch.bool))


def test_masks_are_the_models_own_in_a_full_pass_and_captured_ones_else():
    store, masks, mask = KVStore(), Masks(), torch.ones(1, 1, 4, 4).tril().bool()
    x = torch.randn(1, 2, 4, 8)
    whole = Pass(FULL, store, masks)
    assert whole.attention(x, x, x, mask, None)[2] is mask
    assert whole.calls == 1
    rows = Selection(torch.tensor([[False, False, True, False]]))
    keys, _, seen = Pass(rows, store, masks).attention(x[:, :, :1], x[:, :, :1], x[:, :, :1], None, None)
    assert seen[0, 0].tolist() == [[True, True, True, False]]
    assert torch.equal(keys[:, :, 2], x[:, :, 0])


def test_an_observer_sees_all_keys():
    class Watching(Observer):
        def attended(self, forward, query, keys, mask, scale):
            self.seen = (query.shape, keys.shape, mask, scale)

    observer = Watching()
    x = torch.randn(1, 2, 4, 16)
    Pass(FULL, KVStore(), Masks(), observer).attention(x, x, x, None, None)
    assert observer.seen == (x.shape, x.shape, None, 0.25)


def test_passes_nest_and_end_with_errors():
    outer, inner = (Pass(FULL, KVStore(), Masks()) for _ in range(2))

    def fail():
        with running(inner):
            assert current() is inner
            raise ZeroDivisionError

    with running(outer):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert current() is outer
    assert current() is None


def test_values_are_taken_without_what_is_behind_them():
    forward, x, behind = Pass(FULL, KVStore(), Masks()), torch.randn(1, 2, 4, 8), []

    def layer():
        forward.attention(x, x, x + 1, None, None)
        behind.append(1)

    assert torch.equal(forward.values_of(layer), x + 1)
    assert not behind
    assert forward.calls == 0
    layer()
    assert (forward.calls, behind) == (1, [1])
    with pytest.raises(DcacheError, match="a layer has no attention"):
        forward.values_of(lambda: None)
