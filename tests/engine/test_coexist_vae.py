"""A VAE that tiles and slices is called many times in a run, and is never taken for a denoiser."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from tests.cover import each_value
from tests.engine.coexistence_checks import ALWAYS, EVERY_2, branches
from tests.pipelines import FLUX, SD, SHAPES, WAN, Shape


def image_vae(channels: int) -> nn.Module:
    from diffusers import AutoencoderKL

    torch.manual_seed(11)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        shift_factor=0.1,
    ).eval()


def video_vae() -> nn.Module:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(11)
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def build(shape: Shape) -> Any:
    """The shape's pipeline with a VAE, as its own class puts it together."""
    pipe = shape.build()
    parts = dict(pipe.components)
    parts["vae"] = video_vae() if shape is WAN else image_vae(16 if shape is FLUX else 4)
    whole = type(pipe)(**parts, **({"requires_safety_checker": False} if shape is SD else {}))
    whole.set_progress_bar_config(disable=True)
    return whole


class Decoded:
    """Notes what the VAE's decoder is given and returns."""

    def __init__(self, pipe: Any) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._handle = pipe.vae.decoder.register_forward_hook(self._note)

    def _note(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        self.seen.append((args[0].clone(), output.clone()))

    def stop(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What was seen."""
        self._handle.remove()
        return self.seen


def run(shape: Shape, pipe: Any) -> torch.Tensor:
    """Two pictures, or two short films."""
    two: dict[str, Any] = {"num_videos_per_prompt" if shape is WAN else "num_images_per_prompt": 2}
    if shape is FLUX:
        # Embeddings that it is given are not repeated.
        inputs = shape.inputs(1)
        two = {name: torch.cat([inputs[name]] * 2) for name in ("prompt_embeds", "pooled_prompt_embeds")}
    size = 64 if shape is WAN else 128
    pictures = shape.run(pipe, output_type="pt", height=size, width=size, **two)
    assert len(pictures) == 2
    return torch.as_tensor(pictures)


def tile(pipe: Any) -> None:
    pipe.vae.enable_tiling(*([32, 32, 24, 24] if "Wan" in type(pipe).__name__ else []))


WAYS: dict[str, list[Callable[[Any], object]]] = {
    "whole": [],
    "tiled": [tile],
    "sliced": [lambda pipe: pipe.vae.enable_slicing()],
    "both": [tile, lambda pipe: pipe.vae.enable_slicing()],
}


@pytest.mark.parametrize(*each_value(shape=SHAPES, way=[*WAYS]))
def test_pictures_are_decoded_as_without_dcache(shape: Shape, way: str) -> None:
    twin, pipe = build(shape), build(shape)
    for each in (twin, pipe):
        for switch in WAYS[way]:
            switch(each)
    decoded = Decoded(twin)
    plain = run(shape, twin)
    parts = decoded.stop()
    # One call for both, one each, or one per tile (a film is decoded frame by frame).
    frames = 2 if shape is WAN else 1
    if way in ("whole", "sliced"):
        assert len(parts) == (2 if way == "sliced" else 1) * frames
    else:
        assert len(parts) >= 4 * frames
    before = [sorted(vars(module)) for module in pipe.vae.modules()]
    dcache.enable(pipe, ALWAYS)
    assert [sorted(vars(module)) for module in pipe.vae.modules()] == before
    assert torch.equal(run(shape, pipe), plain)
    dcache.enable(pipe, EVERY_2)
    decoded = Decoded(pipe)
    cached = run(shape, pipe)
    assert not torch.equal(cached, plain)
    stats = dcache.stats(pipe)
    assert (stats.steps, stats.computed, stats.predicted) == (7, 4 * branches(shape), 3 * branches(shape))
    assert list(dcache.trace(pipe).components) == [shape.part]
    again = decoded.stop()
    assert [x.shape for x, _ in again] == [x.shape for x, _ in parts]
    if shape is not WAN:
        # A film's decoder remembers the frames before, so that it cannot be asked again.
        with torch.no_grad():
            assert all(torch.equal(twin.vae.decoder(x), y) for x, y in again)
    dcache.disable(pipe)
    assert torch.equal(run(shape, pipe), plain)
    assert [sorted(vars(module)) for module in pipe.vae.modules()] == [
        sorted(vars(module)) for module in twin.vae.modules()
    ]
