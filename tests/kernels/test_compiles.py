"""Every kernel compiles for NVIDIA's and AMD's GPUs, whether there is one or not, and reads in wide loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = {
    "weighted_sum_kernel",
    "weighted_sums_kernel",
    "pack_kernel",
    "cast_kernel",
    "changes_kernel",
    "rows_kernel",
    "pack_channels_kernel",
    "pack_tokens_kernel",
    "unpack_kernel",
    "ragged_attention_kernel",
    "merge_kernel",
    "query_sums_kernel",
    "column_stats_kernel",
}
# Several numbers lie in a byte: each lane loads the byte of its own.
BYTES = {"unpack_kernel", "ragged_attention_kernel"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings its assembler on Linux")
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "hip:gfx942"])
def test_every_launch_compiles(target: str, tmp_path: Path) -> None:
    # Another process: here Triton interprets. A cache of its own: there kernels may be compiled already.
    env = {k: v for k, v in os.environ.items() if k not in {"TRITON_INTERPRET", "DCACHE_KERNELS"}}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compiles.py")), target],
        env=env | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    launches = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["kernel"] for one in launches} == KERNELS
    # A wave of AMD's has 64 lanes: the smallest tensors leave 8 bytes for each.
    assert target.startswith("hip") or all(one["wide"] for one in launches if one["kernel"] not in BYTES), (
        launches
    )
    # Sums fuse their products; quantising rounds one before it adds, as the reference does.
    fused = {one["kernel"] for one in launches if one["fused"]}
    assert "pack_kernel" not in fused
    assert target.startswith("hip") or "weighted_sum_kernel" in fused
    fp8 = {one["kernel"] for one in launches if "*fp8e4nv" in one["pointers"]}
    assert fp8 == ({"weighted_sum_kernel", "pack_kernel"} if target == "cuda:90" else set())
