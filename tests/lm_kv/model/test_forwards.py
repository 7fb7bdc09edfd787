import gc
import threading
import weakref
from typing import Any

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.forwards import current_cache, forwards, take_input
from tests.lm_kv.language_models import batch, llama, prefill

STEP = torch.full((2, 1), 5)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def interrupted(model: Any, cache: Any) -> None:
    """Ctrl-C in the second layer of a decoded token."""
    handle = model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), torch.no_grad():
        model(STEP, past_key_values=cache)
    handle.remove()


def test_nothing_runs_outside_a_forward():
    assert (forwards(), current_cache(), take_input(0)) == ([], None, None)


def test_an_interrupted_cache_refuses_to_go_on_and_the_model_is_as_before(tmp_path):
    model = llama(3)
    cache = lm_kv.KVCache(model, "keydiff", budget=1.0)
    expected = prefill(model, batch(), cache)
    interrupted(model, cache)
    # One layer has the token and two have not.
    for refused in (
        lambda: model(STEP, past_key_values=cache),
        cache.compress,
        lambda: cache.crop(-1),
        lambda: cache.save(tmp_path / "never"),
        lambda: model(STEP, past_key_values=cache.fork()),
    ):
        with pytest.raises(DcacheError, match="this cache is incomplete"), torch.no_grad():
            refused()
    assert model.config._attn_implementation == "sdpa"
    assert not forwards()
    cache.reset()
    with pytest.raises(DcacheError, match="belongs to another model"):
        prefill(llama(3), batch(), cache)
    torch.testing.assert_close(prefill(model, batch(), cache), expected, atol=0, rtol=0)


def test_an_interrupt_keeps_no_cache_alive_and_the_next_forward_of_any_model_undoes_it():
    model, other = llama(2), llama(1)
    cache, beside = (lm_kv.KVCache(one, "keydiff", budget=1.0) for one in (model, other))
    prefill(model, batch(), cache)
    interrupted(model, cache)
    assert model.config._attn_implementation == adapter.NAME
    reference = weakref.ref(cache)
    del cache
    gc.collect()
    assert reference() is None
    prefill(other, batch(), beside)
    assert model.config._attn_implementation == "sdpa"
    assert not model.model._forward_pre_hooks


def test_a_forward_inside_another_ones_is_not_taken_for_an_interrupted_one():
    outer, inner = llama(2), llama(1)
    caches = [lm_kv.KVCache(one, "keydiff", budget=1.0) for one in (outer, inner)]
    expected, seen = prefill(outer, batch(), None), []

    def run(*_: Any) -> None:
        # The first of the two inner forwards is interrupted.
        handle = inner.model.layers[0].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            prefill(inner, batch(), caches[1])
        handle.remove()
        prefill(inner, batch(), lm_kv.KVCache(inner, "keydiff", budget=1.0))
        seen.append(current_cache())

    handle = outer.model.layers[1].register_forward_pre_hook(run)
    torch.testing.assert_close(prefill(outer, batch(), caches[0]), expected)
    handle.remove()
    assert seen == [caches[0]]
    assert (inner.config._attn_implementation, outer.config._attn_implementation) == ("sdpa", "sdpa")
    assert not forwards()


def test_two_forwards_with_one_cache_at_a_time_are_refused():
    model, messages = llama(2), []
    cache = lm_kv.KVCache(model, "keydiff", budget=1.0)

    def second(*_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def run() -> None:
            with pytest.raises(DcacheError) as caught:
                prefill(model, batch(), cache)
            messages.append(str(caught.value))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    model.model.layers[1].register_forward_pre_hook(second)
    prefill(model, batch(), cache)
    assert "incomplete" in messages[0]
    assert cache.stats().seen == (27, 40)
