"""`pack` and `unpack` in plain torch: the specification, which also runs on CPUs."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from dcache.kernels.lowbit.format import TERNARY, LowBit, group_rows, groups_of, row_bytes

# Tokens that are decoded at a time.
_BLOCK = 1024


def pack_channels(x: torch.Tensor, bits: float, group: int, lengths: torch.Tensor) -> LowBit:
    """Groups of tokens of a run, per channel; see `dcache.kernels.lowbit`."""
    first, count = group_rows(lengths, group)
    # The last token stands in for those that a smaller group lacks.
    inside = torch.arange(group, device=x.device).minimum(count[:, None] - 1)
    # [groups, group, D]
    tokens = x[first[:, None] + inside].float()
    low, step = _levels(tokens.amin(1), tokens.amax(1), bits)
    place = groups_of(lengths, group)
    codes = _codes(x.float(), low.float()[place], step.float()[place], bits)
    return LowBit(pack_codes(codes, bits), step, low, bits, group, x.shape[1], x.dtype, lengths)


def pack_tokens(x: torch.Tensor, bits: float, group: int) -> LowBit:
    """Groups of channels of a token."""
    pieces = torch.split(x.float(), group, 1)
    low, step = _levels(
        torch.stack([piece.amin(1) for piece in pieces], 1),
        torch.stack([piece.amax(1) for piece in pieces], 1),
        bits,
    )
    place = torch.arange(x.shape[1], device=x.device) // group
    codes = _codes(x.float(), low.float()[:, place], step.float()[:, place], bits)
    return LowBit(pack_codes(codes, bits), step, low, bits, group, x.shape[1], x.dtype)


def pack_symmetric(x: torch.Tensor, bits: float, group: int, lengths: torch.Tensor | None) -> LowBit:
    """Two or three levels around zero; groups of tokens of a run, per channel, or of channels of a token."""
    step, place = symmetric_steps(x, bits, group, lengths)
    exact = step.float()[place] if lengths is not None else step.float()[:, place]
    codes = (x >= 0).to(torch.uint8)
    if bits == TERNARY:
        codes = 1 + (x > 0.5 * exact).to(torch.uint8) - (x < -0.5 * exact).to(torch.uint8)
    return LowBit(pack_codes(codes, bits), step, None, bits, group, x.shape[1], x.dtype, lengths)


def symmetric_steps(
    x: torch.Tensor, bits: float, group: int, lengths: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The float16 step of each group, and int64 which group a token (or, without `lengths`, a channel) is of.

    Levels are the mean size of a group's numbers, so a step is that (three levels) or twice that (two).
    """
    factor, sizes = 1.0 if bits == TERNARY else 2.0, x.float().abs()
    if lengths is None:
        means = torch.stack([piece.mean(1) for piece in torch.split(sizes, group, 1)], 1)
        return (factor * means).half(), torch.arange(x.shape[1], device=x.device) // group
    first, count = group_rows(lengths, group)
    inside = torch.arange(group, device=x.device)
    tokens = sizes[first[:, None] + inside.minimum(count[:, None] - 1)]
    sums = tokens.masked_fill((inside >= count[:, None])[..., None], 0.0).sum(1)
    return (factor * sums / count[:, None]).half(), groups_of(lengths, group)


def unpack(packed: LowBit) -> torch.Tensor:
    """`low + code * step`, in float32 and then in the tensor's dtype.

    A block of tokens after the other: what is made on the way stays in the caches.
    """
    count = len(packed.codes)
    out = torch.empty(count, packed.channels, dtype=packed.dtype, device=packed.codes.device)
    groups = None if packed.lengths is None else packed.groups()
    for start in range(0, count, _BLOCK):
        tokens = slice(start, start + _BLOCK)
        out[tokens] = decoded(packed, tokens, None if groups is None else groups[tokens])
    return out


def decoded(packed: LowBit, tokens: slice, groups: torch.Tensor | slice | None) -> torch.Tensor:
    """float32 `[n, D]` of n neighbouring tokens.

    Args:
        packed: a tensor of few bits.
        tokens: which.
        groups: per channel, int64 `[n]`, each token's group; or a slice of groups, where the tokens are of
            one run and begin with a group. None per token.
    """
    codes = unpack_codes(packed.codes[tokens], packed.bits, packed.channels).float()
    step, low = _levels_of(packed, tokens if groups is None else groups)
    if groups is not None:
        if not isinstance(groups, slice):
            return codes.mul_(step).add_(low)
        whole = len(codes) // packed.group
        split = whole * packed.group
        grouped = codes[:split].view(whole, packed.group, packed.channels)
        grouped.mul_(step[:whole, None]).add_(low[:whole, None])
        if split < len(codes):
            codes[split:].mul_(step[whole:]).add_(low[whole:])
        return codes
    if packed.channels % packed.group:
        place = torch.arange(packed.channels, device=codes.device) // packed.group
        return codes.mul_(step[:, place]).add_(low[:, place])
    codes.view(len(codes), -1, packed.group).mul_(step[..., None]).add_(low[..., None])
    return codes


