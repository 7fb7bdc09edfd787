"""Documented modules that moved: their old paths work and warn; the tool rewrites imports."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import dcache.schedulers.planners
import dcache.sites.blocks
from dcache.schedule import noise_levels
from dcache.search.editing import kv_tracks, rope_roles
from dcache.search.genomes import variation
from dcache.search.observing import cost_check
from dcache.search.rendering import render
from dcache.sites import discovery

TOOL = Path(__file__).parents[2] / "tools" / "move_imports.py"
OLD = (
    "dcache.discovery",
    "dcache.sigmas",
    "dcache.adapters.blocks",
    "dcache.schedulers.plans",
    "dcache.search.cost_check",
    "dcache.search.kv_tracks",
    "dcache.search.render",
    "dcache.search.rope_roles",
    "dcache.search.variation",
)
# A name may be the beginning of another: `render`, `rendering`.
BELOW = tuple(f"{name}." for name in OLD)


@pytest.fixture
def forget() -> None:
    for name in [n for n in sys.modules if n in OLD or n.startswith(BELOW) or n == "dcache.adapters"]:
        del sys.modules[name]


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
    ("old", "new", "name", "thing"),
    [
        ("dcache.discovery", "dcache.sites", "discover", discovery.discover),
        ("dcache.sigmas", "dcache.schedule.noise_levels", "adjusted", noise_levels.adjusted),
        ("dcache.adapters.blocks", "dcache.sites.blocks", "SUBLAYERS", dcache.sites.blocks.SUBLAYERS),
        ("dcache.schedulers.plans", "dcache.schedulers.planners", "make", dcache.schedulers.planners.make),
        (
            "dcache.search.cost_check",
            "dcache.search.observing.cost_check",
            "check_cost",
            cost_check.check_cost,
        ),
        ("dcache.search.kv_tracks", "dcache.search.editing.kv_tracks", "Tracks", kv_tracks.Tracks),
        ("dcache.search.render", "dcache.search.rendering.render", "Renderer", render.Renderer),
        (
            "dcache.search.rope_roles",
            "dcache.search.editing.rope_roles",
            "rope_errors",
            rope_roles.rope_errors,
        ),
        (
            "dcache.search.variation",
            "dcache.search.genomes.variation",
            "mutate_each",
            variation.mutate_each,
        ),
    ],
)
def test_an_old_path_gives_the_same_thing_and_says_where_it_is_now(
    old: str, new: str, name: str, thing: object
) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{old} moved to {new}; .*move_imports"):
        module = importlib.import_module(old)
    assert getattr(module, name) is thing


@pytest.mark.usefixtures("forget")
def test_a_planner_is_one_module_under_both_paths() -> None:
    with pytest.warns(DeprecationWarning, match="plans moved to"):
        importlib.import_module("dcache.schedulers.plans")
    old = importlib.import_module("dcache.schedulers.plans.bac")
    assert old is importlib.import_module("dcache.schedulers.planners.bac")


BEFORE = """\
from dcache.sites import Site, cut_into_atoms
from dcache.schedulers.plans import bac, make as plan
from dcache.regions import Region  # kept
from dcache import cost, methods
import dcache.tap


def late():
    from dcache.adapters.blocks import (
        ASIDE,
        SUBLAYERS,
    )

    return ASIDE, SUBLAYERS, dcache.tap.Intercept, "dcache.discovery.discover"
"""
AFTER = """\
from dcache.sites.site import Site
from dcache.sites.structure import cut_into_atoms
from dcache.schedulers.planners import bac, make as plan
from dcache.engine.region import Region  # kept
from dcache.profile import cost
from dcache import methods
import dcache.intercept.module_call


def late():
    from dcache.sites.blocks import ASIDE, SUBLAYERS

    return ASIDE, SUBLAYERS, dcache.intercept.module_call.Intercept, "dcache.sites.discovery.discover"
"""


def test_the_tool_rewrites_imports_once_and_again_changes_nothing(tmp_path: Path) -> None:
    code, prose = tmp_path / "user.py", tmp_path / "notes.md"
    code.write_text(BEFORE)
    prose.write_text("`dcache.sigmas.adjusted` in `dcache/regions.py`, and dcache.enable.")
    for changed in (2, 0):
        done = subprocess.run(
            [sys.executable, TOOL, tmp_path], capture_output=True, text=True, check=True, timeout=60
        )
        assert len(done.stdout.splitlines()) == changed
        assert code.read_text() == AFTER
        assert prose.read_text() == (
            "`dcache.schedule.noise_levels.adjusted` in `dcache/engine/region.py`, and dcache.enable."
        )


BY_HAND = """\
from dcache import sigmas
from dcache.sites import (
    Site,  # a site
    cut_into_atoms,
)
"""
COMMENTED = """\
from dcache.schedulers.plans import (
    make,  # the maker
)
"""


def test_what_has_to_be_changed_by_hand_is_said_and_comments_stay(tmp_path: Path) -> None:
    code = tmp_path / "user.py"
    code.write_text(BY_HAND + COMMENTED)
    command = [sys.executable, TOOL, code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    first, second = done.stderr.splitlines()
    assert first.endswith("line 1: sigmas was split: change this import by hand")
    assert second.endswith("line 2: its names went to several modules: change this import by hand")
    assert code.read_text() == BY_HAND + COMMENTED.replace("plans", "planners")
