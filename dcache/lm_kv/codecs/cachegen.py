"""CacheGen: differences to anchors in few levels, as one string of bits for each layer's keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.errors import DcacheError
from dcache.kernels.lowbit.reference import pack_codes, unpack_codes
from dcache.lm_kv.codecs import range_coding
from dcache.lm_kv.codecs.before_rotation import places_of
from dcache.lm_kv.codecs.range_coding import Coded
from dcache.util.checks import check_whole, is_whole

# An anchor's numbers have 8 bits: the high four are coded, the low four are nearly noise.
ANCHOR, HALF = 127, 16


@dataclass(frozen=True)
class CacheGen:
    """How a file has keys and values: see `lm_kv.cachegen`.

    Attributes:
        bins: levels of differences of keys, of the first, the second and the last third of the layers.
        value_bins: the same of values.
        group: tokens that share an anchor, itself included; 0 for numbers instead of differences.

    Raises:
        DcacheError: a field is outside its range.
    """

    bins: tuple[int, int, int]
    value_bins: tuple[int, int, int]
    group: int
    name: ClassVar[str] = "cachegen"

    def __post_init__(self) -> None:
        """Check every field's range."""
        for name in ("bins", "value_bins"):
            bins = getattr(self, name)
            if not isinstance(bins, tuple) or len(bins) != 3 or not all(map(_is_bins, bins)):
                raise DcacheError(
                    f"{name} must be three even numbers of levels from 4 to 256, for the thirds of the "
                    f"layers, got {bins!r}"
                )
        check_whole("group", self.group, 0)

    def most(self, part: str, layer: int, layers: int) -> int:
        """The largest code of a difference of "keys" or "values" in a layer of so many."""
        bins = self.bins if part == "keys" else self.value_bins
        return bins[layer * 3 // layers] // 2 - 1

    def encode(self, tokens: torch.Tensor, lengths: torch.Tensor, most: int) -> dict[str, torch.Tensor]:
        """Tokens as tensors for a file.

        Args:
            tokens: `[N, d]`, floating point; runs of rows' heads, one after the other.
            lengths: int64 `[rows, heads]`, tokens of each run.
            most: the largest code of a difference.

        Raises:
            DcacheError: a number is not finite.
        """
        tokens, lengths = tokens.detach().cpu(), lengths.cpu()
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        if not bool(wide.isfinite().all()):
            raise DcacheError("keys or values are not finite, so cachegen cannot store them")
        anchor, group = self._anchors(lengths)
        codes, scale = _rounded(wide[anchor], ANCHOR)
        near = codes * scale.to(wide.dtype)
        others, step = _rounded((wide - near[group])[~anchor] if self.group else wide, most)
        symbols, heads = (codes + ANCHOR).to(torch.uint8), _heads_of(lengths)
        high = range_coding.encode(_columns(symbols // HALF, heads[anchor], lengths), HALF)
        differences = (others + most).to(torch.uint8)
        coded = range_coding.encode(_columns(differences, heads[~anchor], lengths), 2 * most + 1)
        return {
            **{f"high.{name}": tensor for name, tensor in high.tensors().items()},
            "low": pack_codes(symbols % HALF, 4),
            "scale": scale[:, 0],
            **{f"differences.{name}": tensor for name, tensor in coded.tensors().items()},
            "step": step[:, 0],
            "like": tokens.new_empty(0, tokens.shape[1]),
        }

    def decode(self, tensors: Mapping[str, torch.Tensor], lengths: torch.Tensor, most: int) -> torch.Tensor:
        """The tokens `[N, d]`, each number within half a step of what it was."""
        lengths, like = lengths.cpu(), tensors["like"]
        wide, channels = torch.promote_types(like.dtype, torch.float32), like.shape[1]
        anchor, group = self._anchors(lengths)
        heads = _heads_of(lengths)
        high = _rows(_part(tensors, "high."), heads[anchor], lengths, channels)
        codes = high.to(wide) * HALF + unpack_codes(tensors["low"], 4, channels)
        out = torch.empty(len(anchor), channels, dtype=wide, device="cpu")
        out[anchor] = (codes - ANCHOR) * tensors["scale"].to(wide)[:, None]
        differences = _rows(_part(tensors, "differences."), heads[~anchor], lengths, channels)
        exact = (differences.to(wide) - most) * tensors["step"].to(wide)[:, None]
        out[~anchor] = exact + out[anchor][group[~anchor]] if self.group else exact
        return out.to(like.dtype)

    def _anchors(self, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bool `[N]`, which tokens are anchors, and int64 `[N]`, each token's among them."""
        _, places = places_of(lengths.flatten())
        anchor = places % self.group == 0 if self.group else torch.zeros_like(places, dtype=torch.bool)
        return anchor, anchor.cumsum(0) - 1


def cachegen(
    bins: tuple[int, int, int] = (32, 16, 16),
    value_bins: tuple[int, int, int] = (32, 16, 16),
    group: int = 10,
) -> CacheGen:
    """CacheGen's codec (Liu et al. 2024, arXiv 2310.07240): `cache.save(path, codec=lm_kv.cachegen())`.

    Every tenth token of a head is an anchor of 8 bits; the others are differences to theirs in few levels,
    which a range coder writes by how often each comes in its channel. Needs the extra `cachegen`.

    Args:
        bins: levels of differences of keys, of the first, the second and the last third of the layers.
        value_bins: the same of values.
        group: tokens that share an anchor, itself included; 0 codes the numbers themselves, as the published
            code does.

    >>> from dcache import lm_kv
    >>> lm_kv.cachegen(group=20).most("keys", layer=0, layers=3)
    15
    """
    return CacheGen(bins, value_bins, group)


def _is_bins(bins: object) -> bool:
    return is_whole(bins) and isinstance(bins, int) and 4 <= bins <= 256 and bins % 2 == 0


def _rounded(x: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes from -most to most, and each token's float16 step `[n, 1]`, rounded up so that none is cut."""
    exact = x.abs().amax(1, keepdim=True) / most
    step = exact.half()
    step = torch.where(step.to(x.dtype) < exact, (exact * (1 + 2**-10) + 2**-24).half(), step)
    if not bool(step.isfinite().all()):
        raise DcacheError("keys or values are too large for float16 steps, so cachegen cannot store them")
    safe = torch.where(step > 0, step, 1.0).to(x.dtype)
    return (x / safe).round().clamp(-most, most), step


def _heads_of(lengths: torch.Tensor) -> torch.Tensor:
    """int64 `[N]`, each token's head."""
    run, _ = places_of(lengths.flatten())
    return run % lengths.shape[1]


def _columns(symbols: torch.Tensor, heads: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """A sequence for each channel of each head, over all rows: these have a table each."""
    return [column for head in range(lengths.shape[1]) for column in symbols[heads == head].T]


def _rows(coded: Coded, heads: torch.Tensor, lengths: torch.Tensor, channels: int) -> torch.Tensor:
    """The inverse of `_columns`."""
    counts = [int((heads == head).sum()) for head in range(lengths.shape[1])]
    columns = range_coding.decode(coded, [count for count in counts for _ in range(channels)])
    symbols = torch.empty(len(heads), channels, dtype=torch.uint8, device="cpu")
    for head in range(lengths.shape[1]):
        symbols[heads == head] = torch.stack(columns[head * channels : (head + 1) * channels], 1)
    return symbols


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> Coded:
    return Coded.of({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
