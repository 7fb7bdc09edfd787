"""`dcache bench --kernels`: what is timed, what it is compared with, what is told of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dcache import DcacheError
from dcache.cli import main
from dcache.eval import kernel_bench as bench
from dcache.eval.kernel_bench import cases, kv_cases, report
from dcache.kernels import changes, launch, store
from dcache.kernels.lowbit import pack

# Two samples of 32 tokens of 512 numbers.
SIZE = 2 * 32 * 512 * 4
OPS = {"weighted_sum", "weighted_sums", "store", "changes", "gather_rows", "scatter_rows"}
OPS |= {"pack", "unpack", "ragged_attention", "column_stats"}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small size, one call in a turn."""
    monkeypatch.setattr(bench, "SIZES", (SIZE,))
    monkeypatch.setattr(bench, "_TURN", 0.0)


def found() -> dict[str, cases.Case]:
    return {case.op: case for case in every(torch.float32)}


def every(dtype: torch.dtype) -> list[cases.Case]:
    return [*cases.all_cases(SIZE, dtype, "cpu"), *kv_cases.cache_cases(SIZE, dtype, "cpu")]


def test_it_prints_a_table_and_writes_a_file(
    short: None, unloaded: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--kernels", "--device", "cpu", "--repeats", "2", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "kernels on cpu in float32; medians of 2 turns" in printed
    assert "threads: 1; python" in printed
    lines = [line for line in printed.splitlines() if "128 KiB" in line]
    assert {line.split(",")[0] for line in lines} == OPS
    assert all(line.endswith("x") for line in lines)
    assert "note: on cpu torch references are measured, no Triton kernels\n" in printed
    written = json.loads((tmp_path / "kernels.json").read_text())
    assert (written["format"], written["device"], written["dtype"]) == ("dcache.kernels", "cpu", "float32")
    assert written["machine"]["processor"]
    assert len(written["rows"]) == len(lines)
    for row in written["rows"]:
        assert row["bytes_per_second"] == row["moved"] / row["seconds"]
        assert min(row["gain"], row["of_copy"], row["seconds"]) > 0
        assert not row["kernel"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo-video"], "runs no pipeline"),
        (["--prompts", "a fox"], "runs no pipeline"),
        (["--methods", "newton"], "runs no pipeline"),
        (["--repeats", "0"], "--repeats must be a whole number"),
    ],
)
def test_what_means_nothing_here_is_refused(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments, "--kernels", "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_the_bytes_that_each_op_moves() -> None:
    moved = {op: case.moved for op, case in found().items()}
    tokens, half = 2 * 32, SIZE // 2
    # One byte for each number and a scale for each token.
    packed = SIZE // 4 + 4 * tokens
    index = tokens // 2 * 8
    # 256 keys of 128 channels in runs of 128, 64, 32 and 32: five groups of up to 64 tokens, or two groups of
    # channels for each; two numbers of two bytes for a group.
    codes, channels, each = SIZE // 8, 5 * 128 * 4, 256 * 2 * 4
    assert moved == {
        "weighted_sum, 2 anchors": 3 * SIZE,
        "weighted_sum, base + 2 anchors": 4 * SIZE,
        "weighted_sum, base + 3 anchors": 5 * SIZE,
        "weighted_sums, 16 of base + 2 anchors": 4 * SIZE,
        "weighted_sum, base + 2 int8 anchors": 2 * SIZE + 2 * packed,
        "store, delta": 3 * SIZE,
        "store, delta in bfloat16": 2 * SIZE + SIZE // 2,
        "store, delta in int8": 2 * SIZE + packed,
        "changes, relative L1": 2 * SIZE,
        "changes, six sums by token": 2 * SIZE,
        "gather_rows, every second token": 2 * half + index,
        "scatter_rows, every second token": 2 * half + index,
        "pack, 4 bits per channel": SIZE + codes + channels,
        "unpack, 4 bits per channel": SIZE + codes + channels,
        "pack, 4 bits per token": SIZE + codes + each,
        "unpack, 4 bits per token": SIZE + codes + each,
        "ragged_attention, 4 heads a run": 2 * SIZE,
        "ragged_attention, 4 heads a run, 4 bits": 2 * codes + channels + each,
        "column_stats, 64 queries": 2 * SIZE,
    }


def test_a_copy_moves_as_many_bytes() -> None:
    for case in found().values():
        copied = case.copy()()
        assert 2 * copied.numel() * copied.itemsize == case.moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ops_and_eager_chains_agree(dtype: torch.dtype) -> None:
    assert max(case.off() for case in every(dtype)) < report.AGREE


# Ops that do nothing, or return what they are given.
WRONG = {
    "weighted_sum": lambda base, anchors, weights, dtype: anchors[0].to(dtype),
    "weighted_sums": lambda jobs: [job.anchors[0] for job in jobs],
    "store": lambda y, opened, out: store(y, None, out),
    "relative_change": lambda x, y: torch.ones(()),
    "changes": lambda x, y, lead: changes(y, x, lead=lead),
    "gather_rows": lambda x, index: x[:, : index.shape[1]],
    "scatter_rows": lambda out, index, rows: out,
    "pack": lambda x, bits, group, lengths=None: pack(-x, bits, group, lengths),
    "unpack": lambda packed: torch.zeros(len(packed.codes), packed.channels),
    "ragged_attention": lambda query, keys, values, lengths, scale: (torch.zeros_like(query), None),
    "column_stats": lambda query, keys, lengths, scale: [torch.ones(len(keys))] * 2,
}


@pytest.mark.parametrize("name", WRONG)
def test_every_case_would_show_a_wrong_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases if hasattr(cases, name) else kv_cases, name, WRONG[name])
    op = {"relative_change": "changes, relative", "changes": "changes, six"}.get(name, f"{name},")
    its = [case for case in found().values() if case.op.startswith(op)]
    assert its
    assert min(case.off() for case in its) > report.AGREE


