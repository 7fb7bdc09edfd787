"""`Watch`: the observer of a run from which later runs are planned; it keeps samples of features."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch

from dcache.engine.call import Call
from dcache.engine.observe import Observer, SiteOutput
from dcache.errors import DcacheError
from dcache.identity.run import Run
from dcache.observation.tuning.flops import FlopCount
from dcache.profile import Floats
from dcache.schedulers.planners.tuned import Halves, gram_of, halves_of

# Coordinates of each feature that are kept; fewer give other plans (docs/methods/tuned.md).
COORDINATES = 4096
# From so many elements on coordinates are drawn with replacement: a permutation would be as long as they are.
_LONG = 1 << 20

# (branch, place among the site's outputs) -> evaluation -> sampled numbers.
Rows = dict[tuple[str, int], dict[int, torch.Tensor]]


class Watch(Observer):
    """Samples the features of one run that computes everything, and counts operations in one evaluation.

    Args:
        run: the run; it is not kept alive.
        counts: whether to count operations, which compiled blocks do not allow.

    Attributes:
        rows: site -> its samples.
        paired: branches whose batch has the two halves of guidance.
        taus: evaluation -> clock value.
        site_flops, model_flops: of one evaluation, 0 if they were not counted.
        began: time at which the run began.
    """

    stores = False

    def __init__(self, run: Run, counts: bool) -> None:
        self.run = weakref.ref(run)
        self.counter = FlopCount() if counts else None
        self.rows: dict[str, Rows] = {}
        self.paired: set[str] = set()
        self.taus: dict[int, float] = {}
        self.site_flops = self.model_flops = 0
        self.began = perf_counter()
        # The second evaluation: in the first one the engine makes calls of its own.
        self._counted_at = run.index + 1
        self._entered: int | None = None
        self._coordinates: dict[tuple[int, torch.device], torch.Tensor] = {}

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        """Count the operations of the second evaluation."""
        run = self.run()
        if self.counter is None or run is None or run.index != self._counted_at:
            return denoise()
        before = self.counter.total
        with self.counter:
            output = denoise()
        self.model_flops += self.counter.total - before
        return output

    def on_enter(self, site: str, call: Call) -> None:
        """Note the operations before the site."""
        self._entered = None if self.counter is None else self.counter.total

    def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
        """Sample the site's output."""
        if call.run is not self.run():
            return
        if self.counter is not None and self._entered is not None and call.index == self._counted_at:
            self.site_flops += self.counter.total - self._entered
            self._entered = self.counter.total
        self.taus[call.index] = call.tau
        if call.branch.paired:
            self.paired.add(call.branch.name)
        leaves = output.values if output.changes is None else output.changes
        rows = self.rows.setdefault(site, {})
        for place, leaf in zip(output.places, leaves, strict=True):
            samples = self._sampled(leaf, call.branch.paired)
            rows.setdefault((call.branch.name, place), {})[call.index] = samples

    def features(self, steps: int) -> tuple[int, dict[str, Floats]]:
        """The first evaluation in which the denoiser was called, and the samples of every branch.

        They are (T, N), or (T, 2, N) for the halves of a guided batch.

        Args:
            steps: evaluations of the whole run.

        Raises:
            DcacheError: nothing can be planned from this run; the message says why.
        """
        if not self.rows:
            raise DcacheError("no site of the denoiser was computed in it")
        # Where the engine gave the sites up for the whole model, the last site is the one that is bound now.
        rows = list(self.rows.values())[-1]
        seen = sorted({index for by_step in rows.values() for index in by_step})
        if len(seen) < 2 or seen != list(range(seen[0], seen[-1] + 1)):
            raise DcacheError(f"its site was computed in evaluations {seen} of {steps}, which are no series")
        branches: dict[str, list[torch.Tensor]] = {}
        for (branch, _), by_step in rows.items():
            lengths = {len(samples) for samples in by_step.values()}
            # What is read behind the site is known only after the first call, which shows further outputs.
            if sorted(by_step) == seen and len(lengths) == 1:
                samples = torch.stack([by_step[t] for t in seen])
                halved = samples.reshape(len(seen), 2, -1) if branch in self.paired else samples
                branches.setdefault(branch, []).append(halved)
        features = {b: torch.cat(parts, -1).double().cpu().numpy() for b, parts in branches.items()}
        if not features:
            raise DcacheError("its features change their sizes within the run")
        if not all(np.isfinite(rows).all() for rows in features.values()):
            raise DcacheError("its features have NaN or infinity")
        return seen[0], features

    def grams(self, features: dict[str, Floats]) -> tuple[Floats, Halves | None]:
        """The mean Gram matrix over branches, and those of the halves of a guided batch."""
        each = [rows.swapaxes(0, 1) if rows.ndim == 3 else rows[None] for rows in features.values()]
        every = [part for parts in each for part in parts]
        gram = np.asarray(np.mean([gram_of(part) for part in every], axis=0), np.float64)
        halves = [halves_of(rows[:, 0], rows[:, 1]) for rows in features.values() if rows.ndim == 3]
        if not halves or len(halves) < len(features):
            return gram, None
        mean, difference, cross = (
            np.asarray(np.mean([getattr(part, name) for part in halves], axis=0), np.float64)
            for name in ("mean", "difference", "cross")
        )
        return gram, Halves(mean, difference, cross)

    def _sampled(self, leaf: torch.Tensor, paired: bool) -> torch.Tensor:
        """(N,): the same coordinates in every evaluation; of both halves of a pair, one behind the other."""
        if paired and leaf.ndim and leaf.shape[0] % 2 == 0:
            first, second = leaf.detach().chunk(2)
            return torch.cat([self._picked(first), self._picked(second)])
        picked = self._picked(leaf.detach())
        # A leaf that is not a batch of two halves is the same for both.
        return torch.cat([picked, picked]) if paired else picked

    def _picked(self, part: torch.Tensor) -> torch.Tensor:
        key = (part.numel(), part.device)
        places = self._coordinates.get(key)
        if places is None:
            places = self._coordinates[key] = _coordinates(part.numel()).to(part.device)
        return part.flatten()[places].float()


def _coordinates(count: int) -> torch.Tensor:
    """Places of the kept numbers among `count`, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    if count <= COORDINATES:
        return torch.arange(count)
    if count < _LONG:
        return torch.randperm(count, generator=generator)[:COORDINATES].sort().values
    return torch.randint(count, (COORDINATES,), generator=generator).sort().values
