"""Bad calls from Python: one `DcacheError` that says what was expected, before anything is loaded."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from dcache import methods
from dcache.errors import DcacheError
from dcache.eval.evaluation import evaluate
from dcache.eval.prompts import read
from dcache.eval.settings import Settings
from dcache.eval.specs import parse
from dcache.eval.subject import load, placed
from dcache.importers import read as read_foreign
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers import DeltaDitStages
from dcache.search.search import SearchConfig
from tests.rules import moment

CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: Schedule.load(3), "expected the path of a schedule file, got 3"),
    (lambda: Schedule.load(None), "expected the path of a schedule file, got None"),
    (lambda: Schedule.load(""), "expected the path of a schedule file, got ''"),
    (lambda: Schedule.load(b"a.json"), "expected the path of a schedule file"),
    (lambda: Schedule.load("nowhere.json"), "cannot read the schedule nowhere.json: there is no such file"),
    (lambda: Schedule.of_steps([0], 2).save(3), "expected the path of a schedule file, got 3"),
    (lambda: Profile.load(3), "expected the path of a profile file, got 3"),
    (lambda: Profile.load("nowhere.safetensors"), "there is no such file"),
    (lambda: methods.cachequant(steps=-4), "steps must be a list of whole numbers, got -4"),
    (lambda: methods.cachequant(steps="024"), "steps must be a list of whole numbers, got '024'"),
    (lambda: methods.cachequant(steps=[0, -1]), "every entry of steps must be a whole number of at least 0"),
    (lambda: methods.ertacache(steps=3), "steps must be a list of whole numbers, got 3"),
    (lambda: methods.deepcache(steps=3), "steps must be a list of whole numbers, got 3"),
    (lambda: methods.profilingdit([1], steps=3), "steps must be a list of whole numbers, got 3"),
    (lambda: methods.fbcache(max_run=0), "max_run must be a whole number of at least 1, got 0"),
    (lambda: methods.dbcache(max_run=0), "max_run must be a whole number of at least 1, got 0"),
    (lambda: methods.seacache(max_run=-1), "max_run must be a whole number of at least 1, got -1"),
    (lambda: methods.magcache(ratios=[1, 1], max_run=0), "max_run must be a whole number of at least 1"),
    (lambda: methods.delta_dit(boundary=5.0), "boundary as a share must lie between 0 and 1"),
    (lambda: methods.delta_dit(boundary=-1), "boundary must be a whole number of at least 0"),
    (lambda: Settings(steps=0), "steps must be a whole number between 1"),
    (lambda: Settings(steps=True), "steps must be a whole number between 1"),
    (lambda: Settings(height=-5), "height must be a whole number between 1"),
    (lambda: Settings(seed=10**20), "seed must be a whole number between 0"),
    (lambda: Settings(guidance=math.nan), "guidance must be a number of at least 0"),
    (lambda: Settings(guidance="3"), "guidance must be a number of at least 0"),
    (lambda: SearchConfig(budget=0), "budget of at least one evaluation"),
    (lambda: SearchConfig(mutation=math.nan), "between 0 and 1"),
    (lambda: load("demo", device="bogus"), "there is no device 'bogus'"),
    (lambda: load("demo", device="cuda:99"), "device"),
    (lambda: load("demo", height=7), "height must be a multiple of 8 for demo, got 7"),
    (lambda: load("demo", frames=5), "leave --frames out"),
    (lambda: load("demo", steps=1), "steps must be at least 2 for demo, got 1"),
    (lambda: load("./nowhere"), "there is no folder ./nowhere"),
    (lambda: load(""), "no pipeline has the name ''"),
    (lambda: placed("float8", "cpu"), "dtype must be one of"),
    (lambda: read(""), "no prompts in ''"),
    (lambda: read("nowhere.txt"), "cannot read the prompts nowhere.txt"),
    (lambda: read("demmo:8"), "Did you mean 'demo'?"),
    (lambda: read("a\0b"), "no prompts in"),
    (lambda: parse(""), "names none"),
    (lambda: evaluate("demo", "demo:1", "newtn", out="out"), "Did you mean 'newton'"),
    (lambda: evaluate("demo", "demo:1", out="out", stages=["draw"]), "stages must be some of"),
    (lambda: read_foreign("nowhere.json"), "No such file or directory"),
    (lambda: read_foreign("nowhere.json", "magic"), "format 'magic' is unknown"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_a_bad_call_says_what_was_expected(
    call: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dcache.demo.pipeline.load_pipeline", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(DcacheError) as caught:
        call()
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_boundary_behind_the_run_is_refused_when_the_run_begins() -> None:
    rule = DeltaDitStages(5, 2)
    with pytest.raises(DcacheError, match=r"boundary=5 is behind the run's last evaluation.* at most 4"):
        rule(moment(1, count=4, depth=4))
    # The second stage of a run of five never begins: the planner may choose that.
    assert rule(moment(1, count=5, depth=4)) == "stage"
