"""`dcache search`: a front of schedules, cost against quality, found by rendering candidates."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.eval.prompts import digest
from dcache.profile import Profile
from dcache.search.candidate import COSTS, Candidate, cost_of, uncached_of
from dcache.search.closed_loop import can_fit
from dcache.search.front import Objectives
from dcache.search.initial_population import cheapest, interleaved, planned, templates
from dcache.search.journal import Journal
from dcache.search.loop import Evaluator, Search
from dcache.search.space import RECIPES, Genome, Space, units_of
from dcache.search.strategies.nsga2 import CONVENTIONS
from dcache.search.strategies.random_and_local import LocalSearch
from dcache.search.strategies.registry import STRATEGIES, Start

JOURNAL = "search.jsonl"


@dataclass(frozen=True)
class SearchConfig:
    """Settings of a search; every field affects its result.

    Attributes:
        strategy: one of `STRATEGIES`; `local` begins around templates and plans.
        units: as in `dcache.search.space.units_of`.
        recipes: names of `dcache.search.space.RECIPES`.
        budget: most candidates to evaluate.
        population: of a generation or batch.
        mutation: rate, None for two bits of a genome (of the offspring: 0.05, as ECAD has it).
        convention: `each` bit at that rate, or `some` of the offspring at all (ECAD's pymoo).
        finishing: share of the budget that is kept for a local search around the front.
        fitting: share that is kept for fits of weights on the pictures (`dcache.search.closed_loop`), of the
            best at the speedups that are wanted; each rendering counts as an evaluation. They need two
            prompts. Both shares together are below 1.
        wanted: speedups that half of the local search and the fits are for, the most wanted first.
        seeds: begin with templates and plans; else with random genomes alone.
        metrics: what is traded against cost, as in `dcache eval`.
        cost: `seconds` by the profile's latencies, `flops`, or `measured`.
        first: prompts of the first rung; the rest is for those that look worth it.
        seed: of the pictures and of every decision.
        paired: whether guidance makes one batch of both branches, as in `Space`.
    """

    strategy: str = "nsga2"
    units: str = "whole"
    recipes: tuple[str, ...] = ("reuse", "halfway", "line", "apart", "leaning")
    budget: int = 200
    population: int = 24
    mutation: float | None = None
    convention: str = "each"
    finishing: float = 0.3
    fitting: float = 0.3
    wanted: tuple[float, ...] = (3.0, 2.0, 4.0)
    seeds: bool = True
    metrics: tuple[str, ...] = ("psnr",)
    cost: str = "seconds"
    first: int = 4
    seed: int = 0
    paired: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            DcacheError: an unknown name or a number out of range.
        """
        if self.strategy not in STRATEGIES:
            raise DcacheError(f"a strategy is one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        unknown = [name for name in self.recipes if name not in RECIPES]
        if unknown or not self.recipes:
            raise DcacheError(
                f"recipes are some of {', '.join(RECIPES)}, got {', '.join(self.recipes) or 'none'}"
            )
        if min(self.finishing, self.fitting) < 0.0 or not self.finishing + self.fitting < 1.0:
            raise DcacheError(
                "the shares of finishing and fitting lie between 0 and 1, and are less than 1 together, got "
                f"{self.finishing:g} and {self.fitting:g}"
            )
        if not all(0.0 < speedup < inf for speedup in self.wanted):
            raise DcacheError(f"speedups that are wanted are numbers above 0, got {self.wanted}")
        if self.mutation is not None and not 0.0 <= self.mutation <= 1.0:
            raise DcacheError(f"a mutation's rate lies between 0 and 1, got {self.mutation}")
        if self.budget < 1:
            raise DcacheError(f"a search needs a budget of at least one evaluation, got {self.budget}")
        if self.population < 4 or self.population % 4:
            raise DcacheError(f"a population must be a multiple of four, got {self.population}")
        if self.cost not in COSTS:
            raise DcacheError(f"the cost is one of {', '.join(COSTS)}, got {self.cost!r}")
        if self.convention not in CONVENTIONS:
            raise DcacheError(
                f"a mutation's convention is one of {', '.join(CONVENTIONS)}, got {self.convention!r}"
            )
        if self.first < 1 or not self.metrics:
            raise DcacheError("a search needs one prompt or more in its first rung, and a metric")


def rungs(prompts: Sequence[str], first: int) -> list[list[str]]:
    """The prompts of the first rung, and the rest."""
    return [part for part in (list(prompts[:first]), list(prompts[first:])) if part]


def open_journal(folder: Path | None, identity: dict[str, Any], resume: bool, writes: bool = True) -> Journal:
    """The journal of a search in a folder.

    Args:
        folder: None keeps nothing.
        identity: what decides the results, as `identity_of` has it.
        resume: go on with the journal that is there.
        writes: False in all processes but the first: they read what is there and write nothing.

    Raises:
        DcacheError: it is of another search, or there is one already.
    """
    if folder is None:
        return Journal(None, identity)
    journal = Journal.start(folder / JOURNAL, identity, resume or not writes)
    journal.path = journal.path if writes else None
    return journal


def identity_of(
    ways: SearchConfig, prompts: Sequence[str], about: dict[str, Any], held: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that decides what one schedule's evaluation gives; how candidates are chosen does not."""
    return {
        **about,
        "prompts": digest(prompts),
        "held_out": digest(held),
        "first": ways.first,
        "metrics": ways.metrics,
        "seed": ways.seed,
        "measured": ways.cost == "measured",
    }


def space_of(profile: Profile, ways: SearchConfig) -> Space:
    """What is searched.

    Raises:
        DcacheError: the profile lacks the units, or the latencies that costs come from.
    """
    if ways.cost != "measured" and profile.latencies is None:
        raise DcacheError("the profile has no latencies: observe with timing, or search by measured seconds")
    units = units_of(profile, ways.units)
    counted = {} if profile.latencies is None else profile.latencies.flops
    if ways.cost == "flops" and not any(counted.get(site) for unit in units for site in unit):
        raise DcacheError("the profile has no FLOPs of these sites: observe again, or search by seconds")
    return Space(profile, units, tuple(RECIPES[name] for name in ways.recipes), ways.paired)


def fastest(space: Space, by: str) -> float:
    """The speedup of one compute, which no schedule exceeds; infinity where costs are to be measured."""
    full = uncached_of(space.profile, by)
    if full is None:
        return inf
    least = cost_of(space.schedule(cheapest(space)).canonical(), space.profile, by)
    return full / least if least > 0.0 else inf


def search(
    profile: Profile,
    ways: SearchConfig,
    team: Evaluator,
    prompts: Sequence[str],
    signs: dict[str, int],
    journal: Journal | None = None,
    held_out: bool = False,
    tell: Callable[[Search], None] = lambda _search: None,
) -> Search:
    """Search the front.

    Args:
        profile: of the model; its latencies say what candidates cost.
        ways: how.
        team: who renders.
        prompts: of all rungs.
        signs: metric -> 1 if higher is better, else -1.
        journal: where evaluations are kept and found; None keeps none.
        held_out: whether the team has held-out prompts, to render the front on in the end.
        tell: called after every batch.

    Raises:
        DcacheError: the profile lacks something, or a metric gives no number even with everything computed.
    """
    space = space_of(profile, ways)
    parts = len(rungs(prompts, ways.first))
    kept = Journal(None, {}) if journal is None else journal
    found = Search(space, team, kept, signs, parts, ways.budget, ways.cost, tell)
    rng = random.Random(ways.seed)
    last, local = (round(share * ways.budget) for share in (ways.fitting, ways.finishing))
    _begin(found, ways, rng, main=max(2, ways.budget - last - local))
    limits = [found.uncached / speedup for speedup in ways.wanted]
    around = LocalSearch(space, _evaluated(found), rng, ways.population, limits)
    found.run(around, ways.budget - last - len(found.candidates))
    # Weights are fitted on some prompts and checked on others.
    if ways.fitting and len(prompts) > 1:
        found.fit(promising(found, ways.wanted))
    # What fits had no use for.
    found.run(around, ways.budget - found.spent)
    if held_out:
        found.hold_out()
    return found


def _begin(found: Search, ways: SearchConfig, rng: random.Random, main: int) -> None:
    """Both ends, the seeds and the strategy: so many evaluations together."""
    space = found.space
    # Both ends of all fronts: what costs the most, and the least.
    full = space.genome([[True] * space.profile.steps] * len(space.units))
    found.run(_Listed([full], 1), 1)
    _refuse_without_numbers(found)
    found.run(_Listed([cheapest(space)], 1), 1)
    # At most half of it where a strategy follows: the rest is for what it makes of them.
    make = STRATEGIES.get(ways.strategy)
    share = main if make is None else main // 2
    first = interleaved(templates(space), planned(space))[:share] if ways.seeds else []
    found.run(_Listed(first, ways.population), main - len(found.candidates))
    if make is not None:
        start = Start(
            space, _evaluated(found), rng, found.uncached, ways.population, ways.mutation, ways.convention
        )
        found.run(make(start), main - len(found.candidates))


def _evaluated(search: Search) -> list[tuple[Genome, Objectives]]:
    return [(c.genome, search.objectives(c)) for c in search.candidates.values()]


def promising(found: Search, wanted: Sequence[float]) -> list[Candidate]:
    """Whose weights to fit: for each speedup the best that is as fast, then the second best, and so on."""
    (metric, sign), *_ = found.signs.items()
    able = [c for c in found.whole() if not c.fitted and can_fit(c.schedule)]
    able.sort(key=lambda c: -sign * c.value(metric, found.rungs))
    # Of the same places once: a fit ends near the same weights from wherever it begins.
    first = {c.genome[: found.space.bits]: c for c in reversed(able)}
    able = [c for c in able if first[c.genome[: found.space.bits]] is c]
    ranked = [[c.digest for c in able if found.uncached / c.cost >= speedup] for speedup in wanted]
    return [found.candidates[digest] for digest in interleaved(*ranked)]


class _Listed:
    """Genomes that are evaluated once, in their order, a batch at a time."""

    def __init__(self, genomes: Sequence[Genome], batch: int) -> None:
        self.genomes, self.batch = list(genomes), batch

    def ask(self) -> list[Genome]:
        """The next of them, in the end none."""
        asked, self.genomes = self.genomes[: self.batch], self.genomes[self.batch :]
        return asked

    def tell(self, results: Sequence[tuple[Genome, Objectives]]) -> None:
        """Nothing to learn."""


def _refuse_without_numbers(found: Search) -> None:
    (full,) = found.candidates.values()
    wrong = [name for name in found.signs if not isfinite(full.value(name, 1))]
    if wrong:
        raise DcacheError(
            f"{', '.join(wrong)} is no number even with everything computed: nothing can be compared by it "
            "on these prompts. Ask for another metric, or for more prompts (--first)"
        )