def scripted(monkeypatch: pytest.MonkeyPatch, run: list[float], copy: list[float], eager: list[float]) -> Any:
    """The row of a case whose turns take so long."""
    case = cases.Case("op", (torch.ones(4),), lambda: torch.ones(1), lambda: torch.ones(1), kernel=True)
    turns = {case.run: iter(run), case.eager: iter(eager)}
    other = iter(copy)

    def timer_of(what: Callable[[], Any], _: str) -> Any:
        return SimpleNamespace(timeit=lambda _: SimpleNamespace(mean=next(turns.get(what, other))))

    monkeypatch.setattr(bench, "timer_of", timer_of)
    monkeypatch.setattr(bench, "all_cases", lambda *_: [case])
    monkeypatch.setattr(bench, "cache_cases", lambda *_: [])
    return bench.kernel_bench(torch.float32, "cpu", sizes=[16], repeats=len(run) - 2).rows[0]


def test_medians_of_turns_and_what_follows_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    warm = [9.0] * 2
    row = scripted(monkeypatch, [*warm, 2, 1, 5], [*warm, 1, 1, 4], [*warm, 8, 7, 3])
    assert (row.seconds, row.copy_seconds, row.eager_seconds) == (2, 1, 7)
    assert (row.moved, row.rate) == (16, 8)
    # Round by round: 1/2, 1/1, 4/5 and 8/2, 7/1, 3/5.
    assert (row.of_copy, row.gain) == (0.8, 4)
    assert row.spread == 2
    done = bench.KernelBench("cpu", "float32", 3, [row], {}, {})
    assert any("busy" in note for note in report.notes(done))
    assert not any("references" in note for note in report.notes(done))
    plain = dataclasses.replace(row, kernel=False)
    notes = report.notes(dataclasses.replace(done, rows=[row, dataclasses.replace(plain, op="other")]))
    assert notes[0] == "on cpu torch references are measured in other, no Triton kernels"
    assert notes[1] == "kernels were interpreted: their times are meaningless"


def test_a_turn_repeats_short_calls_and_divides_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    calls = []

    def call() -> None:
        nonlocal now
        now += 1e-4
        calls.append(now)

    monkeypatch.setattr(bench, "perf_counter", lambda: now)
    timer = bench.timer_of(call, "cpu")
    count = bench.calls_of(timer)
    assert count in (20, 21)
    before = len(calls)
    assert timer.timeit(count).mean == pytest.approx(1e-4)
    # Two more warm up.
    assert len(calls) == before + count + 2


def test_the_device_that_is_measured_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    bench.timer_of(lambda: None, "cpu").timeit(1)
    assert waited == []
    bench.timer_of(lambda: None, "cuda:1").timeit(1)
    assert set(waited) == {torch.device("cuda:1")}


@pytest.mark.parametrize("off", [0.5, float("nan")])
def test_no_gain_where_the_outputs_disagree(
    off: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = dataclasses.replace(scripted(monkeypatch, [1.0] * 3, [1.0] * 3, [3.0] * 3), off=off)
    done = bench.KernelBench("cpu", "float32", 1, [row], {}, {})
    assert report.table(done).splitlines()[-1].endswith("broken")
    assert "no gain is reported" in report.notes(done)[0]
    assert json.loads(report.write(done, tmp_path).read_text())["rows"][0]["gain"] is None


def test_a_size_that_holds_no_whole_tokens_is_refused() -> None:
    with pytest.raises(DcacheError, match="a size is a multiple of 65536 bytes"):
        next(cases.all_cases(SIZE + 4, torch.float32, "cpu"))


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_run_and_agree_on_a_gpu() -> None:
    assert launch.possible(torch.device("cuda"))
    done = bench.kernel_bench(torch.bfloat16, "cuda", sizes=[1 << 24], repeats=3)
    # A difference of one dtype is one pass in torch.
    assert {row.op for row in done.rows if not row.kernel} == {"store, delta"}
    assert max(row.off for row in done.rows) < report.AGREE
