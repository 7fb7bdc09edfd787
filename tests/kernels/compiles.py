"""Compile what the ops would launch, for a GPU that need not be there: a script, where Triton compiles.

It writes one line of JSON for every launch: kernel, dtypes of its pointers, whether it loads 16 bytes
at a time, and whether it adds products without rounding them.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dcache import kernels
from dcache.kernels import launch
from dcache.kernels.changes import triton as of_changes
from dcache.kernels.column_stats import column_stats
from dcache.kernels.column_stats import triton as of_columns
from dcache.kernels.lowbit import pack, unpack
from dcache.kernels.lowbit import triton as of_lowbit
from dcache.kernels.ragged_attention import merge, ragged_attention
from dcache.kernels.ragged_attention import triton as of_attention
from dcache.kernels.rows import triton as of_rows
from dcache.kernels.store import empty
from dcache.kernels.store import launching as of_store
from dcache.kernels.weighted_sum import Job, weighted_sums
from dcache.kernels.weighted_sum import batch as of_sums
from dcache.kernels.weighted_sum import launching as of_sum

# As Triton does when it is called: 1 is a constant, and it knows which addresses and numbers are multiples.
MULTIPLE = 16
POINTERS = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float8_e4m3fn: "*fp8e4nv",
    torch.int8: "*i8", torch.uint8: "*u8", torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip


# A load of 16 bytes in NVIDIA's assembler.
WIDE = r"ld\.global[\w.:]*\.v4\.b32"


class Compiled:
    """Stands in a kernel's place: what would launch it compiles it."""

    def __init__(self, kernel: Any, target: GPUTarget) -> None:
        self.kernel = kernel
        self.target = target

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.launch

    def launch(self, *args: Any, **constants: Any) -> None:
        names = self.kernel.arg_names
        given = dict(zip(names, args, strict=False)) | {n: v for n, v in constants.items() if n in names}
        parameters = {p.name: p for p in self.kernel.params}
        fixed = {
            n: v
            for n, v in given.items()
            if parameters[n].is_constexpr or v is None or (isinstance(v, int) and v == 1)
        }
        signature = {n: "constexpr" if n in fixed else kind(given[n]) for n in names}
        aligned = [n for n in names if n not in fixed and multiple(given[n])]
        source = ASTSource(
            self.kernel,
            signature,
            constexprs={(names.index(n),): v for n, v in fixed.items()},
            attrs={(names.index(n),): [["tt.divisibility", MULTIPLE]] for n in aligned},
        )
        options = {n: v for n, v in constants.items() if n not in names}
        built = triton.compile(source, target=self.target, options=options).asm
        found = {
            "kernel": self.kernel.__name__,
            "pointers": [s for s in signature.values() if s.startswith("*")],
            "wide": bool(re.search(WIDE, built.get("ptx", ""))),
            "fused": "fma.rn" in built.get("ptx", ""),
        }
        sys.stdout.write(json.dumps(found) + "\n")


def kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def multiple(value: Any) -> bool:
    return (value.data_ptr() if isinstance(value, torch.Tensor) else value) % MULTIPLE == 0


def stand_in(target: GPUTarget) -> None:
    """Compile instead of launching, in every module that launches."""
    for module in (of_attention, of_changes, of_columns, of_lowbit, of_rows, of_store, of_sum, of_sums):
        for name in [n for n in vars(module) if n.endswith("_kernel")]:
            setattr(module, name, Compiled(getattr(module, name), target))
    # Now that the kernels are not interpreted, let them be taken on a CPU.
    os.environ["TRITON_INTERPRET"] = "1"
    launch.mode = "on"


def every_op(dtype: torch.dtype, stored: torch.dtype) -> None:
    """All ops on tokens of this dtype, with one byte each for what is stored."""
    x, y, z = (torch.ones(2, 64, 1152, dtype=dtype) for _ in range(3))
    kernels.changes(x, y)
    kernels.changes(x, y, lead=2)
    index = torch.tensor([1, 5, 3])
    kernels.scatter_rows(x, index, kernels.gather_rows(y, index))
    kernels.gather_rows(x, index.int().expand(2, 3))
    slot = empty(x, stored)
    kernels.store(x, y, slot)
    kernels.store(x, y, empty(x, torch.float16 if dtype is torch.bfloat16 else torch.bfloat16))
    kernels.weighted_sum(None, [x, y], [0.5, 0.5], dtype)
    kernels.weighted_sum(x, [y, z, slot], [1.0, -3.0, 3.0], dtype, gate=torch.ones(2, 1, 1152, dtype=dtype))
    weighted_sums([Job(x, [y, slot], [-1.0, 2.0], dtype)] * 3)
    for bits in (1.6, 3, 4):
        unpack(pack(x.view(-1, 128), bits, 64, torch.tensor([500, 652])))
        unpack(pack(x.view(-1, 128), bits, 64))
    every_attention(x.view(-1, 128))


def every_attention(x: torch.Tensor) -> None:
    """Attention on two runs of these tokens, plain and in four bits."""
    lengths = torch.tensor([500, 652])
    query = torch.ones(2, 4, 128, dtype=x.dtype)
    out, lse = ragged_attention(query, x, x, lengths, 0.1)
    merge(out[None], lse[None])
    column_stats(query, x, lengths, 0.1)
    at, pos = torch.ones(2, 4, dtype=torch.int64), torch.arange(len(x))
    options = {"bias": torch.ones(len(x)), "sinks": torch.ones(2, 4), "positions": (at, pos)}
    column_stats(query, x, lengths, 0.1, softcap=5.0, **options)
    keys, values = pack(x, 4, 64, lengths), pack(x, 4, 64)
    bias = torch.ones(len(x))
    ragged_attention(query, keys, values, lengths, 0.1, softcap=5.0, bias=bias)
    rows = torch.arange(1, len(x), 2)
    taken = keys.take(rows, torch.tensor([250, 326])), values.take(rows, torch.tensor([250, 326]))
    ragged_attention(query, *taken, torch.tensor([250, 326]), 0.1)


def main(target: str) -> None:
    backend, arch = target.split(":")
    stand_in(GPUTarget(backend, int(arch) if arch.isdigit() else arch, 64 if backend == "hip" else 32))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        every_op(dtype, torch.int8)
    if arch == "90":
        every_op(torch.bfloat16, torch.float8_e4m3fn)


if __name__ == "__main__":
    main(sys.argv[1])
