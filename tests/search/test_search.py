"""Searches in a small world whose best schedules are known by brute force."""

import itertools
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.profile import cost
from dcache.schedule import Schedule
from dcache.search.evaluating.candidate import Candidate
from dcache.search.evaluating.loop import AROUND as FITS
from dcache.search.evaluating.loop import FIT, Search, Task
from dcache.search.fitting.closed_loop import weights_of
from dcache.search.fitting.placement import even_places
from dcache.search.front_report import hypervolume_history, members, pick, write
from dcache.search.genomes.front import dominates, hypervolume, nondominated
from dcache.search.genomes.initial_population import cheapest
from dcache.search.genomes.space import RECIPES, Space
from dcache.search.genomes.variation import moved, moves, random_genome
from dcache.search.rendering.journal import Journal
from dcache.search.search import SearchConfig, identity_of, open_journal, promising, search
from dcache.search.strategies.map_elites import MapElites
from dcache.search.strategies.nsga2 import NSGA2
from dcache.search.strategies.random_and_local import LocalSearch
from dcache.search.strategies.registry import STRATEGIES
from tests.search.random_walk import STEPS, World, loss, profile

PROMPTS = ["a"] * 4
SIGNS = {"psnr": 1}


def ways(**options: Any) -> SearchConfig:
    usual: dict[str, Any] = {"budget": 200, "population": 12, "recipes": ("reuse",), "first": 2}
    return SearchConfig(**{**usual, "finishing": 0.4, "fitting": 0.0, **options})


def found(asked: SearchConfig, world: World | None = None, journal: Journal | None = None) -> Search:
    return search(profile(), asked, world or World(), PROMPTS, SIGNS, journal)


def front_of(done: Search) -> list[tuple[str, float, float]]:
    return [(c.digest, c.cost, c.value("psnr", 2)) for c in done.front()]


def brute_force() -> dict[int, float]:
    """Computes -> the least loss."""
    best: dict[int, float] = {}
    for bits in itertools.product((False, True), repeat=STEPS - 1):
        count = 1 + sum(bits)
        best[count] = min(best.get(count, float("inf")), loss((True, *bits)))
    return best


def reached(done: Search) -> dict[int, float]:
    """Computes -> the loss of the front's member with so many."""
    rows = [c.schedule.components["transformer"].rows["*"]["trunk"] for c in done.front()]
    return {sum(row): loss(row) for row in rows}


@pytest.mark.parametrize("strategy", ["nsga2", "map-elites"])
def test_with_budget_enough_the_exact_front_is_found(strategy: str) -> None:
    world = World()
    # Three of four seeds find all of the front, the others all of it but one.
    done = found(ways(strategy=strategy, budget=256, seed=3), world)
    assert reached(done) == pytest.approx(brute_force())
    # Nobody twice on the same rung, and no twin at all.
    assert len(world.asked) == len(set(world.asked))
    assert len(done.candidates) <= 256
    assert done.twins == done.asked - len(done.candidates)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_beats_even_places(strategy: str) -> None:
    losses = reached(found(ways(strategy=strategy, budget=100)))
    evenly = {count: loss([t in even_places(count, STEPS) for t in range(STEPS)]) for count in (2, 3, 5)}
    assert all(losses[count] <= evenly[count] for count in evenly)
    assert sum(losses[count] for count in evenly) < 0.95 * sum(evenly.values())


def test_members_of_the_front_do_not_dominate_one_another_and_saw_all_prompts() -> None:
    done = found(ways(budget=60))
    points = [done.objectives(c, 2) for c in done.front()]
    assert not any(dominates(a, b) for a in points for b in points)
    assert all(len(c.results) == 2 for c in done.front())
    assert any(len(c.results) == 1 for c in done.candidates.values())


def test_costs_are_those_of_the_profile() -> None:
    done, timed = found(ways(budget=30)), profile().latencies
    assert timed is not None
    assert all(c.cost == cost.seconds(c.schedule, timed) for c in done.candidates.values())
    full = max(c.cost for c in done.candidates.values())
    assert full == pytest.approx(10.0)


def test_the_same_seed_gives_the_same_search_and_another_seed_another() -> None:
    first, second, other = (found(ways(seed=s, seeds=False, budget=50)) for s in (1, 1, 2))
    assert list(first.candidates) == list(second.candidates)
    assert front_of(first) == front_of(second)
    assert list(first.candidates) != list(other.candidates)


