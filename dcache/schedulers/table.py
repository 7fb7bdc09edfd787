"""The static table as a rule: a schedule's rows, looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dcache.errors import DcacheError
from dcache.schedulers.rules import StepContext


@dataclass(frozen=True)
class Table:
    """Compute where the table says so.

    Args:
        rows: branch -> site -> one bool per evaluation (True = compute). The branch `*` stands for any other.
    """

    rows: Mapping[str, Mapping[str, tuple[bool, ...]]]

    def __call__(self, moment: StepContext) -> str | None:
        """See class."""
        by_site = self.rows.get(moment.branch) or self.rows["*"]
        row = by_site.get(moment.site.name)
        if row is None:
            raise DcacheError(
                f"the schedule has no row for site {moment.site.name!r}, only for {', '.join(by_site)}: runs "
                "that overlap need a row for each of the parts they are cut into, and a schedule cannot fall "
                "back to a site it does not have"
            )
        return "schedule" if row[moment.offset + moment.index] else None

    def may_predict(self, steps: int | None) -> bool:
        """Where any entry says so."""
        return not all(all(row) for sites in self.rows.values() for row in sites.values())
