"""Combinations as test parameters: a cover of them in the fast lane, the others in the slow one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations, product
from typing import Any

import pytest

# An argument's values by name, or values whose text is their name.
Axis = Mapping[str, Any] | Iterable[Any]


def all_pairs(**axes: Axis) -> tuple[list[str], list[Any]]:
    """Names and values for `pytest.mark.parametrize`.

    Args:
        axes: name of an argument -> its values. Every pair of two arguments' values occurs in the fast lane.
    """
    named = _named(axes)
    rows = list(product(*named.values()))
    pairs = {row: set(combinations(enumerate(row), 2)) for row in rows}
    missing: set[Any] = set().union(*pairs.values())
    fast: set[tuple[str, ...]] = set()
    while missing:
        best = max(rows, key=lambda row: len(missing & pairs[row]))
        fast.add(best)
        missing -= pairs[best]
    return _parameters(named, fast)


def each_value(**axes: Axis) -> tuple[list[str], list[Any]]:
    """As `all_pairs`, with the fewest rows: every value of every argument occurs in the fast lane."""
    named = _named(axes)
    names = [list(axis) for axis in named.values()]
    # Each time an axis starts again it is shifted by its place, so that axes of one length do not go in step.
    fast = {
        tuple(axis[(turn + place * (turn // len(axis))) % len(axis)] for place, axis in enumerate(names))
        for turn in range(max(map(len, names)))
    }
    return _parameters(named, fast)


def with_slow(*fast: Any, slow: Iterable[Any]) -> list[Any]:
    """Values of one argument: those of the fast lane, and those of the slow one."""
    return [*fast, *(pytest.param(value, marks=pytest.mark.slow) for value in slow)]


def _named(axes: Mapping[str, Axis]) -> dict[str, dict[str, Any]]:
    return {
        name: dict(axis) if isinstance(axis, Mapping) else {str(value): value for value in axis}
        for name, axis in axes.items()
    }


def _parameters(
    axes: Mapping[str, Mapping[str, Any]], fast: set[tuple[str, ...]]
) -> tuple[list[str], list[Any]]:
    values = list(axes.values())
    return list(axes), [
        pytest.param(
            *(axis[name] for axis, name in zip(values, row, strict=True)),
            id="-".join(row),
            marks=() if row in fast else (pytest.mark.slow,),
        )
        for row in product(*values)
    ]
