"""The bench against other libraries: adapters leave nothing behind, and tables hide nobody's win."""

from __future__ import annotations

import importlib.util
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcache.demo.pipeline import coefficients
from dcache.demo.task import prompts
from dcache.errors import DcacheError
from dcache.eval.bench import bench
from dcache.eval.entries import UNCACHED, BenchEntry, run_once
from dcache.eval.specs import parse
from dcache.eval.subject import Subject, load

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 4


@pytest.fixture(autouse=True, scope="module")
def scripts() -> Iterator[None]:
    """The scripts as importable modules, gone again behind the tests."""
    before = set(sys.modules)
    folders = [str(EXAMPLES / "bench_peers"), str(EXAMPLES)]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def demo() -> Subject:
    return load("demo", steps=STEPS, device="cpu")


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


def traces(pipe: Any, module: Any) -> list[Any]:
    """Everything by which a peer could be recognised afterwards."""
    return [dict(vars(type(pipe))), dict(vars(pipe)), *({**vars(m)} for m in module.modules())]


def assert_saves_work_and_leaves_no_trace(subject: Subject, contestants: list[BenchEntry]) -> dict[str, Any]:
    """Bench them; the pipeline has to be what it was, and each has to save work and hold bytes."""
    pipe = subject.pipe
    module = subject.denoisers[0]
    plain = run_once(subject, UNCACHED, prompts(1), [0])
    before = traces(pipe, module)
    done = bench(subject, contestants, prompts(1), repeats=1)
    after = run_once(subject, UNCACHED, prompts(1), [0])
    assert np.array_equal(plain.output, after.output)
    for was, now in zip(before, traces(pipe, module), strict=True):
        assert {k: id(v) for k, v in was.items()} == {k: id(v) for k, v in now.items()}
    for row in done.rows:
        assert row.broken is None, row
        assert row.flops is not None, row
        assert row.flops < 0.95, row
        assert row.held, row
        assert row.mean_psnr is not None, row
        assert row.mean_psnr < 100, row
    return {row.label: row for row in done.rows}


# Adapters ------------------------------------------------------------------------------------------


def test_diffusers_hooks_bench_on_the_demo_and_leave_the_pipeline_as_it_was(demo: Subject) -> None:
    from peer_diffusers import contestants

    names = {"FirstBlockCache 0.4", "TaylorSeerCache 2 lite", "SeaCache 1 K4"}
    chosen = [one for one in contestants(demo, prompts(1)) if one.label in names]
    rows = assert_saves_work_and_leaves_no_trace(demo, chosen)
    assert set(rows) == names
    assert {row.library for row in rows.values()} == {"diffusers"}


def test_magcache_is_calibrated_by_its_own_mode(demo: Subject) -> None:
    from peer_diffusers import magnitude_ratios

    ratios = magnitude_ratios(demo, prompts(1))
    assert len(ratios) == STEPS
    assert ratios[0] == 1.0
    assert len(set(ratios)) > 2


def test_a_hook_that_would_mix_the_branches_is_refused_with_the_reason() -> None:
    from peer_diffusers import Hooks

    video = load("demo-video", steps=2, device="cpu")
    one = Hooks("a", "a", library="diffusers", method="PyramidAttentionBroadcast", guided=True)
    with pytest.raises(DcacheError, match="keeps one state for both branches"):
        run_once(video, one, ["a"], [0])


@needs("cache_dit")
def test_cache_dit_benches_on_the_demo_and_leaves_the_pipeline_as_it_was(demo: Subject) -> None:
    from peer_cache_dit import contestants

    names = {"DBCache F1 mask every 2", "DBCache F1 mask every 2 taylor", "DBCache F1B0 W2 R0.4 MC3"}
    subject = Subject(demo.pipe, "demo", {**demo.options, "num_inference_steps": 20})
    assert_saves_work_and_leaves_no_trace(
        subject, [one for one in contestants(subject) if one.label in names]
    )


