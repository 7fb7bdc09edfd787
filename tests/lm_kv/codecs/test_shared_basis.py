import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.shared_basis import SharedBasisCodec

# Two rows of 6 and 9 tokens, in two heads.
LENGTHS = torch.tensor([[6, 6], [9, 9]])


def states(layers: int, size: int = 4, rank: int | None = None) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(30, size, generator=generator, dtype=torch.float64) for _ in range(layers)]


def test_the_basis_is_that_of_all_layers_and_heads_side_by_side():
    codec = SharedBasisCodec(3, 4, 5, 0)
    keys, values = states(3), states(3, 6)
    encoded = codec.encode_group([codec] * 3, keys, values, LENGTHS, torch.zeros(2).long())
    for kind, rank, originals in ((0, 4, keys), (1, 5, values)):
        rebuilt = [codec.decode(pair[kind]) for pair in encoded]
        for first, last, count in ((0, 12, 6), (12, 30, 9)):
            wide, near = (
                torch.cat([x[first:last].view(2, count, -1).transpose(0, 1).flatten(1) for x in some], 1)
                for some in (originals, rebuilt)
            )
            u, s, v = torch.linalg.svd(wide, full_matrices=False)
            torch.testing.assert_close(near, u[:, :rank] * s[:rank] @ v[:rank])
        bases = [pair[kind].basis for pair in encoded]
        assert all(basis is bases[0] for basis in bases)
        assert bases[0].shape == (15, rank)
        assert encoded[0][kind].right.shape == (2, 2, rank, originals[0].shape[1])


def test_all_directions_are_exact_and_a_group_of_one_is_a_layers_own():
    keys, values = states(2), states(2, 6)
    whole = SharedBasisCodec(2, 99, 99, 0)
    for (k, v), key, value in zip(
        whole.encode_group([whole] * 2, keys, values, LENGTHS, torch.zeros(2).long()),
        keys,
        values,
        strict=True,
    ):
        torch.testing.assert_close(whole.decode(k), key)
        torch.testing.assert_close(whole.decode(v), value)
    single = SharedBasisCodec(1, 3, 3, 0)
    ((k, _),) = single.encode_group([single], keys[1:], values[1:], LENGTHS, torch.zeros(2).long())
    wide = keys[1][:12].view(2, 6, 4).transpose(0, 1).flatten(1)
    u, s, v = torch.linalg.svd(wide, full_matrices=False)
    near = (u[:, :3] * s[:3] @ v[:3]).view(6, 2, 4).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(single.decode(k)[:12], near)


def test_keys_are_turned_back_by_their_places_and_rows_taken_whole():
    turn = lambda x, positions, mode: x * (2.0 if mode == "forward" else 0.5) ** positions[:, None, :, None]  # noqa: E731
    codec = SharedBasisCodec(2, 1, 9, 0).bound(LayerFacts(turn, state={"query": torch.ones(1)}))
    assert codec.facts.state is None
    direction, lengths = torch.tensor([1.0, 2.0]).double(), torch.tensor([[3], [2]])
    # Turned back they have one direction.
    keys = [
        torch.cat([2.0 ** torch.arange(n).double() for n in (3, 2)])[:, None] * direction * s for s in (1, 3)
    ]
    encoded = codec.encode_group([codec] * 2, keys, keys, lengths, torch.zeros(2).long())
    for (k, v), key in zip(encoded, keys, strict=True):
        torch.testing.assert_close(codec.decode(k), key)
        swapped = codec.take(k, torch.tensor([3, 4, 0, 1, 2]), torch.tensor([[2], [3]]))
        torch.testing.assert_close(codec.decode(swapped), key[[3, 4, 0, 1, 2]])
        assert swapped.basis is k.basis
        restored = codec.restore(codec.tensors(swapped), key)
        assert torch.equal(codec.decode(restored), codec.decode(swapped))
        assert not codec.restore(codec.tensors(v), key).turned


def test_the_last_group_may_be_smaller_and_ranges_are_checked():
    assert SharedBasisCodec(2, 1, 1, 0).groups(5) == [(0, 1), (2, 3), (4,)]
    for place, name in enumerate(("layers", "rank", "value_rank", "residual")):
        with pytest.raises(DcacheError, match=f"{name} must be"):
            SharedBasisCodec(*[-1 if i == place else 1 for i in range(4)])
