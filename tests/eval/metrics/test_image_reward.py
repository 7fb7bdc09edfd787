import builtins
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from dcache.errors import DcacheError
from dcache.eval.metrics import METRICS
from dcache.eval.metrics.base import Batch
from dcache.eval.metrics.options import MetricOptions

LOAD = METRICS["image-reward"].source.load


class Reward(torch.nn.Module):
    """Called as image-reward 1.5 is: one prompt, one PIL picture, a float."""

    def score(self, prompt, image):
        assert isinstance(image, Image.Image)
        return len(prompt) + np.asarray(image).mean().item()


@pytest.fixture
def package(monkeypatch):
    """`image-reward` 1.5 as far as it is used."""
    calls = []

    def load(name="ImageReward-v1.0", device="cpu", download_root=None, med_config=None):
        calls.append((name, device, med_config))
        if name == "none":
            raise RuntimeError(f"Model {name} not found; available models = ['ImageReward-v1.0']")
        sys.stdout.write(f"load checkpoint from {name}\n")
        return Reward()

    monkeypatch.setitem(sys.modules, "ImageReward", types.SimpleNamespace(load=load))
    return calls


def test_each_picture_is_scored_with_its_own_prompt(package, capsys):
    pictures = np.stack([np.full((4, 4, 3), level, np.uint8) for level in (10, 20)])
    rows = LOAD(MetricOptions(score_device="cpu")).read(Batch(pictures, None, ["abc", "defgh"]))

    assert rows.tolist() == [[13.0], [25.0]]
    assert package == [("ImageReward-v1.0", "cpu", None)]
    assert capsys.readouterr().out == ""


def test_a_checkpoint_takes_the_configuration_beside_it(package, tmp_path):
    for name in ("ImageReward.pt", "med_config.json"):
        (tmp_path / name).touch()
    LOAD(MetricOptions(score_device="cpu", image_reward_model=str(tmp_path / "ImageReward.pt")))

    assert package == [(str(tmp_path / "ImageReward.pt"), "cpu", str(tmp_path / "med_config.json"))]


def test_weights_that_cannot_be_had_are_told_with_where_they_come_from(package):
    with pytest.raises(DcacheError, match=r"cannot load ImageReward 'none'.*THUDM/ImageReward"):
        LOAD(MetricOptions(image_reward_model="none"))


def test_a_package_that_does_not_import_is_told(monkeypatch):
    monkeypatch.delitem(sys.modules, "ImageReward", raising=False)
    real = builtins.__import__

    def broken(name, *rest):
        if name == "ImageReward":
            raise ImportError("cannot import name 'apply_chunking_to_forward'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(DcacheError, match=r"apply_chunking_to_forward.*score stage alone"):
        LOAD(MetricOptions())
