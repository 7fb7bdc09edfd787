"""What `dcache.step` says of the calls to come."""

from __future__ import annotations

from dataclasses import dataclass, field

from dcache.identity.run import Run


@dataclass
class ManualStep:
    """What `dcache.step` said of the calls to come."""

    run: Run
    branch: str | None
    seen: set[str] = field(default_factory=set)