def test_the_programs_own_random_numbers_are_left_alone() -> None:
    before = random.getstate()
    for strategy in STRATEGIES:
        found(ways(budget=40, strategy=strategy))
        assert random.getstate() == before


def test_the_next_generation_depends_on_the_generator_passed_in_alone() -> None:
    space, rng = Space(profile(), (("trunk",),)), random.Random(3)
    known = [(random_genome(space, rng), (float(i), float(-i))) for i in range(8)]
    first, again, other = (NSGA2(space, known, random.Random(s), population=8).ask() for s in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("kept", [1, 7, 30, 55])
def test_a_resumed_search_equals_one_that_was_never_stopped(tmp_path: Path, kept: int) -> None:
    asked = ways(budget=50)
    identity = identity_of(asked, PROMPTS, {"pipeline": "x"})
    whole = found(asked, journal=open_journal(tmp_path, identity, resume=False))
    path = tmp_path / "search.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    # As if killed while a line was written.
    path.write_bytes(b"".join(lines[:kept]) + lines[kept][:25])
    world = World()
    again = found(asked, world, open_journal(tmp_path, identity, resume=True))
    assert front_of(again) == front_of(whole)
    assert list(again.candidates) == list(whole.candidates)
    assert len(world.asked) == len(lines) - kept
    assert sorted(path.read_bytes().splitlines(keepends=True))[-1] in lines


def test_another_strategy_and_budget_find_what_was_evaluated(tmp_path: Path) -> None:
    asked = ways(budget=40)
    identity = identity_of(asked, PROMPTS, {})
    found(asked, journal=open_journal(tmp_path, identity, resume=False))
    for more in ({"budget": 60}, {"strategy": "map-elites", "budget": 60}):
        again, world = ways(**more), World()
        assert identity_of(again, PROMPTS, {}) == identity
        journal = open_journal(tmp_path, identity, resume=True)
        known = set(journal.results)
        done = found(again, world, journal)
        needed = {(c.digest, rung) for c in done.candidates.values() for rung in range(len(c.results))}
        assert set(world.asked) == needed - known
        assert len(needed & known) > 20
        assert front_of(done) == front_of(found(again))


def test_a_picture_that_is_no_number_makes_the_worst_candidate() -> None:
    world = World()
    world.breaks = {3, 5, 8}
    done = found(ways(budget=40), world)
    broken = [c for c in done.candidates.values() if any(r["values"]["psnr"] is None for r in c.results)]
    assert len(broken) == 3
    assert not set(map(id, broken)) & set(map(id, done.front()))


def test_elites_never_get_worse_and_lie_in_their_cells() -> None:
    space = Space(profile(), (("trunk",),))
    elites = MapElites(space, [], random.Random(0), full=10.0, cells=(5, 4), batch=8)
    best: dict[tuple[int, int], float] = {}
    for _ in range(30):
        rows = [(g, space.rows(g)[0]) for g in elites.ask()]
        elites.tell([(g, (float(sum(r)), loss(r))) for g, r in rows])
        for cell, ((genome, objectives),) in elites.elites.items():
            assert elites.cell(genome, objectives) == cell
            assert objectives[1] <= best.get(cell, float("inf"))
            best[cell] = objectives[1]
    assert len(best) > 8


def test_nsga2_keeps_the_best_it_was_told() -> None:
    space = Space(profile(), (("trunk",),))
    evolving = NSGA2(space, [], random.Random(0), population=8)
    seen: list[tuple[float, ...]] = []
    for _ in range(12):
        told = [(g, (float(sum(space.rows(g)[0])), loss(space.rows(g)[0]))) for g in evolving.ask()]
        seen += [objectives for _, objectives in told]
        evolving.tell(told)
        kept = [tuple(one.fitness.values) for one in evolving.parents]
        assert min(k[1] for k in kept) == min(s[1] for s in seen)
        assert min(k[0] for k in kept) == min(s[0] for s in seen)


def test_hypervolume_never_falls() -> None:
    volumes = hypervolume_history(found(ways(budget=80)))
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(volumes))
    assert volumes[-1] > volumes[4] > 0.0


