import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dcache.errors import DcacheError
from dcache.eval.metrics import METRICS
from dcache.eval.metrics.base import Batch
from dcache.eval.metrics.clip import clip_reader, load_clip
from dcache.eval.metrics.options import MetricOptions

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
MEANS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
TEXTS = ["a red circle", "a blue square", "two cats"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny-clip")
    torch.manual_seed(0)
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": MEANS}))
    save_file(open_clip.CLIP(**TINY).state_dict(), path / "open_clip_model.safetensors")
    return path


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def read(folder, batch, size=2):
    options = MetricOptions(clip_model=f"local-dir:{folder}", score_batch_size=size)
    return METRICS["clip"].source.load(options).read(batch)


def by_hand(folder, shown, texts):
    """A hundred times the cosine, with open_clip alone."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        seen = model.eval().encode_image(torch.stack([preprocess(Image.fromarray(p)) for p in shown]))
        said = model.encode_text(tokens)
    return 100 * torch.nn.functional.cosine_similarity(seen, said).numpy()


def test_the_score_is_a_hundred_times_the_cosine_of_open_clip_and_never_below_zero(folder):
    shown = pictures(3, 40, 40, 3)
    its = by_hand(folder, shown, TEXTS)
    found = read(folder, Batch(shown, None, TEXTS))[:, 0]

    assert (its < 0).any()
    assert (its > 0).any()
    assert found == pytest.approx(its.clip(min=0), abs=1e-4)


def test_a_clip_has_the_mean_score_of_its_frames(folder):
    clips = pictures(2, 3, 32, 32, 3)
    frames = by_hand(folder, clips.reshape(6, 32, 32, 3), [t for t in TEXTS[:2] for _ in range(3)])

    found = read(folder, Batch(clips, None, TEXTS[:2]))[:, 0]
    assert found == pytest.approx(frames.clip(min=0).reshape(2, 3).mean(axis=1), abs=1e-4)


def test_a_checkpoint_file_of_a_named_model_is_loaded(folder, tmp_path):
    config = tmp_path / "tiny-clip-of-a-test.json"
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    model, _, _ = load_clip("tiny-clip-of-a-test", str(folder / "open_clip_model.safetensors"))

    mine, _, _ = load_clip(f"local-dir:{folder}", "unused")
    assert torch.equal(model.text_projection, mine.text_projection)


def test_other_weights_have_another_identity(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    torch.manual_seed(1)
    save_file(open_clip.CLIP(**TINY).state_dict(), other / "open_clip_model.safetensors")
    load = METRICS["clip"].source.load

    first, again, second = (
        load(MetricOptions(clip_model=f"local-dir:{one}")).identity for one in (folder, folder, other)
    )
    assert first == again
    assert first != second


def test_the_network_is_not_in_training(folder):
    model, preprocess, tokenizer = load_clip(f"local-dir:{folder}", "")
    clip_reader(model.train(), preprocess, tokenizer, MetricOptions(score_device="cpu"))

    assert not model.training


def test_an_unknown_model_is_refused():
    with pytest.raises(DcacheError, match=r"open_clip has no model 'ViT-Q-7'.*local-dir"):
        load_clip("ViT-Q-7", "openai")


def test_an_unknown_tag_is_refused_with_those_there_are():
    with pytest.raises(DcacheError, match=r"cannot load the CLIP ViT-B-32 nobodys.*laion2b_s34b_b79k"):
        load_clip("ViT-B-32", "nobodys")


def test_weights_of_the_other_activation_are_refused(monkeypatch, folder):
    checkpoint = str(folder / "open_clip_model.safetensors")
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: checkpoint)

    with pytest.raises(DcacheError, match="ViT-L-14-quickgelu, not ViT-L-14"):
        load_clip("ViT-B-32", "openai")


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": MEANS}))

    with pytest.raises(DcacheError, match="cannot load the CLIP local-dir"):
        load_clip(f"local-dir:{tmp_path}", "")


def test_the_usual_model_is_one_that_open_clip_has_with_the_activation_of_its_weights():
    usual = MetricOptions()

    assert open_clip.get_model_config(usual.clip_model)["quick_gelu"]
    assert open_clip.get_pretrained_cfg(usual.clip_model, usual.clip_pretrained)["quick_gelu"]
