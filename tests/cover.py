"""Combinations as test parameters: a cover of them in the fast lane, the others in the slow one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

import pytest


def all_pairs(**axes: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Names and values for `pytest.mark.parametrize`.

    Args:
        axes: name of an argument -> its values by name. Every pair of values of two arguments occurs in the
            fast lane.
    """
    rows = list(product(*axes.values()))
    pairs = {row: set(combinations(enumerate(row), 2)) for row in rows}
    missing: set[Any] = set().union(*pairs.values())
    fast: set[tuple[str, ...]] = set()
    while missing:
        best = max(rows, key=lambda row: len(missing & pairs[row]))
        fast.add(best)
        missing -= pairs[best]
    return _parameters(axes, fast)


def each_value(**axes: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """As `all_pairs`, with the fewest rows: every value of every argument occurs in the fast lane."""
    names = [list(axis) for axis in axes.values()]
    # Each time an axis starts again it is shifted by its place, so that axes of one length do not go in step.
    fast = {
        tuple(axis[(turn + place * (turn // len(axis))) % len(axis)] for place, axis in enumerate(names))
        for turn in range(max(map(len, names)))
    }
    return _parameters(axes, fast)


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
        for row in product(*axes.values())
    ]
