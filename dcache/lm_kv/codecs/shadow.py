"""Keys of few directions before their rotation, values in host memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from dcache.lm_kv.codecs import low_rank
from dcache.lm_kv.codecs.before_rotation import WHOLE_RUN, on_basis, places_of, turned_by
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.host import HostTokens
from dcache.lm_kv.codecs.low_rank import LowRank
from dcache.lm_kv.codecs.pages import unlike_pages
from dcache.util.checks import check_whole


@dataclass(frozen=True, eq=False)
class ShadowKeys:
    """Keys `[N, d]`, each as a product of low rank or as it came.

    Attributes:
        whole: bool `[N]`, which keys are as they came.
        exact: these, one after the other, in the model's dtype.
        rest: the others before their rotation, one after the other.
        places: int32 `[N]`, the positions by which they are turned.
    """

    whole: torch.Tensor
    exact: torch.Tensor
    rest: LowRank
    places: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that is held, by name."""
        rest = {f"rest.{name}": tensor for name, tensor in self.rest.tensors().items()}
        return {"whole": self.whole, "exact": self.exact, "places": self.places, **rest}


@dataclass(frozen=True)
class ShadowCodec:
    """ShadowKV: keys of a run projected on their strongest directions before rotation; values on the host.

    Each head has directions of its own, of the text or of a calibration. A run's keys stay as they came where
    they are read whole, and where a projection would take no fewer numbers.

    Attributes:
        rank: directions of a run.
        page: tokens of a page, as its selector's.
        exact: pages of a run that stay as they came, as its selector's.
        facts: what is known of the layer.

    Raises:
        DcacheError: a field is outside its range.
    """

    rank: int
    page: int
    exact: int
    facts: LayerFacts = field(default_factory=LayerFacts, compare=False, repr=False)
    name: ClassVar[str] = "shadowkv"
    needs_rotary: ClassVar[bool] = True
    block: ClassVar[int] = 0
    residual: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Check every field's range."""
        check_whole("rank", self.rank, 1)
        check_whole("page", self.page, 1)
        check_whole("exact", self.exact, 0)

    def bound(self, facts: LayerFacts) -> ShadowCodec:
        """The codec of one layer."""
        # Segments keep their codec, and should not keep what an observer gathered alive.
        return replace(self, facts=replace(facts, state=None))

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> ShadowKeys:
        """Keys turned back from their positions, and projected."""
        lengths = lengths.flatten()
        run, places = places_of(lengths)
        whole = self._whole(keys, lengths, run, places)
        turned = turned_by(self.facts, keys[~whole], positions[~whole], "back")
        counts = _counts(run[~whole], len(lengths))
        if self.facts.basis is None:
            rest = low_rank.low_rank(turned, self.rank, WHOLE_RUN, counts)
        else:
            rest = on_basis(turned, run[~whole], counts, self.facts.basis.to(keys.device), self.rank)
        return ShadowKeys(whole, keys[whole], rest, positions.int())

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> HostTokens:
        """The values in host memory, where a GPU can fetch them."""
        return HostTokens.of(values, values.device)

    def decode(self, encoded: Any) -> torch.Tensor:
        """Keys rebuilt and turned, or values fetched."""
        if isinstance(encoded, HostTokens):
            return encoded.fetched()
        exact, whole = encoded.exact, encoded.whole
        keys = exact.new_empty(len(whole), exact.shape[1])
        keys[whole] = exact
        precise = torch.promote_types(exact.dtype, torch.float32)
        rebuilt = encoded.rest.add_to(
            torch.zeros(len(encoded.rest.left), exact.shape[1], dtype=precise, device=exact.device)
        )
        keys[~whole] = turned_by(self.facts, rebuilt, encoded.places[~whole].long(), "forward").to(keys.dtype)
        return keys

    def take(self, encoded: Any, rows: torch.Tensor, lengths: torch.Tensor) -> Any:
        """These keys or values as they are."""
        if isinstance(encoded, HostTokens):
            return encoded.take(rows)
        return _arranged([encoded], rows, lengths)

    def join(self, parts: Sequence[Any], order: torch.Tensor, lengths: torch.Tensor) -> Any:
        """All keys or values as they are."""
        first = parts[0]
        if isinstance(first, HostTokens):
            return HostTokens.join(parts, order)
        return _arranged(parts, order, lengths)

    def tensors(self, encoded: Any) -> dict[str, torch.Tensor]:
        """Values; or keys, factors and positions."""
        return {"": encoded.states} if isinstance(encoded, HostTokens) else encoded.tensors()

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> Any:
        """Keys or values."""
        if "" in tensors:
            return self.encode_values(tensors[""].to(like.device), torch.empty(0))
        rest = {n.removeprefix("rest."): t for n, t in tensors.items() if n.startswith("rest.")}
        low = LowRank(**rest, group=WHOLE_RUN, fixed=self.facts.basis is not None)
        return ShadowKeys(tensors["whole"], tensors["exact"], low, tensors["places"])

    def _whole(
        self, keys: torch.Tensor, lengths: torch.Tensor, run: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """Bool `[N]`: which keys stay as they came."""
        channels = keys.shape[1]
        # Directions of a calibration take no room of a text's.
        room = 0 if self.facts.basis is not None else channels
        short = (lengths <= self.facts.whole) | ((lengths + room) * self.rank >= lengths * channels)
        width = int(lengths.max()) if len(lengths) else 0
        padded = keys.new_zeros(len(lengths), width, channels)
        padded[run, places] = keys
        valid = torch.arange(width, device=keys.device) < lengths[:, None]
        unlike = unlike_pages(padded, valid, self.page, self.exact)
        return short[run] | unlike[run, places // self.page]


def _counts(run: torch.Tensor, runs: int) -> torch.Tensor:
    """int64 `[runs]`, how often each is named."""
    return run.new_zeros(runs).scatter_add_(0, run, torch.ones_like(run))


def _arranged(parts: Sequence[ShadowKeys], order: torch.Tensor, lengths: torch.Tensor) -> ShadowKeys:
    """Keys of several parts, one after the other and then in this order, which make runs of these lengths."""
    before = torch.cat([part.whole for part in parts])
    whole = before[order]
    # The place of every key among those of its kind.
    kind = torch.where(before, before.cumsum(0), (~before).cumsum(0)) - 1
    run, _ = places_of(lengths.flatten())
    counts = _counts(run[~whole], lengths.numel())
    return ShadowKeys(
        whole,
        torch.cat([part.exact for part in parts])[kind[order][whole]],
        low_rank.join([part.rest for part in parts], kind[order][~whole], counts),
        torch.cat([part.places for part in parts])[order],
    )
