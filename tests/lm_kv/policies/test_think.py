import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.channels import ChannelCodec
from tests.lm_kv.language_models import batch, check_a_padded_row_is_as_alone, generate, llama, prefilled


@torch.no_grad()
def test_the_channels_are_those_that_the_last_queries_weigh_most():
    model, inputs = llama(1), {name: tensor[1:] for name, tensor in batch().items()}
    cache = prefilled(model, lm_kv.think(ratio=0.5, queries=4, block=8, residual=8), inputs)
    whole = prefilled(model, lm_kv.snapkv(window=4), inputs, budget=1.0).layers[0]
    keys, query = whole.store.stored().keys[0, :, :32], whole.state["query"][0]
    importance = query.square().sum(1).unflatten(0, (2, 2)).mean(1) * keys.square().sum(1)
    chosen = importance.topk(8, -1).indices
    segment = cache.layers[0].store.segments[0]
    assert segment.lengths.tolist() == [[32, 32]]
    decoded = segment.pad(segment.decoded()[0])[0]
    for head in range(2):
        expected = torch.zeros_like(keys[head])
        expected[:, chosen[head]] = keys[head][:, chosen[head]]
        torch.testing.assert_close(decoded[head], expected, atol=0, rtol=0)


def test_half_of_the_channels_takes_three_quarters_of_the_bytes():
    inputs = batch(pads=0, length=1024)
    stats = prefilled(llama(), lm_kv.think(ratio=0.5, queries=4), inputs).stats()
    # Of 128 bytes of a token's key and value in a head 96 are left, and 4 say which group it is of.
    assert stats.bytes_held / stats.bytes_full == pytest.approx(100 / 128, abs=0.02)


@torch.no_grad()
def test_queries_are_weighed_only_where_tokens_leave(monkeypatch):
    calls, bound = [], ChannelCodec.bound
    monkeypatch.setattr(ChannelCodec, "bound", lambda codec, facts: [calls.append(1), bound(codec, facts)][1])
    model = llama(1)
    cache = prefilled(model, lm_kv.think(queries=4, block=8, residual=8), batch(pads=0))
    for step in range(16):
        model(torch.tensor([[5 + step], [6]]), past_key_values=cache)
    # 32 of the prompt's 40 tokens leave at once, then eight after every eighth.
    assert cache.layers[0].store.segments[0].lengths.tolist() == [[48, 48]] * 2
    assert len(calls) == 3


def test_no_channel_dropped_is_the_full_cache_and_a_padded_row_is_as_alone():
    model, inputs = llama(), batch()
    _, logits = generate(model, inputs, None)
    _, same = generate(model, inputs, lm_kv.KVCache(model, lm_kv.think(ratio=0.0, block=4, residual=4)))
    torch.testing.assert_close(same, logits, atol=1.5e-5, rtol=0)
    both, _ = check_a_padded_row_is_as_alone(model, inputs, lm_kv.think(block=4, residual=4))
    assert (both - logits).abs().max() > 0.1


def test_options_outside_their_range_are_refused():
    with pytest.raises(DcacheError, match="queries must be"):
        lm_kv.think(queries=0)
    with pytest.raises(DcacheError, match="ratio must be"):
        lm_kv.think(ratio=1.0)
