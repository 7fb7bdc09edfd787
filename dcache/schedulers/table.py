"""The static table as a rule: a schedule's rows, looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dcache.schedulers.rules import Moment


@dataclass(frozen=True)
class Table:
    """Compute where the table says so.

    Args:
        rows: branch -> site -> one bool per evaluation (True = compute). The branch `*` stands for any other.
    """

    rows: Mapping[str, Mapping[str, tuple[bool, ...]]]

    def __call__(self, moment: Moment) -> str | None:
        """See class."""
        by_site = self.rows.get(moment.branch) or self.rows["*"]
        return "schedule" if by_site[moment.site.name][moment.index] else None
