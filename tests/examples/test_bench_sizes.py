"""The bench at real sizes, in miniature: everybody computes what is claimed, and nothing is left behind."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dcache
from dcache.errors import DcacheError
from dcache.eval.call_cost import Cost
from dcache.kernels import launch
from dcache.kernels.weighted_sum import blocks, reference, weighted_sum

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = EXAMPLES / "bench_sizes" / "run.py"
# Of six steps, by the intervals that both libraries have: three, then every fourth.
OURS, THEIRS = [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 1, 0]


@pytest.fixture(autouse=True, scope="module")
def scripts() -> Iterator[None]:
    """The scripts as importable modules, gone again behind the tests."""
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(EXAMPLES / "bench_sizes"), str(EXAMPLES / "bench_peers"), str(EXAMPLES)]
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def script(name: str) -> Any:
    return importlib.import_module(name)


def tiny(name: str, dtype: torch.dtype = torch.float32) -> Any:
    giants = script("giants")
    return giants.load(giants.GIANTS[name], "cpu", dtype, True, {})


@pytest.fixture(scope="module", params=["flux", "wan"])
def loaded(request: Any, scripts: None) -> Any:
    return tiny(request.param)


def silent(*_: Any) -> None:
    """Tell nobody, keep nothing."""


def looks(loaded: Any, threshold: float = 0.5) -> dict[str, Any]:
    """Everybody's entry, by label."""
    who = script("entrants").entrants("cpu", threshold, None, script("rounds").branches_of(loaded) > 1)
    entries = [script("rounds").Entry(one) for one in who]
    script("rounds").look(loaded, entries, silent, silent)
    return {entry.contestant.label: entry for entry in entries}


# What is computed ---------------------------------------------------------------------------------


def test_everybody_computes_and_holds_what_is_claimed(loaded: Any) -> None:
    twice = script("rounds").branches_of(loaded)
    seen = looks(loaded)
    assert [entry.failed for entry in seen.values()] == [""] * len(seen)

    def pattern(label: str) -> list[int]:
        calls = [int(ran) for ran in seen[label].computed]
        assert len(calls) == 6 * twice
        assert calls[::twice] == calls[twice - 1 :: twice]
        return calls[::twice]

    assert pattern("uncached") == [1] * 6
    for label in ("newton, trunk", "taylorseer, sublayers", "newton, trunk, chain"):
        assert pattern(label) == OURS
    for label in ("diffusers TaylorSeer", "diffusers TaylorSeer lite"):
        assert pattern(label) == THEIRS
    # One rule in both libraries.
    assert pattern("fbcache") == pattern("diffusers FirstBlockCache")
    assert 0 < sum(pattern("fbcache")) < 6
    held = {label: entry.held for label, entry in seen.items()}
    assert held["uncached"] == 0
    assert held["newton, trunk"] == held["diffusers TaylorSeer lite"] > 0
    # As many sublayers are forecast, of as many bytes.
    assert held["taylorseer, sublayers"] == held["diffusers TaylorSeer"] > 4 * held["newton, trunk"]
    differences = [entry.difference for label, entry in seen.items() if label != "uncached"]
    assert seen["uncached"].difference == 0
    assert all(0 < difference < 0.5 for difference in differences)


def test_histories_are_of_the_models_dtype_in_both_libraries() -> None:
    loaded, entrants, rounds = tiny("wan", torch.bfloat16), script("entrants"), script("rounds")
    wanted = ("uncached", "taylorseer, sublayers", "diffusers TaylorSeer")
    who = [one for one in entrants.entrants("cpu", 0.5, None, True) if one.label in wanted]
    entries = [rounds.Entry(one) for one in who]
    rounds.look(loaded, entries, silent, silent)
    # Frames, rows and columns of patches, channels; sublayers, anchors, branches, bytes.
    assert [entry.held for entry in entries] == [0, *[2 * 4 * 4 * 64 * 12 * 2 * 2 * 2] * 2]


