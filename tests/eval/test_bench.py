"""The comparison on the shipped model: turns, restoring, refusals, files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dcache
from dcache.errors import DcacheError
from dcache.eval.bench import bench
from dcache.eval.bench_files import write_bench
from dcache.eval.call_cost import counting
from dcache.eval.entries import UNCACHED, BenchEntry, run_once
from dcache.eval.specs import MethodEntry, parse
from dcache.eval.subject import Subject, load

CAPTION = "a large striped red circle at the top left on a blue background"


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load("demo", steps=2, device="cpu")


class Marked(BenchEntry):
    """Somebody else's cache: a mark on the pipeline while it is on, eight bytes held."""

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        pipe.marked = True
        yield
        del pipe.marked

    def bytes_held(self, pipe: Any) -> int:
        return 8 * pipe.marked


class Careless(BenchEntry):
    """Leaves the model changed."""

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        yield
        pipe.transformer.proj_out.bias.data += 0.1


def test_contestants_take_turns_after_a_warm_up(subject: Subject) -> None:
    calls: list[tuple[int, str]] = []
    choices = parse("interval;newton")
    done = bench(subject, choices, [CAPTION], repeats=2, progress=lambda *both: calls.append(both))
    rounds = [[label for turn, label in calls if turn == i] for i in range(3)]
    assert rounds[0] == ["uncached", "interval", "newton"]
    for labels in rounds[1:]:
        assert labels[0] == "uncached"
        assert sorted(labels) == ["interval", "newton", "uncached"]
    assert [len(one.timed) for one in (done.uncached, *done.methods)] == [2, 2, 2]
    assert done.unrestored == ""
    assert (done.prompts, done.seeds) == ([CAPTION], [0])
    for one in (done.uncached, *done.methods):
        assert one.inspected.cost.flops is not None
        assert one.inspected.cost.denoiser_flops is not None
        assert 0 < one.inspected.cost.denoiser_flops < one.inspected.cost.flops
        assert all(call.cost.flops is None for call in one.timed)
        assert len(one.last.output) == 1
        dropped = [
            call.output for call in (one.inspected, *one.timed[:-1]) if call is not done.uncached.inspected
        ]
        assert [(len(output), output.base) for output in dropped] == [(0, None)] * len(dropped)
    assert len(done.uncached.inspected.output) == 1


def test_somebody_elses_cache_is_measured_alike(subject: Subject) -> None:
    done = bench(subject, [Marked("marked", "marked", library="other")], [CAPTION], repeats=1)
    (its,) = done.rows
    assert (its.library, its.held, its.computed, its.mean_psnr, its.flops) == ("other", 8, None, 100.0, 1.0)
    assert not hasattr(subject.pipe, "marked")


def test_the_operations_of_tuned_are_those_of_its_plan_and_not_of_the_observed_call() -> None:
    # A kind of call that no other test observes.
    subject = load("demo", steps=6, guidance=2.25, device="cpu")
    done = bench(subject, parse("tuned:speedup=2"), [CAPTION], repeats=1)
    counted = []
    for method in (None, "tuned"):
        with (
            dcache.enabled(subject.pipe, method, speedup=2) if method else nullcontext(),
            counting() as flops,
        ):
            subject([CAPTION], [0])
        counted.append(flops.get_total_flops())
    assert done.rows[0].flops == counted[1] / counted[0] < 0.7


def test_a_contestant_that_leaves_the_pipeline_changed_is_told() -> None:
    careless = load("demo", steps=2, device="cpu")
    done = bench(careless, [Careless("careless", "careless")], [CAPTION], repeats=1)
    assert "a method did not restore it" in done.unrestored


class Ruinous(BenchEntry):
    """Leaves a model that makes NaN."""

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        yield
        pipe.transformer.proj_out.bias.data *= np.nan


def test_a_pipeline_that_makes_nan_afterwards_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ruined = load("demo", steps=2, device="cpu")
    monkeypatch.setattr("dcache.eval.bench.check_entry", lambda *_: None)
    done = bench(ruined, [Ruinous("ruinous", "ruinous")], [CAPTION], repeats=1)
    assert "a method did not restore it" in done.unrestored


def test_too_large_a_batch_is_told(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(subject.pipe.vae, "decode", full)
    with pytest.raises(
        DcacheError, match="uncached: 1 prompts in one call do not fit into the memory: CUDA out"
    ):
        run_once(subject, UNCACHED, [CAPTION], [0])


def test_what_cannot_be_used_is_refused_before_anything_runs(subject: Subject) -> None:
    with pytest.raises(DcacheError, match=r"^deepcache: "):
        bench(subject, parse("default;deepcache"), [CAPTION], progress=lambda *_: pytest.fail("it ran"))
    with pytest.raises(DcacheError, match="at least one timed round and one prompt, got 3 and 0"):
        bench(subject, parse("default"), [])


def test_broken_uncached_output_ends_the_comparison(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = subject.pipe.vae.decode
    monkeypatch.setattr(subject.pipe.vae, "decode", lambda z, **k: tuple(x * np.nan for x in hidden(z, **k)))
    with pytest.raises(DcacheError, match="without caching 1 of 1 pictures contain NaN"):
        bench(subject, parse("interval"), [CAPTION], repeats=1)


def test_the_output_is_the_uncached_one_and_then_the_methods(subject: Subject) -> None:
    plain = subject([CAPTION], [3])
    assert np.array_equal(run_once(subject, UNCACHED, [CAPTION], [3]).output, plain)
    method = dcache.methods.interval(interval=2)
    with dcache.enabled(subject.pipe, method):
        cached = subject([CAPTION], [3])
    outcome = run_once(subject, MethodEntry("i", "i", method=method), [CAPTION], [3])
    assert np.array_equal(outcome.output, cached)
    assert not np.array_equal(cached, plain)
    assert outcome.computed == 0.5
    assert outcome.stats is not None
    assert outcome.cost.bytes_held == outcome.stats.bytes_held > 0


def test_files_are_written_and_figures_are_plain_json(subject: Subject, tmp_path: Path) -> None:
    done = bench(subject, parse("interval:interval=2;newton"), [CAPTION], repeats=1)
    write_bench(done, tmp_path / "new")
    files = sorted(str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*.*"))
    assert files == [
        "results.json",
        "schedules/interval-2.json",
        "schedules/newton.json",
        "speed-fidelity.png",
    ]
    found = json.loads((tmp_path / "new" / "results.json").read_text())
    assert found["pipeline"]["steps"] == 2
    assert [method["label"] for method in found["methods"]] == ["interval 2", "newton"]
    assert found["methods"][0]["flops"] < 1
    assert found["uncached"]["all_seconds"] == done.uncached.seconds
    with Image.open(tmp_path / "new" / "speed-fidelity.png") as image:
        image.verify()
