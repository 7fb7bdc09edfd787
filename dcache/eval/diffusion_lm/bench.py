"""What a policy saves: decoding loops on random weights against the uncached loop, in alternated runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from statistics import median
from typing import Any

import torch

import dcache
from dcache import diffusion_lm
from dcache.diffusion_lm import enabled
from dcache.diffusion_lm.engine import Engine, Stream
from dcache.errors import DcacheError
from dcache.eval.diffusion_lm.entries import RowEntry
from dcache.eval.diffusion_lm.evaluation import NONE
from dcache.eval.diffusion_lm.random_model import prompts, random_subject
from dcache.eval.diffusion_lm.runs import now
from dcache.eval.diffusion_lm.subject import RowSubject
from dcache.eval.diffusion_lm.turn import Turn, turn
from dcache.eval.limits import Real, Whole, check_within
from dcache.eval.rows import aligned

HEADS = ("policy", "batch", "temperature", "steps", "rows", "seconds", "speedup", "of CPU", "outside")
# Steps of the uncounted first turn of each, and turns of the full passes.
WARMUP, PASSES = 2, 9
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BenchSettings:
    """What is timed.

    Attributes:
        batches: numbers of sequences.
        temperatures: of sampling.
        block: tokens of a block.
        steps: forwards of a turn.
        repeats: counted turns of each.
    """

    batches: tuple[int, ...] = (1, 8)
    temperatures: tuple[float, ...] = (0.0, 1.0)
    block: int = 32
    steps: int = 32
    repeats: int = 3

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            DcacheError: a number is out of range, or a list is empty.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            limit = Real(0) if field.name == "temperatures" else Whole(1)
            for number in value if isinstance(value, tuple) else (value,):
                check_within(limit, number, f"--{field.name}")
            if value == ():
                raise DcacheError(f"--{field.name} names none: give numbers separated by commas")

    @classmethod
    def parsed(cls, batches: str, temperatures: str, block: int, steps: int, repeats: int) -> BenchSettings:
        """Read batches and temperatures that are separated by commas.

        Raises:
            DcacheError: one is no number, or out of range.
        """
        return cls(
            tuple(_number(word, int) for word in _words(batches)),
            tuple(_number(word, float) for word in _words(temperatures)),
            block,
            steps,
            repeats,
        )


@dataclass(frozen=True)
class BenchRow:
    """A loop: medians over the rounds.

    Attributes:
        name: the policy; "none" for the model as it is.
        batch: sequences.
        temperature: of sampling.
        forwards: steps of a turn.
        share: rows computed, of all.
        seconds: of a turn.
        speedup: the uncached loop's seconds in the same round, divided by these.
        cpu_speedup: the same of processor seconds, which other work on the machine disturbs less.
        outside: of a step that computes some rows, the share of processor seconds outside the model.
    """

    name: str
    batch: int
    temperature: float
    forwards: int
    share: float
    seconds: float
    speedup: float
    cpu_speedup: float
    outside: float | None


@dataclass(frozen=True)
class BenchResult:
    """All rows, and the speed of a full pass through the engine.

    Attributes:
        rows: of each loop.
        full_pass: plain forwards' seconds, of the engine's full passes'; the median of alternated runs.
    """

    rows: list[BenchRow]
    full_pass: float


def bench(
    entries: Sequence[RowEntry],
    settings: BenchSettings,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress = lambda _what, _done, _total: None,
    subject: RowSubject | None = None,
) -> BenchResult:
    """Let all loops take turns; a first short turn of each is not counted.

    Args:
        entries: the policies.
        settings: what is timed.
        device: such as "cpu" or "cuda".
        dtype: of the weights.
        progress: called with what is at work, the number done and all.
        subject: the model; None for the random one.

    Raises:
        DcacheError: a policy does not fit, or there is no such device.
    """
    subject = subject or random_subject(device, dtype)
    total = len(settings.batches) * len(settings.temperatures) * (settings.repeats + 1) * (len(entries) + 1)
    done, rows = 0, []
    for batch, temperature in product(settings.batches, settings.temperatures):
        rounds: list[dict[str, Turn]] = []
        for index in range(settings.repeats + 1):
            rounds.append({})
            for name, method, block in _loops(entries, settings.block):
                progress(f"{name}, batch {batch}, temperature {temperature:g}", done, total)
                steps = settings.steps if index else WARMUP
                rounds[-1][name] = turn(subject, method, block, batch, temperature, steps)
                done += 1
        rows += [_row(name, batch, temperature, rounds[1:]) for name in rounds[0]]
    progress("full passes", done, total)
    ratio = full_pass(subject)
    progress("done", total, total)
    return BenchResult(rows, ratio)


@torch.no_grad()
def full_pass(subject: RowSubject, runs: int = PASSES) -> float:
    """Seconds of a plain forward, of those of a full pass through the engine: median of alternated runs."""
    model, ids = subject.model, prompts(subject, 2).reshape(1, -1)
    every = torch.ones_like(ids, dtype=torch.bool)
    positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    with dcache.enabled(model, diffusion_lm.make("none")):
        engine: Engine = enabled.engine_of(model)
        stream = Stream(engine, positions)

        def plain() -> Any:
            return engine.call(input_ids=ids)

        def whole() -> Any:
            return stream.forward(ids, every, {})

        ratios = [_seconds(plain, ids) / _seconds(whole, ids) for _ in range(runs + 1)]
    return median(ratios[1:])


def table(result: BenchResult) -> str:
    """The rows as text."""
    return aligned([HEADS, *map(_cells, result.rows)])


def legend(result: BenchResult) -> str:
    """The lines below the table."""
    return (
        "speedup: the uncached loop's seconds divided by the policy's, median over rounds; of CPU: of\n"
        "processor seconds; outside: of a step that computes some rows, what is not the model's forward\n"
        f"a full pass through the engine: {result.full_pass:.2f}x the speed of a plain forward"
    )


def _loops(entries: Sequence[RowEntry], block: int) -> list[tuple[str, Any, int]]:
    """Name, method and block of every loop, the uncached one first."""
    return [
        (NONE, None, block),
        *((entry.label, entry.method, entry.order(block).block) for entry in entries),
    ]


def _row(name: str, batch: int, temperature: float, rounds: Sequence[dict[str, Turn]]) -> BenchRow:
    turns = [turns[name] for turns in rounds]
    pairs = [(turns[NONE], turns[name]) for turns in rounds]
    outside = [one.outside for one in turns if one.outside is not None]
    return BenchRow(
        name,
        batch,
        temperature,
        turns[0].forwards,
        turns[0].share,
        median(one.seconds for one in turns),
        median(plain.seconds / one.seconds for plain, one in pairs),
        median(plain.cpu / one.cpu for plain, one in pairs),
        median(outside) if outside else None,
    )


def _cells(row: BenchRow) -> tuple[str, ...]:
    return (
        row.name,
        str(row.batch),
        f"{row.temperature:g}",
        str(row.forwards),
        f"{row.share:.1%}",
        f"{row.seconds:.2f}",
        f"{row.speedup:.2f}x",
        f"{row.cpu_speedup:.2f}x",
        "" if row.outside is None else f"{row.outside:.1%}",
    )


def _seconds(call: Callable[[], Any], ids: torch.Tensor) -> float:
    began = now(ids)
    call()
    return now(ids) - began


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _number(word: str, kind: type) -> Any:
    try:
        return kind(word)
    except ValueError:
        return word
