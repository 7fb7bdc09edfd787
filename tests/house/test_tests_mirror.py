"""Every core module has a test file of its name: dcache/cache/codec.py has tests/cache/test_codec.py."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = (
    "cache",
    "engine",
    "identity",
    "intercept",
    "predictors",
    "profile",
    "schedule",
    "schedulers",
    "sites",
    "util",
)
ON_TOP = ("api", "estimate", "method", "probes", "stats")
# Modules of the engine that have none yet. One that has got its file is taken off this list.
PENDING = {
    "engine/lowering/blocks.py",
    "engine/lowering/bracket.py",
    "engine/lowering/module.py",
    "engine/lowering/probe.py",
    "engine/lowering/whole_model.py",
}


def modules() -> list[str]:
    """Paths below dcache/ of every module that is to have a test file."""
    in_rooms = [
        str(path.relative_to(ROOT / "dcache"))
        for room in ROOMS
        for path in sorted((ROOT / "dcache" / room).rglob("*.py"))
        if path.name != "__init__.py"
    ]
    return [*in_rooms, *(f"{name}.py" for name in ON_TOP)]


def file_of(module: str) -> Path:
    """The test file of a module."""
    path = Path(module)
    return ROOT / "tests" / path.with_name(f"test_{path.name}")


@pytest.mark.parametrize("module", modules())
def test_a_module_has_a_test_file_of_its_name(module: str) -> None:
    path = file_of(module)
    if module in PENDING:
        assert not path.exists(), f"{path.relative_to(ROOT)} is there: take {module} off PENDING"
    else:
        assert path.exists(), f"dcache/{module} has no tests: write {path.relative_to(ROOT)}"
        assert "def test_" in path.read_text(encoding="utf-8")


def test_what_is_pending_are_modules_of_the_engine() -> None:
    assert set(modules()) >= PENDING, f"no longer there: {sorted(PENDING - set(modules()))}"
    assert all(module.startswith("engine/") for module in PENDING)
