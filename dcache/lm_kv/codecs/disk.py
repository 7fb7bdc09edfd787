"""Keys and values in two tiers outside the device: newer tokens in host memory, older ones in files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from dcache.lm_kv.codecs.before_rotation import places_of
from dcache.lm_kv.codecs.codec import DeviceCodec, LayerFacts
from dcache.lm_kv.codecs.host import HostTokens
from dcache.util.bytes import format_bytes


@dataclass(frozen=True, eq=False)
class TieredTokens:
    """Keys or values `[N, d]` outside the device, for a model on `device`.

    Attributes:
        below: bool `[N]` in host memory, which tokens are on disk.
        host: the others, one after the other.
        disk: those on disk, likewise; a file that is read where it is asked for.
        device: the model's.
    """

    below: torch.Tensor
    host: torch.Tensor
    disk: torch.Tensor
    device: torch.device

    def tiers(self) -> dict[str, list[torch.Tensor]]:
        """Tensors by tier."""
        return {"host": [self.below, self.host], "disk": [self.disk]}

    def states(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """All of them, or those at these indices, in host memory; of the file no more is read."""
        below = self.below if rows is None else self.below[rows]
        # The place of every token among those of its tier.
        kind = torch.where(self.below, self.below.cumsum(0), (~self.below).cumsum(0)) - 1
        kind = kind if rows is None else kind[rows]
        states = self.host.new_empty(len(below), self.host.shape[1])
        states[~below] = self.host[kind[~below]]
        states[below] = self.disk[kind[below]]
        return states


@dataclass(frozen=True)
class DiskCodec(DeviceCodec):
    """Keys and values as they came: of each run the newest in host memory, the others on disk.

    Files have no name once they are written, so that nothing is left behind whatever ends the program. What
    does not fit the disk stays in host memory, and `LayerFacts.report` is called.

    Attributes:
        folder: where files are written, on the disk that is meant.
        host: the share of a run's tokens in host memory, from 0 to 1.
        facts: what is known of the layer.
    """

    folder: str
    host: float
    facts: LayerFacts = field(default_factory=LayerFacts, compare=False, repr=False)
    block: ClassVar[int] = 0
    residual: ClassVar[int] = 0

    def bound(self, facts: LayerFacts) -> DiskCodec:
        """The codec of one layer."""
        # Segments keep their codec, and should not keep what an observer gathered alive.
        return replace(self, facts=LayerFacts(report=facts.report))

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> TieredTokens:
        """The keys, moved."""
        return self._stored(keys, lengths, keys.device)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> TieredTokens:
        """The values, moved."""
        return self._stored(values, lengths, values.device)

    def decode(self, encoded: TieredTokens | HostTokens) -> torch.Tensor:
        """What was moved, back on the model's device."""
        if isinstance(encoded, HostTokens):
            return encoded.fetched()
        return HostTokens(encoded.states(), encoded.device).fetched()

    def take(
        self, encoded: TieredTokens | HostTokens, rows: torch.Tensor, lengths: torch.Tensor
    ) -> HostTokens:
        """Some of them, in host memory until all are stored anew."""
        if isinstance(encoded, HostTokens):
            return encoded.take(rows)
        return HostTokens.of(encoded.states(rows.cpu()), encoded.device)

    def join(
        self, parts: Sequence[TieredTokens | HostTokens], order: torch.Tensor, lengths: torch.Tensor
    ) -> TieredTokens:
        """All of them, in their tiers by their new places."""
        states = torch.cat([p.states if isinstance(p, HostTokens) else p.states() for p in parts])
        return self._stored(states[order.cpu()], lengths, parts[0].device)

    def tensors(self, encoded: TieredTokens | HostTokens) -> dict[str, torch.Tensor]:
        """Both tiers, and which token is in which."""
        if isinstance(encoded, HostTokens):
            return {"host": encoded.states}
        return {"below": encoded.below, "host": encoded.host, "disk": encoded.disk}

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> Any:
        """The same tokens in the same tiers."""
        host = tensors["host"].cpu()
        if "below" not in tensors:
            return HostTokens.of(host, like.device)
        return self._tiered(tensors["below"].cpu(), host, tensors["disk"].cpu(), like.device)

    def _stored(self, states: torch.Tensor, lengths: torch.Tensor, device: torch.device) -> TieredTokens:
        lengths = lengths.flatten()
        run, places = places_of(lengths)
        older = (lengths * (1.0 - self.host) + 1e-9).floor()[run]
        below = (places < older).cpu()
        states = states.cpu()
        return self._tiered(below, states[~below], states[below], device)

    def _tiered(
        self, below: torch.Tensor, host: torch.Tensor, disk: torch.Tensor, device: torch.device
    ) -> TieredTokens:
        try:
            return TieredTokens(below, host, on_disk(disk, Path(self.folder)), device)
        except OSError as error:
            if self.facts.report is not None:
                self.facts.report(
                    f"cannot write {format_bytes(disk.nbytes)} of a cache to {self.folder}: "
                    f"{error.strerror}. Nothing is lost, what was to go there stays in host memory: free "
                    "some space there and go on, or make a cache with another folder."
                )
        together = host.new_empty(len(below), host.shape[1])
        together[below], together[~below] = disk, host
        return TieredTokens(torch.zeros_like(below), together, disk[:0].clone(), device)


def on_disk(states: torch.Tensor, folder: Path) -> torch.Tensor:
    """A tensor `[N, d]` as a file of this folder, which goes when the tensor does.

    Raises:
        OSError: it cannot be written, whole or not at all.
    """
    if not states.numel():
        return states.clone()
    content = states.contiguous().view(torch.uint8)
    handle, name = tempfile.mkstemp(dir=folder, prefix="dcache-")
    try:
        with os.fdopen(handle, "wb") as file:
            # Room is taken first: a mapped file whose disk is full would end the program where it is read.
            with contextlib.suppress(AttributeError):
                os.posix_fallocate(file.fileno(), 0, content.nbytes)
            file.write(content.numpy().data)
            file.flush()
            os.fsync(file.fileno())
        mapped = torch.from_file(name, shared=False, size=content.numel(), dtype=torch.uint8, device="cpu")
    finally:
        Path(name).unlink()
    return mapped.view(states.dtype).view(states.shape)
