"""Figures and columns of a report's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dcache.eval.formatting import number, share, size

# What a column compares with -> heading of the group, in the order of the table.
AGAINST = {
    "cost": "cost",
    "uncached": "against the uncached pictures",
    "prompts": "against the prompts",
    "reference": "against reference pictures",
    "": "of the pictures alone",
}


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: name in files.
        title: heading, with the unit.
        what: description, one line.
        better: "higher", "lower", or "" for neither.
        against: a key of `AGAINST`.
        kind: format of the figures: "number", "share" (of 1, in per cent), "times" or "bytes".
        digits: decimals.
        spread: meaning of the brackets after a figure.
    """

    key: str
    title: str
    what: str
    better: str = ""
    against: str = "cost"
    kind: str = "number"
    digits: int = 2
    spread: str = "95 % interval"

    @staticmethod
    def of(name: str, about: Mapping[str, Any]) -> Column:
        """The column of a metric, described as in `scores.json`."""
        title = f"{about['title']} ({about['unit']})" if about["unit"] else about["title"]
        return Column(name, title, about["what"], about["better"], about["against"], digits=about["digits"])

    def text(self, value: float) -> str:
        """A value as text."""
        if self.kind == "share":
            return share(value)
        if self.kind == "bytes":
            return size(round(value))
        return number(value, self.digits) + ("×" if self.kind == "times" else "")


@dataclass(frozen=True)
class Figure:
    """One cell.

    Attributes:
        value: the value; None if there is none.
        low, high: its spread.
        text, spread: value and spread as text.
        why_not: reason for a missing value; "" if it does not apply to the method.
        best: whether it is the best of its column.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    text: str = "–"
    spread: str = ""
    why_not: str = ""
    best: bool = False

    @staticmethod
    def of(
        column: Column, value: float | None, low: float | None = None, high: float | None = None
    ) -> Figure:
        """A figure in the format of its column; empty for None."""
        if value is None:
            return Figure()
        spread = "" if low is None or high is None else f"{column.text(low)}–{column.text(high)}"
        return Figure(value, low, high, column.text(value), spread)
