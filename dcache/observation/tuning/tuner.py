"""`Tuner`: the first run of a kind is observed, and those that follow it are planned from it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from dcache.engine.protocols import Tuned
from dcache.errors import DcacheError
from dcache.identity.denoisers import denoisers
from dcache.identity.run import Run
from dcache.identity.step_effects import noise_level_effects, step_effects
from dcache.method import Aim, Method
from dcache.observation.tuning import folder
from dcache.observation.tuning.flops import OtherModules
from dcache.observation.tuning.kind import Kind, Weights, kind_of
from dcache.observation.tuning.learned import USUAL_SHARE, Learned
from dcache.observation.tuning.shared import features_of_all, keeps_files, of_first_rank
from dcache.observation.tuning.watch import Watch
from dcache.predictors import make
from dcache.predictors.guided_line import GuidedLine
from dcache.schedulers.planned import Observing, Planned
from dcache.schedulers.planners.tuned import (
    ObservedCall,
    computes_for,
    computes_for_quality,
    estimated_quality,
    planned,
    speedup_of,
)

# What was learned of a denoiser in this process, for as long as it lives: also where no folder is kept.
_of_modules: weakref.WeakKeyDictionary[nn.Module, dict[Kind, Learned]] = weakref.WeakKeyDictionary()
# The kind of a denoiser's last run.
_latest: weakref.WeakKeyDictionary[nn.Module, Kind] = weakref.WeakKeyDictionary()
# The tuner that is in force on a denoiser.
_tuners: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Tuner]] = weakref.WeakKeyDictionary()
# Tables of all pairs of anchors grow with the cube of the evaluations.
MOST_EVALUATIONS = 200


def aim_of(module: nn.Module) -> Aim | None:
    """What is aimed at by the method that is enabled on a denoiser; None where it has no aim."""
    tuner = _tuners[module]() if module in _tuners else None
    return None if tuner is None else tuner.aim


def learned_of(module: nn.Module) -> tuple[Kind, Learned] | None:
    """The kind of a denoiser's last run under a `Tuner`, and what is known of it; None if nothing is."""
    kind = _latest.get(module)
    learned = None if kind is None else _of_modules.get(module, {}).get(kind)
    return None if kind is None or learned is None else (kind, learned)


def keep(module: nn.Module, kind: Kind, learned: Learned, warn: Callable[[str], None]) -> None:
    """Plan from this from now on, in this process and in later ones."""
    _of_modules.setdefault(module, {})[kind] = learned
    if keeps_files(module):
        folder.save(kind, learned, warn)


def computes_of(aim: Aim, learned: Learned) -> int:
    """The number of computed evaluations that an aim asks for, of those that were observed."""
    if aim.speedup is None:
        return computes_for_quality(learned.observed, aim.quality or 0.0)
    return computes_for(aim.speedup, len(learned.observed.taus), learned.share)


def unreached(aim: Aim, learned: Learned) -> str:
    """What there is to say where no plan is as fast as was asked for, else ""."""
    count = len(learned.observed.taus)
    computes = computes_of(aim, learned)
    reached = speedup_of(computes, count, learned.share)
    if aim.speedup is None or reached >= aim.speedup:
        return ""
    return (
        f"a speedup of {aim.speedup:g} cannot be reached: with {computes} of {count} evaluations computed it "
        f"is {reached:.2f}, and that is planned."
    )


