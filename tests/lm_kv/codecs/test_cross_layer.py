from dataclasses import replace

import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.codecs.carry import Carry
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.cross_layer import CrossLayerCodec, summed
from dcache.lm_kv.codecs.latents import Linear

# Two rows of 5 and 3 tokens, in two heads.
LENGTHS, FIRST = torch.tensor([[5, 5], [3, 3]]), torch.tensor([0, 7])
LAYERS = 4


def codecs(bits: int, group: int = 4, narrow: bool = False, carry: Carry | None = None):
    """The codec bound to each layer, and the layers' projections of 12 numbers to 2 heads of 3."""
    torch.manual_seed(0)
    codec = CrossLayerCodec(bits, 2, 4, group, 0)
    linears = [torch.nn.Linear(12, 6).double().requires_grad_(False) for _ in range(2 * LAYERS)]
    bound = []
    for place in range(LAYERS):
        pair = linears[2 * place : 2 * place + 2]
        along = torch.linalg.qr(torch.cat([x.weight for x in pair]).T).Q[:, :12] if narrow else None
        latents = {
            n: Linear(2, x.weight, x.bias, along) for n, x in zip(("keys", "values"), pair, strict=True)
        }
        bound.append(codec.bound(LayerFacts(latents=latents, carry=carry or Carry(), place=place)))
    return bound, linears


def encode(bound):
    """All layers, one after the other as a forward has them."""
    carry = Carry()
    carry.open()
    encoded = []
    for codec, given in zip(bound, inputs(), strict=True):
        handed = codec.bound(replace(codec.facts, carry=carry))
        encoded += handed.encode_group([handed], [], [], LENGTHS, FIRST, [given])
    return encoded


def inputs() -> list[torch.Tensor]:
    """Each layer's, which differs little from the one below."""
    torch.manual_seed(1)
    steps = torch.randn(LAYERS, 8, 12).double()
    steps[1:] *= 0.1
    return list(steps.cumsum(0))


def by_runs(states):
    """Tokens `[8, 6]` as runs `[16, 3]`."""
    return torch.cat([x.view(-1, 2, 3).transpose(0, 1).flatten(0, 1) for x in states.split([5, 3])])


@pytest.mark.parametrize("narrow", [False, True])
def test_each_number_by_itself_is_exact(narrow):
    bound, linears = codecs(8, 1, narrow)
    encoded = encode(bound)
    for place, (given, parts) in enumerate(zip(inputs(), encoded, strict=True)):
        for part, linear in zip(parts, linears[2 * place : 2 * place + 2], strict=True):
            torch.testing.assert_close(bound[place].decode(part), by_runs(linear(given)), atol=2e-3, rtol=0)


def test_a_layer_errs_by_its_own_difference_alone():
    bound, _ = codecs(2)
    encoded = encode(bound)
    given = inputs()
    for place, (keys, values) in enumerate(encoded):
        assert keys.difference is values.difference
        # Half a step of a group: rows have 5 and 3 tokens, in groups of 4.
        before = summed(encoded[place - 1][0].difference) if place else torch.zeros(8, 12).double()
        ahead = given[place] - before
        levels = 15 if place < 2 else 3
        for some in (slice(0, 4), slice(4, 5), slice(5, 8)):
            half = (ahead[some].amax(0) - ahead[some].amin(0)) / levels / 2
            error = (summed(keys.difference) - given[place])[some].abs()
            assert bool((error <= half * 1.01 + 2e-3).all())
    # Two bits of small differences are far better than two bits of the inputs themselves.
    last = (summed(encoded[-1][0].difference) - given[-1]).abs().mean()
    assert last < 0.1


def test_a_sum_below_is_taken_up_where_the_forward_has_it():
    carry = Carry()
    bound, _ = codecs(2, carry=carry)
    encoded = encode(bound)
    alone = [bound[place].decode(part) for place, pair in enumerate(encoded) for part in pair]
    carry.open()
    below = encoded[1][0].difference
    carry.put(below, torch.full((8, 12), 100.0).double(), None)
    assert summed(encoded[2][0].difference, carry).mean() > 90
    carry.close()
    carry.open()
    walked = [bound[place].decode(part) for place, pair in enumerate(encoded) for part in pair]
    assert all(torch.equal(one, other) for one, other in zip(alone, walked, strict=True))


def test_rows_are_taken_whole_and_a_restored_layer_needs_the_one_below():
    bound, _ = codecs(2)
    encoded = encode(bound)
    swapped, like = torch.cat([torch.arange(10, 16), torch.arange(10)]), torch.zeros(0, 3).double()
    below = None
    for place, (keys, values) in enumerate(encoded):
        few = [bound[place].take(part, swapped, LENGTHS.flip(0)) for part in (keys, values)]
        assert few[0].difference is keys.difference
        restored = [bound[place].restore(bound[place].tensors(part), like) for part in few]
        if below is not None:
            linked = bound[place].above(restored[0], restored[1], below)
            restored = [linked["keys"], linked["values"]]
        assert restored[0].difference.codes.bits == (4 if place < 2 else 2)
        for part, old in zip(restored, (keys, values), strict=True):
            assert torch.equal(bound[place].decode(part), bound[place].decode(old)[swapped])
        below = restored[0]


def test_a_layer_without_the_one_below_is_refused():
    bound, _ = codecs(2)
    with pytest.raises(TypeError, match="in their order"):
        bound[1].encode_group([bound[1]], [], [], LENGTHS, FIRST, inputs()[1:2])


def test_fields_outside_their_range_are_refused():
    for options in ((5, 1, 4, 1, 0), (2, 0, 4, 1, 0), (2, 1, 5, 1, 0), (2, 1, 4, 0, 0), (2, 1, 4, 1, -1)):
        with pytest.raises(DcacheError, match="must be"):
            CrossLayerCodec(*options)
    with pytest.raises(TypeError, match="bound to no layer"):
        CrossLayerCodec(2, 1, 4, 1, 0).restore({"codes.codes": torch.zeros(1, 1)}, torch.zeros(0, 3))
