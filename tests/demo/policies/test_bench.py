"""The closed-loop bench and its journal: every episode once, whatever stopped it."""

from pathlib import Path

import pytest

from dcache.demo.policies.bench import HELD_OUT, bench
from dcache.demo.policies.closed_loop import Result
from dcache.demo.policies.figures import figures
from dcache.demo.policies.journal import Journal
from dcache.demo.policies.settings import parse
from dcache.errors import DcacheError
from tests.demo.policies.toy_task import Sum, policy

SETTINGS = parse("ddim:4; ddim:2; ddim:4 warm=1")


def run(path: Path, episodes: int) -> Journal:
    journal = Journal(path, "a")
    bench(policy(), SETTINGS, episodes, 2, journal, lambda steps: pytest.fail("no profile is needed"))
    return journal


def test_a_bench_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "toy.jsonl"
    run(path, 3)
    before = path.read_text(encoding="utf-8").splitlines()
    assert len(before) == 3 * len(SETTINGS)
    # The last line is torn: that episode alone is run again, and two more of each setting.
    path.write_text("\n".join(before)[:-20], encoding="utf-8")
    journal = run(path, 5)
    after = path.read_text(encoding="utf-8").splitlines()
    assert len(after) == len(before) + 1 + 2 * len(SETTINGS)
    again = Journal(path, "a")
    assert again.damaged == 1
    assert again.results == journal.results
    for setting in SETTINGS:
        assert sorted(again.of(setting.spec)) == list(range(HELD_OUT, HELD_OUT + 5))


def test_a_missing_simulator_is_said_before_anything_is_planned_and_only_where_one_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(task: Sum) -> None:
        raise DcacheError("the simulator needs gym")

    done = run(tmp_path / "toy.jsonl", 2)
    monkeypatch.setattr(Sum, "simulator", missing)
    planned = parse("ddim:4 bac:speedup=2")
    with pytest.raises(DcacheError, match="the simulator needs gym"):
        bench(policy(), planned, 1, 1, done, lambda steps: pytest.fail("a profile was asked for"))
    assert run(tmp_path / "toy.jsonl", 2).results == done.results


def test_results_of_another_policy_do_not_count(tmp_path: Path) -> None:
    run(tmp_path / "toy.jsonl", 1)
    assert Journal(tmp_path / "toy.jsonl", "b").results == {}


def test_figures_are_paired_by_episode() -> None:
    def result(episode: int, success: bool, progress: float, seconds: float = 1.0) -> Result:
        return Result(episode, success, progress, 10, 2, seconds)

    reference = {0: result(0, True, 1.0), 1: result(1, False, 0.5), 2: result(2, True, 1.0)}
    other = {0: result(0, True, 1.0, 0.5), 1: result(1, True, 0.9, 0.5)}
    first, second = figures({"a": reference, "b": other, "c": {}}, "a")
    assert (first.episodes, first.success, first.difference, first.speedup) == (3, 2 / 3, None, 1.0)
    assert first.chunks_per_second == 2.0
    # Episodes 0 and 1 are shared: differences 0 and 1 in success, 0 and 0.4 in progress.
    assert second.difference is not None
    assert second.progress_difference is not None
    assert second.difference == (0.5, 0.0, 1.0)
    assert second.progress_difference == pytest.approx((0.2, 0.0, 0.4))
    assert second.speedup == 2.0
