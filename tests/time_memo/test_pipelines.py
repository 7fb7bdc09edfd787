"""The memo beside other things of diffusers: pictures as inputs, ControlNets, quantised weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import dcache
from tests.builders import Call, embeds, generator, model, noise_image, pipeline, ready
from tests.families.mmdit import vae as flux_vae
from tests.pipelines import FLOW_EULER, FLUX, NOISE_SAMPLERS, flux_inputs, flux_model, sd_model

sd_vae = model(
    "AutoencoderKL",
    block_out_channels=(8, 8, 8, 8),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    latent_channels=4,
    norm_num_groups=4,
    sample_size=64,
)


def controlnet() -> Any:
    """A ControlNet of the small UNet's sizes; its projections are not zero, so that it matters."""
    from diffusers import ControlNetModel

    torch.manual_seed(1)
    control = ControlNetModel.from_unet(sd_model(0), conditioning_embedding_out_channels=(4,) * 4)
    for name, parameter in control.named_parameters():
        if name.startswith("controlnet_"):
            torch.nn.init.normal_(parameter, std=0.3)
    return ready(control, 1)


def _sd(name: str, **parts: Any) -> Callable[[], Any]:
    return lambda: pipeline(name, "unet", vae=sd_vae, requires_safety_checker=False, **parts)(
        sd_model(0), NOISE_SAMPLERS["ddim"]()
    )


def _flux(name: str) -> Callable[[], Any]:
    return lambda: pipeline(name, vae=flux_vae)(flux_model(0), FLOW_EULER())


PICTURE = {"image": noise_image(), "strength": 0.75}
MASKED = {**PICTURE, "mask_image": noise_image(3).convert("L")}
SD_TEXT = {
    "prompt_embeds": embeds(1, 5, 12),
    "negative_prompt_embeds": embeds(2, 5, 12),
    "guidance_scale": 3.0,
}
FLUX_TEXT = {name: value for name, value in flux_inputs(1).items() if name.endswith("embeds")}
PIPELINES: dict[str, tuple[Callable[[], Any], Call]] = {
    "flux_inpaint": (_flux("FluxInpaintPipeline"), {**FLUX_TEXT, **MASKED, "height": 64, "width": 64}),
    "sd_img2img": (_sd("StableDiffusionImg2ImgPipeline"), {**SD_TEXT, **PICTURE}),
    "sd_inpaint": (_sd("StableDiffusionInpaintPipeline"), {**SD_TEXT, **MASKED}),
    "sd_controlnet": (
        _sd("StableDiffusionControlNetPipeline", controlnet=controlnet),
        {**SD_TEXT, "image": noise_image()},
    ),
}


def drawn(pipe: Any, call: Call) -> torch.Tensor:
    """The final latents of one call."""
    pipe.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 6, "output_type": "latent", "generator": generator(5)}
    return next(iter(pipe(**{**given, **call}).values()))


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_pictures_and_controlnets_change_nothing(name: str) -> None:
    build, call = PIPELINES[name]
    pipe, plain = dcache.memo(build(), offload="cpu"), build()
    for _ in range(3):
        assert torch.equal(drawn(pipe, call), drawn(plain, call))
    report = dcache.memo_report(pipe)
    assert report.hits > 0
    assert report.bytes_away > 0
    # Beside a method too.
    for each in (pipe, plain):
        dcache.enable(each, "newton", interval=2)
    assert torch.equal(drawn(pipe, call), drawn(plain, call))
    assert dcache.stats(pipe).predicted > 0


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["keep", "cpu"])
@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_weights_quantised_by_torchao_change_nothing(config: str, offload: str) -> None:
    quantization = pytest.importorskip("torchao.quantization")

    def build() -> Any:
        pipe = FLUX.build()
        quantization.quantize_(pipe.transformer, getattr(quantization, config)())
        return pipe

    pipe, plain = dcache.memo(build(), offload), build()
    for _ in range(3):
        assert torch.equal(FLUX.run(pipe), FLUX.run(plain))
    report = dcache.memo_report(pipe)
    assert report.hits > 0
    assert not report.dropped
    assert (report.bytes_away > 0) == (offload == "cpu")
    dcache.disable(pipe)
    assert torch.equal(FLUX.run(pipe), FLUX.run(plain))
