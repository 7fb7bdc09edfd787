"""Cached pipelines against uncached ones: generate, score, report; methods side by side on the clock.

>>> from dcache.eval import Settings
>>> Settings(steps=20).given()
{'steps': 20}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcache.eval.settings import Settings

if TYPE_CHECKING:
    from dcache.eval.evaluation import evaluate

__all__ = ["Settings", "evaluate"]


def __getattr__(name: str) -> Any:
    """Load `evaluate` and all that it needs when it is first asked for."""
    if name == "evaluate":
        from dcache.eval.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
