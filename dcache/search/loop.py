"""The loop of a search: propose candidates, evaluate them, log the results.

No function is evaluated twice: candidates with equal canonical schedules are one. Racing: every candidate is
rendered on the prompts of the first rung; those that no other beats there by more than the noise of the
difference, on the further rungs. Strategies see the first rung alone, on which all candidates are compared on
equal terms; the resulting front is of candidates that were rendered on all prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dcache.schedule import Schedule
from dcache.search.candidate import Candidate, cost_of, uncached_of
from dcache.search.closed_loop import slopes_of, weights_of, with_slopes
from dcache.search.front import WORST, Objectives, nondominated, settled
from dcache.search.journal import Journal
from dcache.search.space import Genome, Space
from dcache.search.strategies import Strategy

Task = tuple[Schedule, int]
# In the place of a rung: fit the weights of the schedule, on the prompts of all rungs.
FIT = -1
# Renderings of a fit besides one for each weight: its beginning on both parts, three steps, the result.
AROUND = 6
# Reference speedup of the hypervolume; slower schedules do not count.
SLOWEST = 1.5


class Evaluator(Protocol):
    """Who renders: this process, or several."""

    def evaluate(self, tasks: Sequence[Task]) -> Iterable[dict[str, Any]]:
        """What came of each task, in order; what has come is kept, whatever becomes of the rest."""
        ...


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
        asked: different genomes that strategies asked for, twins included.
        fits: renderings that fits of weights took; they count as evaluations.
    """

    space: Space
    evaluator: Evaluator
    journal: Journal
    signs: dict[str, int]
    rungs: int
    budget: int
    by: str = "seconds"
    tell: Callable[[Search], None] = lambda _search: None
    candidates: dict[str, Candidate] = field(default_factory=dict)
    asked: int = 0
    fits: int = 0
    _known: dict[Genome, str] = field(default_factory=dict)
    _leaders: list[Candidate] = field(default_factory=list)

    @property
    def spent(self) -> int:
        """Of the budget."""
        return len(self.candidates) + self.fits

    def run(self, strategy: Strategy, most: int) -> None:
        """Let a strategy ask until it is done, or its share of the budget is spent."""
        end = min(self.budget - self.fits, len(self.candidates) + most)
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

    def fit(self, members: Sequence[Candidate]) -> None:
        """Fit the weights of these, as many as the budget has renderings for, and evaluate what comes out."""
        chosen = self._affordable(members)
        made: list[Schedule] = []
        for one, result in zip(chosen, self._judged([(c, FIT) for c in chosen]), strict=True):
            made.append(with_slopes(one.schedule, *slopes_of(result["fitted"])).canonical())
            self.fits += self._takes(one) - 1
            self.tell(self)
        fresh = [self._new(c.genome, schedule, True) for c, schedule in zip(chosen, made, strict=True)]
        self._evaluate([new for new in fresh if new is not None])
        self.tell(self)

    def hold_out(self) -> None:
        """Render the front on the held-out prompts, the rung behind the last."""
        front = self.front()
        for one, result in zip(front, self._judged([(c, self.rungs) for c in front]), strict=True):
            one.held_out_result = result

    def front(self) -> list[Candidate]:
        """The best of those that were rendered on all prompts and are all numbers, by cost."""
        whole = self.whole()
        return [whole[i] for i in nondominated([self.objectives(c, self.rungs) for c in whole])]

    def whole(self) -> list[Candidate]:
        """Those that were rendered on all prompts and are all numbers."""
        whole = [c for c in self.candidates.values() if len(c.results) == self.rungs]
        return [c for c in whole if max(self.objectives(c, self.rungs)) < WORST]

    @property
    def uncached(self) -> float:
        """What a call without caching costs; where seconds are measured, the first candidate's."""
        known = uncached_of(self.space.profile, self.by)
        return next(iter(self.candidates.values())).cost if known is None else known

    @property
    def reference(self) -> Objectives | None:
        """What hypervolumes are measured from: the cost of `SLOWEST`, the metrics of what costs the least.

        The same for every search of a model on these prompts, whatever its strategy: the second candidate is
        the one compute that nothing is cheaper than. None where its pictures are broken.
        """
        cheapest = list(self.candidates.values())[1:2]
        point = self.objectives(cheapest[0]) if cheapest and cheapest[0].results else (WORST,)
        if max(point) >= WORST:
            return None
        # Where nothing is that fast, everything counts.
        slowest = self.uncached / SLOWEST
        return (slowest if point[0] < slowest else self.uncached, *point[1:])

    @property
    def broken(self) -> int:
        """Candidates with broken pictures, or a metric that is no number: the worst there are."""
        return sum(max(self.objectives(c, self.rungs)) >= WORST for c in self.candidates.values())

    def stop(self) -> None:
        """Forget the candidates that were about to be rendered."""
        self.asked -= sum(not (one.results or one.fitted) for one in self.candidates.values())
        self.candidates = {digest: one for digest, one in self.candidates.items() if one.results}

    @property
    def twins(self) -> int:
        """Evaluations that were spared, because the same function had been evaluated."""
        return self.asked - sum(not one.fitted for one in self.candidates.values())

    def _affordable(self, members: Sequence[Candidate]) -> list[Candidate]:
        """From the first that the budget has renderings for, as many as it has them for."""
        chosen: list[Candidate] = []
        spent = self.spent
        for one in members:
            if spent + self._takes(one) <= self.budget:
                spent += self._takes(one)
                chosen.append(one)
            elif chosen:
                break
        return chosen

    def _takes(self, one: Candidate) -> int:
        """Most evaluations of its fit, what comes out included."""
        return AROUND + weights_of(one.schedule, self.space.halves)

    def _evaluated(self, genomes: Sequence[Genome], end: int) -> list[tuple[Genome, Candidate]]:
        """Evaluate what is new; the candidates of as many genomes as the budget allows."""
        fresh: list[Candidate] = []
        kept: list[Genome] = []
        for genome in genomes:
            if genome not in self._known:
                schedule = self.space.schedule(genome).canonical()
                if schedule.digest() not in self.candidates and len(self.candidates) >= end:
                    break
                self.asked += 1
                new = self._new(genome, schedule)
                if new is not None:
                    fresh.append(new)
                self._known[genome] = schedule.digest()
            kept.append(genome)
        self._evaluate(fresh)
        return [(genome, self.candidates[self._known[genome]]) for genome in kept]

    def _new(self, genome: Genome, schedule: Schedule, fitted: bool = False) -> Candidate | None:
        """The candidate of a canonical schedule, None if it was one before."""
        digest, number = schedule.digest(), len(self.candidates)
        if digest in self.candidates:
            return None
        priced = cost_of(schedule, self.space.profile, self.by)
        made = Candidate(genome, schedule, digest, number, priced, fitted=fitted, spent=self.spent + 1)
        self.candidates[digest] = made
        return made

    def _evaluate(self, fresh: Sequence[Candidate]) -> None:
        """On the first rung; those that are not beaten there, on the others."""
        self._render(fresh, 0)
        if self.rungs == 1:
            return
        leaders = [*self._leaders, *fresh]
        self._leaders = [leaders[i] for i in nondominated([self.objectives(c) for c in leaders])]
        alive = [c for c in fresh if not any(self._beaten(c, leader) for leader in self._leaders)]
        for rung in range(1, self.rungs):
            self._render(alive, rung)

    def _render(self, candidates: Sequence[Candidate], rung: int) -> None:
        """Have them judged on a rung."""
        for candidate, result in zip(candidates, self._judged([(c, rung) for c in candidates]), strict=True):
            candidate.results.append(result)
            if self.by == "measured" and rung == 0:
                candidate.cost = result["seconds"]

    def _judged(self, tasks: Sequence[tuple[Candidate, int]]) -> Iterator[dict[str, Any]]:
        """What came of each, in order; nobody is judged twice."""
        missing = [(c, rung) for c, rung in tasks if (c.digest, rung) not in self.journal.found]
        judged = iter(self.evaluator.evaluate([(c.schedule, rung) for c, rung in missing]))
        for candidate, rung in tasks:
            key = candidate.digest, rung
            if key not in self.journal.found:
                self.journal.add(key, next(judged))
            yield self.journal.found[key]

    def _beaten(self, one: Candidate, leader: Candidate) -> bool:
        """Whether the leader costs no more and is ahead in every metric by more than the noise."""
        if max(self.objectives(one)) >= WORST:
            return leader is not one
        return leader.cost <= one.cost and all(
            leader.ahead(one, name, sign) > 0 for name, sign in self.signs.items()
        )