def test_other_arithmetic_is_measured_where_it_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    entrants = script("entrants")
    here = [one.label for one in entrants.entrants("cpu", 0.5, None, False)]
    monkeypatch.setattr(launch, "possible", lambda _: True)
    there = [one.label for one in entrants.entrants("cpu", 0.5, None, False)]
    assert [label for label in there if label not in here] == [
        "newton, trunk, off",
        "taylorseer, sublayers, off",
    ]
    compiled = [one.label for one in entrants.entrants("cpu", 0.5, {}, False)]
    assert compiled == [label for label in here if not label.endswith("chain")]


def test_all_computed_has_the_uncached_bits_and_nothing_stays(loaded: Any) -> None:
    entrants = script("entrants")
    plain = loaded()
    every = entrants.Ours("every", "every", method=dcache.methods.newton(interval=1))
    who = [every, *entrants.entrants("cpu", 0.5, None, script("rounds").branches_of(loaded) > 1)]
    places = [vars(module) for module in loaded.module.modules()]
    before, names = [dict(place) for place in places], set(vars(loaded.pipe))
    with every.enabled(loaded.pipe):
        assert torch.equal(loaded(), plain)
    for one in who:
        with one.enabled(loaded.pipe):
            loaded(4)
    for was, now in zip(before, places, strict=True):
        assert {k: id(v) for k, v in was.items()} == {k: id(v) for k, v in now.items()}
    assert set(vars(loaded.pipe)) == names
    assert torch.equal(loaded(), plain)


def test_what_ran_is_what_the_trace_says(loaded: Any) -> None:
    rounds = script("rounds")
    branches = rounds.branches_of(loaded)
    for label, entry in looks(loaded).items():
        if entry.contestant.library != "dcache" or label == "uncached":
            continue
        with entry.contestant.enabled(loaded.pipe):
            loaded()
            _, trace = entry.contestant.observe(loaded.pipe)
        assert rounds.computed_calls(trace, branches) == entry.computed


def test_branches_that_decide_apart_are_read_call_by_call() -> None:
    part, whole = (True, False), (True, True)
    rows = {"cond": {"attn:0": part, "mlp:0": whole}, "uncond": {"attn:0": whole, "mlp:0": whole}}
    trace = dcache.Schedule(2, {"": dcache.schedule.Plan(rows)})
    assert script("rounds").computed_calls(trace, 2) == [True, True, False, True]


