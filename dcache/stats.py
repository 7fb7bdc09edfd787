"""`Stats`: counts, reasons, bytes and seconds of a run; prints as a small table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass
class Stats:
    """Counts, bytes and seconds of one run of one or more denoisers.

    The clocks do not wait for a GPU: there the seconds are those of launching kernels. Measure wall-clock
    time around the pipeline's call.

    Attributes:
        steps: evaluations of the run.
        computed: (evaluation, branch, site) events in which the site was computed.
        predicted: events in which the site was predicted.
        reasons: reason -> events computed for it: warmup, interval, threshold, last, length (of the run,
            which was not known), max_run, schedule, observing, shape, no_history, number (beside a
            block's tensors, seen once), nan, asked (for a full run); or calls that were not cached at all:
            gradients, writes (into their arguments or the model), after_last (behind the last step).
        bytes_held: bytes of the histories during the run; after it, their maximum.
        bytes_now: bytes of the histories now, 0 once the run is over.
        seconds_compute: seconds in denoiser calls that computed every site.
        seconds_predict: seconds in denoiser calls that predicted at least one site.
        seconds_inside: seconds in dcache's code around computed regions: bookkeeping, copies, decisions.
        memo_bytes: bytes of the tables of `dcache.memo`.
        bytes_away: bytes of weights that the memo has moved off their device or freed.
        method: description of the method.
        plan: of a method that plans by itself, whether this run was observed or planned, from what, and what
            is expected; "" for all others.
        components: denoiser name -> its stats, where a pipeline has several.
        ranks: stats of each process that has a part of the tokens, in their order; empty where one has all.
    """

    steps: int = 0
    computed: int = 0
    predicted: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    bytes_held: int = 0
    bytes_now: int = 0
    seconds_compute: float = 0.0
    seconds_predict: float = 0.0
    seconds_inside: float = 0.0
    memo_bytes: int = 0
    bytes_away: int = 0
    method: str = ""
    plan: str = ""
    components: dict[str, Stats] = field(default_factory=dict)
    ranks: tuple[Stats, ...] = ()

    @property
    def computed_share(self) -> float:
        """Share of the site events that were computed, 0 to 1; 1 if there were none."""
        events = self.computed + self.predicted
        return self.computed / events if events else 1.0

    def to_dict(self) -> dict[str, Any]:
        """All fields and `computed_share` as JSON values."""
        values = asdict(self)
        values["computed_share"] = self.computed_share
        values["ranks"] = [part.to_dict() for part in self.ranks]
        values["components"] = {name: part.to_dict() for name, part in self.components.items()}
        return values

    def __str__(self) -> str:
        """A small table, and a sentence where nothing was predicted."""
        events = self.computed + self.predicted
        rows = [
            ("method", self.method or "-"),
            *([("plan", self.plan)] if self.plan else []),
            ("evaluations", str(self.steps)),
            ("computed", f"{self.computed} of {events} site events"),
            ("predicted", f"{self.predicted} of {events}"),
            ("computed because", ", ".join(f"{k} {v}" for k, v in sorted(self.reasons.items())) or "-"),
            ("held", _size(self.bytes_held)),
            ("seconds", f"{self.seconds_compute:.3f} computing, {self.seconds_predict:.3f} predicting"),
        ]
        if self.memo_bytes:
            rows.append(("memo", f"{_size(self.memo_bytes)}, weights away {_size(self.bytes_away)}"))
        if self.ranks:
            rows.append(("ranks", f"{len(self.ranks)}: bytes together, seconds of the slowest"))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        if events == 0 and not self.reasons:
            lines.append("nothing ran yet: call the pipeline first")
        elif self.predicted == 0:
            lines.append(f"nothing was predicted: {self.why_nothing()}")
        return "\n".join(lines)

    def why_nothing(self) -> str:
        """The reasons as a sentence, for a run without predictions."""
        if not self.reasons:
            return "no site of the denoiser was reached"
        return "; ".join(
            f"{count} x {_MEANING.get(name, name)}" for name, count in sorted(self.reasons.items())
        )


def merge(parts: dict[str, Stats]) -> Stats:
    """The stats of a pipeline: sums over its denoisers, and the largest number of steps.

    Args:
        parts: denoiser name -> stats.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    values: Iterable[Stats] = parts.values()
    reasons: Counter[str] = Counter()
    for part in values:
        reasons.update(part.reasons)
    return Stats(
        steps=max((p.steps for p in values), default=0),
        computed=sum(p.computed for p in values),
        predicted=sum(p.predicted for p in values),
        reasons=dict(reasons),
        bytes_held=sum(p.bytes_held for p in values),
        bytes_now=sum(p.bytes_now for p in values),
        seconds_compute=sum(p.seconds_compute for p in values),
        seconds_predict=sum(p.seconds_predict for p in values),
        seconds_inside=sum(p.seconds_inside for p in values),
        method=next((p.method for p in values), ""),
        plan="; ".join(dict.fromkeys(p.plan for p in values if p.plan)),
        components=dict(parts),
    )


def merge_ranks(parts: Sequence[Stats]) -> Stats:
    """The stats of several processes that compute one denoiser: counts of one, bytes of all, longest seconds.

    Args:
        parts: of each process, in their order. All of them decide alike.
    """
    return replace(
        parts[0],
        bytes_held=sum(part.bytes_held for part in parts),
        bytes_now=sum(part.bytes_now for part in parts),
        memo_bytes=sum(part.memo_bytes for part in parts),
        bytes_away=sum(part.bytes_away for part in parts),
        seconds_compute=max(part.seconds_compute for part in parts),
        seconds_predict=max(part.seconds_predict for part in parts),
        seconds_inside=max(part.seconds_inside for part in parts),
        ranks=tuple(parts),
    )


_MEANING = {
    "warmup": "inside the warm-up (raise the step count or lower warmup=)",
    "interval": "the interval is over",
    "threshold": "the probe changed by more than the threshold (raise threshold=)",
    "last": "the last evaluation",
    "length": "the number of evaluations of the run was not known",
    "max_run": "the longest run of predictions was reached",
    "schedule": "the schedule computes",
    "observing": "observed, to plan later calls",
    "listed": "listed to compute",
    "shape": "the call's shapes changed",
    "number": "a block returns a whole number, which may be another one in each evaluation",
    "no_history": "there was no anchor to predict from yet",
    "nan": "the probe was not a number",
    "gradients": "gradients are being recorded (use torch.no_grad())",
    "writes": "the call writes into its arguments, so it has to run",
    "outside": "called outside a run",
    "asked": "a run that is computed completely was asked for (dcache.reset)",
    "after_last": "called behind the sampler's last step",
}


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
