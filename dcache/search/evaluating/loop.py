"""The loop of a search: propose candidates, evaluate them, log the results.

Candidates with equal canonical schedules are the same function and are evaluated once. Racing: every
candidate is rendered on the prompts of the first rung. Candidates that no other beats there by more than the
noise of the difference are rendered on the further rungs too. Strategies see results of the first rung only,
because all candidates have those; the resulting front consists of candidates that were rendered on all
prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dcache.schedule import Schedule
from dcache.search.evaluating.candidate import Candidate, cost_of, uncached_of
from dcache.search.fitting.closed_loop import slopes_from_json, weights_of, with_slopes
from dcache.search.genomes.front import WORST, Objectives, nondominated, settled
from dcache.search.genomes.space import Genome, Space
from dcache.search.rendering.journal import Journal
from dcache.search.strategies import Strategy

Task = tuple[Schedule, int]
# Used in place of a rung number: fit the weights of the schedule on the prompts of all rungs.
FIT = -1
# Renderings of a fit besides one for each weight: the start on both parts, three dampings, the result.
AROUND = 6
# Reference speedup of the hypervolume; slower schedules do not count.
SLOWEST = 1.5


class Evaluator(Protocol):
    """Renders candidates, in this process or in several."""

    def evaluate(self, tasks: Sequence[Task]) -> Iterable[dict[str, Any]]:
        """Yield the result of each task, in order; a failure must not lose the results before it."""
        ...


@dataclass
class Search:
    """State of a search.

    Attributes:
        space: the space of genomes.
        evaluator: renders the candidates.
        journal: results of earlier runs of this search.
        signs: metric -> 1 if higher is better, else -1.
        rungs: number of rungs.
        budget: most evaluations, over all stages.
        by: unit of costs: `seconds` from the profile's latencies, `flops`, or `measured` seconds.
        progress: called after every batch.
        candidates: digest -> candidate, in the order of their evaluation.
        asked: number of different genomes that strategies proposed, those with equal schedules included.
        fits: renderings used by fits of weights; they count as evaluations.
    """

    space: Space
    evaluator: Evaluator
    journal: Journal
    signs: dict[str, int]
    rungs: int
    budget: int
    by: str = "seconds"
    progress: Callable[[Search], None] = lambda _search: None
    candidates: dict[str, Candidate] = field(default_factory=dict)
    asked: int = 0
    fits: int = 0
    _known: dict[Genome, str] = field(default_factory=dict)
    _leaders: list[Candidate] = field(default_factory=list)

    @property
    def spent(self) -> int:
        """Evaluations used of the budget."""
        return len(self.candidates) + self.fits

    def run(self, strategy: Strategy, most: int) -> None:
        """Evaluate a strategy's proposals until it has none, or `most` candidates are evaluated."""
        end = min(self.budget - self.fits, len(self.candidates) + most)
        idle = 0
        while len(self.candidates) < end:
            genomes = strategy.ask()
            if not genomes:
                return
            before = len(self.candidates)
            evaluated = self._evaluated(genomes, end)
            strategy.tell([(g, self.objectives(c)) for g, c in evaluated])
            self.progress(self)
            # A strategy that proposes nothing new any more has converged.
            idle = 0 if len(self.candidates) > before else idle + 1
            if idle >= 20:
                return

    def objectives(self, candidate: Candidate, rungs: int = 1) -> Objectives:
        """Cost, then every metric, each with the sign for minimisation; `WORST` where one is NaN."""
        values = [-sign * candidate.value(name, rungs) for name, sign in self.signs.items()]
        return settled([candidate.cost, *values])

    def fit(self, members: Sequence[Candidate]) -> None:
        """Fit the weights of as many members as the budget allows, and evaluate the fitted schedules."""
        chosen = self._affordable(members)
        schedules: list[Schedule] = []
        for candidate, result in zip(chosen, self._results([(c, FIT) for c in chosen]), strict=True):
            slopes, apart = slopes_from_json(result["fitted"])
            schedules.append(with_slopes(candidate.schedule, slopes, apart).canonical())
            self.fits += self._fit_cost(candidate) - 1
            self.progress(self)
        fresh = [self._new(c.genome, schedule, True) for c, schedule in zip(chosen, schedules, strict=True)]
        self._evaluate([new for new in fresh if new is not None])
        self.progress(self)

    def hold_out(self) -> None:
        """Render the front on the held-out prompts; their rung number follows the last rung's."""
        front = self.front()
        for candidate, result in zip(front, self._results([(c, self.rungs) for c in front]), strict=True):
            candidate.held_out_result = result

    def front(self) -> list[Candidate]:
        """Nondominated candidates among those of `whole`, by cost."""
        whole = self.whole()
        return [whole[i] for i in nondominated([self.objectives(c, self.rungs) for c in whole])]

    def whole(self) -> list[Candidate]:
        """Candidates that were rendered on all prompts and whose metrics are all numbers."""
        whole = [c for c in self.candidates.values() if len(c.results) == self.rungs]
        return [c for c in whole if max(self.objectives(c, self.rungs)) < WORST]

    @property
    def uncached(self) -> float:
        """Cost of a call without caching; for measured seconds, the cost of the first candidate."""
        known = uncached_of(self.space.profile, self.by)
        return next(iter(self.candidates.values())).cost if known is None else known

    @property
    def reference(self) -> Objectives | None:
        """Reference point of hypervolumes: cost at speedup `SLOWEST`, metrics of the cheapest schedule.

        It is the same for every strategy on the same model and prompts, because every search evaluates the
        cheapest schedule (evaluation 0 alone is computed) as its second candidate. None if its pictures are
        broken.
        """
        cheapest = list(self.candidates.values())[1:2]
        point = self.objectives(cheapest[0]) if cheapest and cheapest[0].results else (WORST,)
        if max(point) >= WORST:
            return None
        # If no schedule is that fast, all of them count.
        slowest = self.uncached / SLOWEST
        return (slowest if point[0] < slowest else self.uncached, *point[1:])

    @property
    def broken(self) -> int:
        """Number of candidates with broken pictures or a metric that is no number; they rank last."""
        return sum(max(self.objectives(c, self.rungs)) >= WORST for c in self.candidates.values())

    def stop(self) -> None:
        """Drop the candidates that have no result yet, after an interrupt."""
        self.asked -= sum(
            not (candidate.results or candidate.fitted) for candidate in self.candidates.values()
        )
        self.candidates = {
            digest: candidate for digest, candidate in self.candidates.items() if candidate.results
        }

    @property
    def twins(self) -> int:
        """Evaluations saved because an equal schedule had been evaluated before."""
        return self.asked - sum(not candidate.fitted for candidate in self.candidates.values())

    def _affordable(self, members: Sequence[Candidate]) -> list[Candidate]:
        """The members to fit, in order. Skips those too costly for the budget, until one fits; then stops."""
        chosen: list[Candidate] = []
        spent = self.spent
        for member in members:
            if spent + self._fit_cost(member) <= self.budget:
                spent += self._fit_cost(member)
                chosen.append(member)
            elif chosen:
                break
        return chosen

    def _fit_cost(self, candidate: Candidate) -> int:
        """Most evaluations that a fit takes, the one of the fitted schedule included."""
        return AROUND + weights_of(candidate.schedule, self.space.halves)

    def _evaluated(self, genomes: Sequence[Genome], end: int) -> list[tuple[Genome, Candidate]]:
        """Evaluate new genomes, as many as the budget allows; returns each with its candidate."""
        fresh: list[Candidate] = []
        within_budget: list[Genome] = []
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
            within_budget.append(genome)
        self._evaluate(fresh)
        return [(genome, self.candidates[self._known[genome]]) for genome in within_budget]

    def _new(self, genome: Genome, schedule: Schedule, fitted: bool = False) -> Candidate | None:
        """The candidate of a canonical schedule; None if there is one already."""
        digest, number = schedule.digest(), len(self.candidates)
        if digest in self.candidates:
            return None
        priced = cost_of(schedule, self.space.profile, self.by)
        candidate = Candidate(genome, schedule, digest, number, priced, fitted=fitted, spent=self.spent + 1)
        self.candidates[digest] = candidate
        return candidate

    def _evaluate(self, fresh: Sequence[Candidate]) -> None:
        """Render candidates on the first rung, then those that are not beaten there on the others."""
        self._render(fresh, 0)
        if self.rungs == 1:
            return
        # Candidates race against the leaders of earlier batches too.
        leaders = [*self._leaders, *fresh]
        self._leaders = [leaders[i] for i in nondominated([self.objectives(c) for c in leaders])]
        alive = [c for c in fresh if not any(self._beaten(c, leader) for leader in self._leaders)]
        for rung in range(1, self.rungs):
            self._render(alive, rung)

    def _render(self, candidates: Sequence[Candidate], rung: int) -> None:
        """Render candidates on one rung and store the results."""
        for candidate, result in zip(candidates, self._results([(c, rung) for c in candidates]), strict=True):
            candidate.results.append(result)
            if self.by == "measured" and rung == 0:
                candidate.cost = result["seconds"]

    def _results(self, tasks: Sequence[tuple[Candidate, int]]) -> Iterator[dict[str, Any]]:
        """Yield the result of each task, in order; those in the journal are not rendered again."""
        missing = [(c, rung) for c, rung in tasks if (c.digest, rung) not in self.journal.results]
        rendered = iter(self.evaluator.evaluate([(c.schedule, rung) for c, rung in missing]))
        for candidate, rung in tasks:
            key = candidate.digest, rung
            if key not in self.journal.results:
                # Logged one by one: a kill loses only the renderings under way.
                self.journal.add(key, next(rendered))
            yield self.journal.results[key]

    def _beaten(self, candidate: Candidate, leader: Candidate) -> bool:
        """Whether the leader costs no more and is ahead in every metric by more than the noise."""
        if max(self.objectives(candidate)) >= WORST:
            return leader is not candidate
        return leader.cost <= candidate.cost and all(
            leader.ahead(candidate, name, sign) > 0 for name, sign in self.signs.items()
        )
