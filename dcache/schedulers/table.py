"""`Table`: the rule of a schedule, which looks up the schedule's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dcache.errors import DcacheError
from dcache.schedulers.rules import StepContext


@dataclass(frozen=True)
class Table:
    """Compute where the table is True.

    Args:
        rows: branch -> site -> one bool per evaluation, True = compute. The branch `*` stands for all others.
    """

    rows: Mapping[str, Mapping[str, tuple[bool, ...]]]

    def __call__(self, context: StepContext) -> str | None:
        """The reason "schedule", or None to let the site be predicted."""
        by_site = self.rows.get(context.branch) or self.rows["*"]
        row = by_site.get(context.site.name)
        if row is None:
            raise DcacheError(
                f"the schedule has no row for site {context.site.name!r}, only for {', '.join(by_site)}. "
                "Runs that overlap need a row for each of the disjoint runs into which they are split"
            )
        return "schedule" if row[context.offset + context.index] else None

    def may_predict(self, steps: int | None) -> bool:
        """True if any entry is False."""
        return not all(all(row) for sites in self.rows.values() for row in sites.values())
