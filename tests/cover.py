"""Combinations as test parameters: a cover of all pairs in the fast lane, the others in the slow one."""

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
    values = list(axes.values())
    return list(axes), [
        pytest.param(
            *(axis[name] for axis, name in zip(values, row, strict=True)),
            id="-".join(row),
            marks=() if row in fast else (pytest.mark.slow,),
        )
        for row in rows
    ]
