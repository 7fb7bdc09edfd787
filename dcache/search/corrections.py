"""Corrections fitted to a schedule: per site, evaluation and channel, y ~ scale * prediction + shift.

Full runs are observed; beside every output stands the prediction that the schedule would have made of it,
from true anchors. Least squares need five sums for each channel, so no tensor outlives its run (CacheQuant,
Liu et al. 2025; ERTACache's rectification, Peng et al. 2025, in its linearised form).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

import dcache
from dcache.engine.call import Call
from dcache.engine.observe import SiteOutput, observe
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.subject import Subject
from dcache.kernels.weighted_sum import weighted_sum
from dcache.observation.run import SiteObserver
from dcache.predictors import Predictor, make
from dcache.predictors.corrections import Correction, Corrections
from dcache.predictors.guided_pair import Sum, paired_sum
from dcache.schedule import Plan, Schedule
from dcache.schedule.liveness import Row
from dcache.search.observe import denoiser_of

# A fit that explains less of the outputs' variance is worth a warning.
POOR = 0.5
# Variances below this share of the mean square are rounding.
_FLAT = 1e-12


@dataclass(frozen=True)
class Quality:
    """How much of the variance of a site's outputs its predictions explain (R^2), over all its entries."""

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
    tell: Callable[[str], None] = lambda _what: None,
) -> tuple[Schedule, dict[str, Quality]]:
    """Fit the corrections of everything that a schedule predicts.

    Args:
        subject: the pipeline and how it is called.
        schedule: of one denoiser, its branches computed at the same evaluations.
        prompts: one picture each.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        published: slopes as CacheQuant's code has them, a mean covariance over an unbiased variance, which
            is (n - 1) / n of the least squares' for n numbers.
        tell: called with what is under way.

    Returns:
        The schedule with corrections (and without what was measured of it before), and the fit's quality by
        site.

    Raises:
        DcacheError: no prompts, a schedule of several denoisers, of another number of evaluations or of a
            predictor that reads its own forecasts, nothing predicted, or a broken run.
    """
    if not prompts:
        raise DcacheError("no prompts: give at least one to fit corrections on")
    if len(schedule.components) != 1:
        raise DcacheError(
            f"corrections are fitted for one denoiser; this schedule is of {sorted(schedule.components)}"
        )
    ((component, plan),) = schedule.components.items()
    fitting = Fitting(plan)
    for start in range(0, len(prompts), batch_size):
        tell(f"corrections: {start} of {len(prompts)} pictures")
        batch = list(prompts[start : start + batch_size])
        _observe(subject, schedule, component, fitting, batch, [seed + start + i for i in range(len(batch))])
    corrections, quality = fitting.solve(published)
    for site, its in quality.items():
        if its.after < POOR:
            warnings.warn(
                f"corrections of {site} explain {its.after:.0%} of the variance of its outputs: the schedule "
                "predicts it too seldom well; compute more often",
                DcacheWarning,
                stacklevel=2,
            )
    corrected = replace(plan, corrections=corrections)
    return replace(schedule, components={component: corrected}, measured={}), quality


def _observe(
    subject: Subject,
    schedule: Schedule,
    component: str,
    fitting: Fitting,
    prompts: list[str],
    seeds: list[int],
) -> None:
    """One full run, on the schedule's noise levels."""
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
    with dcache.enabled(subject.pipe, everything):
        fitting.begin()
        with observe(module, SiteObserver(fitting.see, model=False)):
            subject(prompts, seeds)


@dataclass
class Anchors:
    """The true anchors of one site on one branch in the run under way.

    Attributes:
        held: of each anchor what is remembered of the outputs, by their places.
    """

    taus: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    held: list[dict[int, torch.Tensor]] = field(default_factory=list)
    seen: int = -1