class Tuner:
    """Chooses the method of each run of one denoiser.

    Args:
        aim: what plans are to reach.

    Attributes:
        refused: kind -> why nothing can be planned for it.
    """

    def __init__(self, aim: Aim) -> None:
        self.aim = aim
        self.refused: dict[Kind, str] = {}
        self._plans: dict[Kind, tuple[Method, str]] = {}
        # What each plan was made from.
        self._sources: dict[Kind, Learned] = {}
        self._weights = Weights()
        self._digest = ""
        self._watched: tuple[Watch, Kind] | None = None
        self._others: OtherModules | None = None
        # Operations of one pipeline call outside its denoisers, once they were counted.
        self._rest: int | None = None

    def attach(self, session: Tuned) -> None:
        """Caching was enabled on a pipeline's denoiser: count what its other modules do in the first call."""
        _tuners[session.module] = weakref.ref(self)
        pipe = next((pipe for owner in session.owners if (pipe := owner.pipe()) is not None), None)
        if pipe is None or self._others is not None or self._rest is not None:
            return
        inner = set(denoisers(pipe).values())
        components = getattr(pipe, "components", None)
        parts = (components if isinstance(components, dict) else vars(pipe)).values()
        self._others = OtherModules(
            part for part in parts if isinstance(part, nn.Module) and part not in inner
        )

    def detach(self) -> None:
        """Leave nothing on other modules: caching was taken off, or all is counted."""
        if self._others is not None:
            self._others.remove()
            self._others = None

    def begin(self, session: Tuned, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A run opened: have the session adopt the plan for it, or observe it."""
        if session.several_sites:
            raise DcacheError(
                f"{session.method.describe()} plans one site, and several were chosen: use sites='auto', or "
                "calibrate a schedule (dcache calibrate)"
            )
        digest = self._weights.digest(session.module)
        if self._digest and digest != self._digest:
            session.warn(
                f"the weights of {type(session.module).__name__} changed since they were observed (a LoRA, "
                "other weights): the plan is made anew."
            )
        self._digest = digest
        state = session.state
        state.began = perf_counter()
        kind = kind_of(session, run, digest, args, kwargs)
        if kind is not None:
            _latest[session.module] = kind
        if kind is not None and self._known(kind, session):
            method, state.plan = self._plans[kind]
        else:
            method, state.plan = self._observing(session, run, kind), "observing"
        session.adopt(method)
        state.method = method

    def end(self, session: Tuned, run: Run, whole: bool) -> None:
        """A run is over: plan from it if it was observed."""
        state = session.state
        watched = self._watched
        if watched is None or watched[0].run() is not run:
            if state.plan.startswith("planned"):
                state.plan += f"; {perf_counter() - state.began:.3g} s"
            return
        self._watched = None
        watch, kind = watched
        if watch in session.observers:
            session.observers.remove(watch)
        if not whole:
            state.plan = "observing: the run broke off, so the next one is observed"
            return
        try:
            learned = of_first_rank(session.module, self._learn(session, run, watch, kind))
        except DcacheError as error:
            self.refused[kind] = str(error)
            state.plan = f"computed in full: {error}"
            session.warn(
                f"{session.method.describe()} cannot plan for {type(session.module).__name__}, so such calls "
                f"are computed in full: {error}. Use another method, as in dcache.enable(pipe)."
            )
            return
        # Another process may have refined a plan of this kind meanwhile.
        known = of_first_rank(session.module, folder.load(kind))
        if known is not None and known.refined:
            _of_modules.setdefault(session.module, {})[kind] = known
        else:
            keep(session.module, kind, learned, session.warn)
        state.plan = f"observing ({kind.text()})"
        try:
            self._known(kind, session)
            state.plan += f"; later calls like it: {self._plans[kind][1]}"
        except DcacheError as error:
            # The next call raises it; this one is done.
            session.warn(f"{session.method.describe()}: {error}")

    def _observing(self, session: Tuned, run: Run, kind: Kind | None) -> Method:
        """The method of a run that is computed in full, observed if its kind is known and can be planned."""
        now = self._watched
        if kind is not None and kind not in self.refused and (now is None or now[0].run() is None):
            session.state.said = True
            session.warn(
                f"{session.method.describe()} computes this call of {type(session.module).__name__} in full "
                f"and observes it; calls like it ({kind.text()}) are planned from it."
            )
            watch = Watch(run, counts=not session.compiled)
            self._watched = (watch, kind)
            session.observers.append(watch)
        return replace(session.method, rule=Observing(), predictor=GuidedLine(), clock=None)

    def _known(self, kind: Kind, session: Tuned) -> bool:
        """Whether there is a plan for a kind, made now where something was learned of it."""
        known = _of_modules.setdefault(session.module, {})
        if kind in self._plans and known.get(kind) is self._sources[kind]:
            return True
        learned = of_first_rank(session.module, known.get(kind) or folder.load(kind))
        if learned is None:
            return False
        known[kind] = learned
        self._plans[kind], self._sources[kind] = self._plan(session, kind, learned), learned
        return True

    def _plan(self, session: Tuned, kind: Kind, learned: Learned) -> tuple[Method, str]:
        observed, first = learned.observed, learned.first
        count = len(observed.taus)
        computes = computes_of(self.aim, learned)
        refined = learned.refined.get(computes)
        if refined is None:
            anchors, terms = planned(observed, computes)
            computed = {first + t for t in anchors}
            predictor = make(terms["predictor"], _shifted(terms.get("parameters", {}), first))
            clock = terms["clock"]
            source = "from one observed call"
        else:
            computed, clock = set(refined.computed), refined.clock
            predictor = make(refined.predictor, refined.parameters)
            source = f"by dcache.refine from {refined.prompts} prompts ({refined.psnr:.1f} dB on others)"
        row = tuple(t in computed or not first <= t < first + count for t in range(kind.steps))
        method = replace(session.method, rule=Planned(row), predictor=predictor, clock=clock)
        reached = speedup_of(computes, count, learned.share)
        counted = "by FLOPs" if learned.counted else "by FLOPs, which were not counted"
        text = f"planned {source}: {sum(row)} of {kind.steps} computed, {reached:.2f}x {counted}"
        if self.aim.speedup is None and computes < count:
            text += f", an estimated {estimated_quality(observed, computes):.0f} dB"
        if missed := unreached(self.aim, learned):
            session.warn(missed)
        return method, text

    def _learn(self, session: Tuned, run: Run, watch: Watch, kind: Kind) -> Learned:
        """What an observed run showed.

        Raises:
            DcacheError: nothing can be planned from it.
        """
        first, features = features_of_all(session.module, watch, kind.steps)
        gram, halves = watch.grams(features)
        count = len(gram)
        if count > MOST_EVALUATIONS:
            raise DcacheError(f"it has {count} evaluations, and at most {MOST_EVALUATIONS} can be planned")
        sampler = next((tap.sampler for tap in session.tracker.taps if tap.run is run), None)
        effects = None if sampler is None else step_effects(sampler, run)
        if effects is None:
            effects = noise_level_effects(run.sigmas[run.start :], kind.steps) or (1.0,) * kind.steps
        taus = np.asarray([watch.taus[first + t] for t in range(count)], np.float64)
        observed = ObservedCall(
            *(gram, None, taus, np.asarray(effects[first : first + count], np.float64)),
            halves=halves,
            guided=halves is not None or len(features) > 1,
            guidance=kind.guidance,
        )
        share = self._share(watch, count / kind.steps)
        seconds = perf_counter() - watch.began
        return Learned(observed, first, share or USUAL_SHARE, share is not None, seconds)

    def _share(self, watch: Watch, part: float) -> float | None:
        """Share of the call's operations in the site; None if they were not counted.

        Args:
            watch: the observer, which counted one evaluation.
            part: share of the run's evaluations in which this denoiser is called.
        """
        if self._others is not None:
            self._rest = self._others.take()
            self.detach()
        if not watch.site_flops:
            return None
        evaluations = len(watch.taus)
        whole = watch.model_flops * evaluations + (self._rest or 0) * part
        return min(1.0, watch.site_flops * evaluations / whole)


def _shifted(parameters: Mapping[str, Any], by: int) -> dict[str, Any]:
    """Parameters of a predictor whose fitted weights are listed by evaluation, from evaluation `by` on."""
    if not by or "weights" not in parameters:
        return dict(parameters)
    return {
        **parameters,
        "weights": {
            site: {str(int(t) + by): {str(int(a) + by): w for a, w in row.items()} for t, row in rows.items()}
            for site, rows in parameters["weights"].items()
        },
    }
