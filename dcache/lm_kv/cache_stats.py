"""What a cache holds: figures that print as a table, kept tokens by layer and head, and a picture of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.util.bytes import format_bytes
from dcache.util.distribution import install_line


@dataclass(frozen=True)
class CacheStats:
    """One cache.

    Attributes:
        method: the policy's name.
        budget: what it may keep, in words.
        allocation: how the budget is divided.
        seen: true tokens of each row, evicted ones included.
        kept: mean tokens that a KV head holds, by row.
        bytes_held: bytes of all storages held now, the library's own layers included.
        bytes_full: bytes that the keys and values of all seen tokens would take in the model's dtype.
        peak_bytes: the most that the compressed layers held at once; the prompt's full keys and values are in
            it where tokens are evicted after the forward ("global", kvzip).
        bytes_host: of those held, bytes that a policy puts into host memory (shadowkv's values, say); on CPUs
            all bytes are in the same memory.
        bytes_disk: of those held, bytes that a policy puts on disk (leoam).
        evictions: how often tokens were evicted.
        read: mean tokens that a KV head read at the last decoded token, by row, where a policy selects them;
            it keeps all of them, so it saves reads and no bytes.
    """

    method: str = ""
    budget: str = ""
    allocation: str = ""
    seen: tuple[int, ...] = ()
    kept: tuple[float, ...] = ()
    bytes_held: int = 0
    bytes_full: int = 0
    peak_bytes: int = 0
    evictions: int = 0
    read: tuple[float, ...] = ()
    bytes_host: int = 0
    bytes_disk: int = 0

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values that JSON has."""
        return {**asdict(self), "seen": list(self.seen), "kept": list(self.kept), "read": list(self.read)}

    def __str__(self) -> str:
        """A small table."""
        share = (
            f"{self.bytes_held / self.bytes_full:.1%} of {format_bytes(self.bytes_full)}"
            if self.bytes_full
            else "-"
        )
        rows = [
            ("method", self.method or "-"),
            ("budget", f"{self.budget}, {self.allocation}" if self.budget else "-"),
            ("tokens seen", ", ".join(map(str, self.seen)) or "-"),
            ("kept per head", ", ".join(f"{kept:.1f}" for kept in self.kept) or "-"),
            ("held", f"{format_bytes(self.bytes_held)}, {share}"),
            ("peak", format_bytes(self.peak_bytes)),
            ("evictions", str(self.evictions)),
        ]
        if self.bytes_host:
            rows.append(("of that, host", format_bytes(self.bytes_host)))
        if self.bytes_disk:
            rows.append(("of that, disk", format_bytes(self.bytes_disk)))
        if self.read:
            rows.append(("read per step", ", ".join(f"{read:.1f}" for read in self.read)))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        if not self.seen:
            lines.append("nothing ran yet: call the model first")
        return "\n".join(lines)


@dataclass(frozen=True)
class CacheReport:
    """Kept tokens by layer and head; prints as a table.

    Attributes:
        stats: the figures of the cache.
        kept: layer index -> mean over the rows of the tokens that each KV head holds.
    """

    stats: CacheStats
    kept: dict[int, tuple[float, ...]]

    def __str__(self) -> str:
        """The figures, then one line for each layer."""
        lines = [str(self.stats), "", "layer  tokens kept by head"]
        lines += [
            f"{layer:>5}  {' '.join(f'{n:>7.1f}' for n in heads)}" for layer, heads in self.kept.items()
        ]
        return "\n".join(lines)

    def plot(self, path: str | Path) -> Path:
        """Save a picture: layers down, heads across, darker where more is kept.

        Args:
            path: where; the ending says the format.

        Returns:
            The path.

        Raises:
            DcacheError: matplotlib is not installed, or nothing was stored yet.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise DcacheError(f"a picture needs matplotlib: {install_line('bench')}") from None
        if not self.kept:
            raise DcacheError("this cache holds nothing yet: run the model with it first")
        widest = max(len(heads) for heads in self.kept.values())
        table = [[*heads, *[float("nan")] * (widest - len(heads))] for heads in self.kept.values()]
        figure = Figure(figsize=(2 + 0.4 * widest, 1.5 + 0.25 * len(table)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(table, aspect="auto", cmap="Blues", vmin=0)
        axes.set_xlabel("KV head")
        axes.set_ylabel("layer")
        axes.set_xticks(range(widest))
        axes.set_yticks(range(len(table)), [str(layer) for layer in self.kept])
        figure.colorbar(image, ax=axes, label="tokens kept")
        figure.savefig(path)
        return Path(path)
