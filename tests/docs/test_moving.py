"""The page on moving from 0.1 lists every old path and name that works for one version, and what it gives."""

import ast
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dcache import Method, Schedule, methods
from dcache.cli import main
from dcache.errors import DcacheError
from dcache.kernels import launch
from dcache.predictors import Fitted
from dcache.predictors.corrections import Corrector
from dcache.schedule.plan import Plan
from dcache.sites.blocks import Fused
from dcache.sites.site import Sublayer
from dcache.sites.structure import Structure

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dcache"
PAGE = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
ELSEWHERE = {"dcache.eval.contest", "dcache.schedulers.plans"}


def table(heading: str) -> dict[str, str]:
    """Old -> new of the section's table."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", section, re.MULTILINE))


PATHS, NAMES = table("Paths that warn"), table("Names that warn")


def test_every_old_path_is_listed() -> None:
    files = [
        path.relative_to(PACKAGE / "moved").with_suffix("") for path in (PACKAGE / "moved").rglob("*.py")
    ]
    modules = {".".join(("dcache", *path.parts)) for path in files if path.name != "__init__"}
    assert set(PATHS) == modules | ELSEWHERE


@pytest.mark.parametrize("old", sorted(PATHS))
def test_an_old_path_warns_of_the_new_one(old: str) -> None:
    for name in [name for name in sys.modules if name == old or name.startswith(f"{old}.")]:
        del sys.modules[name]
    with pytest.warns(DeprecationWarning, match=rf"{old} moved to {PATHS[old]}; "):
        importlib.import_module(old)
    importlib.import_module(PATHS[old])


@pytest.mark.filterwarnings("ignore:dcache.eval.contest moved:DeprecationWarning")
@pytest.mark.parametrize("old", sorted(NAMES))
def test_an_old_name_is_the_new_thing(old: str) -> None:
    module, _, name = old.rpartition(".")
    new_module, _, new_name = NAMES[old].rpartition(".")
    thing = getattr(importlib.import_module(new_module or module), new_name)
    if new_module:
        assert getattr(importlib.import_module(module), name) is thing
        return
    with pytest.warns(DeprecationWarning, match=f"{old} is named {new_name} now"):
        assert getattr(importlib.import_module(module), name) is thing


def test_every_old_name_is_listed() -> None:
    renamed = {
        f"dcache.{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts).removesuffix('.__init__')}.{old}"
        for path in PACKAGE.rglob("*.py")
        for block in re.findall(r"renamed\(\s*__name__,\s*\{(.*?)\}", path.read_text(encoding="utf-8"), re.S)
        for old in re.findall(r'"(\w+)": "', block)
    }
    assert renamed == {name for name in NAMES if not name.startswith("dcache.eval.contest.")}


def section(heading: str) -> str:
    """The text of one section of the page."""
    return PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]


# Renamed without a warning --------------------------------------------------------------------------

SILENT = re.findall(r"^\| (.+?) \| (.+?) \|$", section("Renamed without a warning"), re.MULTILINE)[1:]
CLASSES: dict[str, Any] = {
    "Corrector": Corrector,
    "Fitted": Fitted,
    "Fused": Fused,
    "Method": Method,
    "Plan": Plan,
    "Schedule": Schedule,
    "Structure": Structure,
    "Sublayer": Sublayer,
}


def members(thing: Any) -> set[str]:
    """Names of a class's fields, annotations and methods, or of a module's contents."""
    declared = {name for part in getattr(thing, "__mro__", ()) for name in inspect.get_annotations(part)}
    return {*dir(thing), *declared}


def named(text: str, owners: list[str]) -> Iterator[tuple[Any, str, bool]]:
    """Each name in backticks: whose it is, the member's name, and whether it is a parameter of that."""
    for name in re.findall(r"`([^`]+)`", text):
        owner, _, member = name.partition("(")[0].rpartition(".")
        parameter = re.search(r"\((\w+)=\)$", name)
        if parameter is not None:
            yield CLASSES[member], parameter[1], True
        elif owner in CLASSES:
            yield CLASSES[owner], member, False
        elif owner:
            yield importlib.import_module(owner), member, False
        else:
            yield from ((CLASSES[each], member or name, False) for each in owners)


def has(thing: Any, name: str, is_parameter: bool) -> bool:
    """Whether a class or module has a member, or a class a parameter, of this name."""
    return name in (inspect.signature(thing).parameters if is_parameter else members(thing))


@pytest.mark.parametrize(("old", "new"), [row for row in SILENT if "progress=" not in row[1]])
def test_what_was_renamed_without_a_warning_has_its_new_name_and_not_the_old_one(old: str, new: str) -> None:
    owners = re.findall(r"`(\w+)\.\w+", old)
    gone, here = list(named(old, owners)), list(named(new, owners))
    assert gone
    assert here
    assert [each for each in gone if has(*each)] == []
    assert [each for each in here if not has(*each)] == []


def test_no_function_of_these_rooms_takes_tell_and_some_take_progress() -> None:
    (row,) = [row for row in SILENT if "progress=" in row[1]]
    assert row[0].startswith("`tell=` of")
    for room in re.findall(r"`dcache\.(\w+)`", row[0]):
        parameters = {
            argument.arg
            for path in (PACKAGE / room).rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
            for argument in (*node.args.args, *node.args.kwonlyargs)
        }
        assert "progress" in parameters
        assert "tell" not in parameters


# What is refused now --------------------------------------------------------------------------------


def test_every_refusal_has_a_test() -> None:
    refused = re.findall(r"^- (.+)$", section("What is refused now"), re.MULTILINE)
    begins = ["Options of the command", "`Method` takes all", "`DCACHE_KERNELS=on`", "`dcache import` of a"]
    assert [text.startswith(begin) for text, begin in zip(refused, begins, strict=True)] == [True] * 4


def test_an_option_cannot_be_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--prompt", "1"]) == 2
    assert "unrecognized arguments: --prompt" in capsys.readouterr().err


def test_a_method_takes_all_but_its_name_by_keyword() -> None:
    rule = methods.interval(interval=2).rule
    assert Method("mine", rule=rule).rule is rule
    with pytest.raises(TypeError, match="positional argument"):
        Method("mine", rule)  # type: ignore[misc]


def test_kernels_that_are_demanded_need_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "mode", "on")
    monkeypatch.setattr(launch, "_has_triton", lambda: False)
    with pytest.raises(DcacheError, match="DCACHE_KERNELS is 'on', which needs Triton"):
        launch.possible(torch.device("cpu"))


@pytest.mark.parametrize("numbers", [[0.9] * 27, [1.0, 0.9, 1.1, 0.9, 1.1]])
def test_a_list_without_a_name_is_not_imported(
    numbers: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "numbers.json"
    file.write_text(json.dumps(numbers))
    line = ["import", str(file), "--out", str(tmp_path / "out.json")]
    assert main(line) == 2
    assert "a list of numbers without a name: say what they are" in capsys.readouterr().err
    assert main([*line, "--from", "magcache"]) == 0
