"""Lengths of runs that nothing announces: those of earlier runs with the same timesteps.

A hand-written loop does not say how many evaluations it has, nor does a sampler without a table. Rules that
count in shares of the run, or from its end, learn it from the runs before.
"""

from __future__ import annotations

from dcache.identity.run import Run, Timesteps

# Runs that are kept of each sampler: loops of two or three lengths may take turns.
MOST = 4


class Lengths:
    """The timesteps of earlier runs, of which each tells a length."""

    def __init__(self) -> None:
        # Class name of the sampler, "" without one -> the runs, the newest last.
        self.runs: dict[str, list[Timesteps]] = {}

    def learn(self, run: Run, evaluations: int) -> int:
        """Note a run that is over.

        A run whose timesteps are the beginning of a longer one's was broken off: it teaches nothing. Where
        neither timesteps nor noise levels are known, the newest length counts.

        Args:
            run: the run.
            evaluations: evaluations that it had.

        Returns:
            The evaluations that later runs of these timesteps are taken to have.
        """
        known = self.runs.setdefault(run.sampler, [])
        walked = tuple(run.told.get(i, (None, None)) for i in range(evaluations))
        if any(value is not None for values in walked for value in values):
            walked = next((other for other in reversed(known) if other[:evaluations] == walked), walked)
        known[:] = [*(other for other in known if other != walked), walked]
        del known[:-MOST]
        return len(walked)

    def foresee(self, run: Run) -> None:
        """Give a run that opens the earlier ones that it may be like."""
        run.resemble(self.runs.get(run.sampler, ()))
