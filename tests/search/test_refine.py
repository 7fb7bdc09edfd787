"""`dcache.refine`: its plan is used from then on, is what was measured, and goes on after a kill."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheError, DcacheWarning
from dcache.observation.tuning import folder
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.runs import Runs
from tests.pipelines import PIXART

RUNS, CHECKED = 8, 2
pytestmark = pytest.mark.filterwarnings("ignore:.* computes this call of:dcache.DcacheWarning")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for each test."""
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))
    return tmp_path


def runner(pipe: Any, calls: list[int] | None = None, most: int = 10**9) -> Callable[[int], torch.Tensor]:
    """Makes run i of a pipeline, which takes embeddings in place of prompts; killed after `most` calls."""
    calls = [] if calls is None else calls

    def run(i: int) -> torch.Tensor:
        if len(calls) == most:
            raise KeyboardInterrupt
        calls.append(i)
        return PIXART.run(pipe, seed=i)

    return run


def refined(
    pipe: Any, minutes: float = 1e-9, calls: list[int] | None = None, most: int = 10**9, **over: Any
) -> Any:
    return dcache.refine(pipe, RUNS, minutes, run=runner(pipe, calls, most), **{"speedup": 1.5} | over)


def plan_of(pipe: Any) -> str:
    PIXART.run(pipe)
    return dcache.stats(pipe).plan


def test_the_plan_is_used_from_then_on_and_has_the_measured_quality() -> None:
    pipe = PIXART.build()
    result = refined(pipe)
    assert result.psnr >= result.planned
    assert result.prompts == RUNS - CHECKED
    for other in (pipe, copy.deepcopy(pipe)):
        # The copy is another module: its plan comes out of the folder.
        dcache.enable(other, speedup=1.5)
        assert plan_of(other).startswith(
            f"planned by dcache.refine from 6 prompts ({result.psnr:.1f} dB on others): "
        )
        assert dcache.stats(other).predicted > 0
    dcache.disable(pipe)
    judge = Renderer(Runs(pipe, runner(pipe)), [str(i) for i in range(CHECKED)])
    assert judge.quality(result.schedule) == pytest.approx(result.psnr)
    # What enable does is what was measured.
    with dcache.enabled(pipe, speedup=1.5):
        schedule = dcache.trace(pipe) if plan_of(pipe) else None
    assert schedule is not None
    assert judge.quality(schedule) == pytest.approx(result.psnr)


def test_other_speedups_keep_their_plans_and_the_method_that_was_enabled_stays() -> None:
    pipe = dcache.enable(PIXART.build(), "interval", interval=2)
    refined(pipe)
    assert dcache.stats(pipe).method.startswith("interval(")
    PIXART.run(pipe)
    assert dcache.stats(pipe).predicted > 0
    dcache.enable(pipe, speedup=1.2)
    assert plan_of(pipe).startswith("planned from one observed call: ")


def test_without_a_speedup_it_is_that_of_the_enabled_plan() -> None:
    pipe = dcache.enable(PIXART.build(), speedup=1.3)
    result = refined(pipe, speedup=None)
    assert plan_of(pipe).startswith("planned by dcache.refine")
    assert result.speedup >= 1.3
    assert refined(dcache.disable(pipe), speedup=None).speedup >= 2.0


def test_a_speedup_out_of_reach_is_said_before_the_search() -> None:
    calls: list[int] = []
    # Warnings are errors here: the call that observes is all that was made.
    match = r"a speedup of 99 cannot be reached: with 1 of 7 evaluations computed it is \d\.\d\d, and that is"
    with pytest.raises(DcacheWarning, match=match):
        refined(PIXART.build(), calls=calls, speedup=99.0)
    assert len(calls) == 1
    with pytest.warns(DcacheWarning, match=match):
        result = refined(PIXART.build(), speedup=99.0)
    assert 1.0 < result.speedup < 99.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_goes_on_where_it_was_killed_and_ends_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcache.search.refine.BUDGET", 4)
    whole: list[int] = []
    expected = refined(PIXART.build(), 60.0, whole)
    folder.clear()
    calls, rest = len(whole) // 2, []
    with pytest.raises(KeyboardInterrupt):
        refined(PIXART.build(), 60.0, most=calls)
    assert list((home / "refining").iterdir())
    result = refined(PIXART.build(), 60.0, rest)
    assert result.schedule.digest() == expected.schedule.digest()
    assert (result.psnr, result.planned) == (expected.psnr, expected.planned)
    # Three calls look at the pipeline at the start of every run.
    assert len(rest) <= len(whole) - calls + RUNS + 3
    assert list((home / "refining").iterdir()) == []
    # Once more, the earlier one competes.
    assert refined(PIXART.build(), 1e-9).psnr >= expected.psnr


def test_without_a_folder_this_process_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "DCACHE_HOME", "off")
    pipe = PIXART.build()
    refined(pipe)
    assert plan_of(dcache.enable(pipe, speedup=1.5)).startswith("planned by dcache.refine")
    other = dcache.enable(copy.deepcopy(pipe), speedup=1.5)
    assert plan_of(other).startswith("observing")


def test_without_a_folder_nothing_is_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[int] = []
    refined(PIXART.build(), calls=expected)
    monkeypatch.setitem(os.environ, "DCACHE_HOME", "off")
    calls: list[int] = []
    refined(PIXART.build(), calls=calls)
    assert calls == expected


def test_clear_removes_what_a_kill_left(home: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        refined(PIXART.build(), most=20)
    assert list((home / "refining").iterdir())
    assert folder.clear() == 1
    assert not (home / "refining").exists()


def test_what_cannot_be_refined_is_said() -> None:
    pipe = PIXART.build()
    for prompts, count in ((["a"] * 7, "7"), ("a red circle", "one text"), (3, "3")):
        with pytest.raises(DcacheError, match=f"needs a list of 8 or more prompts, got {count}: "):
            dcache.refine(pipe, prompts, run=runner(pipe))
    with pytest.raises(DcacheError, match="minutes must be above 0, got 0"):
        refined(pipe, 0.0)
    with pytest.raises(DcacheError, match="minutes must be a number of at least 0"):
        refined(pipe, float("nan"))
    with pytest.raises(DcacheError, match="speedup must be above 1, got 1"):
        refined(pipe, speedup=1.0)
    with pytest.raises(DcacheError, match="PixArtAlphaPipeline takes no 'step'"):
        dcache.refine(pipe, ["a"] * 8, step=3)
    with pytest.raises(DcacheError, match="prompt, output_type cannot be an option of the calls: "):
        dcache.refine(pipe, ["a"] * 8, prompt="a", output_type="pil")
    with pytest.raises(DcacheError, match="prompts must be texts, got int 3: write each as a string"):
        dcache.refine(pipe, [*["a"] * 7, 3])
    # A quality that no plan has: everything is computed.
    dcache.enable(pipe, "tuned", quality=200.0)
    with pytest.raises(DcacheError, match="there is nothing to refine: all 7 evaluations are computed"):
        dcache.refine(pipe, RUNS, 1e-9, run=lambda i: PIXART.run(pipe, "off", seed=i))
    dcache.disable(pipe)
    module = PIXART.denoiser(pipe)
    with pytest.raises(DcacheError, match="is a module, and what runs it is not known: give run="):
        dcache.refine(module, ["a"] * 8)
    # Nothing stays enabled.
    with pytest.raises(DcacheError, match="needs an object with caching enabled on it"):
        dcache.reset(pipe)
