import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance

from dcache.demo.judges import load_clip_shapes, load_frechet_shapes
from dcache.demo.pictures import demo_captions, render
from dcache.errors import DcacheError
from dcache.eval.bootstrap import interval
from dcache.eval.fidelity import psnr
from dcache.eval.manifest import Entry, Manifest
from dcache.eval.metrics.features import Features
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.score import score
from dcache.eval.store import Store

NAMES = ["psnr", "clip-shapes", "frechet-shapes"]
EACH = 2
OPTIONS = MetricOptions(score_batch_size=3, score_device="cpu")


def store_of(folder, methods, prompts, batch_size=4, broken=()):
    """A finished run: method -> uint8 pictures, `EACH` of each prompt."""
    entries = [Entry(name, name, name, "0" * 12, "", "") for name in methods]
    settings = {"images_per_prompt": EACH, "seed": 0, "batch_size": batch_size}
    store = Store(folder, Manifest(settings, {}, prompts, entries))
    for entry, pictures in zip(entries, methods.values(), strict=True):
        for batch, items in enumerate(store.batches):
            told = f"{entry.label} is broken" if entry.label in broken else None
            made = pictures[items[0].index : items[-1].index + 1]
            store.keep(entry, batch, made, {"broken": told}, None)
    return store


@pytest.fixture
def run(tmp_path):
    """Ten drawn pictures of five captions; `near` has a little noise on them, `far` a lot."""
    random = np.random.default_rng(0)
    captions = demo_captions(5)
    pictures = render([caption for caption in captions for _ in range(EACH)], random)

    def noisy(levels):
        return (pictures + random.normal(0, levels, pictures.shape)).clip(0, 255).round().astype(np.uint8)

    methods = {"uncached": pictures, "near": noisy(2.0), "far": noisy(20.0)}
    return store_of(tmp_path / "run", methods, [caption.text for caption in captions]), methods


def test_every_number_is_what_the_libraries_give_by_hand(run):
    store, methods = run
    found = score(store, ["ssim", *NAMES], OPTIONS)["methods"]
    model, preprocess, tokenizer = load_clip_shapes()
    frechet = FrechetInceptionDistance(feature=load_frechet_shapes())
    with torch.no_grad():
        said = model.encode_text(tokenizer([item.prompt for item in store.items]))
        seen = model.encode_image(torch.stack([preprocess(Image.fromarray(p)) for p in methods["far"]]))
    for name, real in (("uncached", True), ("far", False)):
        frechet.update(torch.from_numpy(methods[name]).permute(0, 3, 1, 2), real=real)

    far = found["far"]
    each = psnr(methods["far"], methods["uncached"])
    assert far["psnr"]["each"] == pytest.approx(each)
    assert far["psnr"]["value"] == pytest.approx(np.mean(each))
    assert (far["psnr"]["low"], far["psnr"]["high"]) == interval(each, np.repeat(np.arange(5), EACH))
    cosines = torch.nn.functional.cosine_similarity(seen, said).clamp(min=0)
    assert far["clip-shapes"]["value"] == pytest.approx(100 * float(cosines.mean()), abs=1e-3)
    assert far["frechet-shapes"]["value"] == pytest.approx(float(frechet.compute()), rel=1e-3)
    assert far["frechet-shapes"]["low"] is None
    assert found["near"]["ssim"]["value"] > far["ssim"]["value"]
    assert found["near"]["frechet-shapes"]["value"] < far["frechet-shapes"]["value"]


def test_the_file_holds_what_was_returned_and_describes_its_metrics(run):
    store, _ = run
    content = score(store, NAMES, OPTIONS)

    assert json.loads((store.folder / "scores.json").read_text()) == content
    assert (content["format"], content["version"]) == ("dcache.eval.scores", 1)
    assert list(content["metrics"]) == NAMES
    assert content["metrics"]["psnr"]["unit"] == "dB"
    assert content["metrics"]["frechet-shapes"]["against"] == "uncached"
    assert "10 pictures" in content["warnings"][0]


def test_the_uncached_pictures_are_not_compared_with_themselves(run):
    own = score(run[0], NAMES, OPTIONS)["methods"]["uncached"]

    assert own["psnr"]["value"] is None
    assert own["frechet-shapes"]["why_not"] == "the methods are compared with it"
    assert own["clip-shapes"]["value"] > 0


def test_a_second_run_gives_the_same_numbers_with_and_without_what_was_kept(run, monkeypatch):
    store, _ = run
    first = score(store, NAMES, OPTIONS)
    shutil.rmtree(store.folder / "features")
    assert score(store, NAMES, OPTIONS) == first

    def no_pictures(*_):
        raise AssertionError("a picture was read again")

    monkeypatch.setattr(Store, "pictures", no_pictures)
    assert score(store, NAMES, OPTIONS) == first


def test_two_processes_give_the_numbers_of_one(run, tmp_path):
    store, _ = run
    alone = score(store, NAMES, OPTIONS)
    shutil.rmtree(store.folder / "features")

    def second_first(work):
        assert score(store, NAMES, OPTIONS, process=(1, 2)) is None
        return work()

    assert score(store, NAMES, OPTIONS, process=(0, 2), run_on_all=second_first) == alone
    files = {path.name for path in (store.folder / "features" / "psnr" / "near").iterdir()}
    assert files == {"0.safetensors", "1.safetensors"}


