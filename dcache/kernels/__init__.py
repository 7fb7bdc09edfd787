"""The arithmetic of caching: torch references, with Triton kernels beside them.

Each op has a folder with its public function, `reference.py` (the specification, which also runs on CPUs) and
`triton.py` (the kernel). `launch.py` decides when a kernel is used. Triton is imported with the first use.
"""

from dcache.kernels.changes import changes, relative_change
from dcache.kernels.packed import Packed
from dcache.kernels.rows import RowIndex, gather_rows, scatter_rows
from dcache.kernels.store import store
from dcache.kernels.weighted_sum import Job, weighted_sum, weighted_sums

__all__ = [
    "Job",
    "Packed",
    "RowIndex",
    "changes",
    "gather_rows",
    "relative_change",
    "scatter_rows",
    "store",
    "weighted_sum",
    "weighted_sums",
]
