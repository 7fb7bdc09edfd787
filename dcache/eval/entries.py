"""Contestants of a comparison: ways to run one pipeline, with dcache or another library."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dcache
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.call_cost import Cost, measure_call
from dcache.eval.digest import digest_of
from dcache.eval.subject import Subject


@dataclass(frozen=True)
class BenchEntry:
    """A way to run a pipeline. This class runs it unchanged; subclasses enable a caching method.

    Attributes:
        spec: specification text, unique within a comparison.
        label: short name for tables and plots.
        call: the rest of the line after `dcache.enable(pipe` that does the same; "" if there is none.
        note: remark on its figures, for readers.
        library: name of the library.
    """

    spec: str
    label: str
    call: str = ""
    note: str = ""
    library: str = "dcache"

    @property
    def portable(self) -> bool:
        """Whether the line of `call` can be used on other pipelines too."""
        return True

    @property
    def file_name(self) -> str:
        """The label as a file name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.label.lower()).strip("-.") or "method"

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify what is computed: here over all fields."""
        return digest_of([getattr(self, field.name) for field in fields(self)])

    def same_as(self, spec: str, trace: dcache.Schedule | None) -> bool:
        """Whether pictures of an earlier release, without a comparable digest, were made by this method.

        Args:
            spec: specification text of the method that made them.
            trace: the schedule that it followed; None if it was not recorded.
        """
        return spec == self.spec

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """Enable the method inside the block; it is disabled afterwards even if the block raises."""
        yield

    def bytes_held(self, pipe: Any) -> int:
        """Bytes that the method's cache holds now; used for methods without `Stats`."""
        return 0

    def observe(self, pipe: Any) -> tuple[dcache.Stats | None, dcache.Schedule | None]:
        """Statistics and trace of the last call, read before the method is disabled; None without them."""
        return None, None


UNCACHED = BenchEntry("uncached", "uncached")


@dataclass
class CallResult:
    """Result of one pipeline call.

    Attributes:
        output: pictures (N, H, W, 3) or clips (N, F, H, W, 3), float32.
        cost: seconds, FLOPs, bytes.
        stats, trace: statistics and trace of dcache; None for other libraries.
        warnings: texts of the warnings, each once.
        earlier: seconds of the calls before it, made after the method was enabled.
    """

    output: NDArray[np.float32]
    cost: Cost
    stats: dcache.Stats | None = None
    trace: dcache.Schedule | None = None
    warnings: list[str] = field(default_factory=list)
    earlier: list[float] = field(default_factory=list)

    @property
    def computed(self) -> float | None:
        """Share of the site events that were computed; None without statistics."""
        if self.stats is None:
            return None
        events = self.stats.computed + self.stats.predicted
        return self.stats.computed / events if events else 1.0

    @property
    def observed(self) -> bool:
        """Whether it was computed in full to plan the calls after it, so its figures are not the method's."""
        stats = self.stats
        return stats is not None and "observing" in stats.reasons and not stats.predicted


def check_entry(subject: Subject, contestant: BenchEntry) -> None:
    """Enable and disable a method once, to refuse an unusable one before anything is measured.

    Raises:
        DcacheError: the method cannot be used on this pipeline; the message names it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contestant.enabled(subject.pipe):
                pass
    except DcacheError as error:
        raise DcacheError(f"{contestant.spec}: {error}") from error


def run_once(
    subject: Subject,
    contestant: BenchEntry,
    prompts: Sequence[str],
    seeds: Sequence[int],
    count_flops: bool = False,
    calls: int = 1,
    clock: Callable[[], float] = perf_counter,
) -> CallResult:
    """Call the pipeline with a method enabled. Enabling is not timed; the self-check of a first call is.

    Args:
        subject: the pipeline.
        contestant: the method.
        prompts: one picture or clip each.
        seeds: seeds of the noise, one each.
        count_flops: count FLOPs, and the cache's bytes after every denoiser call. Both take time, so the
            seconds of such a call are not usable.
        calls: equal calls in a row, of which the last one is the result.
        clock: gives the seconds, as for `measure_call`.

    Raises:
        DcacheError: the method cannot be used on this pipeline, or the GPU's memory is too small for the
            batch; the message names the method.
    """
    pipe = subject.pipe
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DcacheWarning)
        try:
            with contestant.enabled(pipe):
                bytes_held = (lambda: contestant.bytes_held(pipe)) if count_flops else None
                earlier = [_seconds(subject, prompts, seeds, clock) for _ in range(calls - 1)]
                with measure_call(subject.denoisers, count_flops, bytes_held, clock) as cost:
                    output = subject(prompts, seeds)
                stats, trace = contestant.observe(pipe)
                if trace is not None:
                    trace = replace(trace, guidance=subject.guidance, resolution=output.shape[1:-1])
                if stats is not None:
                    cost.bytes_held = stats.bytes_held
        except DcacheError as error:
            raise DcacheError(f"{contestant.spec}: {error}") from error
        except torch.cuda.OutOfMemoryError as error:
            raise DcacheError(
                f"{contestant.spec}: {len(prompts)} prompts in one call do not fit into the memory: "
                f"{str(error).splitlines()[0]} Use smaller pictures or fewer at once: fewer --prompts in "
                "dcache bench, a smaller --batch-size in dcache eval"
            ) from error
    messages = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, DcacheWarning))
    return CallResult(output, cost, stats, trace, list(messages), earlier)


def run_counted(
    subject: Subject, contestant: BenchEntry, prompts: Sequence[str], seeds: Sequence[int]
) -> CallResult:
    """`run_once` with FLOPs and bytes counted, of the calls that follow where a first one is observed.

    `tuned` computes its first call of a kind in full; the operations of its plan are those of the next one.

    Args:
        subject: the pipeline.
        contestant: the method.
        prompts: one picture or clip each.
        seeds: seeds of the noise, one each.

    Raises:
        DcacheError: as `run_once`.
    """
    result = run_once(subject, contestant, prompts, seeds, count_flops=True)
    return run_once(subject, contestant, prompts, seeds, count_flops=True) if result.observed else result


def _seconds(
    subject: Subject, prompts: Sequence[str], seeds: Sequence[int], clock: Callable[[], float]
) -> float:
    """Seconds of one call."""
    with measure_call(subject.denoisers, clock=clock) as cost:
        subject(prompts, seeds)
    return cost.seconds
