"""`ragged_attention` and `merge`: reference and kernel against softmax of each run in float64."""

from __future__ import annotations

import pytest
import torch

from dcache.errors import DcacheError
from dcache.kernels import launch
from dcache.kernels.lowbit import pack, unpack
from dcache.kernels.ragged_attention import Runs, few_bits, fused_runs, merge, ragged_attention
from tests.kernels.closeness import DEVICE

OUT, LSE = 1.5e-6, 5e-7
# A run of two pieces, one token, none, and a part of a block.
COUNTS = [140, 1, 0, 33]
N, G, D = sum(COUNTS), 3, 20
OPTIONS = {
    "plain": {},
    "bias": {"bias": True},
    "softcap": {"softcap": 3.0},
    "bias and softcap": {"bias": True, "softcap": 3.0},
}


def inputs(channels: int = D) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"query": (4, G, D), "keys": (N, D), "values": (N, channels)}
    made = {name: torch.randn(shape, generator=generator).to(DEVICE) for name, shape in shapes.items()}
    return {**made, "lengths": torch.tensor(COUNTS, device=DEVICE)}


def exact(query, keys, values, lengths, scale, softcap=None, bias=None):
    outs, lses, start = [], [], 0
    for run, count in enumerate(lengths.tolist()):
        rows = slice(start, start + count)
        start += count
        logits = query[run].double() @ keys[rows].double().T * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if bias is not None:
            logits = logits + bias[rows].double()
        outs.append(logits.softmax(-1) @ values[rows].double())
        lses.append(logits.logsumexp(-1))
    return torch.stack(outs), torch.stack(lses)


