"""The loop of a search: a strategy asks, the judge renders, the journal remembers.

No function is evaluated twice: candidates with equal canonical schedules are one. Racing: every candidate is
rendered on the prompts of the first rung; those that are on the front there, or as near to it as its noise,
on the further rungs. Strategies see the first rung alone, on which everybody is compared on equal terms; the
front that comes out is of candidates that were rendered on all prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from dcache import cost
from dcache.schedule import Schedule
from dcache.search.front import WORST, Objectives, nondominated, settled
from dcache.search.journal import Journal
from dcache.search.space import Genome, Space
from dcache.search.strategies import Strategy

Task = tuple[Schedule, int]
COSTS = ("seconds", "flops", "measured")


class Team(Protocol):
    """Who renders: this process, or several."""

    def judge(self, tasks: Sequence[Task]) -> Iterable[dict[str, Any]]:
        """What came of each task, in order; what has come is kept, whatever becomes of the rest."""
        ...


@dataclass
class Candidate:
    """One function that was evaluated.

    Attributes:
        genome: the first that stood for it.
        schedule: its canonical form.
        digest: of the schedule.
        number: 0 for the first that was evaluated, and so on.
        cost: by the profile's latencies, in seconds of a call (or the share of FLOPs, or measured seconds).
        results: what the judge said, one for each rung that it was rendered on.
    """

    genome: Genome
    schedule: Schedule
    digest: str
    number: int
    cost: float
    results: list[dict[str, Any]] = field(default_factory=list)

    def value(self, metric: str, rungs: int) -> float:
        """The metric over the first so many rungs, NaN where there is none: the mean of all its pictures."""
        own = [r["each"].get(metric) for r in self.results[:rungs]]
        if all(own):
            return float(np.mean(np.concatenate(own)))
        values = [r["values"].get(metric) for r in self.results[:rungs]]
        return float("nan") if any(v is None for v in values) else float(np.mean(values))

    def noise(self, metric: str) -> float:
        """Standard error of the metric on the first rung, 0 where it has no number for each picture."""
        own = self.results[0]["each"].get(metric)
        if not own or len(own) < 2 or not np.isfinite(own).all():
            return 0.0
        return float(np.std(own, ddof=1) / np.sqrt(len(own)))


@dataclass
class Search:
    """A search under way.

    Attributes:
        space: of genomes.
        team: who renders.
        journal: what is known from before.
        signs: metric -> 1 if higher is better, else -1.
        rungs: number of rungs.
        budget: most candidates to evaluate, all stages together.
        by: what costs are: `seconds` by the profile's latencies, `flops`, or `measured` seconds.
        tell: called after every batch.
        candidates: digest -> candidate, in the order of their evaluation.
        asked: genomes that strategies asked for, twins included.
    """

    space: Space
    team: Team
    journal: Journal
    signs: dict[str, int]
    rungs: int
    budget: int
    by: str = "seconds"
    tell: Callable[[Search], None] = lambda _search: None
    candidates: dict[str, Candidate] = field(default_factory=dict)
    asked: int = 0
    _known: dict[Genome, str] = field(default_factory=dict)

    def run(self, strategy: Strategy, most: int | None = None) -> None:
        """Let a strategy ask until it is done, or the budget (or its own share of it) is spent."""
        end = self.budget if most is None else min(self.budget, len(self.candidates) + most)
        idle = 0
        while len(self.candidates) < end:
            genomes = strategy.ask()
            if not genomes:
                return
            before = len(self.candidates)
            found = self._evaluated(genomes, end)
            strategy.tell([(g, self.objectives(c)) for g, c in found])
            self.tell(self)
            # A strategy that asks for nothing new any more has converged.
            idle = 0 if len(self.candidates) > before else idle + 1
            if idle >= 20:
                return

    def objectives(self, candidate: Candidate, rungs: int = 1) -> Objectives:
        """Cost, then every metric, all to be minimised."""
        values = [-sign * candidate.value(name, rungs) for name, sign in self.signs.items()]
        return settled([candidate.cost, *values])

    def front(self) -> list[Candidate]:
        """The best of those that were rendered on all prompts and are all numbers, by cost."""
        whole = [c for c in self.candidates.values() if len(c.results) == self.rungs]
        points = [self.objectives(c, self.rungs) for c in whole]
        sane = [i for i, point in enumerate(points) if max(point) < WORST]
        return [whole[sane[i]] for i in nondominated([points[i] for i in sane])]

    @property
    def uncached(self) -> float:
        """What a call without caching costs; where seconds are measured, the first candidate's."""
        latencies = self.space.profile.latencies
        if self.by == "seconds" and latencies is not None:
            return latencies.uncached
        return 1.0 if self.by == "flops" else next(iter(self.candidates.values())).cost

    @property
    def broken(self) -> int:
        """Candidates with broken pictures, or a metric that is no number: the worst there are."""
        return sum(max(self.objectives(c, self.rungs)) >= WORST for c in self.candidates.values())

    def stop(self) -> None:
        """Forget the candidates that were about to be rendered."""
        before = len(self.candidates)
        self.candidates = {digest: one for digest, one in self.candidates.items() if one.results}
        self.asked -= before - len(self.candidates)

    @property
    def twins(self) -> int:
        """Evaluations that were spared, because the same function had been evaluated."""
        return self.asked - len(self.candidates)

    def _evaluated(self, genomes: Sequence[Genome], end: int) -> list[tuple[Genome, Candidate]]:
        """Evaluate what is new; the candidates of as many genomes as the budget allows."""
        fresh: list[Candidate] = []
        kept: list[Genome] = []
        for genome in genomes:
            digest = self._known.get(genome)
            if digest is None:
                schedule = self.space.schedule(genome).canonical()
                digest = schedule.digest()
                if digest not in self.candidates:
                    if len(self.candidates) >= end:
                        break
                    one = Candidate(genome, schedule, digest, len(self.candidates), self._cost(schedule))
                    self.candidates[digest] = one
                    fresh.append(one)
                self._known[genome] = digest
            kept.append(genome)
        self.asked += len(kept)
        self._render(fresh, 0)
        for rung in range(1, self.rungs):
            fresh = self._survivors(fresh)
            self._render(fresh, rung)
        return [(genome, self.candidates[self._known[genome]]) for genome in kept]

    def _render(self, candidates: Sequence[Candidate], rung: int) -> None:
        """Have them judged on a rung; nobody twice."""
        missing = [c for c in candidates if (c.digest, rung) not in self.journal.found]
        judged = iter(self.team.judge([(c.schedule, rung) for c in missing]))
        for candidate in candidates:
            key = candidate.digest, rung
            if key not in self.journal.found:
                self.journal.add(key, next(judged))
            result = self.journal.found[key]
            candidate.results.append(result)
            if self.by == "measured" and rung == 0:
                candidate.cost = result["seconds"]

    def _survivors(self, fresh: Sequence[Candidate]) -> list[Candidate]:
        """Those that nobody beats on the first rung by more than their noise."""
        rivals = [self.objectives(c) for c in self.candidates.values()]
        kept = []
        for one in fresh:
            own, noise = self.objectives(one), [one.noise(name) for name in self.signs]
            hoped = (own[0], *(v - n for v, n in zip(own[1:], noise, strict=True)))
            beaten = any(
                r != own and r[0] <= hoped[0] and all(x < y for x, y in zip(r[1:], hoped[1:], strict=True))
                for r in rivals
            )
            if not beaten:
                kept.append(one)
        return kept

    def _cost(self, schedule: Schedule) -> float:
        latencies = self.space.profile.latencies
        if latencies is None or self.by == "measured":
            return float("nan")
        return cost.flops(schedule, latencies) if self.by == "flops" else cost.seconds(schedule, latencies)
