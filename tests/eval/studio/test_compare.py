"""A comparison has the pixels and the figures of the same two calls, made by hand."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence

import dcache
from dcache.demo.pipeline import call_options
from dcache.errors import DcacheError
from dcache.eval.call_cost import counting
from dcache.eval.studio.compare import MOST_FRAMES, Comparison, Picture, compare, uncached_side
from dcache.eval.studio.form import Form
from dcache.eval.studio.watch import Watch
from dcache.eval.subject import Subject, coefficients
from dcache.schedule import Schedule
from tests.eval.studio.conftest import form


def silent(*_: Any) -> None:
    """Report nothing."""


def compared(demo: Subject, clock: Any = None, **changes: Any) -> Comparison:
    asked = Form.of(form(**changes))
    subject, entry = asked.subject({"demo": demo}), asked.entry({}, coefficients("demo"))
    watch = Watch(silent)
    more = () if clock is None else (clock,)
    return compare(subject, entry, asked, uncached_side(subject, asked, watch, *more), watch, *more)


def by_hand(pipe: Any) -> tuple[NDArray[np.uint8], int]:
    """Pixels of the same call through diffusers alone, and its operations."""
    options = call_options() | {"num_inference_steps": 4, "guidance_scale": 3.0}
    with torch.no_grad(), counting() as counter:
        image = pipe("a red circle", generator=torch.Generator().manual_seed(3), **options).images[0]
    return np.asarray(image), counter.get_total_flops()


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_pictures_and_figures_are_those_of_the_calls_by_hand(demo: Subject) -> None:
    calls = [0]
    blocks = demo.pipe.transformer.transformer_blocks
    hook = blocks[5].register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    found = compared(demo, clock=lambda: float(calls[0]), warm_up=True)
    hook.remove()

    plain, plain_flops = by_hand(demo.pipe)
    with dcache.enabled(demo.pipe, "interval", interval=2, warmup=1):
        cached, cached_flops = by_hand(demo.pipe)
        stats, trace = dcache.stats(demo.pipe), dcache.trace(demo.pipe)
    assert np.array_equal(pixels(found.uncached.file), plain)
    assert np.array_equal(pixels(found.picture.file), cached)
    assert not np.array_equal(plain, cached)

    error = ((plain.astype(float) - cached) ** 2).mean()
    assert found.row.mean_psnr == pytest.approx(10 * np.log10(255**2 / error))
    assert found.row.flops == cached_flops / plain_flops
    assert found.row.held == stats.bytes_held > 0
    assert (stats.computed, stats.predicted) == (2, 2)
    assert found.row.computed == 0.5
    # A clock that counts calls of a block: four evaluations against two.
    assert (found.seconds, found.row.seconds, found.row.speedup) == (4.0, 2.0, 2.0)
    assert found.trace is not None
    assert trace is not None
    assert found.trace.digest() == trace.digest()
    assert found.reasons == [{"warmup": 1}, {}, {"interval": 1}, {}]

    shown = {figure["title"]: figure["text"] for figure in found.figures()}
    assert shown["speedup"] == "2.00×"
    assert shown["uncached"] == "4.00 s"
    assert shown["cached"] == "2.00 s"
    assert shown["PSNR"] == f"{found.row.mean_psnr:.1f} dB"
    assert shown["computed"] == "50 %"


def test_the_map_the_line_and_the_file_give_the_same_run(demo: Subject, tmp_path: Any) -> None:
    found = compared(demo)
    drawn = found.map()
    assert drawn is not None
    assert drawn["steps"] == 4
    (table,) = drawn["tables"]
    assert table["strips"] == [{"sites": "trunk", "cells": "1010", "share": "50%"}]
    assert "transformer PixArtTransformer2DModel" in table["title"]

    file = tmp_path / "x.schedule.json"
    file.write_bytes(found.schedule_file())
    assert found.file_name() == "interval-2.schedule.json"
    assert found.trace is not None
    assert Schedule.load(file).digest() == found.trace.digest()
    for run in (f"dcache.enable(pipe, {str(file)!r})", found.line):
        exec(run, {"dcache": dcache, "pipe": demo.pipe})
        image, _ = by_hand(demo.pipe)
        dcache.disable(demo.pipe)
        assert np.array_equal(image, pixels(found.picture.file))
    assert found.line == "dcache.enable(pipe, dcache.methods.interval(interval=2, warmup=1))"


def test_a_method_that_plans_is_shown_with_its_plan_and_not_while_it_observes(demo: Subject) -> None:
    found = compared(demo, prompt="a blue square", steps=8, method="tuned", options="speedup=2")
    assert found.trace is not None
    computed = found.trace.components["transformer"].computed
    assert 0 < computed < 8
    assert found.plan.startswith(f"planned from one observed call: {computed} of 8 computed")
    assert found.row.computed == computed / 8
    assert "observing" not in {reason for each in found.reasons for reason in each}


def test_without_a_warm_up_nothing_is_counted_twice(demo: Subject) -> None:
    seen: list[tuple[str, str, int, int]] = []
    asked = Form.of(form())
    subject, entry = asked.subject({"demo": demo}), asked.entry({}, None)
    watch = Watch(lambda *what: seen.append(what))
    found = compare(subject, entry, asked, uncached_side(subject, asked, watch), watch)
    expected = [(side, "timed", done, 4) for side in ("uncached", "cached") for done in range(5)]
    assert seen == expected
    assert found.row.flops is None
    assert found.reasons == [{"warmup": 1}, {}, {"interval": 1}, {}]


def test_broken_output_is_an_error(demo: Subject) -> None:
    asked = Form.of(form(guidance=1e30))
    with pytest.raises(DcacheError, match=r"without caching .* (NaN|constant)"):
        uncached_side(asked.subject({"demo": demo}), asked, Watch(silent))


def test_a_clip_is_an_animated_file_and_a_strip_of_its_frames() -> None:
    clip = np.random.default_rng(0).integers(0, 255, (MOST_FRAMES + 9, 6, 8, 3), np.uint8)
    picture = Picture.of(clip)
    assert (picture.frames, picture.height, picture.width) == (MOST_FRAMES, 6, 8)
    frames = ImageSequence.Iterator(Image.open(io.BytesIO(picture.file)))
    assert np.array_equal(np.stack([np.asarray(frame.convert("RGB")) for frame in frames]), clip)
    strip = pixels(picture.strip)
    assert strip.shape == (MOST_FRAMES * 6, 8, 3)
    assert np.array_equal(strip[:6], clip[0])
    assert np.array_equal(strip[-6:], clip[-1])


def test_a_tall_clip_stays_within_what_browsers_show() -> None:
    picture = Picture.of(np.zeros((9, 4000, 2, 3), np.uint8))
    assert pixels(picture.strip).shape == (16_000, 2, 3)
    assert picture.frames == 4