def test_hypervolume_is_the_mean_gain_over_the_cheapest() -> None:
    done = found(ways(budget=80))
    ends = list(done.candidates.values())[:2]
    assert [c.schedule.components["transformer"].computed for c in ends] == [STEPS, 1]
    floor = ends[1].value("psnr", 1)
    # The best that can be had for a cost, over all costs.
    costs = np.linspace(0.0, 1.0 / 1.5, 100_001)
    best = np.zeros_like(costs)
    for one in done.candidates.values():
        best = np.maximum(best, np.where(costs >= one.cost / 10.0, one.value("psnr", 1) - floor, 0.0))
    assert hypervolume_history(done)[-1] == pytest.approx(best.mean() / 1.5, rel=1e-3)


def test_hypervolumes_of_all_strategies_are_measured_from_the_same() -> None:
    every = {found(ways(strategy=s, seeds=seeds)).reference for s in STRATEGIES for seeds in (True, False)}
    assert len(every) == 1
    assert every == {(10.0 / 1.5, -list(found(ways(budget=9)).candidates.values())[1].value("psnr", 1))}


def test_where_one_compute_is_slow_everything_counts() -> None:
    class Slow(World):
        def one(self, schedule: Any, rung: int) -> dict[str, Any]:
            (plan,) = schedule.components.values()
            return super().one(schedule, rung) | {"seconds": 100.0 + plan.computed}

    done = found(ways(budget=20, cost="measured"), Slow())
    assert done.reference is not None
    assert done.reference[0] == 100.0 + STEPS
    assert hypervolume_history(done)[-1] > 0.0


def test_hypervolume_of_several_metrics_is_that_of_the_front() -> None:
    class Three(World):
        def one(self, schedule: Any, rung: int) -> dict[str, Any]:
            made = super().one(schedule, rung)
            (plan,) = schedule.components.values()
            places = [t for t, one in enumerate(plan.rows["*"]["trunk"]) if one]
            value = float(np.mean(places)) * (-1) ** len(places)
            return {**made, "values": made["values"] | {"late": value}, "each": {}}

    signs = {"psnr": 1, "late": -1}
    done = search(profile(), ways(budget=50, metrics=tuple(signs)), Three(), PROMPTS, signs)
    points = [done.objectives(c) for c in done.candidates.values()]
    assert done.reference is not None
    for count, volume in list(enumerate(hypervolume_history(done), 1))[::7]:
        assert volume == pytest.approx(hypervolume(points[:count], done.reference) / 10.0, abs=1e-9)
    # Cells of MAP-Elites hold all that none beats in both metrics.
    elites = MapElites(
        done.space,
        [(c.genome, done.objectives(c)) for c in done.candidates.values()],
        random.Random(0),
        full=10.0,
        cells=(2, 1),
    )
    assert max(map(len, elites.elites.values())) > 1
    for own in elites.elites.values():
        assert not any(dominates(a[1:], b[1:]) for _, a in own for _, b in own)


def test_fitted_weights_enter_the_front_and_count_as_evaluations(tmp_path: Path) -> None:
    asked = ways(budget=120, fitting=0.4, finishing=0.2, recipes=("reuse", "line"), wanted=(2.0,))
    identity = identity_of(asked, PROMPTS, {})
    world = World()
    done = found(asked, world, open_journal(tmp_path, identity, resume=False))
    fitted = [c for c in done.candidates.values() if c.fitted]
    assert len(fitted) >= 2
    assert done.spent <= 120
    assert done.fits == sum(FITS + weights_of(c.schedule, paired=True) - 1 for c in fitted)
    assert any(c.fitted for c in done.front())
    # Those that are fast enough, the best first.
    origins = [key for key in world.asked if key[1] == FIT]
    best = promising(done, (2.0,))
    assert all(done.uncached / c.cost >= 2.0 for c in best)
    assert {digest for digest, _ in origins} <= {c.digest for c in best}
    assert {"closed loop", "reuse"} <= {one.recipe for one in members(done)}
    assert done.twins >= 0
    # Nothing is fitted again.
    again = World()
    resumed = found(asked, again, open_journal(tmp_path, identity, resume=True))
    assert again.asked == []
    assert front_of(resumed) == front_of(done)
    assert [c.fitted for c in resumed.candidates.values()] == [c.fitted for c in done.candidates.values()]