def _levels_of(packed: LowBit, groups: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps and lows of some groups, float32."""
    step = packed.step[groups].float()
    if packed.low is not None:
        return step, packed.low[groups].float()
    return step, step * (-1.0 if packed.bits == TERNARY else -0.5)


def pack_codes(codes: torch.Tensor, bits: float) -> torch.Tensor:
    """uint8 codes `[N, D]` -> the stream of bits of each row, uint8 `[N, row_bytes(D, bits)]`."""
    if bits == 8:
        return codes
    if bits == TERNARY:
        digits = F.pad(codes, (0, -codes.shape[1] % 5)).view(len(codes), row_bytes(codes.shape[1], bits), 5)
        return (digits.int() * _powers(codes.device)).sum(-1).to(torch.uint8)
    bits = int(bits)
    count, width = _word(bits)
    channels = codes.shape[1]
    padded = F.pad(codes, (0, -channels % count)).view(len(codes), -(-channels // count), count)
    shifts = torch.arange(count, dtype=torch.int32, device=codes.device) * bits
    words = (padded.int() << shifts).sum(-1, dtype=torch.int32)
    places = torch.arange(width, dtype=torch.int32, device=codes.device) * 8
    stream = ((words[..., None] >> places) & 255).to(torch.uint8).flatten(1)
    return stream[:, : row_bytes(channels, bits)].contiguous()


def unpack_codes(stream: torch.Tensor, bits: float, channels: int) -> torch.Tensor:
    """The inverse of `pack_codes`, uint8 `[N, channels]`."""
    if bits == 8:
        return stream
    if bits == TERNARY:
        digits = stream[..., None] // _powers(stream.device).to(torch.uint8) % 3
        return digits.flatten(1)[:, :channels]
    bits = int(bits)
    count, width = _word(bits)
    padded = F.pad(stream, (0, -stream.shape[1] % width))
    if width > 1:
        places = torch.arange(width, dtype=torch.int32, device=stream.device) * 8
        words = padded.view(len(stream), padded.shape[1] // width, width).int()
        words = (words << places).sum(-1, dtype=torch.int32)
    else:
        # In bytes all the way: four times less to move.
        words = padded
    # Made one after the other and stacked: four times faster than shifts that are broadcast.
    codes = [(words >> shift if shift else words) & (2**bits - 1) for shift in range(0, count * bits, bits)]
    return torch.stack(codes, -1).to(torch.uint8).flatten(1)[:, :channels]


def _powers(device: torch.device) -> torch.Tensor:
    """int32 `[5]`, the digits' places of three."""
    return torch.tensor([1, 3, 9, 27, 81], dtype=torch.int32, device=device)


def _word(bits: int) -> tuple[int, int]:
    """Codes in the smallest whole number of bytes, and that number."""
    return (8, 3) if bits == 3 else (8 // bits, 1)


def _levels(least: torch.Tensor, most: torch.Tensor, bits: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The low and the step of each group, float16, so that every number is within half a step of a level.

    The low is rounded down and the step up: rounded to nearest, a group far from zero would lose its ends.
    """
    low = least.half()
    low = torch.where(low.float() > least, _nudged(least, -1.0), low)
    exact = (most - low.float()) / (2**bits - 1)
    step = exact.half()
    return low, torch.where(step.float() < exact, _nudged(exact, 1.0), step)


def _nudged(x: torch.Tensor, sign: float) -> torch.Tensor:
    """float16 beyond x: moved by more than half of float16's last place before it is rounded."""
    return (x + sign * (x.abs() * 2**-10 + 2**-24)).half()


def _codes(x: torch.Tensor, low: torch.Tensor, step: torch.Tensor, bits: float) -> torch.Tensor:
    """The nearest level of each number, uint8."""
    safe = torch.where(step > 0, step, 1.0)
    return ((x - low) / safe + 0.5).floor().clamp(0, 2**bits - 1).nan_to_num(0.0).to(torch.uint8)
