"""The examples in docstrings run, and every public function has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import dcache

PACKAGE = Path(dcache.__file__).parent
FUNCTIONS = [name for name in dcache.__all__ if inspect.isfunction(getattr(dcache, name))]
# Those of the front door run the shipped pipeline, each in a test of its own.
# An evaluation takes a minute; tests/eval runs many.
SKIPPED = '>>> result = evaluate("demo", "demo:2", out=folder, settings=Settings(steps=4))'
FRONT_DOOR = ("api.py", "estimate.py")
# It renders for some seconds.
SLOW = "dcache.search.refine"
OTHERS = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8").replace("  # doctest: +SKIP", "").replace(SKIPPED, "")
    and path.name not in FRONT_DOOR
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example_that_runs(name: str) -> None:
    function = getattr(dcache, name)
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=False)
    (example,) = finder.find(function, name, module=inspect.getmodule(function))
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == SLOW else ()) for name in OTHERS]
)
def test_all_other_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