@dataclass
class Sums:
    """Of n pairs (p, y) per channel: count, sums of p, y, p p, p y, y y, each (C,) float64."""

    n: int
    moments: torch.Tensor
    anchor: int
    dim: int

    @staticmethod
    def of(p: torch.Tensor, y: torch.Tensor, anchor: int) -> Sums:
        """Of a prediction and what was computed, of one shape."""
        # Tokens have their channels last, pictures, clips and feature maps behind the batch.
        dim = 1 if y.ndim > 3 else -1
        # Not every accelerator has float64.
        p, y = (x if x.is_cuda else x.cpu() for x in (p, y))
        p, y = (x.movedim(dim, -1).reshape(-1, x.shape[dim]).double() for x in (p, y))
        moments = torch.stack([x.sum(0) for x in (p, y, p * p, p * y, y * y)])
        return Sums(len(p), moments.cpu(), anchor, dim)

    def __add__(self, other: Sums) -> Sums:
        """Of both."""
        return Sums(self.n + other.n, self.moments + other.moments, self.anchor, self.dim)

    def solve(self, published: bool) -> tuple[Correction, torch.Tensor]:
        """The correction; and sums over channels: squared errors without it, with it, and the variance."""
        p, y, pp, py, yy = self.moments / self.n
        var, cov = pp - p * p, py - p * y
        flat = var <= _FLAT * pp
        scale = torch.where(flat, 1.0, cov / torch.where(flat, 1.0, var))
        if published:
            scale = torch.where(flat, 1.0, scale * (self.n - 1) / self.n)
        shift = y - scale * p

        def error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            square = yy + a * a * pp + b * b - 2 * a * py - 2 * b * y + 2 * a * b * p
            return (square * self.n).sum()

        one, none = torch.ones_like(scale), torch.zeros_like(shift)
        sums = torch.stack([error(one, none), error(scale, shift), ((yy - y * y) * self.n).sum()])
        return Correction(scale.float(), shift.float(), self.anchor), sums


class Fitting:
    """Gathers the sums of one plan's predictions over runs.

    Raises:
        DcacheError: the plan's branches differ, or its predictor reads its own forecasts.
    """

    def __init__(self, plan: Plan) -> None:
        first, *others = plan.rows.values()
        if any(dict(rows) != dict(first) for rows in others):
            raise DcacheError(
                "corrections are shared by all guidance branches, and those of this schedule are computed at "
                "different evaluations: plan one row for all ('*')"
            )
        self.rows: dict[str, Row] = dict(first)
        self.predictor: Predictor = make(plan.predictor, plan.parameters)
        if self.predictor.forecasts:
            raise DcacheError(
                f"predictor {plan.predictor!r} reads its own forecasts, which a run in which everything is "
                "computed does not show: choose another"
            )
        self.at = {site: self.predictor.at(site) for site in self.rows}
        self.sums: dict[tuple[str, int], Sums] = {}
        self.anchors: dict[tuple[str, str], Anchors] = {}

    def begin(self) -> None:
        """Another run."""
        self.anchors = {}

    def see(self, site: str, call: Call, output: SiteOutput) -> None:
        """What a site gave: its first output that is read is what is corrected."""
        its = self.anchors.setdefault((site, call.branch.name), Anchors())
        if its.seen == call.index:
            # A module's further calls in one evaluation are not corrected.
            return
        its.seen = call.index
        frame = output.values if output.changes is None else output.changes
        if self.rows[site][call.index] or not its.held:
            its.taus.append(call.tau)
            its.steps.append(call.index)
            its.held.append(dict(zip(output.places, (z.float().clone() for z in frame), strict=True)))
            for kept in (its.taus, its.steps, its.held):
                del kept[: -(self.predictor.order + 1)]
            return
        summed: Sum = weighted_sum
        weights = [1.0]
        if len(its.held) > 1:
            weights = self.at[site].weights(its.taus, its.steps, call.tau)
            if call.branch.paired and call.half is None:
                summed = paired_sum(self.at[site], its.steps, call.tau) or weighted_sum
        y = output.values[0].float()
        base = None if output.changes is None else y - output.changes[0].float()
        # In the first call all outputs count as read: an anchor may hold more of them.
        anchors = [leaves[output.places[0]] for leaves in its.held]
        predicted = summed(base, anchors, weights, torch.float32)
        new = Sums.of(predicted, y, its.steps[-1])
        key = (site, call.index)
        self.sums[key] = self.sums[key] + new if key in self.sums else new

    def solve(self, published: bool) -> tuple[Corrections, dict[str, Quality]]:
        """The corrections and how well they fit.

        Raises:
            DcacheError: nothing was predicted, or the run was broken.
        """
        if not self.sums:
            raise DcacheError("nothing to correct: the schedule computes everything, or its run is shorter")
        table: dict[str, dict[int, Correction]] = {}
        dims: dict[str, int] = {}
        totals: dict[str, torch.Tensor] = {}
        for (site, t), sums in self.sums.items():
            if not bool(sums.moments.isfinite().all()):
                raise DcacheError(
                    f"{site} gave NaN or infinity in evaluation {t}, so nothing can be fitted to it: run the "
                    "pipeline in float32 if it is in a narrow dtype"
                )
            table.setdefault(site, {})[t], errors = sums.solve(published)
            dims[site] = sums.dim
            totals[site] = totals.get(site, torch.zeros(3, dtype=torch.float64)) + errors
        quality = {
            site: Quality(float(1 - a / max(c, 1e-300)), float(1 - b / max(c, 1e-300)))
            for site, (a, b, c) in ((s, total.tolist()) for s, total in totals.items())
        }
        return Corrections(table, dims), quality
