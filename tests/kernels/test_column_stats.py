"""`column_stats`: reference and kernel against the whole matrix of weights in float64."""

from __future__ import annotations

import pytest
import torch

from dcache.errors import DcacheError
from dcache.kernels.column_stats import column_stats, reference
from tests.kernels.closeness import DEVICE

# Weights are at most 1; sums of 21 of them.
TOLERANCE = 2e-6
# Two blocks of keys, one key, none, and a part of a block.
COUNTS = [70, 1, 0, 9]
N, Q, D = sum(COUNTS), 21, 12


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(4, Q, D, generator=generator), torch.randn(N, D, generator=generator)
    return query.to(DEVICE, dtype), keys.to(DEVICE, dtype), torch.tensor(COUNTS, device=DEVICE)


def more(name):
    """Every option by itself, and all together."""
    generator = torch.Generator().manual_seed(1)
    bias, sinks = torch.randn(N, generator=generator), torch.randn(4, Q, generator=generator)
    # Queries of run 0 stand at -1 (which counts nothing) to 19, keys at 0 to 69.
    at = torch.arange(Q).expand(4, Q) - 1
    pos = torch.cat([torch.arange(count) for count in COUNTS])
    every = {
        "softcap": 2.0,
        "bias": bias.to(DEVICE),
        "sinks": sinks.to(DEVICE),
        "positions": (at.to(DEVICE), pos.to(DEVICE)),
    }
    return every if name == "all" else {name: every[name]} if name else {}


def exact(query, keys, lengths, scale, softcap=None, bias=None, sinks=None, positions=None):
    sums, maxima, start = [], [], 0
    for run, count in enumerate(lengths.tolist()):
        rows = slice(start, start + count)
        start += count
        logits = query[run].double() @ keys[rows].double().T * scale
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        logits = logits if bias is None else logits + bias[rows].double()
        if positions is not None:
            logits[positions[1][rows] > positions[0][run, :, None]] = float("-inf")
        if sinks is not None:
            logits = torch.cat([logits, sinks[run, :, None].double()], 1)
        weights = logits.softmax(1).nan_to_num(0.0)[:, :count]
        sums.append(weights.sum(0))
        maxima.append(weights.amax(0))
    return torch.cat(sums), torch.cat(maxima)


def close(actual, expected, tolerance=TOLERANCE):
    for result, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(result.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ["", "softcap", "bias", "sinks", "positions", "all"])
def test_columns_are_those_of_the_whole_matrix(path, name):
    given = inputs()
    close(column_stats(*given, 0.5, **more(name)), exact(*given, 0.5, **more(name)))


def test_sums_of_all_columns_are_the_number_of_queries(path):
    sums, maxima = column_stats(*inputs(), 0.5)
    assert [round(float(run.sum()), 4) for run in sums.split(COUNTS)] == [Q, Q, 0, Q]
    assert maxima[70] == 1


def test_half_precision_rounds_nothing_but_its_inputs(path):
    given = inputs(torch.float16)
    close(column_stats(*given, 0.5), exact(*given, 0.5))


def test_blocks_of_queries_do_not_change_the_columns(monkeypatch):
    given = inputs()
    monkeypatch.setattr(reference, "BLOCK", 5 * 70)
    close(column_stats(*given, 0.5, **more("all")), exact(*given, 0.5, **more("all")))


def test_what_does_not_fit_says_so():
    query, keys, lengths = inputs()
    with pytest.raises(DcacheError, match=r"of 4 runs, got \(4, 21, 12\) and \(80, 11\)"):
        column_stats(query, keys[:, 1:], lengths, 1.0)
