"""Places and weights for a number of computed evaluations, found on rendered pictures.

Every start is rendered with two predictions, the best of them with all. Then a local search moves single
computes (`placement.py`), and the weights are fitted (`closed_loop.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from dcache.schedule import Schedule
from dcache.search.fitting.closed_loop import Share, fit, straight, with_slopes
from dcache.search.fitting.latency_model import CalibrationTarget
from dcache.search.fitting.placement import Anchors, Placed, descend
from dcache.search.fitting.starts import Start
from dcache.search.rendering.render import Renderer

# How far predictions follow the line; in a guided batch also for the mean and the difference of the halves,
# for guidance magnifies the difference, and with it the error of extrapolating that. The first two of each
# are tried on every start.
SHARES = (Share(1.0), Share(0.0), Share(0.5))
PAIRED = (Share(1.0, 0.25), Share(1.0, 0.0), Share(0.5, 0.0))
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
        late: whether so many renderings of the fitting prompts do not fit the time that is left.
    """

    target: CalibrationTarget
    fitting: Renderer
    checking: Renderer
    budget: int
    rng: random.Random
    late: Callable[[int], bool] = lambda _renderings: False

    def best_of(self, places: Sequence[Anchors], starts: Sequence[Start]) -> Found:
        """The best schedule from some places and starts.

        Args:
            places: sets of as many computed evaluations, beside those of the starts.
            starts: their schedules compete unchanged; where the time is over, the first two alone.
        """
        placed, share = self._placed([*(start.anchors for start in starts), *places])
        best = self._weighed(placed.anchors, share)
        for i, start in enumerate(starts):
            rival = self._unchanged(start) if i < ALWAYS or not self.late(1) else None
            best = best if rival is None or rival.fitted <= best.fitted else rival
        return best

    def _placed(self, places: Sequence[Anchors]) -> tuple[Placed, Share]:
        """Local search from the best pair of a start and a share; the share stays fixed."""
        both = (PAIRED, SHARES) if self.target.paired else (SHARES,)
        first = both[0][:FIRST]
        starts = list(dict.fromkeys(places))
        qualities: dict[tuple[Anchors, Share], float] = {}
        for start, share in self._pairs(starts, first):
            if not qualities or not self.late(1):
                qualities[start, share] = self._quality(start, share)
        best: dict[Anchors, float] = {}
        for (start, _), quality in qualities.items():
            best[start] = max(quality, best.get(start, quality))
        ranked = sorted(best, key=lambda start: -best[start])
        rest = [share for shares in both for share in shares if share not in first]
        for start, share in self._pairs(ranked[:FINALISTS], rest):
            if not self.late(self._of_fit(start)):
                qualities[start, share] = self._quality(start, share)
        (start, share), quality = max(qualities.items(), key=lambda trial: trial[1])
        placed = descend(
            lambda anchors: self._quality(anchors, share),
            *(start, self.target.steps, self.budget, self.rng, quality),
            stop=lambda: self.late(1 + self._of_fit(start)),
        )
        return placed, share

    def _pairs(self, starts: Sequence[Anchors], shares: Sequence[Share]) -> list[tuple[Anchors, Share]]:
        # If no prediction has two anchors before it, all shares are the same.
        return [
            (start, share)
            for start in starts
            for share in (shares if straight(self.target.at(start)) else shares[:1])
        ]

    def _quality(self, anchors: Anchors, share: Share) -> float:
        return self.fitting.quality(followed(self.target, anchors, share))

    def _of_fit(self, anchors: Anchors) -> int:
        """Renderings of a fit of the weights."""
        slopes = len(straight(self.target.at(anchors)))
        return slopes * (2 if self.target.paired else 1) + AROUND_FIT

    def _weighed(self, anchors: Anchors, share: Share) -> Found:
        """Fit the weights for these places."""
        at = self.target.at(anchors)
        slopes = straight(at, share.mean)
        if not slopes or self.late(self._of_fit(anchors)):
            schedule = followed(self.target, anchors, share)
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


def followed(target: CalibrationTarget, anchors: Anchors, share: Share) -> Schedule:
    """The schedule that computes at these places and predicts along the line through the last two anchors."""
    at = target.at(anchors)
    apart = None if share.apart is None else straight(at, share.apart)
    return with_slopes(at, straight(at, share.mean), apart)