def close(actual, expected) -> None:
    for result, wanted, tolerance in zip(actual, expected, (OUT, LSE), strict=True):
        # Of the largest number, where that is above 1: float32 has relative precision.
        allowed = tolerance * max(1.0, float(wanted[wanted.isfinite()].abs().max()))
        torch.testing.assert_close(result.double(), wanted, atol=allowed, rtol=0)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_each_run_is_attended_to_by_its_own_queries(path, name):
    given, options = inputs(channels=17), dict(OPTIONS[name])
    if options.pop("bias", False):
        options["bias"] = torch.randn(N, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    actual = ragged_attention(**given, scale=D**-0.5, **options)
    close(actual, exact(**given, scale=D**-0.5, **options))
    assert actual[0][2].abs().max() == 0
    assert bool((actual[1][2] == float("-inf")).all())


@pytest.mark.parametrize("bits", [1, 1.6, 2, 3, 4, 8])
def test_few_bits_are_read_as_they_are(path, bits):
    given = inputs()
    keys, values = pack(given["keys"], bits, 8, given["lengths"]), pack(given["values"], bits, 16)
    expected = exact(**{**given, "keys": unpack(keys), "values": unpack(values)}, scale=0.3)
    close(ragged_attention(**{**given, "keys": keys, "values": values}, scale=0.3), expected)
    # Tokens taken out of their groups, and one operand alone in few bits.
    rows, counts = torch.arange(0, N, 2, device=DEVICE), torch.tensor([70, 1, 0, 16], device=DEVICE)
    some = keys.take(rows, counts)
    assert some.index is not None
    part = {**given, "keys": some, "values": given["values"][rows], "lengths": counts}
    close(ragged_attention(**part, scale=0.3), exact(**{**part, "keys": unpack(some)}, scale=0.3))


@pytest.mark.parametrize("piece", [8, 40, 1000])
def test_pieces_of_few_bits_are_read_as_they_are(piece, monkeypatch):
    monkeypatch.setattr(few_bits, "_PIECE", piece)
    given, bias = inputs(), torch.randn(N, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    keys, values = pack(given["keys"], 4, 8, given["lengths"]), pack(given["values"], 2, 16)
    expected = exact(**{**given, "keys": unpack(keys), "values": unpack(values)}, scale=0.3, bias=bias)
    packed = {**given, "keys": keys, "values": values}
    close(ragged_attention(**packed, scale=0.3, bias=bias), expected)
    double = ragged_attention(**{**packed, "query": given["query"].double()}, scale=0.3, bias=bias)
    assert [result.dtype for result in double] == [torch.float64] * 2
    close(double, expected)


def test_a_bias_of_minus_infinity_hides_a_token(path):
    given = inputs()
    bias = torch.zeros(N, device=DEVICE)
    bias[:139] = float("-inf")
    out, lse = ragged_attention(**given, scale=1.0, bias=bias)
    torch.testing.assert_close(out[0], given["values"][139].expand(G, -1))
    torch.testing.assert_close(lse[0], given["query"][0] @ given["keys"][139])


def test_merged_parts_are_attention_on_all(path):
    given = inputs()
    halves = []
    for parity in (0, 1):
        rows = torch.arange(parity, N, 2, device=DEVICE)
        # Run 0 has rows 0 to 139, run 1 row 140, run 3 the rest.
        counts = torch.tensor([70, 1 - parity, 0, 16 + parity], device=DEVICE)
        part = {"query": given["query"], "keys": given["keys"][rows], "values": given["values"][rows]}
        halves.append(ragged_attention(**part, lengths=counts, scale=0.3))
    outs, lses = (torch.stack(pair) for pair in zip(*halves, strict=True))
    close(merge(outs, lses), exact(**given, scale=0.3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_its_rounding(path, dtype):
    if path == "on" and dtype is torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("Triton's interpreter multiplies matrices of bfloat16 as integers")
    given = {n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs().items()}
    out, lse = ragged_attention(**given, scale=0.3)
    wanted, sums = exact(**given, scale=0.3)
    assert out.dtype == lse.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), wanted, atol=2 * eps, rtol=2 * eps)
    torch.testing.assert_close(lse.double(), sums, atol=LSE, rtol=LSE)


@pytest.mark.parametrize("counts", [COUNTS, [29] * 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_runs_are_the_runs(counts, dtype):
    generator = torch.Generator().manual_seed(2)
    shapes = {"query": (len(counts), G, D), "keys": (N, D), "values": (N, D)}
    given = {n: torch.randn(shape, generator=generator).to(dtype) for n, shape in shapes.items()}
    out, lse = fused_runs(**given, runs=Runs(torch.tensor(counts)), scale=0.3)
    wanted, sums = exact(**given, lengths=torch.tensor(counts), scale=0.3)
    eps = max(torch.finfo(dtype).eps, OUT / 2)
    torch.testing.assert_close(out.double(), wanted.nan_to_num(0.0), atol=2 * eps, rtol=2 * eps)
    # The fused operator's exponentials are less exact in half precision.
    allowed = LSE * 10 if dtype is torch.float32 else 5e-5
    torch.testing.assert_close(lse.double(), sums, atol=allowed, rtol=0)


def test_what_follows_from_the_lengths_is_made_once():
    runs = Runs.of([5, 0, 3], torch.device("cpu"))
    assert (runs.sizes, runs.total, runs.uniform) == ([5, 0, 3], 8, False)
    assert (runs.lengths.tolist(), runs.starts.tolist()) == ([5, 0, 3], [0, 5, 5])
    pieces = runs.pieces(2)
    assert pieces is runs.pieces(2)
    assert (pieces.run.tolist(), pieces.of_run.tolist()) == ([0, 0, 0, 2, 2], [3, 0, 2])
    assert (pieces.start.tolist(), pieces.count.tolist()) == ([0, 2, 4, 5, 7], [2, 2, 1, 2, 1])


def test_pieces_do_not_change_what_comes_out(kernels, monkeypatch):
    from dcache.kernels.ragged_attention import triton

    given = inputs()
    whole = exact(**given, scale=0.3)
    monkeypatch.setattr(triton, "_LEAST", 32)
    close(ragged_attention(**given, scale=0.3), whole)


def test_what_does_not_fit_says_so():
    given = inputs()
    with pytest.raises(DcacheError, match=r"expected queries \[4, G, 20\] and as many values as keys"):
        ragged_attention(**{**given, "query": given["query"][:2]}, scale=1.0)
    with pytest.raises(DcacheError, match=r"expected a bias \[174\], got \(3,\)"):
        ragged_attention(**given, scale=1.0, bias=torch.zeros(3))
    assert launch.mode == "auto"
