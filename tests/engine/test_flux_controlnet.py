"""Flux with a ControlNet through its real pipeline: residuals are added between the blocks of the trunk."""

from typing import Any

import pytest
import torch

import dcache
from tests.pipelines import flux_model

# diffusers' own ControlNet still imports from the place that it deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")


def control_pipe() -> Any:
    """A tiny FluxControlNetPipeline; the ControlNet's projections are not zero, so that it matters."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxControlNetModel,
        FluxControlNetPipeline,
    )

    model = flux_model()
    torch.manual_seed(1)
    control = FluxControlNetModel.from_transformer(
        model, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2
    ).eval()
    for parameter in (
        *control.controlnet_blocks.parameters(),
        *control.controlnet_single_blocks.parameters(),
    ):
        torch.nn.init.normal_(parameter, std=0.3)
    vae = AutoencoderKL(latent_channels=16, norm_num_groups=1, block_out_channels=(4,)).eval()
    vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    pipe: Any = FluxControlNetPipeline(
        FlowMatchEulerDiscreteScheduler(), vae, None, None, None, None, model, control
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Any, **over: Any) -> torch.Tensor:
    """Six steps; returns the final latents."""
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    embeds = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(4))
    pooled = torch.randn(1, 8, generator=torch.Generator().manual_seed(5))
    call: dict[str, Any] = {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": pooled,
        "control_image": image,
        "height": 16,
        "width": 16,
        "num_inference_steps": 6,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
        **over,
    }
    latents: torch.Tensor = pipe(**call).images
    return latents


def test_all_compute_is_bit_identical_and_the_controlnet_matters() -> None:
    pipe = control_pipe()
    plain = run(pipe)
    assert not torch.equal(plain, run(pipe, controlnet_conditioning_scale=0.0))
    with dcache.enabled(pipe, "interval", interval=1):
        assert torch.equal(run(pipe), plain)
    assert torch.equal(run(pipe), plain)


@pytest.mark.parametrize("codec", ["delta", "value"])
def test_cached_runs_stay_close_and_do_not_count_the_controlnet(codec: str) -> None:
    pipe = control_pipe()
    plain = run(pipe)
    dcache.enable(pipe, dcache.methods.interval(2, codec=codec))
    cached = run(pipe)
    stats = dcache.stats(pipe)
    assert (stats.steps, stats.computed, stats.predicted) == (6, 3, 3)
    assert list(dcache.trace(pipe).components) == ["transformer"]
    near = (cached - plain).abs().mean() / plain.abs().mean()
    far = (run(pipe, controlnet_conditioning_scale=0.0) - plain).abs().mean() / plain.abs().mean()
    assert 0 < near < far / 2


def test_control_that_ends_half_way_starts_the_histories_afresh_or_stays_right() -> None:
    pipe = control_pipe()
    plain = run(pipe, control_guidance_end=0.5)
    with dcache.enabled(pipe, "interval", interval=1):
        assert torch.equal(run(pipe, control_guidance_end=0.5), plain)
    with dcache.enabled(pipe, "interval", interval=2):
        cached = run(pipe, control_guidance_end=0.5)
        replayed = dcache.trace(pipe)
        assert torch.isfinite(cached).all()
        assert dcache.stats(pipe).predicted > 0
    with dcache.enabled(pipe, replayed):
        assert torch.equal(run(pipe, control_guidance_end=0.5), cached)