def test_held_out_prompts_are_rendered_of_the_front_alone() -> None:
    world = World()
    done = search(profile(), ways(budget=60), world, PROMPTS, SIGNS, held_out=True)
    held = [digest for digest, rung in world.asked if rung == 2]
    assert held == [c.digest for c in done.front()]
    # The first computes everything, and loses nothing.
    assert members(done)[0].held_out_result == {"psnr": 60.0}
    for one in members(done)[1:]:
        # Of the world's third rung.
        lost = 10 ** (-one.values["psnr"] / 10) / 1.05 * 1.2
        assert one.held_out_result["psnr"] == pytest.approx(-10 * np.log10(lost), abs=0.01)
        assert one.schedule.measured["held_out"] == one.held_out_result


def test_racing_goes_by_the_noise_of_differences() -> None:
    class Shared(World):
        """Prompts differ a lot, and by the same for every schedule."""

        def one(self, schedule: Any, rung: int) -> dict[str, Any]:
            made = super().one(schedule, rung)
            value = made["values"]["psnr"]
            return {**made, "each": {"psnr": [value - 20.0, value + 20.0]}}

    done = found(ways(budget=100), Shared())
    # Each alone is uncertain by 20 dB, the differences are certain.
    assert min(c.noise("psnr") for c in done.candidates.values()) > 19.0
    raced = [c for c in done.candidates.values() if len(c.results) == 2]
    assert len(raced) < 0.5 * len(done.candidates)


def test_nobody_is_beaten_by_less_than_the_noise() -> None:
    class Noisy(World):
        """No two schedules agree on which prompt is the harder, and by how much."""

        def one(self, schedule: Any, rung: int) -> dict[str, Any]:
            made = super().one(schedule, rung)
            value, off = made["values"]["psnr"], 1000.0 * len(self.asked)
            return {**made, "each": {"psnr": [value - off, value + off]}}

    done = found(ways(budget=40), Noisy())
    assert all(len(c.results) == 2 for c in done.candidates.values())


def test_one_is_ahead_by_what_is_certain_of_the_difference() -> None:
    def candidate(*values: float) -> Candidate:
        said = {"values": {"psnr": float(np.mean(values))}, "each": {"psnr": list(values)}}
        return Candidate((0,), Schedule.of_steps([0], STEPS), "digest", 0, 1.0, [said])

    one, other = candidate(21.0, 13.0), candidate(20.0, 10.0)
    # Differences of 1 and 3: 2 on average, the standard error of which is 1.
    assert one.ahead(other, "psnr", 1) == pytest.approx(2.0 - 1.0)
    assert other.ahead(one, "psnr", 1) == pytest.approx(-2.0 - 1.0)
    assert other.ahead(one, "psnr", -1) == pytest.approx(2.0 - 1.0)
    assert one.ahead(one, "psnr", 1) == 0.0
    # Without figures of single pictures the mean is all there is.
    other.results[0]["each"] = {}
    assert one.ahead(other, "psnr", 1) == pytest.approx(2.0)


def test_what_is_written_can_be_loaded_and_picked_from(tmp_path: Path) -> None:
    done, asked = found(ways(budget=60)), ways(budget=60)
    write(done, asked, {"pipeline": "x"}, tmp_path)
    front = members(done)
    files = sorted((tmp_path / "schedules").iterdir())
    assert [f.name for f in files] == [f"{one.name}.schedule.json" for one in front]
    assert [Schedule.load(f).digest() for f in files] == [one.schedule.digest() for one in front]
    lines = (tmp_path / "front.csv").read_text().splitlines()
    assert len(lines) == len(front) + 1
    page = (tmp_path / "front.html").read_text()
    assert page.count("<img") == len(front) + 1
    assert (tmp_path / "front.png").stat().st_size > 5000
    best = pick(front, 2.0, "psnr", 1)
    assert best.values["psnr"] == max(one.values["psnr"] for one in front if one.speedup >= 2.0)
    with pytest.raises(DcacheError, match=r"expected to be 50x: at most"):
        pick(front, 50.0, "psnr", 1)
    # A second writing leaves no schedule of the first behind.
    write(found(ways(budget=20)), asked, {}, tmp_path)
    assert len(list((tmp_path / "schedules").iterdir())) == len(members(found(ways(budget=20))))


