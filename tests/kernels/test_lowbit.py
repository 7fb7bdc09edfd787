"""`pack` and `unpack`: reference and kernel against codes by hand and the bound of half a step."""

from __future__ import annotations

import pytest
import torch

from dcache.errors import DcacheError
from dcache.kernels import launch
from dcache.kernels.lowbit import BITS, SYMMETRIC, TERNARY, LowBit, join, pack, row_bytes, unpack
from tests.kernels.closeness import DEVICE

LENGTHS = [7, 0, 4, 1]


def tokens(channels: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Twelve tokens; channels far from zero, where float16 is coarse beside the step."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, channels, generator=generator)
    return (x + 30 * torch.randn(channels, generator=generator)).to(DEVICE, dtype)


def lengths(counts: list[int]) -> torch.Tensor:
    return torch.tensor(counts, device=DEVICE)


def step_of(packed: LowBit) -> torch.Tensor:
    """Each number's step, float32 `[N, D]`."""
    if packed.lengths is not None:
        return packed.step.float()[packed.groups()]
    return packed.step.float().repeat_interleave(packed.group, 1)[:, : packed.channels]


def assert_within_half_a_step(x: torch.Tensor, packed: LowBit) -> None:
    result = unpack(packed)
    assert result.dtype == x.dtype
    # float32 rounds at the size of the numbers, beside the exact half.
    allowed = step_of(packed) / 2 + 1e-6 * x.abs().max()
    if x.dtype != torch.float32:
        allowed = allowed + torch.finfo(x.dtype).eps * x.float().abs()
    assert bool(((result.float() - x.float()).abs() <= allowed).all())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("channels", [16, 20, 5])
def test_every_number_is_within_half_a_step(path, bits, channels):
    x = tokens(channels)
    assert_within_half_a_step(x, pack(x, bits, 3, lengths(LENGTHS)))
    assert_within_half_a_step(x, pack(x, bits, 8))
    assert_within_half_a_step(x, pack(x, bits, 64))


@pytest.mark.parametrize("size", [1e-6, 1e-3])
def test_small_numbers_are_within_half_a_step_where_float16_has_few_places(path, size):
    x = size * tokens(16) / 30
    assert_within_half_a_step(x, pack(x, 8, 3, lengths(LENGTHS)))
    assert_within_half_a_step(x, pack(x, 8, 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes(path, dtype):
    x = tokens(16, dtype)
    assert_within_half_a_step(x, pack(x, 4, 4, lengths(LENGTHS)))
    assert_within_half_a_step(x, pack(x, 4, 16))


def test_codes_by_hand(path):
    # Per channel, tokens two by two: 0 to 3 in steps of 1, then a group of one token.
    x = torch.tensor([[0.0, 9.0], [3.0, 12.0], [7.0, 5.0]], device=DEVICE)
    packed = pack(x, 2, 2, lengths([3]))
    assert packed.step.tolist() == [[1, 1], [0, 0]]
    assert packed.low.tolist() == [[0, 9], [7, 5]]
    assert packed.codes.tolist() == [[0], [0b1111], [0]]
    assert torch.equal(unpack(packed), x)
    # Per token: codes 0, 1, ..., 7 of three bits, lowest first: 0b111_110_101_100_011_010_001_000.
    packed = pack(torch.arange(8.0, device=DEVICE)[None], 3, 8)
    assert packed.codes.tolist() == [[0b10001000, 0b11000110, 0b11111010]]


@pytest.mark.parametrize("bits", SYMMETRIC)
@pytest.mark.parametrize("channels", [16, 20, 7])
def test_a_number_becomes_the_nearest_level_around_zero(path, bits, channels):
    x = tokens(channels)
    sizes = x.abs()
    # Per channel: tokens 0 to 2, 3 to 5 and 6 of the first run, 7 to 9 and 10 of the third, 11 of the last.
    groups = [(0, 3), (3, 6), (6, 7), (7, 10), (10, 11), (11, 12)]
    mean = torch.cat([sizes[a:b].mean(0, keepdim=True).expand(b - a, -1) for a, b in groups])
    levels = [torch.where(x < 0, -mean, mean)]
    if bits == TERNARY:
        levels = [torch.where(sizes > mean / 2, levels[0], 0.0)]
    packed = pack(x, bits, 3, lengths(LENGTHS))
    torch.testing.assert_close(unpack(packed), levels[0], atol=0, rtol=1e-3)
    assert packed.low is None
    # Per token, in groups of 8 channels.
    mean = torch.cat([p.mean(1, keepdim=True).expand_as(p) for p in sizes.split(8, 1)], 1)
    expected = torch.where(x < 0, -mean, mean)
    if bits == TERNARY:
        expected = torch.where(sizes > mean / 2, expected, 0.0)
    torch.testing.assert_close(unpack(pack(x, bits, 8)), expected, atol=0, rtol=1e-3)


def test_signs_and_digits_by_hand(path):
    x = torch.tensor([[1.0, -3.0, 0.0, 0.5, -0.5, 2.0, -9.0]], device=DEVICE)
    packed = pack(x, 1, 7)
    assert packed.codes.tolist() == [[0b0101101]]
    # The mean size is 16 / 7, half of it 1.14: digits 1, 0, 1, 1, 1 and 2, 0, lowest first.
    packed = pack(x, TERNARY, 7)
    assert packed.codes.tolist() == [[1 + 0 * 3 + 1 * 9 + 1 * 27 + 1 * 81, 2 + 0 * 3]]
    assert packed.step.tolist() == [[pytest.approx(16 / 7, rel=1e-3)]]


@pytest.mark.parametrize("bits", [*SYMMETRIC, *BITS])
def test_the_kernel_gives_the_references_bits(monkeypatch, bits):
    x, made = tokens(20), []
    for mode in ("off", "on"):
        monkeypatch.setattr(launch, "mode", mode)
        made.append([pack(x, bits, 3, lengths(LENGTHS)), pack(x, bits, 8), pack(x, bits, 32)])
    for ours, theirs in zip(*made, strict=True):
        assert all(torch.equal(t, theirs.tensors()[name]) for name, t in ours.tensors().items())
        assert torch.equal(unpack(ours), unpack(theirs))


@pytest.mark.parametrize("bits", [*SYMMETRIC, *BITS])
def test_the_bytes_are_exact(bits):
    packed = pack(tokens(20), bits, 3, lengths(LENGTHS))
    size = {1: 3, TERNARY: 4, 2: 5, 3: 8, 4: 10, 8: 20}[bits]
    assert packed.codes.shape == (12, row_bytes(20, bits)) == (12, size)
    # Groups of three of 7, 0, 4 and 1 tokens: 3 + 0 + 2 + 1.
    assert packed.step.shape == (6, 20)
    assert packed.low is None if bits in SYMMETRIC else packed.low.shape == (6, 20)
    assert pack(tokens(20), bits, 8).step.shape == (12, 3)


# NumPy, which interprets the kernel, says so.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_equal_numbers_are_exact_and_what_float16_lacks_is_not_finite(path):
    x = torch.tensor([[0.5, 1e6, float("nan"), 2.0], [0.5, 1.0, 1.0, 3.875]], device=DEVICE)
    result = unpack(pack(x, 4, 2, lengths([2])))
    assert result[:, 0].tolist() == [0.5, 0.5]
    assert not result[:, 1:3].isfinite().any()
    assert result[:, 3].tolist() == [2.0, 3.875]


@pytest.mark.parametrize("bits", [3, TERNARY])
def test_taken_tokens_keep_their_codes(path, bits):
    x = tokens(16)
    for packed in (pack(x, bits, 3, lengths(LENGTHS)), pack(x, bits, 8)):
        whole = unpack(packed)
        for rows, counts in (([9, 0, 1, 7], [1, 3]), ([7, 8, 9, 10, 0, 1], [4, 2]), ([], [0, 0])):
            index = torch.tensor(rows, device=DEVICE, dtype=torch.int64)
            part = packed.take(index, lengths(counts))
            assert torch.equal(unpack(part), whole[index])
            assert torch.equal(part.codes, packed.codes[index])


def test_whole_runs_need_no_index_and_steps_without_tokens_are_left_out():
    packed = pack(tokens(16), 4, 3, lengths(LENGTHS))
    whole = packed.take(torch.arange(7, 11, device=DEVICE), lengths([4]))
    assert whole.index is None
    assert len(whole.step) == 2
    # Tokens 0 and 6 are of the first and the third group, and would be one.
    apart = packed.take(torch.tensor([0, 6], device=DEVICE), lengths([2]))
    assert apart.index.tolist() == [0, 1]
    assert len(apart.step) == 2


@pytest.mark.parametrize("bits", [4, 1])
def test_joined_tensors_unpack_to_what_they_were(path, bits):
    x = tokens(16)
    for grouped in (True, False):
        first = pack(x[:9], bits, 3, lengths([6, 3]) if grouped else None)
        second = pack(x[9:], bits, 3, lengths([3, 0]) if grouped else None)
        order = torch.tensor([0, 1, 2, 3, 4, 5, 9, 10, 11, 6, 7, 8], device=DEVICE)
        both = join([first, second], order, lengths([9, 3]))
        assert torch.equal(unpack(both), torch.cat([unpack(first), unpack(second)])[order])
        # Whole groups stay groups.
        assert both.index is None


def test_no_tokens(path):
    x = torch.empty(0, 16, device=DEVICE)
    for bits in (TERNARY, 4):
        for packed in (pack(x, bits, 3, lengths([0, 0])), pack(x, bits, 8)):
            assert unpack(packed).shape == (0, 16)


def test_what_is_wrong_says_so():
    with pytest.raises(DcacheError, match=r"bits must be one of 1, 1\.6, 2, 3, 4, 8, got 5"):
        pack(tokens(8), 5, 4)
    with pytest.raises(DcacheError, match="group must be a whole number of at least 1, got 0"):
        pack(tokens(8), 4, 0)
    with pytest.raises(DcacheError, match=r"expected floating point of shape \[N, D\], got \(12, 2, 4\)"):
        pack(tokens(8).view(12, 2, 4), 4, 4)
