"""Places and weights for a number of computed evaluations, found on rendered pictures.

Every start is rendered with a few predictions, the best of them with all. Then a local search moves single
computes (`placement.py`), and the weights are fitted (`closed_loop.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from dcache.profile import Floats
from dcache.schedule import Schedule
from dcache.search.fitting.closed_loop import Share, anchored, fit, straight, with_slopes
from dcache.search.fitting.latency_model import CalibrationTarget
from dcache.search.fitting.placement import Anchors, Placed, descend
from dcache.search.fitting.starts import Start
from dcache.search.rendering.render import Renderer

# How far predictions follow the line; in a guided batch also for the mean and the difference of the halves,
# for guidance magnifies the difference, and with it the error of extrapolating that. Where branches are
# called apart half of the line is best, without guidance the slopes of the plan.
SHARES = (Share(1.0), Share(0.5), Share(0.0))
PAIRED = (Share(1.0, 0.25), Share(1.0, 0.0), Share(0.5, 0.0))
PLANNED = Share(1.0, planned=True)
# Of shares of the line, so many are tried on every start.
FIRST = 2
# Starts on which all shares are tried.
FINALISTS = 3
# Starts that compete unchanged even where the time is over: an earlier result, and the plan.
ALWAYS = 2
# Gauss-Newton steps of the weights: a second one gained less than 0.1 dB on the demo, for as many runs.
STEPS = 1
# Renderings of a fit beside one for each weight.
AROUND_FIT = 5


@dataclass(frozen=True)
class Found:
    """The best schedule of a search.

    Attributes:
        schedule: the schedule; `method` names the start that is unchanged, "calibrated" stands for no start.
        placed: mean PSNR in dB on the checking prompts, before weights were fitted.
        fitted: mean PSNR in dB on the checking prompts, of the schedule.
    """

    schedule: Schedule
    placed: float
    fitted: float


@dataclass(frozen=True)
class Search:
    """A search on two sets of rendered prompts.

    Attributes:
        target: the sites and evaluations.
        fitting: renders the prompts that places and weights are fitted on.
        checking: renders others.
        budget: most sets of places of the local search.
        rng: its order.
        slopes: (T, T, T), `[a, b, t]`: slopes of a plan's predictions, as `planned_slopes` has them; or None.
        late: whether so many renderings of the fitting prompts do not fit the time that is left.
    """

    target: CalibrationTarget
    fitting: Renderer
    checking: Renderer
    budget: int
    rng: random.Random
    slopes: Floats | None = None
    late: Callable[[int], bool] = lambda _renderings: False

    def best_of(self, places: Sequence[Anchors], starts: Sequence[Start]) -> Found:
        """The best schedule from some places and starts.

        Args:
            places: sets of as many computed evaluations, beside those of the starts.
            starts: their schedules compete unchanged; where the time is over, the first two alone.
        """
        placed, share, shares = self._placed([*(start.anchors for start in starts), *places])
        searched = self._weighed(placed.anchors, share)
        best, rival, winner = searched, searched.placed, placed.anchors
        for i, start in enumerate(starts):
            unchanged = self._unchanged(start) if i < ALWAYS or not self.late(1) else None
            if unchanged is not None and unchanged.fitted > rival:
                rival, winner = unchanged.fitted, start.anchors
                best = max(best, unchanged, key=lambda found: found.fitted)
        # Places that suit the checking prompts better than those of the search: weights are fitted there too.
        if winner != placed.anchors and winner in shares and not self.late(self._of_fit(winner)):
            best = max(best, self._weighed(winner, shares[winner]), key=lambda found: found.fitted)
        return best

    def _placed(self, places: Sequence[Anchors]) -> tuple[Placed, Share, Mapping[Anchors, Share]]:
        """Local search from the best pair of a start and a share, which stays fixed.

        Returns:
            Where it ended, the share, and the best share of every start.
        """
        first, rest = shares_of(self.target.paired, self.slopes is not None)
        starts = list(dict.fromkeys(places))
        qualities: dict[tuple[Anchors, Share], float] = {}
        for start, share in self._pairs(starts, first):
            if not qualities or not self.late(1):
                qualities[start, share] = self._quality(start, share)
        ranked = [*_best_shares(qualities)]
        for start, share in self._pairs(ranked[:FINALISTS], rest):
            if not self.late(self._of_fit(start)):
                qualities[start, share] = self._quality(start, share)
        (start, share), quality = max(qualities.items(), key=lambda trial: trial[1])
        placed = descend(
            lambda anchors: self._quality(anchors, share),
            *(start, self.target.steps, self.budget, self.rng, quality),
            stop=lambda: self.late(1 + self._of_fit(start)),
        )
        return placed, share, _best_shares(qualities)

    def _pairs(self, starts: Sequence[Anchors], shares: Sequence[Share]) -> list[tuple[Anchors, Share]]:
        # If no prediction has two anchors before it, all shares are the same.
        return [
            (start, share)
            for start in starts
            for share in (shares if straight(self.target.at(start)) else shares[:1])
        ]

    def _quality(self, anchors: Anchors, share: Share) -> float:
        return self.fitting.quality(self._followed(anchors, share))

    def _followed(self, anchors: Anchors, share: Share) -> Schedule:
        """The schedule that computes at these places and predicts on lines through the last two anchors."""
        at = self.target.at(anchors)
        apart = None if share.apart is None else straight(at, share.apart)
        return with_slopes(at, self._slopes(anchors, share), apart)

    def _slopes(self, anchors: Anchors, share: Share) -> dict[int, float]:
        """Slopes of the mean of the halves; without halves, of everything."""
        if not share.planned or self.slopes is None:
            return straight(self.target.at(anchors), share.mean)
        pairs = anchored([t in anchors for t in range(self.target.steps)])
        return {t: share.mean * float(self.slopes[a, b, t]) for t, (a, b) in pairs.items()}

    def _of_fit(self, anchors: Anchors) -> int:
        """Renderings of a fit of the weights."""
        slopes = len(straight(self.target.at(anchors)))
        return slopes * (2 if self.target.paired else 1) + AROUND_FIT

    def _weighed(self, anchors: Anchors, share: Share) -> Found:
        """Fit the weights for these places."""
        at = self.target.at(anchors)
        slopes = self._slopes(anchors, share)
        if not slopes or self.late(self._of_fit(anchors)):
            schedule = self._followed(anchors, share)
            quality = self.checking.quality(schedule)
            return Found(schedule, quality, quality)
        apart = straight(at, share.apart or 0.0) if self.target.paired and share.apart is not None else None
        fitted = fit(at, self.fitting, self.checking, slopes, STEPS, apart)
        return Found(fitted.schedule, fitted.before, fitted.after)

    def _unchanged(self, start: Start) -> Found | None:
        """A start as it is; None where it has no schedule, or its pictures are broken."""
        schedule = start.schedule(self.target)
        if schedule is None:
            return None
        quality = self.checking.quality(schedule)
        return Found(schedule, quality, quality) if isfinite(quality) else None


def _best_shares(qualities: Mapping[tuple[Anchors, Share], float]) -> dict[Anchors, Share]:
    """The best share of every start, in the order of their qualities, the best start first."""
    best: dict[Anchors, Share] = {}
    for start, share in sorted(qualities, key=lambda trial: -qualities[trial]):
        best.setdefault(start, share)
    return best


def shares_of(paired: bool, planned: bool) -> tuple[tuple[Share, ...], tuple[Share, ...]]:
    """The shares that are tried on every start, and those that are tried on the best ones.

    Args:
        paired: whether guidance makes one batch of both branches.
        planned: whether there are slopes of a plan.
    """
    if paired:
        return PAIRED[:FIRST], (*PAIRED[FIRST:], *SHARES)
    return (*((PLANNED,) if planned else ()), *SHARES[:FIRST]), SHARES[FIRST:]