class Killed(World):
    """Is killed while it renders its seventh picture."""

    def evaluate(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        for schedule, rung in tasks:
            if len(self.asked) == 7:
                raise KeyboardInterrupt
            yield self.one(schedule, rung)


def test_what_was_rendered_of_a_batch_is_kept(tmp_path: Path) -> None:
    asked = ways(budget=60)
    told: list[Search] = []
    journal = open_journal(tmp_path, identity_of(asked, PROMPTS, {}), resume=False)
    with pytest.raises(KeyboardInterrupt):
        search(profile(), asked, Killed(), PROMPTS, SIGNS, journal, progress=told.append)
    assert len(open_journal(tmp_path, identity_of(asked, PROMPTS, {}), resume=True).results) == 7
    # What there is makes a front, without those that were about to be rendered.
    stopped = told[-1]
    stopped.stop()
    assert 3 <= len(stopped.candidates) <= 7
    assert all(c.results for c in stopped.candidates.values())
    assert stopped.twins >= 0
    write(stopped, asked, {}, tmp_path)


def test_seeds_come_in_batches_too() -> None:
    sizes: list[int] = [0]
    asked = ways(population=4)
    search(profile(), asked, World(), PROMPTS, SIGNS, progress=lambda s: sizes.append(len(s.candidates)))
    assert max(b - a for a, b in itertools.pairwise(sizes)) <= 4


def test_evolution_begins_with_the_best_that_is_known() -> None:
    space = Space(profile(), (("trunk",),))
    rng = random.Random(1)
    many = [(random_genome(space, rng), (float(i % 20), float(-(i // 20) * i))) for i in range(40)]
    told = dict(many)
    values = list(told.values())
    best = {values[i] for i in nondominated(values)}
    evolving = NSGA2(space, many, random.Random(0), population=8)
    kept = {told[tuple(one)] for one in evolving.parents}
    assert len(evolving.parents) == 8
    assert kept <= best or best <= kept
    elites = MapElites(space, many, random.Random(0), full=20.0, batch=8)
    assert elites.elites
    # Bred and varied, not asked for again.
    for strategy in (evolving, elites):
        assert len(strategy.ask()) == 8
        assert len(set(strategy.ask()) - set(told)) >= 4


def test_speedups_are_against_an_uncached_call() -> None:
    class Noisy(World):
        def one(self, schedule: Any, rung: int) -> dict[str, Any]:
            (plan,) = schedule.components.values()
            # One of the measured calls is held up, and takes longer than any other.
            late = 50.0 if len(self.asked) == 5 else 0.0
            return super().one(schedule, rung) | {"seconds": 1.0 + plan.computed + late}

    done = found(ways(budget=30, cost="measured"), Noisy())
    assert done.uncached == 1.0 + STEPS
    assert max(c.cost for c in done.candidates.values()) > 50.0
    assert members(done)[0].speedup == pytest.approx(1.0)
    assert members(done)[-1].speedup <= 5.0


def test_no_number_and_no_end_are_never_on_the_front() -> None:
    class Endless(World):
        def one(self, schedule: Any, rung: int) -> dict[str, Any]:
            (plan,) = schedule.components.values()
            made = super().one(schedule, rung)
            return made | {"each": {"psnr": [float("-inf"), 1.0]}} if plan.computed == 1 else made

    done = found(ways(budget=60), Endless())
    computed = [c.schedule.components["transformer"].computed for c in done.candidates.values()]
    assert done.broken == computed.count(1) == 1
    # Nothing is cheaper, and yet the other prompts are spared.
    assert [len(c.results) for c in done.candidates.values()][computed.index(1)] == 1
    assert all(c.schedule.components["transformer"].computed > 1 for c in done.front())
    nothing = World()
    nothing.breaks = set(range(1000))
    with pytest.raises(DcacheError, match="psnr is no number even with everything computed"):
        found(ways(), nothing)
    assert len(nothing.asked) <= 2


def test_one_function_has_one_recipe() -> None:
    space = Space(profile(), (("trunk",),), tuple(RECIPES.values()))

    def functions(*computed: int) -> int:
        row = [t in computed for t in range(STEPS)]
        return len({space.schedule(space.genome([row], r)).digest() for r in range(len(RECIPES))})

    assert functions(*range(STEPS)) == 1
    # Of one anchor they differ in what is remembered alone; what is cheapest reuses changes where it may.
    other = replace(space, recipes=tuple(reversed(space.recipes)))
    assert space.schedule(cheapest(space)).digest() == other.schedule(cheapest(other)).digest()
    assert functions(0) == functions(0, STEPS - 1) == 2
    assert functions(0, 3) == len(RECIPES)
    # Where there are no halves to carry apart, three of them are one.
    space = replace(space, paired=False)
    assert functions(0, 3) == len(RECIPES) - 2
    # Guidance that is told as a number tells nothing of halves; without guidance there are none.
    for guidance, paired, expected in [(3.5, False, False), (3.5, None, True), (1.0, None, False)]:
        told = replace(space, profile=replace(space.profile, guidance=guidance), paired=paired)
        assert told.halves is expected


@pytest.mark.parametrize(("budget", "finishing"), [(1, 0.4), (2, 0.9), (5, 0.99), (3, 0.0)])
def test_the_smallest_budgets_are_kept(budget: int, finishing: float) -> None:
    for strategy in STRATEGIES:
        done = found(ways(budget=budget, finishing=finishing, strategy=strategy))
        assert 1 <= len(done.candidates) <= budget
        # Both ends come first: the second is what hypervolumes are measured from.
        ends = [c.schedule.components["transformer"].computed for c in done.candidates.values()][:2]
        assert ends == [STEPS, 1][:budget]


def test_many_units_fit_into_memory() -> None:
    sites = [f"attn:{i}" for i in range(84)]
    space = Space(profile(50, sites), tuple((site,) for site in sites))
    rng = random.Random(0)
    told = [(random_genome(space, rng), (float(i), float(-i))) for i in range(20)]
    around = LocalSearch(space, told, rng, 24)
    tracemalloc.start()
    asked = around.ask()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(asked)) == 24
    assert most < 60e6, f"{most / 1e6:.0f} MB"


def test_half_of_the_local_search_is_around_the_best_within_each_limit() -> None:
    space = Space(profile(), (("trunk",),))
    rng = random.Random(3)
    told = {
        (g := random_genome(space, rng)): (float(sum(space.rows(g)[0])), loss(space.rows(g)[0]))
        for _ in range(40)
    }
    limit = 5.0
    best = sorted((g for g in told if told[g][0] <= limit), key=lambda g: told[g][1])[:4]
    around = LocalSearch(space, list(told.items()), random.Random(0), 16, [limit])
    asked = around.ask()
    assert len(set(asked)) == 16
    assert not set(asked) & set(told)
    near = {moved(g, move) for g in best for move in moves(g, space)}
    assert set(asked[:8]) <= near
    # Each of them has its share.
    assert all(set(asked[:8]) & {moved(g, m) for m in moves(g, space)} for g in best)
    # Where nothing is within a limit all of the batch is around the front.
    assert len(LocalSearch(space, list(told.items()), random.Random(0), 16, [0.5]).ask()) == 16


def test_costs_that_were_not_counted_are_refused() -> None:
    with pytest.raises(DcacheError, match="no FLOPs of these sites"):
        found(ways(cost="flops"))


def test_files_of_others_stay(tmp_path: Path) -> None:
    other = tmp_path / "schedules" / "mine.schedule.json"
    other.parent.mkdir()
    other.write_text("{}")
    for budget in (60, 20):
        write(found(ways(budget=budget)), ways(), {}, tmp_path)
    assert other.exists()
    assert len(list(other.parent.iterdir())) == len(members(found(ways(budget=20)))) + 1


def test_what_makes_no_sense_is_refused() -> None:
    for wrong, match in [
        ({"strategy": "magic"}, "a strategy is one of nsga2"),
        ({"recipes": ("reuse", "hope")}, "recipes are some of reuse"),
        ({"finishing": 0.7, "fitting": 0.3}, "whose sum is below 1, got 0.7 and 0.3"),
        ({"fitting": -0.1}, "are shares between 0 and 1"),
        ({"mutation": -0.1}, "rate lies between 0 and 1"),
        ({"wanted": (3.0, 0.0)}, "wanted speedups are numbers above 0"),
        ({"wanted": (float("nan"),)}, "wanted speedups are numbers above 0"),
        ({"first": 0}, "one prompt or more in its first rung"),
    ]:
        with pytest.raises(DcacheError, match=match):
            ways(**wrong)
    with pytest.raises(DcacheError, match="budget of at least one evaluation, got 0"):
        found(ways(budget=0))
    with pytest.raises(DcacheError, match="multiple of four, got 6"):
        found(ways(population=6))
    with pytest.raises(DcacheError, match="the cost is one of seconds"):
        found(ways(cost="hope"))
