"""Where a calibration begins: what presets and plans compute, with so many computed evaluations.

Their places are starts of the local search. The schedules themselves compete with what it finds, so that a
calibration never ends below a preset of equal work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import dcache
from dcache.errors import DcacheError
from dcache.eval.entries import run_once
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.method import Method
from dcache.observation.tuning import folder
from dcache.observation.tuning.tuner import learned_of
from dcache.profile import Floats
from dcache.schedule import Schedule
from dcache.schedulers.planners.algorithms import pair_partition
from dcache.schedulers.planners.gram import RIDGE, slope_errors, slopes
from dcache.schedulers.planners.tuned import Halves, ObservedCall, planned, slopes_and_terms
from dcache.search.fitting.latency_model import CalibrationTarget
from dcache.search.fitting.placement import Anchors
from dcache.search.rendering.results import Results

# Of regular presets, warm-ups in the order of preference: Newton's own, the default's, none.
WARMUPS = (2, 3, 1)
# Presets of one kind with as many computes.
MOST_OF_A_KIND = 2
# Calls of the pipeline for all starts: the default, Newton twice, the adaptive preset, an observed call.
MOST_STARTS = 5


class Terms(NamedTuple):
    """What a preset or a plan does at the sites of a calibration.

    Attributes:
        computed: the computed evaluations.
        predictor: name of the predictor.
        parameters: its parameters, as JSON.
        clock: its clock.
    """

    computed: Anchors
    predictor: str
    parameters: Mapping[str, Any]
    clock: str | None


@dataclass(frozen=True)
class Start:
    """What one preset or plan computes.

    Attributes:
        name: of the preset or the planner.
        anchors: as many computed evaluations as are asked for, near its own.
        terms: what it does itself; None where it has more computes, or other sites.
    """

    name: str
    anchors: Anchors
    terms: Terms | None = None

    def schedule(self, target: CalibrationTarget) -> Schedule | None:
        """What it does itself, as a schedule."""
        if self.terms is None:
            return None
        at = target.at(self.terms.computed)
        ((name, plan),) = at.components.items()
        _, predictor, parameters, clock = self.terms
        own = replace(plan, predictor=predictor, parameters=parameters, clock=clock)
        return replace(at, method=self.name, components={name: own})


def observed_starts(
    subject: Subject, target: CalibrationTarget, computes: int, prompt: str, seed: int, results: Results
) -> tuple[list[Start], Floats | None]:
    """The starts of a calibration, from calls with this prompt; and the `planned_slopes` of its plan."""
    observed = observed_call(subject, prompt, seed, results)
    starts = starts_of(subject, target, computes, prompt, seed, results, observed)
    return starts, planned_slopes(target, computes, observed)


def starts_of(
    subject: Subject,
    target: CalibrationTarget,
    computes: int,
    prompt: str,
    seed: int,
    results: Results,
    observed: ObservedCall | None,
) -> list[Start]:
    """The starts of a calibration: the plans of one observed call, and the traces of presets.

    Each preset takes one call of the pipeline, of one picture; what cannot be used on this pipeline is left
    out.

    Args:
        subject: the pipeline.
        target: the sites and evaluations.
        computes: number of computed evaluations.
        prompt: what is called with.
        seed: of its noise.
        results: those of an earlier run are taken from here.
        observed: what `observed_call` showed, which plans are made from; None makes none.
    """
    starts = planned_starts(target, computes, observed)
    makers: dict[str, Callable[[], Iterable[Start]]] = {}
    for name, method in presets(computes, target.steps).items():
        entry = MethodEntry(name, name, method=method)
        makers[name] = partial(_traced, subject, target, computes, entry, prompt, seed)
    for name, make in makers.items():
        made = results.number(f"{computes} computes: {name}", partial(_as_json, make))
        starts += [
            Start(label, tuple(anchors), None if terms is None else Terms(tuple(terms[0]), *terms[1:]))
            for label, anchors, terms in made
        ]
    return starts


def _as_json(make: Callable[[], Iterable[Start]]) -> list[Any]:
    return [[start.name, start.anchors, start.terms] for start in make()]


def presets(computes: int, steps: int) -> dict[str, Method]:
    """Presets with as many computed evaluations, and the default where it has fewer.

    Args:
        computes: number of computed evaluations.
        steps: evaluations of a run.
    """
    chosen: dict[str, Method] = {}
    if len(regular(3, 3, True, steps)) <= computes:
        chosen["default"] = dcache.methods.default()
    for warmup, last, interval in _regular_with(computes, steps):
        if len(chosen) <= MOST_OF_A_KIND:
            options = f"interval={interval}, warmup={warmup}, last={last}"
            chosen[f"newton({options})"] = dcache.methods.newton(interval, 1, warmup, last)
    if 1 < computes < steps:
        chosen["adaptive"] = dcache.methods.adaptive(share=computes / steps)
    return chosen


def regular(interval: int, warmup: int, last: bool, steps: int) -> Anchors:
    """The evaluations that `guarded(Every(interval), warmup, last)` computes."""
    first = max(1, warmup)
    places = {*range(min(first, steps)), *range(first - 1 + interval, steps, interval)}
    return tuple(sorted(places | ({steps - 1} if last else set())))


def resized(anchors: Anchors, computes: int, steps: int) -> Anchors:
    """Places near others, `computes` of them: in the widest gaps more, where they lie closest fewer.

    The first stays at evaluation 0.
    """
    places = sorted({0, *anchors})
    while len(places) > computes:
        ends = [*places[1:], steps]
        spans = {
            place: end - before for before, place, end in zip(places, places[1:], ends[1:], strict=False)
        }
        places.remove(min(spans, key=lambda place: (spans[place], -place)))
    while len(places) < computes:
        gaps = [(end - place, -place) for place, end in zip(places, [*places[1:], steps], strict=True)]
        wide, begin = max(gaps)
        places = sorted([*places, -begin + wide // 2])
    return tuple(places)


def planned_starts(target: CalibrationTarget, computes: int, observed: ObservedCall | None) -> list[Start]:
    """The plan of `tuned` from one observed call, and that of the planner `pairs` from the same tables."""
    with suppress(DcacheError):
        if observed is not None and len(observed.taus) == target.steps:
            return [*_plans(observed, computes)]
    return []


def planned_slopes(target: CalibrationTarget, computes: int, observed: ObservedCall | None) -> Floats | None:
    """(T, T, T), `[a, b, t]`: the slope with which the plan of `tuned` predicts t from the anchors a and b.

    None under guidance, where it follows a share of the line, and where nothing was observed.
    """
    if observed is None or observed.guided or len(observed.taus) != target.steps:
        return None
    return slopes_and_terms(observed, computes)[0]


def observed_call(subject: Subject, prompt: str, seed: int, results: Results) -> ObservedCall | None:
    """What a call of one picture shows, which plans are made from; None where nothing can be planned."""
    tables = results.number("observed call", partial(_tables, subject, prompt, seed))
    if tables is None:
        return None
    halves = tables["halves"]
    arrays = {name: np.asarray(tables[name], np.float64) for name in ("gram", "taus", "effects")}
    return ObservedCall(**{
        **tables,
        **arrays,
        "halves": None if halves is None else Halves(*(np.asarray(table, np.float64) for table in halves)),
    })  # fmt: skip


def _tables(subject: Subject, prompt: str, seed: int) -> dict[str, Any] | None:
    """The fields of an `ObservedCall`, as JSON values."""
    observed = None
    with suppress(DcacheError):
        observed = _observed(subject, prompt, seed)
    if observed is None:
        return None
    halves = observed.halves
    return {
        "gram": observed.gram.tolist(),
        "clock": observed.clock,
        "taus": np.asarray(observed.taus).tolist(),
        "effects": np.asarray(observed.effects).tolist(),
        "halves": None if halves is None else [table.tolist() for table in vars(halves).values()],
        "guided": observed.guided,
        "guidance": observed.guidance,
    }


def _observed(subject: Subject, prompt: str, seed: int) -> ObservedCall | None:
    """The tables of a call that is made now; None where nothing can be planned from it.

    Raises:
        DcacheError: the call cannot be made.
    """
    modules = subject.denoisers
    if len(modules) != 1:
        return None
    with folder.apart():
        run_once(subject, MethodEntry("tuned", "tuned", method=dcache.methods.tuned()), [prompt], [seed])
    known = learned_of(modules[0])
    return None if known is None else known[1].observed


def _plans(observed: ObservedCall, computes: int) -> Iterator[Start]:
    anchors, terms = planned(observed, computes)
    own = Terms(anchors, terms["predictor"], terms.get("parameters", {}), terms["clock"])
    yield Start("tuned", anchors, own)
    power = np.maximum(np.diag(observed.gram), np.finfo(np.float64).tiny)
    errors = slope_errors(observed.gram, slopes(observed.gram, RIDGE)) / power
    yield Start("pairs", pair_partition(errors, computes).anchors(computes))


def _traced(
    subject: Subject, target: CalibrationTarget, computes: int, entry: MethodEntry, prompt: str, seed: int
) -> Iterator[Start]:
    """The starts in a preset's trace: one for each of its rows, for branches may decide apart."""
    trace = None
    # Adaptive rules want a trunk, and a policy's loop may have no length.
    with suppress(DcacheError):
        trace = run_once(subject, entry, [prompt], [seed]).trace
    if trace is None:
        return
    ((_, plan),) = trace.components.items()
    ((_, wanted),) = target.trace.components.items()
    rows = {row for sites in plan.rows.values() for row in sites.values()}
    fits = len(rows) == 1 and plan.sites == wanted.sites and trace.steps == target.steps
    for row in sorted(rows, reverse=True)[:MOST_OF_A_KIND]:
        computed = tuple(t for t, computes_it in enumerate(row) if computes_it)
        same = fits and len(computed) <= computes
        terms = Terms(computed, plan.predictor, plan.parameters, plan.clock) if same else None
        yield Start(entry.spec, resized(computed, computes, target.steps), terms)


def _regular_with(computes: int, steps: int) -> Iterator[tuple[int, bool, int]]:
    """Warm-up, last and interval of regular presets with so many computed evaluations."""
    for warmup in WARMUPS:
        for last in (True, False):
            for interval in range(2, steps):
                if len(regular(interval, warmup, last, steps)) == computes:
                    yield warmup, last, interval
                    break
