import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.latents import latent_of
from dcache.lm_kv.codecs.rematerialised import LatentCodec

# Two rows of 5 and 3 tokens, in two heads; the second row's first key stands at 7.
LENGTHS, FIRST = torch.tensor([[5, 5], [3, 3]]), torch.tensor([0, 7])
POSITIONS = torch.cat([torch.arange(5), torch.arange(5), 7 + torch.arange(3), 7 + torch.arange(3)])


def turn(states, positions, mode):
    """A rotation of no model: it adds."""
    return states + (positions if mode == "forward" else -positions)[:, None, :, None]


def encoded(bits: int, group: int):
    """The codec, inputs `[8, 12]`, keys before rotation and values `[8, 6]`, and both encoded."""
    torch.manual_seed(0)
    inputs = torch.randn(8, 12).double()
    linears = [torch.nn.Linear(12, 6).double().requires_grad_(False) for _ in range(2)]
    latents = {n: latent_of(x.weight, x.bias, 2) for n, x in zip(("keys", "values"), linears, strict=True)}
    codec = LatentCodec(bits, group, 0).bound(LayerFacts(turn, latents=latents, state={}))
    assert codec.facts.state is None
    states = [linear(inputs) for linear in linears]
    keys, values = (by_runs(x) for x in states)
    keys = keys + POSITIONS[:, None]
    ((k, v),) = codec.encode_group([codec], [keys], [values], LENGTHS, FIRST)
    return codec, inputs, (keys, values), (k, v), linears


def by_runs(states):
    """Tokens `[8, 6]` as runs `[16, 3]`."""
    return torch.cat([x.view(-1, 2, 3).transpose(0, 1).flatten(0, 1) for x in states.split([5, 3])])


def test_each_number_by_itself_is_exact():
    codec, _, originals, parts, _ = encoded(8, 1)
    for part, original in zip(parts, originals, strict=True):
        torch.testing.assert_close(codec.decode(part), original, atol=2e-3, rtol=0)


def test_errors_are_those_of_rounded_inputs_on_the_singular_vectors():
    codec, inputs, _, (k, v), linears = encoded(2, 4)
    for part, linear, turned in ((k, linears[0], True), (v, linears[1], False)):
        left, sizes, right = torch.linalg.svd(linear.weight.T, full_matrices=False)
        latents = inputs @ left
        near = torch.empty_like(latents)
        # Groups of 4 tokens of a row in a channel, or of 4 channels of a token; rows have 5 and 3 tokens.
        pieces = [(slice(a, b), slice(None), 0) for a, b in ((0, 4), (4, 5), (5, 8))]
        if not turned:
            pieces = [(slice(None), slice(a, b), 1) for a, b in ((0, 4), (4, 6))]
        for rows, columns, axis in pieces:
            some = latents[rows, columns]
            low = some.amin(axis, keepdim=True)
            step = ((some.amax(axis, keepdim=True) - low) / 3).clamp_min(1e-9)
            near[rows, columns] = low + ((some - low) / step).round() * step
        expected = by_runs(near * sizes @ right + linear.bias)
        expected = expected + POSITIONS[:, None] if turned else expected
        torch.testing.assert_close(codec.decode(part), expected, atol=5e-3, rtol=0)


def test_rows_are_taken_whole_and_codes_stay_where_they_are():
    codec, _, _, parts, _ = encoded(4, 4)
    swapped = torch.cat([torch.arange(10, 16), torch.arange(10)])
    for part in parts:
        few = codec.take(part, swapped, LENGTHS.flip(0))
        assert few.codes is part.codes
        assert torch.equal(codec.decode(few), codec.decode(part)[swapped])
        again = codec.restore(codec.tensors(few), torch.zeros(0, 3).double())
        assert torch.equal(codec.decode(again), codec.decode(few))
        with pytest.raises(TypeError, match="whole rows"):
            codec.take(part, torch.tensor([0, 1]), torch.tensor([[2, 0]]))


def test_fields_outside_their_range_and_single_heads_are_refused():
    for options in ((5, 1, 0), (4, 0, 0), (4, 1, -1)):
        with pytest.raises(DcacheError, match="must be"):
            LatentCodec(*options)
    with pytest.raises(DcacheError, match="xquant encodes several layers or heads together"):
        LatentCodec(4, 1, 0).encode_values(torch.zeros(2, 3), torch.tensor([[1, 1]]))
    with pytest.raises(TypeError, match="bound to no layer"):
        LatentCodec(4, 1, 0).restore({}, torch.zeros(0, 3))
