"""Contestants: ways to run one pipeline, dcache's and others', measured by the same call."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
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
    """A way to run a pipeline; this one runs it as it is. Subclasses switch something on.

    Attributes:
        spec: what was asked for, unique among those measured together.
        label: a short name for tables and pictures.
        call: how to do the same by hand, as the rest of the line after `dcache.enable(pipe`, "" if it cannot.
        note: what a reader of its figures has to know.
        library: who made it.
    """

    spec: str
    label: str
    call: str = ""
    note: str = ""
    library: str = "dcache"

    @property
    def file_name(self) -> str:
        """The label as a file name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.label.lower()).strip("-.") or "method"

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with what it computes: here with any field."""
        return digest_of([getattr(self, field.name) for field in fields(self)])

    def same_as(self, spec: str, trace: dcache.Schedule | None) -> bool:
        """Whether a method is this one, as far as can be told without its digest.

        Args:
            spec: what was asked for.
            trace: what it computed, where that was recorded.
        """
        return spec == self.spec

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """Switch it on for the calls inside the block, and surely off again."""
        yield

    def bytes_held(self, pipe: Any) -> int:
        """Bytes of the storages that its cache holds at this moment, where it gives no `Stats`."""
        return 0

    def observe(self, pipe: Any) -> tuple[dcache.Stats | None, dcache.Schedule | None]:
        """What it tells about the last call, asked before it is switched off."""
        return None, None


UNCACHED = BenchEntry("uncached", "uncached")


@dataclass
class CallResult:
    """One call.

    Attributes:
        output: pictures (N, H, W, 3) or clips (N, F, H, W, 3), float32.
        cost: seconds, FLOPs, bytes.
        stats, trace: dcache's own account of the call, None for anybody else.
        warnings: what was warned about.
    """

    output: NDArray[np.float32]
    cost: Cost
    stats: dcache.Stats | None = None
    trace: dcache.Schedule | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def computed(self) -> float | None:
        """Share of the site events that were computed, None where nobody counts them."""
        if self.stats is None:
            return None
        events = self.stats.computed + self.stats.predicted
        return self.stats.computed / events if events else 1.0


def check_entry(subject: Subject, contestant: BenchEntry) -> None:
    """Switch it on and off, so that one that cannot be used is refused before anything is measured.

    Raises:
        DcacheError: it cannot; the message names it.
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
) -> CallResult:
    """Call the pipeline once with the contestant switched on; switching is not timed.

    Every call is the first one after switching on, its self-check included.

    Args:
        subject: the pipeline.
        contestant: how to run it.
        prompts: one picture or clip each.
        seeds: of the pictures' noise, one each.
        count_flops: count FLOPs and ask for the bytes held after every denoiser call; both take time, so
            the seconds of such a call are worth nothing.

    Raises:
        DcacheError: the contestant cannot be used on this pipeline, or the GPU's memory is too small for so
            many prompts; the message names it.
    """
    pipe = subject.pipe
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DcacheWarning)
        try:
            with contestant.enabled(pipe):
                held = (lambda: contestant.bytes_held(pipe)) if count_flops else None
                with measure_call(subject.denoisers, count_flops, held) as cost:
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
                f"{str(error).splitlines()[0]} Make smaller pictures or fewer at once: fewer --prompts in "
                "dcache bench, a smaller --batch-size in dcache eval"
            ) from error
    told = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, DcacheWarning))
    return CallResult(output, cost, stats, trace, list(told))
