"""The page on moving from 0.1 lists every old path and name that works for one version, and what it gives."""

import importlib
import re
import sys
from pathlib import Path

import pytest

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
