"""Rows and tables of made-up measurements: ratios by hand, no gain where output is broken."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import dcache
from dcache.eval.call_cost import Cost
from dcache.eval.entries import UNCACHED, BenchEntry, CallResult
from dcache.eval.measured import Measured
from dcache.eval.rows import notes, row, table

GOOD = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)


def measured(
    name: str, seconds: list[float], output: NDArray[np.float32] = GOOD, flops: int = 100, predicted: int = 3
) -> Measured:
    stats = None if name == "uncached" else dcache.Stats(computed=1, predicted=predicted, bytes_held=2048)
    contestant = UNCACHED if name == "uncached" else BenchEntry(name, name, ")")
    calls = [CallResult(output, Cost(s, s / 2, None, None, 2048), stats) for s in seconds]
    return Measured(contestant, CallResult(output, Cost(flops=flops), stats), calls)


def test_ratios_are_those_of_the_medians() -> None:
    its = row(measured("fast", [1.0, 1.1, 9.0], flops=25), measured("uncached", [4.0, 4.4, 5.0]))
    assert its.speedup == its.denoiser_speedup == pytest.approx(4.0)
    assert (its.seconds, its.denoiser_seconds, its.flops, its.computed) == (1.1, 0.55, 0.25, 0.25)
    assert its.spread == pytest.approx(8.0 / 1.1)
    assert (its.held, its.mean_psnr, its.mean_ssim) == (2048, 100.0, pytest.approx(1.0))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (0.5, "constant"), (2.0, "constant")])
def test_no_gain_where_output_is_broken(value: float, word: str) -> None:
    bad = GOOD.copy()
    bad[1] = value
    uncached, one = measured("uncached", [4.0]), measured("fast", [1.0], bad)
    its = row(one, uncached)
    assert its.broken is not None
    assert word in its.broken
    assert (its.speedup, its.denoiser_speedup, its.psnr, its.ssim) == (None, None, None, None)
    text = table(uncached, [its])
    assert "4.00x" not in text
    assert "broken" in text
    assert any("no gain" in note for note in notes(uncached, [one], [its]))
    assert row(measured("fast", [1.0]), uncached).speedup == 4.0


def test_the_table_shows_what_is_known_and_stars_the_best() -> None:
    uncached = measured("uncached", [4.0])
    off = GOOD.clip(0.1, 0.9)
    methods = [measured("near", [2.0], flops=50), measured("fast", [1.0], off, flops=25)]
    rows = [row(one, uncached) for one in methods]
    lines = table(uncached, rows, extra={"judge": ["9.0", "8.0", "7.0"]}).splitlines()
    heads = lines[0].split()
    assert heads == [
        "method",
        "computed",
        "FLOPs",
        "seconds",
        "spread",
        "speedup",
        "denoiser",
        "PSNR",
        "dB",
        "SSIM",
        "held",
        "judge",
    ]
    near, fast = lines[3].split(), lines[4].split()
    assert near == [
        "near",
        "25",
        "%",
        "50",
        "%",
        "2.00",
        "0",
        "%",
        "2.00x",
        "2.00x",
        "100.0*",
        "1.000*",
        "2",
        "KiB*",
        "8.0",
    ]
    assert "4.00x*" in fast
    assert lines[2].split()[-1] == "9.0"
    assert all(lines[1].rindex("-") + 1 >= len(line) for line in lines)
    unknown = [replace(one, flops=None, computed=None) for one in rows]
    short = table(uncached, unknown, only=("computed", "FLOPs", "speedup")).splitlines()
    assert short[0].split() == ["method", "speedup"]


def test_a_reader_is_told_what_to_distrust() -> None:
    uncached = measured("uncached", [1.0, 1.1, 1.5])
    assert any("busy" in note and "50%" in note for note in notes(uncached, [], []))
    calm, idle = measured("uncached", [1.0, 1.1]), measured("idle", [1.0], predicted=0)
    assert notes(calm, [], []) == []
    assert any("nothing was predicted" in note for note in notes(calm, [idle], [row(idle, calm)]))


def test_what_predicts_nothing_wins_no_star() -> None:
    uncached, off = measured("uncached", [4.0]), GOOD.clip(0.1, 0.9)
    near, fast = measured("near", [2.0], off), measured("fast", [1.0], off)
    idle = measured("idle", [3.9], predicted=0)
    rows = [row(one, uncached) for one in (near, fast, idle)]
    assert rows[2].computed == 1
    last = table(uncached, rows).splitlines()[-1]
    assert "idle" in last
    assert "*" not in last
