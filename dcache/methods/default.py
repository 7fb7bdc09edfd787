"""The default method: `dcache.enable(pipe)` without a method."""

from __future__ import annotations

from dcache.method import Method
from dcache.methods.newton import newton
from dcache.methods.preset import preset


@preset("ours; docs/default.md", sites="trunk or bracket")
def default() -> Method:
    """The default: order 1 on log-SNR over the trunk's delta, every third evaluation after three of warm-up.

    Chosen by measurements on the trained demo model, fidelity first (docs/default.md).
    """
    return newton(interval=3, order=1, warmup=3, last=True)
