"""Measuring: what a run of each entrant computes, then their seconds, in turns."""

from __future__ import annotations

import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from entrants import Plain
from giants import Loaded

import dcache
from dcache.errors import DcacheError
from dcache.eval.call_cost import Cost, measure_call
from dcache.eval.entries import BenchEntry

# A run that only warms up: computed evaluations, and predicted ones behind them.
WARMING = 6
# So many whole runs compile: state that a hook keeps may make the second one compile again.
COMPILING = 2
RECOMPILES = 64
# First Block Cache computes where the first block moved by so many times what it moves in one evaluation.
MOVES = 2.5
# What a look finds out, as attributes of an `Entry`.
LOOKS = ("computed", "held", "difference", "failed")
Tell = Callable[[str], None]
Keep = Callable[[], None]


@dataclass
class Entry:
    """One entrant and what was seen of it.

    Attributes:
        computed: for each call of the denoiser in a run, whether its last block ran.
        runs: the timed runs.
        held: most bytes that the cache held.
        difference: relative L1 of its latents to the uncached ones.
        warming: seconds of the runs that compile; None where nothing was compiled.
        failed: why there are no figures, "" if there are.
    """

    contestant: BenchEntry
    computed: list[bool] = field(default_factory=list)
    runs: list[Cost] = field(default_factory=list)
    held: int | None = None
    difference: float | None = None
    warming: float | None = None
    failed: str = ""

    def state(self) -> dict[str, Any]:
        """The measurements so far, as JSON values."""
        return {name: _plain(getattr(self, name)) for name in (*LOOKS, "runs", "warming")}

    def take(self, state: dict[str, Any], names: Sequence[str] = (*LOOKS, "runs", "warming")) -> None:
        """Take these parts of what `state` gave, in this process or before."""
        for name in names:
            value = state[name]
            setattr(self, name, [Cost(**run) for run in value] if name == "runs" else value)

    def figures(self, steps: int) -> dict[str, Any]:
        """As plain values; milliseconds are medians over the steps of all runs."""
        names: dict[str, Any] = {"label": self.contestant.label, "library": self.contestant.library}
        if self.failed or not self.runs:
            return names | {"failed": self.failed or "it was not run"}
        full, predicted = self._step_seconds(steps)
        return names | {
            "run_seconds": [run.seconds for run in self.runs],
            "full_ms": _milliseconds(full),
            "predicted_ms": _milliseconds(predicted),
            "computed_share": sum(self.computed) / len(self.computed),
            "mixed_up": _mixed_up(full, predicted),
            "held": self.held,
            "peak_memory": max((run.peak_memory or 0 for run in self.runs), default=0) or None,
            "difference": self.difference,
            "warming_seconds": self.warming,
        }

    def _step_seconds(self, steps: int) -> tuple[list[float], list[float]]:
        """Seconds of steps in which every branch was computed, and of those in which none was."""
        kinds: tuple[list[float], list[float]] = ([], [])
        branches = len(self.computed) // steps
        for run in self.runs:
            for i in range(0, len(run.calls), branches):
                ran = self.computed[i : i + branches]
                if all(ran) or not any(ran):
                    kinds[0 if ran[0] else 1].append(sum(run.calls[i : i + branches]))
        return kinds


