"""docs/systems.md: every system once, in ASCII; its names are those of the registries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dcache import diffusion_lm, lm_kv, methods

PAGE = Path(__file__).parents[2] / "docs" / "systems.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| system ")
]


def names(pattern: str, rows: list[list[str]]) -> set[str]:
    """The names in backticks of the column that says where a system lives."""
    return {name for row in rows for name in re.findall(pattern, row[1])}


BUILT = [row for row in ROWS if not row[1].startswith(("planned", "not built"))]
# What stands beside the tables: our own methods and the baselines.
OURS = {"default", "newton", "fitted", "adaptive", "tuned", "policy_default"}


def test_every_row_begins_with_a_name_of_its_own_in_ascii() -> None:
    systems = [system for row in ROWS for system in row[0].split(", ")]
    assert len(ROWS) > 100
    assert all(system.isascii() and system for system in systems)
    assert len(set(systems)) == len(systems)


def test_every_row_says_where_it_lives_or_why_it_is_not_built() -> None:
    assert all(len(row[-1]) > 2 for row in ROWS)
    without = [row[0] for row in BUILT if "`" not in row[1]]
    assert not without


@pytest.mark.parametrize(
    ("pattern", "known", "beside"),
    [
        (r"\[`(\w+)`\]", set(methods.available()), OURS),
        (r"rows `(\w+)`", set(diffusion_lm.available()), {"none"}),
    ],
    ids=["presets", "rows"],
)
def test_the_names_are_those_of_the_registry(pattern: str, known: set[str], beside: set[str]) -> None:
    assert names(pattern, BUILT) == known - beside
    assert all(f"`{name}`" in TEXT for name in beside)


def test_policies_are_built_or_planned() -> None:
    known, pattern = set(lm_kv.available()), r"lm_kv `(\w+)`"
    assert names(pattern, BUILT) <= known
    # A planned policy that has come since is no fault of this page; one that has no row is.
    assert known - {"random"} <= names(pattern, ROWS)
    assert "`random`" in TEXT