def test_sums_are_the_asked_ones_inside_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    entrants = script("entrants")
    monkeypatch.setattr(launch, "mode", "auto")
    before = blocks.weighted_sum, reference.weighted_sum
    base, a, b = torch.randn(3, 5, 7, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    asked = (base, [a, b], [1.5, -0.5], torch.bfloat16)
    with entrants.summed("chain"):
        assert launch.mode == "off"
        assert torch.equal(weighted_sum(*asked), base + (a * 1.5 + b * -0.5))
    with entrants.summed("off"):
        assert (launch.mode, blocks.weighted_sum, reference.weighted_sum) == ("off", *before)
    assert (launch.mode, blocks.weighted_sum, reference.weighted_sum) == ("auto", *before)
    gate, out = torch.full((5, 1), 2.0).bfloat16(), torch.empty_like(a)
    assert entrants.eager_chain(*asked, gate=gate, out=out) is out
    assert torch.equal(out, base + gate * (a * 1.5 + b * -0.5))
    with pytest.raises(DcacheError, match="one of auto, off, chain"), entrants.summed("fast"):
        pass


# Time -------------------------------------------------------------------------------------------


def test_steps_are_sorted_by_what_ran() -> None:
    rounds = script("rounds")
    entry = rounds.Entry(script("entrants").Plain("one", "one"))
    # Two branches: computed, predicted, one of each (which is neither), predicted.
    entry.computed = [True, True, False, False, True, False, False, False]
    entry.runs = [Cost(seconds=2.0, calls=[0.5, 0.5, 0.1, 0.2, 9.0, 9.0, 0.2, 0.3], peak_memory=7)]
    found = entry.figures(4)
    assert found["full_ms"] == pytest.approx(1000)
    assert found["predicted_ms"] == pytest.approx(400)
    assert found["computed_share"] == 3 / 8
    assert (found["run_seconds"], found["peak_memory"], found["mixed_up"]) == ([2.0], 7, 0)
    entry.runs[0].calls[:2] = [0.1, 0.1]
    assert entry.figures(4)["mixed_up"] > 0
    assert "full_ms" not in replace(entry, failed="why").figures(4)


@pytest.mark.slow
def test_compiled_blocks_are_timed_with_what_the_look_saw() -> None:
    entrants, rounds = script("entrants"), script("rounds")
    loaded = tiny("wan")
    plain = loaded()
    who = entrants.entrants("cpu", 0.5, {"backend": "eager"}, True)
    wanted = ("uncached", "newton, trunk", "diffusers FirstBlockCache")
    entries = [rounds.Entry(one) for one in who if one.label in wanted]
    rounds.look(loaded, entries, silent, silent)
    rounds.compiled_rounds(loaded, entries, 1, silent, silent)
    assert [entry.failed for entry in entries] == [""] * 3
    assert [len(entry.runs) for entry in entries] == [2, 1, 1]
    assert all(entry.warming > 0 and len(entry.runs[0].calls) == 12 for entry in entries)
    assert [int(ran) for ran in entries[1].computed[::2]] == OURS
    assert all(module._compiled_call_impl is None for module in loaded.module.modules())
    assert torch.equal(loaded(), plain)


def test_who_fails_has_the_reason_and_the_others_go_on() -> None:
    entrants, rounds = script("entrants"), script("rounds")
    loaded = tiny("wan")
    bad = entrants.Ours("bad", "bad", method=dcache.methods.newton(sites=["bracket:1"]))
    entries = [rounds.Entry(one) for one in (entrants.Plain("uncached", "uncached"), bad)]
    rounds.look(loaded, entries, silent, silent)
    rounds.eager_rounds(loaded, entries, 1, silent, silent)
    assert entries[0].failed == ""
    assert "bracket" in entries[1].figures(6)["failed"]
    assert len(entries[0].runs) == 1
    with torch.no_grad():
        loaded.module.proj_out.bias.fill_(torch.nan)
    with pytest.raises(DcacheError, match="not finite"):
        rounds.look(loaded, [rounds.Entry(entries[0].contestant)], silent, silent)


# The models -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "billions"), [("flux", 11.9), ("wan", 1.42)])
def test_the_sizes_are_the_published_ones(name: str, billions: float) -> None:
    import diffusers

    giant = script("giants").GIANTS[name]
    weights = script("giants")._weights(getattr(diffusers, giant.model), giant.config, torch.bfloat16)
    assert weights / 2 / 1e9 == pytest.approx(billions, rel=0.01)


def test_weights_are_of_the_dtype_but_where_a_checkpoint_would_not_be() -> None:
    module = tiny("wan", torch.bfloat16).module
    assert torch.get_default_dtype() is torch.float32
    assert module.dtype is torch.bfloat16
    assert module.blocks[0].attn1.to_q.weight.dtype is torch.bfloat16
    assert module.blocks[0].scale_shift_table.dtype is torch.float32
    assert module.condition_embedder.time_embedder.linear_1.weight.dtype is torch.float32


def test_a_model_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = script("run")
    monkeypatch.setattr(script("giants"), "_room", lambda _: 2**30)
    monkeypatch.setattr(run, "machine", lambda: {"load": 0.0})
    errors: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: errors.append(" ".join(map(str, words))))
    assert run.main(["--models", "flux", "--out", str(tmp_path / "a.json"), "--device", "cpu"]) == 1
    assert "FLUX.1-dev does not fit: its weights take 44" in errors[-1]
    assert "1.0 GiB are free on cpu" in errors[-1]
    assert not list(tmp_path.iterdir())


