"""Corrections fitted to a schedule: per site, evaluation and channel, y ~ scale * prediction + shift.

Uncached runs are observed. Every output is compared with the prediction that the schedule would have made of
it from the true anchors. Least squares need five sums for each channel, so no tensor is held beyond its run
(CacheQuant, Liu et al. 2025; ERTACache's rectification, Peng et al. 2025, in its linearised form).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import dcache
from dcache.engine.call import Call
from dcache.engine.observe import SiteOutput, observe
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.progress import StageProgress
from dcache.eval.subject import Subject
from dcache.kernels.weighted_sum import weighted_sum
from dcache.observation.run import See, SiteObserver
from dcache.predictors import Predictor, make
from dcache.predictors.corrections import Correction, Corrections
from dcache.predictors.guided_pair import Sum, paired_sum
from dcache.schedule import Plan, Schedule
from dcache.schedule.liveness import Row
from dcache.search.observe import denoiser_of
from dcache.search.observing.channel_sums import Sums
from dcache.search.reference import refuse_other

# Below this share of explained variance a fit is reported with a warning.
POOR = 0.5


@dataclass(frozen=True)
class Quality:
    """R^2 of a site's predictions over all its entries, before and after correction."""

    before: float
    after: float


def fit_corrections(
    subject: Subject,
    schedule: Schedule,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 8,
    published: bool = False,
    reference: Any = None,
    progress: StageProgress = lambda _stage: None,
) -> tuple[Schedule, dict[str, Quality]]:
    """Fit corrections for all predictions of a schedule.

    Args:
        subject: the pipeline and its call settings.
        schedule: a schedule of one denoiser whose branches are computed at the same evaluations.
        prompts: one picture each.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        published: use the slopes of CacheQuant's code: the mean covariance over the unbiased variance, which
            is (n - 1) / n times the least-squares slope of n numbers.
        reference: the pipeline in full precision, where the subject's is quantised: predictions are brought
            to its outputs, so that one correction is of both errors. Each pipeline runs all prompts.
        progress: called with a description of each stage.

    Returns:
        The schedule with corrections (its former `measured` removed), and the quality of the fit by site.

    Raises:
        DcacheError: no prompts; a schedule of several denoisers or of another number of evaluations; a
            predictor that reads its own forecasts; no predictions; NaN or infinity in a run; or a reference
            that is not the same pipeline, called alike.
    """
    if not prompts:
        raise DcacheError("expected at least one prompt to fit corrections on, got none")
    if len(schedule.components) != 1:
        raise DcacheError(
            f"corrections are fitted for one denoiser, and this schedule has {sorted(schedule.components)}"
        )
    ((component, plan),) = schedule.components.items()
    fitting = Fitting(plan, joint=reference is not None)
    if reference is not None:
        refuse_other(subject.pipe, reference, component or None)
    for start in range(0, len(prompts), batch_size):
        progress(f"corrections: {start} of {len(prompts)} pictures")
        batch = list(prompts[start : start + batch_size])
        seeds = [seed + start + i for i in range(len(batch))]
        fitting.begin()
        if reference is not None:
            _expect(replace(subject, pipe=reference), schedule, component, fitting, batch, seeds)
        _observe(subject, schedule, component, fitting, fitting.see, batch, seeds)
    corrections, quality = fitting.solve(published)
    _warn_of_poor(quality)
    corrected = replace(plan, corrections=corrections)
    return replace(schedule, components={component: corrected}, measured={}), quality


def _warn_of_poor(quality: Mapping[str, Quality]) -> None:
    for site, explained in quality.items():
        if explained.after < POOR:
            warnings.warn(
                f"corrected predictions of {site} explain {explained.after:.0%} of the variance of its "
                "outputs: compute it more often",
                DcacheWarning,
                stacklevel=3,
            )


def _expect(
    exact: Subject, schedule: Schedule, component: str, fitting: Fitting, prompts: list[str], seeds: list[int]
) -> None:
    """One run of the reference."""
    try:
        _observe(exact, schedule, component, fitting, fitting.expect, prompts, seeds)
    except DcacheError as error:
        raise DcacheError(f"the reference does not run like the pipeline: {error}") from error


def _observe(
    subject: Subject,
    schedule: Schedule,
    component: str,
    fitting: Fitting,
    see: See,
    prompts: list[str],
    seeds: list[int],
) -> None:
    """One uncached run, on the schedule's noise levels; `see` is called with every output of its sites."""
    plan = schedule.components[component]
    everything = replace(
        dcache.methods.interval(interval=1, sites=list(plan.sites)),
        predictor=fitting.predictor,
        codec=plan.codec,
        clock=plan.clock,
        steps=schedule.steps,
        sigmas=schedule.sigmas,
        fixed=True,
    )
    _, module = denoiser_of(subject, component or None)
    with dcache.enabled(subject.pipe, everything), observe(module, SiteObserver(see, model=False)):
        subject(prompts, seeds)


@dataclass
class Anchors:
    """The true anchors of one site on one branch in the current run, oldest first.

    Attributes:
        taus: their times on the predictor's clock.
        steps: their evaluations.
        leaves: for each anchor, index in the output -> cached tensor.
        last: the evaluation seen last.
    """

    taus: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    leaves: list[dict[int, torch.Tensor]] = field(default_factory=list)
    last: int = -1


