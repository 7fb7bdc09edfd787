"""How a search ends: fits of weights, held-out prompts, interrupts, speedups that nobody reaches."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dcache.search.evaluating.loop import AROUND, FIT, Search, Task
from dcache.search.fitting.closed_loop import weights_of
from dcache.search.front_report import hypervolume_history, members, write
from dcache.search.search import SearchConfig, fastest, identity_of, open_journal, promising, search, space_of
from tests.search.random_walk import World, profile

PROMPTS = ["a"] * 4
SIGNS = {"psnr": 1}
HELD = 2


def ways(**options: Any) -> SearchConfig:
    usual: dict[str, Any] = {"budget": 120, "population": 12, "recipes": ("reuse", "line"), "first": 2}
    return SearchConfig(**{**usual, "finishing": 0.2, "fitting": 0.4, "wanted": (2.0,), **options})


class Until(World):
    """Hands over one result after the other; is interrupted before the so manieth of a kind of task."""

    def __init__(self, rung: int, count: int) -> None:
        super().__init__()
        self.rung, self.count = rung, count

    def evaluate(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for schedule, rung in tasks:
            if rung == self.rung and sum(r == rung for _, r in self.asked) == self.count:
                raise KeyboardInterrupt
            yield self.one(schedule, rung)


def stopped(world: World, asked: SearchConfig, journal: Any = None, held_out: bool = False) -> Search:
    """A search that was interrupted, as the command has it."""
    told: list[Search] = []
    with pytest.raises(KeyboardInterrupt):
        search(profile(), asked, world, PROMPTS, SIGNS, journal, held_out, told.append)
    told[-1].stop()
    return told[-1]


def columns(out: Path) -> list[dict[str, str]]:
    with (out / "front.csv").open(encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_an_interrupt_amid_fits_counts_those_that_were_made(tmp_path: Path) -> None:
    whole = search(profile(), ways(), World(), PROMPTS, SIGNS)
    identity = identity_of(ways(), PROMPTS, {})
    done = stopped(Until(FIT, 1), ways(), open_journal(tmp_path, identity, resume=False))
    first = promising(done, (2.0,))[0]
    assert done.fits == AROUND + weights_of(first.schedule, paired=True) - 1
    assert whole.fits > done.fits
    assert not any(c.fitted for c in done.candidates.values())
    write(done, ways(), {}, tmp_path)
    # The one fit that was made is not made again, and the end is the same.
    world = World()
    again = search(profile(), ways(), world, PROMPTS, SIGNS, open_journal(tmp_path, identity, resume=True))
    assert (first.digest, FIT) not in world.asked
    assert list(again.candidates) == list(whole.candidates)
    assert again.fits == whole.fits


def test_progress_is_told_after_every_fit() -> None:
    spent: list[int] = []
    done = search(profile(), ways(), World(), PROMPTS, SIGNS, progress=lambda s: spent.append(s.fits))
    made = sum(c.fitted for c in done.candidates.values())
    assert made >= 2
    assert len(set(spent) - {0}) == made


def test_what_was_spent_counts_renderings_of_fits() -> None:
    world = World()
    done = search(profile(), ways(), world, PROMPTS, SIGNS)
    every = list(done.candidates.values())
    fitted = [c for c in every if c.fitted]
    before = [c for c in every if c.number < fitted[0].number]
    assert [c.spent for c in before] == list(range(1, len(before) + 1))
    assert fitted[0].spent == len(before) + done.fits + 1
    assert every[-1].spent == done.spent <= 120
    # All that was rendered on the first prompts is a candidate, and every fit has its price.
    assert sum(rung == 0 for _, rung in world.asked) == len(every)
    assert sum(rung == FIT for _, rung in world.asked) == len(fitted)
    assert done.fits >= len(fitted) * AROUND


def test_a_fit_that_is_too_dear_makes_room_for_the_next() -> None:
    done = search(profile(), ways(fitting=0.0), World(), PROMPTS, SIGNS)
    best = promising(done, (2.0,))
    takes = [AROUND + weights_of(c.schedule, paired=True) for c in best]
    least = min(takes)
    cheap = takes.index(least)
    assert takes[0] > least
    done.budget = done.spent + least
    world = done.evaluator
    assert isinstance(world, World)
    done.fit(best)
    assert [digest for digest, rung in world.asked if rung == FIT] == [best[cheap].digest]
    assert done.spent <= done.budget


@pytest.mark.parametrize(("more", "count"), [(0, 2), (-1, 1)])
def test_as_many_are_fitted_as_the_budget_has_renderings_for(more: int, count: int) -> None:
    done = search(profile(), ways(fitting=0.0), World(), PROMPTS, SIGNS)
    best = promising(done, (2.0,))
    assert len(best) > 2
    takes = [AROUND + weights_of(c.schedule, paired=True) for c in best]
    done.budget = done.spent + sum(takes[:2]) + more
    world = done.evaluator
    assert isinstance(world, World)
    done.fit(best)
    assert [digest for digest, rung in world.asked if rung == FIT] == [c.digest for c in best[:count]]
    assert done.spent <= done.budget
    assert done.fits == sum(takes[:count]) - count


def test_without_halves_a_fit_has_half_the_weights() -> None:
    for paired in (True, False):
        done = search(profile(), ways(paired=paired), World(), PROMPTS, SIGNS)
        fitted = [c for c in done.candidates.values() if c.fitted]
        assert len(fitted) >= 2
        assert done.fits == sum(AROUND + weights_of(c.schedule, paired) - 1 for c in fitted)
    assert weights_of(fitted[0].schedule, paired=True) == 2 * weights_of(fitted[0].schedule, paired=False) > 0


def test_one_prompt_has_none_to_check_weights_on() -> None:
    world = World()
    done = search(profile(), ways(), world, ["a"], SIGNS)
    assert not done.fits
    assert not any(rung == FIT for _, rung in world.asked)
    # What fits had no use for went into the local search.
    assert done.spent == len(done.candidates) > 0.6 * 120


def test_a_speedup_that_nobody_reaches_leaves_all_to_the_others() -> None:
    # With other seeds the local search has converged before the rest is spent.
    done = search(profile(), ways(wanted=(50.0,), seed=2), World(), PROMPTS, SIGNS)
    assert not done.fits
    assert done.spent == len(done.candidates) > 0.6 * 120
    # One second of ten is not the sites', remembering takes a tenth of each site's share.
    assert fastest(space_of(profile(), ways()), "seconds") == pytest.approx(members(done)[-1].speedup)
    assert fastest(space_of(profile(), ways(cost="measured")), "measured") == float("inf")


def test_held_out_pictures_that_are_no_number_lose_nothing_else(tmp_path: Path) -> None:
    class Broken(World):
        def one(self, schedule: Any, rung: int) -> dict[str, Any]:
            made = super().one(schedule, rung)
            wrong = rung == HELD and sum(r == HELD for _, r in self.asked) == 2
            return made | {"values": {"psnr": None}, "each": {}} if wrong else made

    done = search(profile(), ways(), Broken(), PROMPTS, SIGNS, held_out=True)
    write(done, ways(), {}, tmp_path)
    values = [one.held_out_result["psnr"] for one in members(done)]
    assert values.count(None) == 1
    assert [row["psnr_held_out"] for row in columns(tmp_path)].count("") == 1
    rows = json.loads((tmp_path / "front.json").read_text())["front"]
    assert [row["psnr_held_out"] for row in rows] == values


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_interrupt_amid_the_held_out_prompts_leaves_the_front(tmp_path: Path, count: int) -> None:
    done = stopped(Until(HELD, count), ways(), held_out=True)
    write(done, ways(), {}, tmp_path)
    found = [row.get("psnr_held_out") for row in columns(tmp_path)]
    assert len(found) == len(done.front()) > 3
    assert sum(bool(value) for value in found) == count
    assert sum("held_out" in one.schedule.measured for one in members(done)) == count
    assert (tmp_path / "front.html").read_text().count("<img") == len(found) + 1


def test_hypervolumes_are_drawn_over_all_that_was_spent(tmp_path: Path) -> None:
    done = search(profile(), ways(), World(), PROMPTS, SIGNS)
    write(done, ways(), {}, tmp_path)
    content = json.loads((tmp_path / "front.json").read_text())
    assert content["spent"][-1] == done.spent == content["evaluations"] + content["renderings_of_fits"]
    assert len(content["spent"]) == len(content["hypervolume"]) == len(hypervolume_history(done))
