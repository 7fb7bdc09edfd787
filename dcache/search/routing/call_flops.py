"""FLOPs of a call and of the sublayers that a router chooses among: what share of them reaches a speedup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dcache
from dcache.errors import DcacheError
from dcache.eval.call_cost import counting
from dcache.eval.subject import Subject
from dcache.identity.denoisers import denoisers
from dcache.schedule import Plan, Schedule
from dcache.search.observing.site_timing import flops_of_sites


@dataclass(frozen=True)
class CallFlops:
    """FLOPs of one call of a pipeline.

    Attributes:
        steps: evaluations.
        sites: those of each site in one evaluation.
        total: those of the whole call, with the text encoder, the VAE and all of the denoiser.
    """

    steps: int
    sites: tuple[float, ...]
    total: float

    @property
    def outside(self) -> float:
        """Those of the call that no site saves."""
        return self.total - self.steps * sum(self.sites)

    def speedup(self, share: float) -> float:
        """Those of the uncached call over those with a share of the sites' computed."""
        return self.total / (self.outside + share * self.steps * sum(self.sites))

    def share(self, speedup: float) -> float:
        """The largest share of the sites' FLOPs that reaches a speedup of the whole call.

        Raises:
            DcacheError: the speedup is not above 1, or the first evaluation alone costs more.
        """
        most = self.speedup(1 / self.steps)
        if not 1 < speedup <= most:
            raise DcacheError(
                f"expected a speedup above 1 and at most {most:.2f}, got {speedup:g}: evaluation 0 is "
                f"computed, and {self.outside / self.total:.0%} of the call's FLOPs are outside sublayers"
            )
        return (self.total / speedup - self.outside) / (self.steps * sum(self.sites))


def call_flops(
    subject: Subject, component: str, sites: Sequence[str], steps: int, prompt: str, seed: int
) -> CallFlops:
    """Count two calls of one picture, one of them uncached.

    Args:
        subject: the pipeline with its settings.
        component: the denoiser's name in the pipeline.
        sites: names of sites that do not overlap.
        steps: evaluations of a run.
        prompt: the prompt.
        seed: seed of the picture.
    """
    counter = counting()
    with counter:
        subject([prompt], [seed])
    row = tuple(t % 2 == 0 for t in range(steps))
    every_second = Schedule(steps, {component: Plan({"*": dict.fromkeys(sites, row)})}, method="counting")
    with dcache.enabled(subject.pipe, every_second):
        # A fused site is more than its module: only the engine knows what its prediction saves.
        counted = flops_of_sites(denoisers(subject.pipe)[component], lambda: subject([prompt], [seed]))
    return CallFlops(steps, tuple(counted[site] for site in sites), float(counter.get_total_flops()))