def test_pictures_that_changed_are_read_again(run):
    store, methods = run
    before = score(store, ["psnr"], OPTIONS)["methods"]["far"]["psnr"]
    (store.folder / "calls" / "far" / "00000.json").unlink()
    store.keep(store.methods[2], 0, methods["near"][:4], {"broken": None}, None)
    after = score(store, ["psnr"], OPTIONS)["methods"]["far"]["psnr"]

    assert after["each"][:4] == pytest.approx(psnr(methods["near"][:4], methods["uncached"][:4]))
    assert after["each"][4:] == before["each"][4:]


def test_broken_pictures_have_no_figures_and_say_why(run, tmp_path):
    _, methods = run
    store = store_of(tmp_path / "other", methods, ["a", "b", "c", "d", "e"], broken=["far"])
    found = score(store, NAMES, OPTIONS)["methods"]

    assert {one["value"] for one in found["far"].values()} == {None}
    assert {one["why_not"] for one in found["far"].values()} == {"far is broken"}
    assert found["near"]["psnr"]["value"] > 30


def test_without_sound_uncached_pictures_nothing_is_compared(run, tmp_path):
    _, methods = run
    store = store_of(tmp_path / "other", methods, ["a", "b", "c", "d", "e"], broken=["uncached"])
    near = score(store, NAMES, OPTIONS)["methods"]["near"]

    assert near["psnr"]["why_not"] == "there is nothing to compare with: uncached, uncached is broken"
    assert near["frechet-shapes"]["value"] is None
    assert near["clip-shapes"]["value"] is not None


def test_a_reference_folder_takes_the_place_of_the_uncached_pictures(run, tmp_path):
    store, methods = run
    reference = tmp_path / "real"
    reference.mkdir()
    for i, picture in enumerate(methods["far"]):
        Image.fromarray(picture).save(reference / f"{i}.png")
    content = score(store, NAMES, MetricOptions(reference=reference, score_device="cpu"))

    assert content["metrics"]["frechet-shapes"]["against"] == "reference"
    found = {name: one["frechet-shapes"]["value"] for name, one in content["methods"].items()}
    assert found["far"] == pytest.approx(0, abs=1e-3)
    assert found["uncached"] > found["near"] > 0.1


def test_clips_have_flicker_and_no_fid(tmp_path):
    random = np.random.default_rng(0)
    clips = random.integers(0, 256, (4, 3, 16, 16, 3), dtype=np.uint8)
    blinking = clips.copy()
    blinking[:, 1] ^= 4
    store = store_of(tmp_path, {"uncached": clips, "near": blinking}, ["a", "b"])
    near = score(store, ["psnr", "flicker", "frechet-shapes"], OPTIONS)["methods"]["near"]

    assert near["flicker"]["value"] == pytest.approx(4.0)
    assert near["psnr"]["value"] == pytest.approx((100 + 36.089 + 100) / 3, abs=1e-3)
    assert near["frechet-shapes"]["why_not"] == "frechet-shapes is not defined for videos"


def test_missing_pictures_are_told_with_what_to_do(run):
    store, _ = run
    store.picture_path(store.methods[1], store.items[0]).unlink()

    with pytest.raises(DcacheError, match=r"pictures are missing in .*: near\. Run the generate stage"):
        score(store, NAMES, OPTIONS)


def test_progress_is_told_by_source(run):
    told = []
    score(run[0], ["psnr", "clip-shapes"], OPTIONS, progress=lambda *one: told.append(one))

    # Two methods of four batches beside the uncached one; all three by themselves.
    assert ("psnr", 8, 8) in told
    assert ("clip-shapes", 12, 12) in told
    assert told[-1] == ("scores", 2, 2)


@pytest.mark.slow
def test_each_of_256_pictures_is_read_once_by_each_source(tmp_path, monkeypatch):
    pictures_read = Counter()

    class Counted(Features):
        def __init__(self, folder, *rest):
            super().__init__(folder, *rest)
            self.source = folder.name

        def fill(self, read, *rest):
            def counted(batch):
                pictures_read[self.source] += len(batch.pictures)
                return read(batch)

            super().fill(counted, *rest)

    monkeypatch.setattr("dcache.eval.score.Features", Counted)
    captions = demo_captions(128)
    pictures = render([caption for caption in captions for _ in range(EACH)], np.random.default_rng(0))
    methods = {"uncached": pictures, "brighter": pictures // 2 + 60}
    store = store_of(tmp_path, methods, [caption.text for caption in captions], batch_size=16)
    found = score(store, ["ssim", *NAMES])["methods"]["brighter"]

    # PSNR and SSIM compare the cached pictures with the uncached ones; networks read both.
    assert pictures_read == {"psnr": 256, "ssim": 256, "clip-shapes": 512, "frechet-shapes": 512}
    assert [len(found[name]["each"]) for name in ("psnr", "ssim", "clip-shapes")] == [256] * 3