# The command ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_measures_writes_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sizes.json"
    words = ["--tiny", "--models", "wan", "--modes", "eager", "--repeats", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(RUN), *words, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr
    assert "### Wan2.1-T2V-1.3B in miniature, eager" in done.stdout
    assert "| newton, trunk | " in done.stdout
    part = json.loads(out.read_text())["parts"]["wan, eager"]
    rows = {row["label"]: row for row in part["rows"]}
    assert part["settings"]["options"]["num_inference_steps"] == 6
    assert rows["newton, trunk"]["computed_share"] == 0.5
    assert rows["newton, trunk"]["predicted_ms"] < rows["newton, trunk"]["full_ms"]
    assert rows["uncached"]["predicted_ms"] is None
    assert all(len(row["run_seconds"]) == 1 for row in rows.values())
    run = script("run")
    told: list[str] = []
    monkeypatch.setattr(run, "tell", told.append)
    options = run.parsed([*words, "--device", "cpu"])
    assert run.measured(options)["wan, eager"]["rows"] == part["rows"]
    assert told == [f"Wan2.1-T2V-1.3B: in {out} already"]
    # Interrupted before the last run of one entrant: that run alone is made.
    cut = json.loads(out.read_text())
    del cut["parts"]["wan, eager"]["rows"]
    cut["parts"]["wan, eager"]["seen"]["fbcache"]["runs"] = []
    out.write_text(json.dumps(cut))
    told.clear()
    again = run.measured(options)["wan, eager"]
    assert told[1:] == ["round 1 of 1: fbcache"]
    assert [row["label"] for row in again["rows"]] == [*rows]
    assert json.loads(out.read_text())["parts"]["wan, eager"]["rows"] == again["rows"]
    with pytest.raises(DcacheError, match="without --tiny"):
        script("sheet").write_docs({"wan, eager": again})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--models", "sd3"], "--models takes flux, wan, got sd3"),
        (["--modes", ","], "--modes takes eager, compiled, got none"),
        (["--repeats", "0"], "--repeats must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    words: list[str], expected: str, tmp_path: Path, capsys: Any
) -> None:
    assert script("run").main([*words, "--tiny", "--out", str(tmp_path / "a.json")]) == 1
    assert expected in capsys.readouterr().err


def test_another_file_is_not_written_over(tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "a.json"
    other.write_text('{"format": "dcache.bench"}')
    assert script("run").main(["--tiny", "--out", str(other)]) == 1
    assert "is something else" in capsys.readouterr().err
    assert other.read_text() == '{"format": "dcache.bench"}'


# The page ---------------------------------------------------------------------------------------


def test_the_page_takes_real_sizes_between_its_marks(tmp_path: Path) -> None:
    sheet = script("sheet")
    row = {"label": "uncached", "run_seconds": [8.0, 9.0, 10.0], "full_ms": 300.0, "predicted_ms": None}
    row |= {"computed_share": 1.0, "mixed_up": 0.0, "held": 0, "peak_memory": 2**30}
    faster = {**row, "label": "newton, trunk", "run_seconds": [3.0], "predicted_ms": 1.25, "mixed_up": 0.5}
    rows = [
        row,
        faster,
        {**faster, "label": "newton, trunk, chain", "predicted_ms": 2.5},
        {"label": "fbcache", "failed": "the memory is too small"},
    ]
    options = {"num_inference_steps": 28, "height": 1024, "width": 1024}
    settings = {"mode": "eager", "tiny": False, "dtype": "bfloat16", "options": options, "branches": 1}
    names = dict.fromkeys(("python", "torch", "diffusers", "dcache"), "1")
    machine = {"gpus": ["a GPU"], "threads": 4}
    part = {"title": "FLUX.1-dev", "settings": settings, "rows": rows, "machine": machine}
    part |= {"versions": names, "threshold": 0.1, "kernels": True}
    page = tmp_path / "kernels.md"
    page.write_text("before\n<!-- measured -->\nyesterday's\n<!-- /measured -->\nbehind\n")
    sheet.write_docs({"flux, eager": part}, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("behind\n")
    assert "yesterday" not in text
    assert "a GPU, threads: 4" in text
    assert "| uncached | 9.00 s | 1.00x | 300.0 ms | - | 100 % | 0 KiB | 1.0 GiB |" in text
    assert "| newton, trunk | 3.00 s | 3.00x | 300.0 ms | 1.25 ms |" in text
    assert "| fbcache | not measured: the memory is too small |" in text
    assert "| newton, trunk | 1.25 ms | - | 2.50 ms |" in text
    assert "newton, trunk: 50 % of the steps" in text
    assert "<!-- measured -->" in (EXAMPLES.parent / "docs" / "kernels.md").read_text()