@needs("DeepCache")
def test_deepcache_benches_on_the_unet_and_leaves_the_pipeline_as_it_was() -> None:
    import contestants
    import peer_deepcache

    unet = contestants.MODELS["unet"].load(3.0)
    subject = Subject(unet.pipe, "unet", {**unet.options, "num_inference_steps": STEPS})
    chosen = [one for one in peer_deepcache.contestants() if one.label == "DeepCache 2 branch 0"]
    assert_saves_work_and_leaves_no_trace(subject, chosen)


@needs("DeepCache")
def test_deepcache_and_the_preset_of_its_name_draw_the_same_pictures() -> None:
    import contestants
    import peer_deepcache

    unet = contestants.MODELS["unet"].load(3.0)
    subject = Subject(unet.pipe, "unet", {**unet.options, "num_inference_steps": STEPS})
    (theirs,) = (one for one in peer_deepcache.contestants() if one.label == "DeepCache 2 branch 1")
    (ours,) = parse("deepcache:interval=2,branch_id=1")
    first, second = (run_once(subject, one, prompts(2), [0, 1]).output for one in (theirs, ours))
    assert np.array_equal(first, second)


def test_deepcache_is_refused_where_there_is_no_unet(demo: Subject) -> None:
    from peer_deepcache import DeepCache

    with pytest.raises(DcacheError, match="DeepCache needs a UNet, and PixArtAlphaPipeline has none"):
        run_once(demo, DeepCache("a", "a"), prompts(1), [0])


def test_every_library_enters_equally_many_settings(demo: Subject, tmp_path: Path) -> None:
    import contestants

    (tmp_path / "numbers.json").write_bytes(coefficients().read_bytes())
    subject = Subject(demo.pipe, "demo", {**demo.options, "num_inference_steps": 20})
    for library in contestants.LIBRARIES:
        if importlib.util.find_spec(library.replace("-", "_")):
            every = contestants.everyone("demo", subject, tmp_path, [library])
            itself = [one for one in every if one.spec.startswith(("tuned", "adaptive"))]
            assert len(itself) == (20 if library == "dcache" else 0)
            found = [one for one in every if one not in itself]
            assert len(found) == len({one.spec for one in found}) == contestants.SETTINGS, library
            assert {one.library for one in found} == {library}
    found = contestants.everyone("unet", subject, tmp_path, ["dcache"])
    assert len({one.spec for one in found}) == contestants.SETTINGS + len(contestants.TUNED)


