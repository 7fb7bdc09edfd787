"""What a memo holds and saves, as figures; prints as a small table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from dcache.time_memo.observe import TimedModule
from dcache.util.bytes import format_bytes


@dataclass(frozen=True)
class MemoReport:
    """Figures of one denoiser's memo, or of several together.

    Attributes:
        modules: name of a timed module -> the arguments that it depends on.
        parameters: parameters of the denoiser.
        timed_parameters: those of its timed modules.
        weight_bytes: bytes of the timed modules' weights.
        bytes_away: bytes of weights that are off their device now.
        table_bytes: bytes of all outputs that are kept.
        entries: outputs that are kept.
        hits: outputs that came from a table.
        fills: outputs that were computed and kept.
        checks: outputs that were computed a second time and compared.
        misses: calls of timed modules without a timestep, which were computed.
        waits: timesteps that had to be read from a GPU.
        dropped: name of a module -> why it is computed always.
        observed: whether a call was observed.
    """

    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parameters: int = 0
    timed_parameters: int = 0
    weight_bytes: int = 0
    bytes_away: int = 0
    table_bytes: int = 0
    entries: int = 0
    hits: int = 0
    fills: int = 0
    checks: int = 0
    misses: int = 0
    waits: int = 0
    dropped: Mapping[str, str] = field(default_factory=dict)
    observed: bool = False

    @classmethod
    def of(cls, module: nn.Module, timed: Sequence[TimedModule], **figures: Any) -> MemoReport:
        """The report of a denoiser with these timed modules, and other figures by name."""
        weights = {id(p): p.numel() for part in timed for p in part.module.parameters()}
        return cls(
            modules={part.name: tuple(sorted(part.sources)) for part in timed},
            parameters=sum(p.numel() for p in module.parameters()),
            timed_parameters=sum(weights.values()),
            weight_bytes=sum(part.nbytes for part in timed),
            **figures,
        )

    @property
    def share(self) -> float:
        """Share of the denoiser's parameters that timed modules hold, 0 to 1."""
        return self.timed_parameters / self.parameters if self.parameters else 0.0

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The arguments that any timed module depends on."""
        return tuple(sorted({source for sources in self.modules.values() for source in sources}))

    def to_dict(self) -> dict[str, Any]:
        """All fields and `share` as JSON values."""
        return {**asdict(self), "share": self.share}

    def __str__(self) -> str:
        """A small table."""
        if not self.observed:
            return "nothing was observed yet: call the pipeline first"
        rows = [
            ("timed modules", f"{len(self.modules)}, {100 * self.share:.1f} % of the parameters"),
            ("depend on", ", ".join(self.depends_on) or "-"),
            ("weights", f"{format_bytes(self.weight_bytes)}, {format_bytes(self.bytes_away)} off the device"),
            ("tables", f"{format_bytes(self.table_bytes)} in {self.entries} entries"),
            ("answered", f"{self.hits} from tables, {self.fills} computed and kept, {self.checks} checked"),
            ("not answered", f"{self.misses} without a timestep"),
            ("computed always", ", ".join(self.dropped) or "-"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def merged(parts: Mapping[str, MemoReport]) -> MemoReport:
    """The report of a pipeline with several denoisers: sums, and modules under their denoisers' names."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    sums = {
        name: sum(getattr(part, name) for part in parts.values())
        for name, value in asdict(MemoReport()).items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    modules = {f"{n}.{name}": s for n, part in parts.items() for name, s in part.modules.items()}
    dropped = {f"{n}.{name}": why for n, part in parts.items() for name, why in part.dropped.items()}
    observed = any(part.observed for part in parts.values())
    return MemoReport(modules=modules, dropped=dropped, observed=observed, **sums)