class Fitting:
    """Accumulates the sums of one plan's predictions over runs.

    Args:
        plan: what is predicted.
        joint: predictions are brought to what `expect` is given, not to the pipeline's own outputs.

    Raises:
        DcacheError: the plan's branches differ, or its predictor reads its own forecasts.
    """

    def __init__(self, plan: Plan, joint: bool = False) -> None:
        first, *others = plan.rows.values()
        if any(dict(rows) != dict(first) for rows in others):
            raise DcacheError(
                "corrections are shared by all guidance branches, but the branches of this schedule are "
                "computed at different evaluations: plan one row for all branches ('*')"
            )
        self.rows: dict[str, Row] = dict(first)
        self.predictor: Predictor = make(plan.predictor, plan.parameters)
        if self.predictor.forecasts:
            raise DcacheError(
                f"predictor {plan.predictor!r} reads its own forecasts, which an uncached run does not have: "
                "choose another predictor"
            )
        self.joint = joint
        self.at = {site: self.predictor.at(site) for site in self.rows}
        self.sums: dict[tuple[str, int], Sums] = {}
        self.anchors: dict[tuple[str, str], Anchors] = {}
        self.expected: dict[tuple[str, str, int], torch.Tensor] = {}

    def begin(self) -> None:
        """Start another batch: forget anchors, and what was expected of it."""
        self.anchors, self.expected = {}, {}

    def expect(self, site: str, call: Call, output: SiteOutput) -> None:
        """Keep one output of the reference, which the prediction of that evaluation is brought to."""
        if not self.rows[site][call.index]:
            self.expected.setdefault((site, call.branch.name, call.index), output.values[0].float().cpu())

    def see(self, site: str, call: Call, output: SiteOutput) -> None:
        """Add one output of a site to its anchors or its sums; the first output that is read is corrected."""
        anchors = self.anchors.setdefault((site, call.branch.name), Anchors())
        if anchors.last == call.index:
            # Repeated calls of a module in one evaluation are not corrected.
            return
        anchors.last = call.index
        frame = output.values if output.changes is None else output.changes
        if self.rows[site][call.index] or not anchors.leaves:
            anchors.taus.append(call.tau)
            anchors.steps.append(call.index)
            anchors.leaves.append(dict(zip(output.places, (z.float().clone() for z in frame), strict=True)))
            for column in (anchors.taus, anchors.steps, anchors.leaves):
                del column[: -(self.predictor.order + 1)]
            return
        summed: Sum = weighted_sum
        weights = [1.0]
        if len(anchors.leaves) > 1:
            weights = self.at[site].weights(anchors.taus, anchors.steps, call.tau)
            if call.branch.paired and call.half is None:
                predictor = self.at[site]
                summed = paired_sum(predictor, anchors.taus, anchors.steps, call.tau) or weighted_sum
        y = output.values[0].float()
        base = None if output.changes is None else y - output.changes[0].float()
        # In the first call all outputs count as read, so an anchor may have more leaves than this output.
        features = [leaves[output.places[0]] for leaves in anchors.leaves]
        predicted = summed(base, features, weights, torch.float32)
        expected = self._expected(site, call, y) if self.joint else y
        new = Sums.of(predicted, expected, anchors.steps[-1])
        key = (site, call.index)
        self.sums[key] = self.sums[key] + new if key in self.sums else new

    def _expected(self, site: str, call: Call, y: torch.Tensor) -> torch.Tensor:
        """The reference's output in place of the pipeline's."""
        expected = self.expected.get((site, call.branch.name, call.index))
        if expected is None or expected.shape != y.shape:
            what = "missing" if expected is None else f"{tuple(expected.shape)}"
            raise DcacheError(
                f"the reference's output of {site} in evaluation {call.index} is {what} and the pipeline's "
                f"{tuple(y.shape)}: give the same pipeline in full precision, with latents of the same shape"
            )
        return expected.to(y.device)

    def solve(self, published: bool) -> tuple[Corrections, dict[str, Quality]]:
        """The corrections, and the quality of the fit by site.

        Raises:
            DcacheError: nothing was predicted, or a run had NaN or infinity.
        """
        if not self.sums:
            raise DcacheError(
                "nothing to correct: the schedule predicts nothing, or the run ended before its first "
                "prediction"
            )
        table: dict[str, dict[int, Correction]] = {}
        dims: dict[str, int] = {}
        totals: dict[str, torch.Tensor] = {}
        for (site, t), sums in self.sums.items():
            if not bool(sums.moments.isfinite().all()):
                raise DcacheError(
                    f"the output of {site} has NaN or infinity in evaluation {t}, so corrections cannot be "
                    "fitted. Try float32 if the pipeline runs in a 16-bit dtype"
                )
            table.setdefault(site, {})[t], errors = sums.solve(published)
            dims[site] = sums.dim
            totals[site] = totals.get(site, torch.zeros(3, dtype=torch.float64)) + errors
        quality = {
            site: Quality(float(1 - a / max(c, 1e-300)), float(1 - b / max(c, 1e-300)))
            for site, (a, b, c) in ((s, total.tolist()) for s, total in totals.items())
        }
        return Corrections(table, dims), quality