def test_what_tunes_itself_is_planned_from_a_call_that_is_not_measured(
    demo: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contestants

    monkeypatch.setenv("DCACHE_HOME", "off")
    contestants.observe_once(demo, contestants.MODELS["demo"], tmp_path)
    (entry,) = (one for one in contestants.self_tuned("demo", demo) if one.spec == "tuned:speedup=2")
    outcome = run_once(demo, entry, prompts(1), [0])
    assert outcome.stats is not None
    assert outcome.stats.plan.startswith("planned from one observed call")
    assert len(list((tmp_path / "observed" / "tuned").iterdir())) == 1


def test_a_second_call_of_hooks_begins_as_the_first_did(demo: Subject) -> None:
    from peer_diffusers import contestants

    for name in ("FirstBlockCache 0.4", "TaylorSeerCache 3 lite"):
        (one,) = (one for one in contestants(demo, prompts(1)) if one.label == name)
        first, second = (run_once(demo, one, prompts(1), [0], calls=calls) for calls in (1, 2))
        assert np.array_equal(first.output, second.output)
        assert [len(made.earlier) for made in (first, second)] == [0, 1]


# Surely off ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Careless(BenchEntry):
    """Leaves something behind, or breaks."""

    fails: bool = False
    stays: bool = False

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        if self.fails:
            raise IndexError("pop from empty list\nand more")
        if self.stays:
            with torch.no_grad():
                pipe.transformer.proj_out.weight.mul_(2)
        yield


def test_whatever_a_peer_leaves_is_put_back_even_after_an_error(demo: Subject) -> None:
    from peer import restored

    pipe, module = demo.pipe, demo.pipe.transformer
    before, call = traces(pipe, module), type(pipe).__call__

    def breaks() -> None:
        with restored(pipe):
            type(pipe).__call__ = lambda *_: None
            type(pipe)._is_cached = True
            pipe._manager = object()
            module.forward = print
            del module.transformer_blocks[0].__dict__["training"]
            raise RuntimeError("mid-run")

    with pytest.raises(RuntimeError, match="mid-run"):
        breaks()
    assert type(pipe).__call__ is call
    assert before == traces(pipe, module)


def test_a_trial_gives_the_reason_why_a_contestant_cannot_take_part(demo: Subject) -> None:
    from bench import why_not

    plain = run_once(demo, UNCACHED, prompts(1), [0])
    tried = {
        text: why_not(demo, one, prompts(1)[0], plain)
        for text, one in {"idle": UNCACHED, "fails": Careless("fails", "fails", fails=True)}.items()
    }
    assert tried == {"idle": "", "fails": "IndexError: pop from empty list"}


def test_a_contestant_that_stays_on_stops_the_bench() -> None:
    from bench import why_not

    subject = load("demo", steps=2, device="cpu")
    plain = run_once(subject, UNCACHED, prompts(1), [0], count_flops=True)
    with pytest.raises(DcacheError, match="stays: it did not leave the pipeline as it was"):
        why_not(subject, Careless("stays", "stays", stays=True), prompts(1)[0], plain)


def test_bytes_are_those_of_distinct_storages_outside_of_modules() -> None:
    from peer import storage_bytes

    whole = torch.zeros(10)

    @dataclass
    class State:
        kept: dict[str, Any]
        module: torch.nn.Module
        nothing: None = None

    state = State({"whole": whole, "view": whole[:2], "other": [torch.zeros(3)]}, torch.nn.Linear(8, 8))
    assert storage_bytes(state, (whole,)) == 40 + 12


def test_an_earlier_run_with_other_options_is_not_taken_for_this_one(tmp_path: Path) -> None:
    from bench import asked, measured_once

    options = Namespace(captions=8, repeats=2, final_repeats=7, only=[], cpu=False, out=tmp_path)
    (tmp_path / "demo-on").mkdir()
    (tmp_path / "demo-on" / "results.json").write_text(json.dumps({"asked": asked(options), "figures": 1}))
    assert measured_once("demo", "on", options)["figures"] == 1
    options.captions = 1
    with pytest.raises(DcacheError, match=r"holds a run with {'captions': 8, .* got {'captions': 1,"):
        measured_once("demo", "on", options)


# Tables --------------------------------------------------------------------------------------------


def setting(library: str, speedup: float | None, psnr: float | None, label: str = "") -> dict[str, Any]:
    return {
        "library": library,
        "label": label or f"{library} {speedup}",
        "speedup": speedup,
        "mean_psnr": psnr,
    }


MEASURED = [
    setting("dcache", 2.6, 36.0),
    setting("dcache", 1.6, 41.0),
    setting("peer", 2.0, 39.0),
    setting("peer", 1.9, 41.0),
    setting("peer", None, None, "broken"),
]


def test_the_fastest_setting_at_equal_fidelity_and_the_closest_at_equal_speed_are_found() -> None:
    from tables import FIDELITY, SPEED, leaders, markdown, winners

    at = winners(MEASURED, FIDELITY, 40.0)
    assert {library: s["speedup"] for library, s in at.items()} == {"dcache": 1.6, "peer": 1.9}
    assert leaders(at, FIDELITY) == {"peer"}
    assert winners(MEASURED, SPEED, 2.5) == {"dcache": MEASURED[0]}
    lines = markdown(MEASURED, ["dcache", "peer"], SPEED)
    assert lines[2] == "| 1.5x | **41.0 dB** (dcache 1.6, 1.60x) | **41.0 dB** (peer 1.9, 1.90x) |"
    assert lines[3] == "| 2x | 36.0 dB (dcache 2.6, 2.60x) | **39.0 dB** (peer 2.0, 2.00x) |"
    assert lines[4] == "| 2.5x | **36.0 dB** (dcache 2.6, 2.60x) | not reached |"
    assert lines[5] == "| 3x | not reached | not reached |"


def test_a_peer_that_wins_is_named() -> None:
    from tables import verdicts

    found = verdicts(MEASURED)
    assert (
        "PSNR at least 40 dB: peer 1.90x (peer 1.9, 41.0 dB); dcache 1.60x (dcache 1.6, 41.0 dB)"
        in found["behind"]
    )
    assert found["ahead"] == ["PSNR at least 30 dB", "PSNR at least 35 dB", "speedup at least 2.5x"]
    assert found["level"] == ["speedup at least 1.5x: with peer"]


def test_the_second_round_keeps_what_may_still_be_best() -> None:
    from tables import front, work_saved

    slower, equal = setting("dcache", 2.4, 36.0), setting("dcache", 2.55, 36.0)
    assert front([*MEASURED, slower, equal]) == [*MEASURED[:4], equal]
    delayed, heavier = ({**setting("dcache", 0.5, 36.0), "flops": share} for share in (0.4, 0.5))
    assert front([delayed, heavier], work_saved) == [delayed]


def test_the_page_is_filled_and_the_plot_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from page import write_page

    (tmp_path / "bench.md").write_text("above\n<!-- measured -->\nold\n<!-- /measured -->\nbelow\n")
    rows = [{**s, "library": s["library"].replace("peer", "cache-dit")} for s in MEASURED]
    one = {
        "title": "PixArt",
        "guided": "on",
        "pipeline": {"guidance": 3.0, "steps": 20},
        "prompts": [{}, {}],
        "uncached": {"seconds": 1.0, "denoiser_seconds": 0.9},
        "methods": [{**s, "spread": 0.04} for s in rows],
        "first_round": rows,
        "entered": {"dcache": 36, "cache-dit": 36},
        "left_out": [{"library": "cache-dit", "label": f"{i}", "why": "it fails"} for i in range(4)],
        "asked": {"final_repeats": 7},
        "machine": {"processor": "P", "threads": 1},
        "versions": dict.fromkeys(("python", "torch", "diffusers", "dcache", "cache-dit", "DeepCache"), "1"),
    }
    page, figures, plot = write_page([one, {**one, "guided": "off"}], tmp_path)
    text = page.read_text()
    assert text.startswith("above\n<!-- measured -->\nP, threads: 1")
    assert text.endswith("<!-- /measured -->\nbelow\n")
    assert "old" not in text
    assert "### PixArt, guidance 3\n" in text
    assert "Equal calls differed by 4%" in text
    assert "dcache is ahead in 3 of 6 rows, level in 1." in text
    assert "- speedup at least 2x: cache-dit 39.0 dB" in text
    assert "- cache-dit: 0, 1, 2 and 1 more: it fails" in text
    assert "| PixArt, guidance 3 | **2.60x**, 36.0 | 2.00x, **39.0** |" in capsys.readouterr().out
    assert len(json.loads(figures.read_text())["measured"]) == 2
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_settings_that_would_win_where_timings_are_off_are_likely() -> None:
    from tables import likely

    def setting(spec: str, speedup: float, psnr: float) -> dict[str, Any]:
        return {
            "spec": spec,
            "library": "a",
            "label": spec,
            "speedup": speedup,
            "mean_psnr": psnr,
            "flops": 1 / speedup,
        }

    # The first wins at 2x, the second if it is 6 % faster than it was, the third nowhere.
    settings = [setting("wins", 2.2, 40.0), setting("near", 1.9, 44.0), setting("far", 1.9, 38.0)]
    assert likely(settings) == {"wins", "near"}
