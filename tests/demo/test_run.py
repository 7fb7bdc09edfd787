"""The demonstration on tiny settings: its figures are recomputed here from pictures made here."""

import io
import json
import math
import statistics
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import dcache
from dcache.cli import main
from dcache.demo.pipeline import call_options, load_pipeline
from dcache.demo.run import run
from dcache.demo.settings import Settings
from dcache.errors import DcacheError
from dcache.schedule import Schedule

STEPS, PROMPTS, SEED = 6, 2, 5
METHODS = "interval:interval=2;fbcache:threshold=0"


@dataclass
class Ran:
    out: Path
    status: int
    printed: str
    told: str
    results: dict[str, Any]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    out = tmp_path_factory.mktemp("demo") / "new" / "out"
    options = {"steps": STEPS, "prompts": PROMPTS, "methods": METHODS, "repeats": 1, "seed": SEED}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    printed, told = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(told):
        status = main(["demo", "--out", str(out), *arguments])
    results = json.loads((out / "results.json").read_text())
    return Ran(out, status, printed.getvalue(), told.getvalue(), results)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline()


def pictures(pipe: Any, captions: list[str]) -> NDArray[np.uint8]:
    noise = [torch.Generator().manual_seed(SEED + i) for i in range(len(captions))]
    found = pipe(captions, generator=noise, **{**call_options(), "num_inference_steps": STEPS}).images
    return np.stack([np.asarray(image) for image in found])


def test_it_ends_well_and_prints_a_row_for_each(ran: Ran) -> None:
    assert ran.status == 0
    words = [line.split() for line in ran.printed.splitlines()]
    judged = [f"{column[0]:.3f}" for column in ran.results["judged"].values()]
    assert ["uncached", "100", "%", f"{ran.results['uncached']['seconds']:.2f}", "1.00x", *judged] in words
    for method in ran.results["methods"]:
        (its,) = [w for w in words if w[:2] == method["label"].split()]
        assert f"{method['speedup']:.2f}x" in [word.rstrip("*") for word in its]
        assert f"{method['mean_psnr']:.1f}" in [word.rstrip("*") for word in its]
    assert "fbcache 0: nothing was predicted" in ran.printed
    assert len(ran.printed.rstrip().split("\n\n")[-1].splitlines()) == 3
    assert any(line.startswith("warm-up") for line in ran.told.splitlines())


def test_psnr_is_that_of_the_pictures(ran: Ran, pipe: Any) -> None:
    captions = [prompt["text"] for prompt in ran.results["prompts"]]
    assert len(set(captions)) == PROMPTS
    reference = pictures(pipe, captions).astype(float)
    with dcache.enabled(pipe, dcache.methods.interval(interval=2)):
        cached = pictures(pipe, captions).astype(float)
    errors = ((cached - reference) ** 2).mean(axis=(1, 2, 3))
    expected = [20 * math.log10(255) - 10 * math.log10(error) for error in errors]
    interval, everything = ran.results["methods"]
    # A pixel in ten thousand may round the other way from one run to another.
    assert interval["psnr"] == pytest.approx(expected, abs=0.05)
    assert interval["mean_psnr"] == pytest.approx(sum(interval["psnr"]) / PROMPTS)
    assert 5 < interval["mean_psnr"] < 60
    assert 0.1 < interval["mean_ssim"] < 0.9999
    assert everything["mean_psnr"] > 60


def test_the_judges_look_at_the_pictures(ran: Ran) -> None:
    clip, frechet = ran.results["judged"]["clip-shapes"], ran.results["judged"]["frechet-shapes"]
    assert len(clip) == len(frechet) == 3
    assert all(0 < value <= 100 for value in clip)
    # Everything was computed by the last one.
    assert frechet[0] == frechet[2] == 0.0
    assert frechet[1] > 0.001
    assert clip[0] == clip[2]
    head = next(line for line in ran.printed.splitlines() if line.startswith("method"))
    assert head.split()[-2:] == ["clip-shapes", "frechet-shapes"]


