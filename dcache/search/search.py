"""`dcache search`: the Pareto front of schedules, cost against quality, from rendered candidates."""

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
from dcache.search.evaluating.candidate import COSTS, Candidate, cost_of, uncached_of
from dcache.search.evaluating.loop import Evaluator, Search
from dcache.search.fitting.closed_loop import can_fit
from dcache.search.genomes.front import Objectives
from dcache.search.genomes.initial_population import cheapest, interleaved, planned, templates
from dcache.search.genomes.space import RECIPES, Genome, Space, units_of
from dcache.search.rendering.journal import Journal
from dcache.search.strategies.nsga2 import CONVENTIONS
from dcache.search.strategies.random_and_local import LocalSearch
from dcache.search.strategies.registry import STRATEGIES, Start

JOURNAL = "search.jsonl"


@dataclass(frozen=True)
class SearchConfig:
    """Settings of a search; every field affects its result.

    Attributes:
        strategy: one of `STRATEGIES`; `local` starts from templates and plans.
        units: as in `dcache.search.genomes.space.units_of`.
        recipes: names in `dcache.search.genomes.space.RECIPES`.
        budget: most candidates to evaluate.
        population: candidates in a generation or batch.
        mutation: rate; None is two bits of a genome with `each`, 5 % of the offspring with `some`.
        convention: `each`: every bit flips at that rate; `some`: that share of the offspring is mutated
            (pymoo's meaning, as ECAD uses it).
        finishing: share of the budget for a local search around the front.
        fitting: share of the budget for fits of weights on the pictures
            (`dcache.search.fitting.closed_loop`), of the best candidates at the `wanted` speedups; each
            rendering counts as an evaluation. Fits need two prompts. Both shares together are below 1.
        wanted: speedups that the fits and half of the local search aim at, the most important first.
        seeds: start from templates and plans; otherwise from random genomes.
        metrics: metrics traded against cost, as in `dcache eval`.
        cost: `seconds` from the profile's latencies, `flops`, or `measured`.
        first: prompts of the first rung; better candidates are rendered on the remaining prompts too.
        seed: seed of the first picture, and of every random decision.
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
        """Check names and ranges.

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
                "finishing and fitting are shares between 0 and 1 whose sum is below 1, got "
                f"{self.finishing:g} and {self.fitting:g}"
            )
        if not all(0.0 < speedup < inf for speedup in self.wanted):
            raise DcacheError(f"wanted speedups are numbers above 0, got {self.wanted}")
        if self.mutation is not None and not 0.0 <= self.mutation <= 1.0:
            raise DcacheError(f"a mutation rate lies between 0 and 1, got {self.mutation}")
        if self.budget < 1:
            raise DcacheError(f"a search needs a budget of at least one evaluation, got {self.budget}")
        if self.population < 4 or self.population % 4:
            raise DcacheError(f"a population must be a multiple of four, got {self.population}")
        if self.cost not in COSTS:
            raise DcacheError(f"the cost is one of {', '.join(COSTS)}, got {self.cost!r}")
        if self.convention not in CONVENTIONS:
            raise DcacheError(
                f"a mutation convention is one of {', '.join(CONVENTIONS)}, got {self.convention!r}"
            )
        if self.first < 1 or not self.metrics:
            raise DcacheError("a search needs one prompt or more in its first rung, and a metric")


def rungs(prompts: Sequence[str], first: int) -> list[list[str]]:
    """The prompts split into rungs: the `first` ones, and the rest if there are any."""
    return [part for part in (list(prompts[:first]), list(prompts[first:])) if part]


def open_journal(folder: Path | None, identity: dict[str, Any], resume: bool, writes: bool = True) -> Journal:
    """The journal of a search in a folder.

    Args:
        folder: None keeps the journal in memory.
        identity: everything that decides the results, from `identity_of`.
        resume: continue an existing journal.
        writes: False in all processes but the first: they only read the journal, so that no line is written
            twice.

    Raises:
        DcacheError: the journal is of another search, or exists and `resume` is False.
    """
    if folder is None:
        return Journal(None, identity)
    journal = Journal.start(folder / JOURNAL, identity, resume or not writes)
    journal.path = journal.path if writes else None
    return journal


