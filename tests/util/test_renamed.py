"""Old names of public things work until a later version, and say what the new ones are."""

import importlib
import sys

import pytest

import dcache
from dcache.util.renamed import REMOVED_IN

NAMES = [
    ("dcache.probes", "Gauge", "SinceCompute"),
    ("dcache.probes", "StepGauge", "SinceStep"),
    ("dcache.schedulers", "Moment", "StepContext"),
    ("dcache.schedulers", "Above", "ChangeAbove"),
    ("dcache.schedulers", "Outside", "OutsideWindow"),
    ("dcache.schedulers", "Multiple", "EveryNthIndex"),
    ("dcache.schedulers", "Magnitude", "MagCacheRule"),
    ("dcache.schedulers", "Stage", "DeltaDitStages"),
    ("dcache.schedulers", "Row", "StepTable"),
    ("dcache.predictors", "Everywhere", "SiteIndependent"),
    ("dcache.profile", "Tables", "FeatureTables"),
]


@pytest.mark.parametrize(("module", "old", "new"), NAMES)
def test_an_old_name_gives_the_same_thing_and_warns(module: str, old: str, new: str) -> None:
    room = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"{module}\.{old} is named {new} now"):
        assert getattr(room, old) is getattr(room, new)


@pytest.mark.parametrize(
    "module", ["dcache.probes", "dcache.schedulers", "dcache.predictors", "dcache.profile"]
)
def test_an_unknown_name_is_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'bogus'"):
        importlib.import_module(module).bogus  # noqa: B018


def test_the_old_module_of_bench_entries_works_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    from dcache.eval.entries import BenchEntry

    # It warns when it is imported first, which another test of this process may have done.
    monkeypatch.delitem(sys.modules, "dcache.eval.contest", raising=False)
    with pytest.warns(DeprecationWarning, match=r"dcache\.eval\.contest moved to dcache\.eval\.entries"):
        contest = importlib.import_module("dcache.eval.contest")
    assert contest.Contestant is BenchEntry


def test_old_names_are_removed_when_their_version_comes() -> None:
    running = tuple(int(part) for part in dcache.__version__.split(".")[:2])
    assert running < tuple(int(part) for part in REMOVED_IN.split("."))