def test_speedup_is_the_ratio_of_medians(ran: Ran) -> None:
    uncached = ran.results["uncached"]
    assert uncached["seconds"] == statistics.median(uncached["all_seconds"])
    for method in ran.results["methods"]:
        assert method["speedup"] == pytest.approx(
            uncached["seconds"] / statistics.median(method["all_seconds"])
        )
        ratio = uncached["denoiser_seconds"] / method["denoiser_seconds"]
        assert method["denoiser_speedup"] == pytest.approx(ratio)
        assert len(method["all_seconds"]) == 1
    for one in [uncached, *ran.results["methods"]]:
        assert 0 < one["denoiser_seconds"] < one["seconds"]


def test_counts_and_reasons_are_those_of_the_methods(ran: Ran) -> None:
    interval, everything = ran.results["methods"]
    assert (interval["stats"]["computed"], interval["stats"]["predicted"], interval["computed"]) == (
        3,
        3,
        0.5,
    )
    assert sum(interval["stats"]["reasons"].values()) == 3
    assert (everything["stats"]["predicted"], everything["computed"]) == (0, 1.0)
    # The trunk's delta: 2 pictures x 2 guidance halves x 64 tokens x 160 channels of 4 bytes.
    assert interval["held"] == 4 * 64 * 160 * 4


def test_settings_machine_and_versions_are_recorded(ran: Ran) -> None:
    assert ran.results["settings"]["steps"] == STEPS
    assert [prompt["seed"] for prompt in ran.results["prompts"]] == [SEED, SEED + 1]
    assert ran.results["versions"]["torch"] == torch.__version__
    assert ran.results["machine"]["threads"] == torch.get_num_threads()


def test_schedules_are_traces_that_load(ran: Ran) -> None:
    assert [method["schedule"] for method in ran.results["methods"]] == [
        "schedules/interval-2.json",
        "schedules/fbcache-0.json",
    ]
    plan = Schedule.load(ran.out / "schedules/interval-2.json").components["transformer"]
    assert plan.rows["*"]["trunk"] == (True, False) * 3


def test_figures_are_pictures_of_a_sensible_size(ran: Ran) -> None:
    files = sorted(str(path.relative_to(ran.out)) for path in ran.out.rglob("*") if path.is_file())
    assert files == [
        "grid.png",
        "results.json",
        "schedules/fbcache-0.json",
        "schedules/interval-2.json",
        "speed-fidelity.png",
    ]
    for name in ("grid.png", "speed-fidelity.png"):
        with Image.open(ran.out / name) as image:
            image.verify()
        with Image.open(ran.out / name) as image:
            assert image.format == "PNG"
            assert 400 < image.width < 2400
            assert 300 < image.height < 1600
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50


def test_the_grid_shows_the_uncached_pictures(ran: Ran, pipe: Any) -> None:
    captions = [prompt["text"] for prompt in ran.results["prompts"]]
    reference = pictures(pipe, captions)
    with Image.open(ran.out / "grid.png") as image:
        grid = np.asarray(image.convert("RGB")).astype(int)
    middle = grid.shape[0] - round(160 * 0.56)  # half a picture and the gap below the last row
    # The last caption's first picture: 1.5 inches of caption at 160 dots per inch, then half a picture.
    assert np.abs(grid[middle, round(160 * 2.0)] - reference[-1][32, 32].astype(int)).max() < 40


def test_broken_uncached_pictures_end_the_demonstration(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcache.demo.pipeline.load_pipeline", lambda *_: pipe)
    hidden = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda z, **k: tuple(x * torch.nan for x in hidden(z, **k)))
    with pytest.raises(DcacheError, match="1 of 1 pictures contain NaN"):
        run(Settings(out=tmp_path, steps=2, prompts=1, methods="interval", repeats=1))