def change_of_first_block(loaded: Loaded) -> float:
    """Median relative L1 by which what the first block adds changes from one evaluation to the next."""
    block = next(m for name, m in loaded.module.named_modules() if name.endswith("blocks.0"))
    before: dict[int, torch.Tensor] = {}
    changes: list[float] = []
    branches = branches_of(loaded)
    count = 0

    def look(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        nonlocal count
        entry = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        added = (output[-1] if isinstance(output, tuple) else output) - entry
        was = before.get(count % branches)
        if was is not None:
            changes.append(float((added - was).abs().mean() / was.abs().mean()))
        before[count % branches] = added
        count += 1

    hook = block.register_forward_hook(look, with_kwargs=True)
    try:
        loaded()
    finally:
        hook.remove()
    return statistics.median(changes)


def branches_of(loaded: Loaded) -> int:
    """Calls of the denoiser in one evaluation."""
    return 2 if "negative_prompt_embeds" in loaded.text else 1


def eager_rounds(loaded: Loaded, entries: list[Entry], repeats: int, progress: Tell, keep: Keep) -> None:
    """Time the missing ones of `repeats` runs of each entry, in turns, the uncached pipeline first.

    A short run before every timed one warms up and takes dcache's self-check, which is in the first call.

    Args:
        loaded: the model.
        entries: the entries after `look`, the uncached pipeline first.
        repeats: timed rounds.
        progress: called with a description of each run.
        keep: called after every run, to save the state.
    """
    order = random.Random(0)
    for turn in range(repeats):
        for entry in (entries[0], *order.sample(entries[1:], len(entries) - 1)):
            if not entry.failed and len(entry.runs) <= turn:
                progress(f"round {turn + 1} of {repeats}: {entry.contestant.label}")
                with guarded(entry), entry.contestant.enabled(loaded.pipe):
                    loaded(min(WARMING, loaded.steps))
                    _timed(loaded, entry)
                keep()


def compiled_rounds(loaded: Loaded, entries: list[Entry], repeats: int, progress: Tell, keep: Keep) -> None:
    """Time compiled blocks, one entrant after another, so that each starts without the others' compiled code.

    The uncached pipeline is timed once more after all others. Arguments are those of `eager_rounds`.
    """
    for entry, runs in (*((entry, repeats) for entry in entries), (entries[0], 2 * repeats)):
        if entry.failed or len(entry.runs) >= runs:
            continue
        progress(f"compiled: {entry.contestant.label}")
        torch._dynamo.reset()
        # Beyond torch's own limit a block goes on uncompiled: hooks inside the blocks meet it.
        limit = torch._dynamo.config.patch(recompile_limit=RECOMPILES)
        with guarded(entry), limit, entry.contestant.enabled(loaded.pipe):
            began = time.perf_counter()
            for _ in range(COMPILING):
                loaded()
            entry.warming = entry.warming or time.perf_counter() - began
            for _ in range(repeats):
                _timed(loaded, entry)
        keep()
    torch._dynamo.reset()


def look(loaded: Loaded, entries: list[Entry], progress: Tell, keep: Keep) -> None:
    """An untimed eager run of each entry: computed share, bytes held, and the error of its latents.

    Raises:
        DcacheError: the uncached latents are not finite.
    """
    if all(entry.computed or entry.failed for entry in entries):
        return
    reference: torch.Tensor | None = None
    for entry in entries:
        if reference is not None and (entry.computed or entry.failed):
            continue
        progress(f"a look at {entry.contestant.label}")
        entry.computed = []
        with guarded(entry), replace(entry.contestant, compile=None).enabled(loaded.pipe):
            latents = _look(loaded, entry)
            if not latents.isfinite().all():
                entry.failed = "its latents are not finite"
            else:
                reference = latents if reference is None else reference
                entry.difference = float((latents - reference).abs().mean() / reference.abs().mean())
        if reference is None:
            raise DcacheError(f"{loaded.giant.title} without caching: {entry.failed}")
        keep()


def _look(loaded: Loaded, entry: Entry) -> torch.Tensor:
    # The query projection of the last attention lies inside whatever is skipped, in any library.
    *_, last = (m for name, m in loaded.module.named_modules() if name.endswith("to_q"))
    ran = 0

    def count(*_: Any) -> None:
        nonlocal ran
        ran += 1

    def after_call() -> int:
        nonlocal ran
        entry.computed.append(ran > 0)
        ran = 0
        return entry.contestant.bytes_held(loaded.pipe)

    hook = last.register_forward_pre_hook(count)
    try:
        with measure_call([loaded.module], bytes_held=after_call) as cost:
            latents = loaded()
    finally:
        hook.remove()
    stats, _ = entry.contestant.observe(loaded.pipe)
    entry.held = cost.bytes_held if stats is None else stats.bytes_held
    return latents


def _timed(loaded: Loaded, entry: Entry) -> None:
    with measure_call([loaded.module]) as cost:
        loaded()
    entry.runs.append(cost)
    _, trace = entry.contestant.observe(loaded.pipe)
    if trace is not None:
        # The run's own account: a rule that looks at numbers may decide otherwise in compiled code.
        entry.computed = computed_calls(trace, branches_of(loaded))


def computed_calls(trace: dcache.Schedule, branches: int) -> list[bool]:
    """For each call of the denoiser, in order, whether its sites were computed."""
    (component,) = trace.components.values()
    # Branches that do the same are one in a trace.
    every = [*component.rows.values()] * (branches if "*" in component.rows else 1)
    rows = [[all(step) for step in zip(*sites.values(), strict=True)] for sites in every]
    return [computed for step in zip(*rows, strict=True) for computed in step]


@contextmanager
def guarded(entry: Entry) -> Iterator[None]:
    """Who cannot be run has the reason in its row, and the others go on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except torch.cuda.OutOfMemoryError as error:
        entry.failed = f"the memory is too small: {str(error).splitlines()[0]}"
    except Exception as error:
        # The uncached pipeline has to run; what others raise is up to them.
        if isinstance(entry.contestant, Plain):
            raise
        entry.failed = f"{type(error).__name__}: {error}".splitlines()[0]
    if entry.failed and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _plain(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [asdict(item) if isinstance(item, Cost) else item for item in value]


def _milliseconds(seconds: list[float]) -> float | None:
    return 1000 * statistics.median(seconds) if seconds else None


def _mixed_up(full: list[float], predicted: list[float]) -> float:
    """Share of the steps whose time is closer to that of the other kind."""
    if not full or not predicted:
        return 0.0
    between = (statistics.median(full) * statistics.median(predicted)) ** 0.5
    wrong = sum(t < between for t in full) + sum(t > between for t in predicted)
    return wrong / (len(full) + len(predicted))
