"""The shipped video model and `dcache demo --video`: figures are recomputed here from clips made here."""

import importlib.util
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from numpy.typing import NDArray
from PIL import Image

import dcache
from dcache.cli import main
from dcache.demo.video import clips
from dcache.demo.video.animate import ENLARGED, GAP, HEAD, MARGIN
from dcache.demo.video.clips import FRAMES, SIDE
from dcache.demo.video.pipeline import call_options, load_pipeline, model_path
from dcache.eval.fidelity import flicker, to_uint8
from dcache.schedule import Schedule

MEGABYTE = 1_000_000
STEPS, PROMPTS, SEED = 6, 2, 5
METHODS = "interval:interval=2;newton"
PITCH = SIDE * ENLARGED + GAP
FILES = ["clips.gif", "contact.png", "pair.gif", "results.json", "speed-fidelity.png"]


@dataclass
class Ran:
    out: Path
    status: int
    printed: str
    told: str
    results: dict[str, Any]


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    return load_pipeline()


@pytest.fixture(scope="module")
def read() -> Callable[[Any], NDArray[np.int64]]:
    """The reader of attributes; pytest's importlib mode finds no neighbours by name."""
    spec = importlib.util.spec_from_file_location("clip_reader", Path(__file__).with_name("clip_reader.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    out = tmp_path_factory.mktemp("demo") / "new" / "out"
    options = {"steps": STEPS, "prompts": PROMPTS, "methods": METHODS, "repeats": 1, "seed": SEED}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    printed, told = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(told):
        status = main(["demo", "--video", "--out", str(out), *arguments])
    results = json.loads((out / "results.json").read_text())
    return Ran(out, status, printed.getvalue(), told.getvalue(), results)


def make(pipe: WanPipeline, texts: list[str], seed: int, steps: int) -> NDArray[np.float32]:
    noise = [torch.Generator().manual_seed(seed + i) for i in range(len(texts))]
    options = {**call_options(), "num_inference_steps": steps}
    return pipe(texts, generator=noise, output_type="np", **options).frames


def labels(captions: list[clips.Caption]) -> NDArray[np.int64]:
    return np.array([caption.labels for caption in captions])


def test_the_folder_is_small() -> None:
    sizes = [file.stat().st_size for file in model_path().rglob("*") if file.is_file()]
    assert sum(sizes) < 8 * MEGABYTE
    assert max(sizes) < 6 * MEGABYTE


def test_it_loads_as_an_unmodified_float32_pipeline_and_says_nothing(
    pipe: WanPipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    again = load_pipeline()
    make(again, ["a"], 0, 2)
    assert capfd.readouterr() == ("", "")
    assert (type(again), type(again.transformer)) == (WanPipeline, WanTransformer3DModel)
    assert type(again.vae) is AutoencoderKLWan
    modules = (again.text_encoder, again.transformer, again.vae)
    assert {p.dtype for module in modules for p in module.parameters()} == {torch.float32}


def test_every_word_of_every_caption_is_known(pipe: WanPipeline) -> None:
    texts = [caption.text for caption in clips.all_captions()]
    unknown = pipe.tokenizer.unk_token_id
    assert all(unknown not in pipe.tokenizer(word).input_ids for text in texts for word in text.split())
    assert unknown in pipe.tokenizer("fox").input_ids
    longest = max(texts, key=lambda text: len(text.split()))
    assert len(pipe.tokenizer(longest).input_ids) <= call_options()["max_sequence_length"]


def test_the_reader_reads_drawn_clips_and_not_wrong_ones(read: Any) -> None:
    rng = np.random.default_rng(5)
    captions = clips.sample_captions(60, rng)
    drawn = read(clips.render(captions, rng))
    assert (drawn == labels(captions)).all(1).mean() > 0.97
    assert (drawn == labels(captions[1:] + captions[:1])).all(1).mean() < 0.05
    assert (read(np.full((1, FRAMES, SIDE, SIDE, 3), 128, np.uint8)) == -1).all()


def test_the_autoencoder_keeps_drawn_clips(pipe: WanPipeline, read: Any) -> None:
    rng = np.random.default_rng(6)
    captions = clips.sample_captions(32, rng)
    x = torch.from_numpy(clips.render(captions, rng)).permute(0, 4, 1, 2, 3) / 127.5 - 1
    with torch.no_grad():
        y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mode()).sample
    assert (-10 * ((y - x) / 2).square().mean((1, 2, 3, 4)).log10()).mean() > 29
    kept = read((y / 2 + 0.5).permute(0, 2, 3, 4, 1).numpy())
    assert (kept == labels(captions)).all(1).mean() > 0.9


def test_generated_clips_show_what_held_out_captions_say(pipe: WanPipeline, read: Any) -> None:
    captions = clips.sample_captions(24, np.random.default_rng(7), unseen=True)
    made = read(make(pipe, [caption.text for caption in captions], 0, call_options()["num_inference_steps"]))
    assert (made == labels(captions)).all(1).mean() >= 0.75
    assert (made == labels(captions)).mean(0).min() >= 0.8
    assert (made == labels(captions[1:] + captions[:1])).all(1).mean() < 0.1


def test_it_ends_well_and_prints_a_row_for_each(ran: Ran) -> None:
    assert ran.status == 0
    assert ran.printed.startswith(f"clips of {FRAMES} frames: {PROMPTS}, steps: {STEPS}")
    words = [line.split() for line in ran.printed.splitlines()]
    assert ["uncached", "100", "%", f"{ran.results['uncached']['seconds']:.2f}", "1.00x", "-"] in words
    for method, judged in zip(ran.results["methods"], ran.results["judged"]["flicker"][1:], strict=True):
        (its,) = [w for w in words if w[:1] == method["label"].split()[:1] and "%" in w]
        bare = [word.rstrip("*") for word in its]
        assert f"{method['speedup']:.2f}x" in bare
        assert f"{method['mean_psnr']:.1f}" in bare
        assert bare[-1] == f"{judged:.2f}"
    assert any(line.startswith("warm-up") for line in ran.told.splitlines())


def test_figures_are_those_of_the_clips(ran: Ran, pipe: WanPipeline) -> None:
    texts = [clip["text"] for clip in ran.results["prompts"]]
    assert texts == [caption.text for caption in clips.demo_captions(PROMPTS)]
    reference = to_uint8(make(pipe, texts, SEED, STEPS))
    choices = [dcache.methods.interval(2), dcache.methods.newton()]
    uncached, *flickers = ran.results["judged"]["flicker"]
    assert uncached is None
    for method, judged, choice in zip(ran.results["methods"], flickers, choices, strict=True):
        with dcache.enabled(pipe, choice):
            made = to_uint8(make(pipe, texts, SEED, STEPS))
        error = (made.astype(float) - reference).reshape(PROMPTS, FRAMES, -1)
        by_hand = 10 * np.log10(255**2 / np.square(error).mean(2)).mean(1)
        np.testing.assert_allclose(method["psnr"], by_hand, rtol=1e-6)
        assert judged == pytest.approx(np.mean(flicker(made, reference)))
        assert 15 < method["mean_psnr"] < 90


def test_the_counts_and_the_schedules_are_those_of_the_run(ran: Ran) -> None:
    interval = ran.results["methods"][0]
    # Two branches of guidance at every step; every second step and the first two are computed.
    assert interval["stats"]["computed"] + interval["stats"]["predicted"] == 2 * STEPS
    assert 0 < interval["computed"] < 1
    for method in ran.results["methods"]:
        schedule = Schedule.load(ran.out / method["schedule"])
        assert schedule.steps == STEPS


def test_the_files_are_there_and_no_others(ran: Ran) -> None:
    assert sorted(p.name for p in ran.out.iterdir() if p.is_file()) == FILES
    assert sorted(p.name for p in (ran.out / "schedules").iterdir()) == ["interval-2.json", "newton.json"]


@pytest.mark.parametrize(("name", "contestants"), [("clips.gif", 3), ("pair.gif", 2)])
def test_a_gif_shows_every_frame_of_every_clip_in_its_place(
    name: str, contestants: int, ran: Ran, pipe: WanPipeline
) -> None:
    texts = [clip["text"] for clip in ran.results["prompts"]]
    reference = to_uint8(make(pipe, texts, SEED, STEPS)).astype(int)
    with Image.open(ran.out / name) as image:
        assert image.n_frames == FRAMES
        assert image.info["loop"] == 0
        for t in range(FRAMES):
            image.seek(t)
            pixels = np.asarray(image.convert("RGB")).astype(int)
            for i in range(PROMPTS):
                top, left = HEAD + i * PITCH, MARGIN
                shown = pixels[top : top + PITCH - GAP : ENLARGED, left : left + PITCH - GAP : ENLARGED]
                # 256 colours for all frames and contestants together.
                assert np.abs(shown - reference[i, t]).mean() < 6
        assert pixels.shape[1] == MARGIN + contestants * PITCH


def test_the_contact_sheet_has_a_row_for_each_contestant_and_every_other_frame(
    ran: Ran, pipe: WanPipeline
) -> None:
    first = to_uint8(make(pipe, [ran.results["prompts"][0]["text"]], SEED, STEPS))[0]
    with Image.open(ran.out / "contact.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (HEAD + 3 * PITCH, MARGIN + 5 * PITCH, 3)
    last = pixels[HEAD : HEAD + PITCH - GAP : ENLARGED, MARGIN + 4 * PITCH : -GAP : ENLARGED]
    # The clip was made alone here and in a batch there: a rounding may differ.
    assert np.abs(last.astype(int) - first[-1]).max() <= 2


def test_without_the_option_pictures_are_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def stop(settings: Any, *_: Any) -> Any:
        asked.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr("dcache.demo.run.run", stop)
    monkeypatch.chdir(tmp_path)
    assert [main(["demo"]), main(["demo", "--video"]), main(["demo", "--video", "--steps", "9"])] == [130] * 3
    pictures, video, short = asked
    assert (pictures.out, video.out) == (Path("demo-out"), Path("demo-out/video"))
    assert pictures.methods != video.methods
    assert (video.steps, short.steps) == (20, 9)


def test_wrong_arguments_end_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "dcache.demo.video.pipeline.load_pipeline", lambda *_: pytest.fail("the model was loaded")
    )
    assert main(["demo", "--video", "--out", str(tmp_path / "out"), "--methods", "newtn"]) == 2
    assert "Did you mean 'newton'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
