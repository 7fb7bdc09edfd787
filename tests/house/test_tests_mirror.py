"""Every core module has a test file of its name: dcache/cache/codec.py has tests/cache/test_codec.py."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = (
    "cache",
    "diffusion_lm",
    "engine",
    "identity",
    "intercept",
    "lm_kv",
    "observation",
    "predictors",
    "profile",
    "schedule",
    "schedulers",
    "sites",
    "time_memo",
    "util",
)
ON_TOP = ("api", "estimate", "method", "probes", "stats")


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
    assert path.exists(), f"dcache/{module} has no tests: write {path.relative_to(ROOT)}"
    assert "def test_" in path.read_text(encoding="utf-8")