def identity_of(
    config: SearchConfig, prompts: Sequence[str], about: dict[str, Any], held_out: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that decides the result of evaluating one schedule, for the journal's first line.

    Strategy and budget are left out: they choose candidates, and a search may be resumed with others.
    """
    return {
        **about,
        "prompts": digest(prompts),
        "held_out": digest(held_out),
        "first": config.first,
        "metrics": config.metrics,
        "seed": config.seed,
        "measured": config.cost == "measured",
    }


def space_of(profile: Profile, config: SearchConfig) -> Space:
    """The search space of a profile under a configuration.

    Raises:
        DcacheError: the profile lacks the units, or the latencies or FLOPs that costs are computed from.
    """
    if config.cost != "measured" and profile.latencies is None:
        raise DcacheError("the profile has no latencies: observe with timing, or search by measured seconds")
    units = units_of(profile, config.units)
    counted = {} if profile.latencies is None else profile.latencies.flops
    if config.cost == "flops" and not any(counted.get(site) for unit in units for site in unit):
        raise DcacheError("the profile has no FLOPs of these sites: observe again, or search by seconds")
    return Space(profile, units, tuple(RECIPES[name] for name in config.recipes), config.paired)


def fastest(space: Space, by: str) -> float:
    """Largest possible speedup: that of one computed evaluation. Infinity if costs are measured."""
    full = uncached_of(space.profile, by)
    if full is None:
        return inf
    least = cost_of(space.schedule(cheapest(space)).canonical(), space.profile, by)
    return full / least if least > 0.0 else inf


def search(
    profile: Profile,
    config: SearchConfig,
    evaluator: Evaluator,
    prompts: Sequence[str],
    signs: dict[str, int],
    journal: Journal | None = None,
    held_out: bool = False,
    progress: Callable[[Search], None] = lambda _search: None,
) -> Search:
    """Run a search; its result has the front.

    Args:
        profile: profile of the model; candidates are priced from its latencies.
        config: settings of the search.
        evaluator: renders the candidates.
        prompts: prompts of all rungs.
        signs: metric -> 1 if higher is better, else -1.
        journal: evaluations are read from it and logged to it; None keeps them in memory.
        held_out: whether the evaluator has held-out prompts, on which the front is rendered at the end.
        progress: called after every batch.

    Raises:
        DcacheError: the profile lacks sites, latencies or FLOPs, or a metric is no number even with
            everything computed.
    """
    space = space_of(profile, config)
    parts = len(rungs(prompts, config.first))
    log = Journal(None, {}) if journal is None else journal
    state = Search(space, evaluator, log, signs, parts, config.budget, config.cost, progress)
    rng = random.Random(config.seed)
    for_fits, for_local = (round(share * config.budget) for share in (config.fitting, config.finishing))
    _begin(state, config, rng, main=max(2, config.budget - for_fits - for_local))
    limits = [state.uncached / speedup for speedup in config.wanted]
    local = LocalSearch(space, _evaluated(state), rng, config.population, limits)
    state.run(local, config.budget - for_fits - len(state.candidates))
    # Weights are fitted on some prompts and checked on others, so one prompt is too few.
    if config.fitting and len(prompts) > 1:
        state.fit(promising(state, config.wanted))
    # The local search uses up what the fits left of the budget.
    state.run(local, config.budget - state.spent)
    if held_out:
        state.hold_out()
    return state


def _begin(search: Search, config: SearchConfig, rng: random.Random, main: int) -> None:
    """Evaluate both ends of the front, the seeds and the strategy's candidates: `main` evaluations in all."""
    space = search.space
    # Both ends of every front: the uncached run and the cheapest schedule.
    full = space.genome([[True] * space.profile.steps] * len(space.units))
    search.run(_Listed([full], 1), 1)
    _refuse_without_numbers(search)
    search.run(_Listed([cheapest(space)], 1), 1)
    # Seeds take at most half of the evaluations, so that the strategy has some left.
    make = STRATEGIES.get(config.strategy)
    share = main if make is None else main // 2
    first = interleaved(templates(space), planned(space))[:share] if config.seeds else []
    search.run(_Listed(first, config.population), main - len(search.candidates))
    if make is not None:
        start = Start(
            space,
            _evaluated(search),
            rng,
            search.uncached,
            config.population,
            config.mutation,
            config.convention,
        )
        search.run(make(start), main - len(search.candidates))


def _evaluated(search: Search) -> list[tuple[Genome, Objectives]]:
    return [(c.genome, search.objectives(c)) for c in search.candidates.values()]


def promising(search: Search, wanted: Sequence[float]) -> list[Candidate]:
    """Candidates for fits of weights: the best for each wanted speedup, then the second best, ..."""
    (metric, sign), *_ = search.signs.items()
    able = [c for c in search.whole() if not c.fitted and can_fit(c.schedule)]
    able.sort(key=lambda c: -sign * c.value(metric, search.rungs))
    # One of each set of places: a fit ends near the same weights wherever it starts.
    first = {c.genome[: search.space.bits]: c for c in reversed(able)}
    able = [c for c in able if first[c.genome[: search.space.bits]] is c]
    ranked = [[c.digest for c in able if search.uncached / c.cost >= speedup] for speedup in wanted]
    return [search.candidates[digest] for digest in interleaved(*ranked)]


class _Listed:
    """Strategy that proposes given genomes once, in order, a batch at a time."""

    def __init__(self, genomes: Sequence[Genome], batch: int) -> None:
        self.genomes, self.batch = list(genomes), batch

    def ask(self) -> list[Genome]:
        """The next batch; empty when all were proposed."""
        asked, self.genomes = self.genomes[: self.batch], self.genomes[self.batch :]
        return asked

    def tell(self, results: Sequence[tuple[Genome, Objectives]]) -> None:
        """Ignore the results: the genomes are fixed."""


def _refuse_without_numbers(search: Search) -> None:
    (full,) = search.candidates.values()
    wrong = [name for name in search.signs if not isfinite(full.value(name, 1))]
    if wrong:
        raise DcacheError(
            f"{', '.join(wrong)} is no number even with everything computed, so candidates cannot be "
            "compared by it on these prompts. Choose another metric, or more prompts (--first)"
        )
