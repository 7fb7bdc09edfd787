"""What `dcache.enable(pipe)` does when nothing is said."""

from __future__ import annotations

from dcache.method import Method
from dcache.methods.newton import newton
from dcache.methods.preset import preset


@preset("ours; docs/default.md", sites="trunk or bracket")
def default() -> Method:
    """The safe default: order 1 on log-SNR over the trunk's delta, every third evaluation after three.

    Chosen by measurement on the trained demo model, fidelity first (docs/default.md has the table).
    """
    return newton(interval=3, order=1, warmup=3, last=True)
