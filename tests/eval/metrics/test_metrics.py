import importlib.util
from dataclasses import fields

import pytest

from dcache.errors import DcacheError
from dcache.eval.metrics import METRICS, about, check, chosen
from dcache.eval.metrics.options import MetricOptions


def test_every_metric_describes_itself():
    for name, metric in METRICS.items():
        told = about(metric, MetricOptions())

        assert metric.name == name
        assert told["better"] in ("higher", "lower")
        assert told["against"] in ("uncached", "prompts", "")
        assert "{" not in told["what"]
        assert "\n" not in told["what"]


def test_metrics_that_share_a_source_share_its_name_and_no_others_do():
    names = {metric.source.name: metric.source for metric in METRICS.values()}

    assert all(names[metric.source.name] is metric.source for metric in METRICS.values())


def test_distributions_are_compared_with_the_reference_where_there_is_one(tmp_path):
    assert about(METRICS["fid"], MetricOptions())["against"] == "uncached"
    assert about(METRICS["fid"], MetricOptions(reference=tmp_path))["against"] == "reference"


def test_what_is_said_of_clip_names_its_model():
    assert "ViT-L-14-quickgelu (openai)" in about(METRICS["clip"], MetricOptions())["what"]


def test_an_unknown_metric_is_refused_with_those_there_are():
    with pytest.raises(DcacheError, match=r"no metric fidelity: expected some of psnr, .*fid, kid"):
        chosen(["psnr", "fidelity"])
    with pytest.raises(DcacheError, match="no metric named"):
        chosen([])


def test_names_are_taken_once_in_their_order():
    assert [metric.name for metric in chosen(["ssim", "psnr", "ssim"])] == ["ssim", "psnr"]


def test_all_missing_packages_are_told_at_once_with_the_pip_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(DcacheError) as caught:
        chosen(["psnr", "fid", "clip", "image-reward"])
    assert str(caught.value).endswith("pip install torchmetrics torch-fidelity open-clip-torch image-reward")
    assert "open-clip-torch (for clip)" in str(caught.value)


def test_what_cannot_be_computed_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(DcacheError, match=r"flicker is not defined for images. Leave it out: psnr,ssim"):
        check(["psnr", "flicker", "ssim"], MetricOptions(), "image")
    with pytest.raises(DcacheError, match=r"--inception-weights: .* is not a file"):
        check(["psnr", "fid"], MetricOptions(inception_weights=tmp_path / "no.pth"))
    with pytest.raises(DcacheError, match="no pictures in"):
        check(["psnr"], MetricOptions(reference=tmp_path))
    check(["psnr", "ssim", "flicker"], MetricOptions(), "video")


def test_every_option_has_its_help():
    assert all(one.metadata["help"] for one in fields(MetricOptions))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"score_batch_size": 0}, "at least 1"),
        ({"lpips_net": "resnet"}, "one of alex, vgg, squeeze"),
    ],
)
def test_options_out_of_range_are_refused(wrong, told):
    with pytest.raises(DcacheError, match=told):
        MetricOptions(**wrong)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(DcacheError, match="score_device 'abacus'"):
        MetricOptions(score_device="abacus").device()
    with pytest.raises(DcacheError, match="score_device 'meta' cannot be used: torch cannot use the device"):
        MetricOptions(score_device="meta").device()
