"""What is done to UNets between their blocks: every bracket stays right with it, or is given up aloud."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.sites.discovery import discover
from tests.builders import Call, embeds, generator, ready
from tests.cover import each_value, with_slow
from tests.families.unets import DDIM, SDXL, SVD, UNETS, sdxl_model
from tests.pipelines import NOISE_SAMPLERS, SHAPES, STEPS, Shape, sd_model
from tests.zoo.unets_parts import TEXTS, latent
from tests.zoo.unets_video import FRAMES, motion

EVERY_2 = methods.interval(interval=2)
LEVELS = [(shape, level) for shape in UNETS for level in range(shape.skips)]
# Every level and every UNet; the others are slow.
FAST = {(UNETS[level % len(UNETS)], level) for level in range(min(shape.skips for shape in UNETS))}


@pytest.fixture(autouse=True)
def own_warnings_only() -> Iterator[None]:
    """Pipelines of diffusers that are called deprecated say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def bracket(level: int, interval: int = 2) -> Any:
    """Reuse of one bracket."""
    return methods.interval(interval=interval, sites=f"bracket:{level}")


def check(make: Any, run: Any, level: int, reference: bool = True) -> None:
    """Computing everything changes no bit; every bracket predicts, stays near, agrees with the reference."""
    plain = run(make())
    pipe = dcache.enable(make(), bracket(level, 1))
    assert torch.equal(run(pipe), plain)
    dcache.enable(pipe, bracket(level))
    cached = run(pipe)
    stats = dcache.stats(pipe)
    assert (stats.computed, stats.predicted) == (4, 3)
    assert not torch.equal(cached, plain)
    assert float((cached - plain).abs().mean() / plain.abs().mean()) < 0.1
    if reference:
        # Every module inside gives its own output again: no placeholder, and nothing put in at the sink.
        replayed = dcache.enable(make(), bracket(level), lowering="replay")
        torch.testing.assert_close(run(replayed), cached, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "level"),
    [
        pytest.param(
            shape, level, id=f"{shape}-{level}", marks=() if (shape, level) in FAST else (pytest.mark.slow,)
        )
        for shape, level in LEVELS
    ],
)
def test_every_bracket_of_every_unet(shape: Shape, level: int) -> None:
    check(shape.build, shape.run, level)


@pytest.mark.parametrize(("shape", "level"), LEVELS)
def test_a_predicted_bracket_runs_nothing_inside(shape: Shape, level: int) -> None:
    pipe = shape.build()
    counts: dict[nn.Module, int] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        counts[module] = counts.get(module, 0) + 1

    skips = discover(pipe.unet).skips
    assert len(skips) == shape.skips
    for module in (pipe.unet.conv_in, *skips[level].inside):
        module.register_forward_hook(note)
    shape.run(dcache.enable(pipe, bracket(level)))
    # The self-check replays the first evaluation without what is inside.
    assert counts.pop(pipe.unet.conv_in) == STEPS + 1
    assert len(counts) == len(skips[level].inside)
    assert set(counts.values()) == {4}


@pytest.mark.parametrize("level", with_slow(0, 3, slow=(1, 2)))
def test_freeu_scales_both_parts_of_what_a_sink_is_given(level: int) -> None:
    def make() -> Any:
        pipe = SDXL.build()
        pipe.enable_freeu(s1=0.6, s2=0.4, b1=1.1, b2=1.2)
        return pipe

    assert not torch.equal(SDXL.run(make()), SDXL.run(SDXL.build()))
    check(make, SDXL.run, level)


@pytest.mark.parametrize(
    *each_value(
        shape={"sdxl": SDXL, "sd": SHAPES["sd"]},
        size={"72x88": (72, 88), "56x64": (56, 64)},
        level=range(4),
    )
)
def test_latents_that_do_not_halve_keep_their_shapes(shape: Shape, size: tuple[int, int], level: int) -> None:
    height, width = size
    assert any(side // 8 % 2 for side in size)
    check(shape.build, lambda pipe: shape.run(pipe, height=height, width=width), level)


# Added to the skips -------------------------------------------------------------------------------


def _controlled() -> Any:
    from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline

    unet = sdxl_model()
    control: Any = ControlNetModel.from_unet(unet, conditioning_channels=3)
    torch.manual_seed(1)
    for layer in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        nn.init.normal_(layer.weight, std=0.5)
    pipe: Any = StableDiffusionXLControlNetPipeline(
        vae=None,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        controlnet=ready(control, 0),
        scheduler=NOISE_SAMPLERS["euler"](),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _adapted() -> Any:
    from diffusers import StableDiffusionXLAdapterPipeline, T2IAdapter

    torch.manual_seed(1)
    # Its first two features are as large as what the two down blocks hand on.
    adapter = T2IAdapter(
        channels=[8, 16, 16, 16], num_res_blocks=1, downscale_factor=16, adapter_type="full_adapter_xl"
    )
    pipe: Any = StableDiffusionXLAdapterPipeline(
        vae=None,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=sdxl_model(),
        adapter=ready(adapter, 0),
        scheduler=NOISE_SAMPLERS["euler"](),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _pictured(pipe: Any, **over: Any) -> torch.Tensor:
    picture = torch.rand(1, 3, 64, 64, generator=generator(4))
    return SDXL.run(pipe, image=picture, **over)


@pytest.mark.parametrize("level", with_slow(0, 3, slow=(1, 2)))
def test_a_controlnet_adds_to_the_skips(level: int) -> None:
    without = _pictured(_controlled(), controlnet_conditioning_scale=0.0)
    assert not torch.equal(_pictured(_controlled()), without)
    # What is added behind the middle block is remembered with the innermost bracket; in the reference it is
    # fresh, for it is added to what the middle block gives again.
    check(_controlled, _pictured, level, reference=level < 3)
    pipe = dcache.enable(_controlled(), bracket(level))
    _pictured(pipe)
    # The ControlNet is no denoiser.
    assert list(dcache.trace(pipe).components) == ["unet"]


@pytest.mark.parametrize("level", range(4))
def test_a_t2i_adapter_adds_inside_the_down_blocks(level: int) -> None:
    without = _pictured(_adapted(), adapter_conditioning_scale=0.0)
    assert not torch.equal(_pictured(_adapted()), without)
    check(_adapted, _pictured, level)


@pytest.mark.parametrize("level", range(4))
def test_a_t2i_adapter_that_stops_half_way(level: int) -> None:
    def run(pipe: Any) -> torch.Tensor:
        return _pictured(pipe, adapter_conditioning_factor=0.5)

    plain = run(_adapted())
    pipe = dcache.enable(_adapted(), bracket(level, 1))
    assert torch.equal(run(pipe), plain)
    dcache.enable(pipe, bracket(level))
    run(pipe)
    # Other arguments: the branch starts afresh there, and nothing is predicted from before.
    assert dcache.stats(pipe).reasons.get("shape") == 1


# Other arguments ----------------------------------------------------------------------------------


def _ip_adapter(unet: Any, tokens: int = 4) -> Call:
    """A state dict as IP-Adapter's files have it, with random weights."""
    from diffusers.models.embeddings import ImageProjection

    torch.manual_seed(3)
    project = ImageProjection(8, unet.config.cross_attention_dim, tokens)
    image = {"proj.weight": project.image_embeds.weight, "proj.bias": project.image_embeds.bias}
    image |= {"norm.weight": project.norm.weight, "norm.bias": project.norm.bias}
    crossing = [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
    weights: Call = {}
    for n, name in enumerate(crossing):
        size = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for part in ("to_k_ip", "to_v_ip"):
            weights[f"{2 * n + 1}.{part}.weight"] = torch.randn(size) * 0.3
    return {"image_proj": image, "ip_adapter": weights}


def _with_ip_adapter(shape: Shape) -> Any:
    pipe = shape.build()
    pipe.unet._load_ip_adapter_weights([_ip_adapter(pipe.unet)], low_cpu_mem_usage=False)
    pipe.set_ip_adapter_scale(0.8)
    pipe.unet.requires_grad_(False).eval()
    return pipe


@pytest.mark.parametrize("shape", [SDXL, SHAPES["sd"]], ids=str)
def test_ip_adapter_embeddings_come_as_lists(shape: Shape) -> None:
    picture = torch.randn(2, 1, 8, generator=generator(5))

    def run(pipe: Any) -> torch.Tensor:
        return shape.run(pipe, ip_adapter_image_embeds=[picture])

    def make() -> Any:
        return _with_ip_adapter(shape)

    assert not torch.equal(run(make()), shape.run(shape.build()))
    for level in range(4):
        check(make, run, level)
    # The cross-attention is given a tuple: text and picture.
    plain = run(make())
    pipe = dcache.enable(make(), methods.interval(interval=1, sites=["attn", "cross_attn"]))
    assert torch.equal(run(pipe), plain)
    dcache.enable(pipe, methods.interval(interval=2, sites=["attn", "cross_attn"]))
    assert float((run(pipe) - plain).abs().mean() / plain.abs().mean()) < 0.1
    assert dcache.stats(pipe).predicted > 0


# The base model leaves the end of the sampler's table to the refiner, which only the end of its run shows.
@pytest.mark.filterwarnings("ignore:the sampler's table listed")
@pytest.mark.parametrize("end", [0.5, 0.8])
def test_a_base_model_that_hands_over_to_a_refiner_early(end: float) -> None:
    # The pipeline cuts the timesteps, the sampler does not know.
    plain = SDXL.run(SDXL.build(), denoising_end=end)
    pipe = dcache.enable(SDXL.build(), methods.newton(interval=1))
    for _ in range(2):
        assert torch.equal(SDXL.run(pipe, denoising_end=end), plain)
    # Without `last`, which the first run cannot place.
    dcache.enable(pipe, methods.newton(interval=2, last=False))
    first = SDXL.run(pipe, denoising_end=end)
    stats = dcache.stats(pipe)
    assert 3 <= stats.steps < STEPS
    assert stats.predicted > 0
    assert torch.equal(SDXL.run(pipe, denoising_end=end), first)


# Sublayers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SDXL, SVD], ids=str)
@pytest.mark.parametrize("kinds", [["attn"], ["cross_attn"], ["attn", "cross_attn"], ["mlp"]], ids="+".join)
def test_attention_and_mlp_sublayers_inside_a_unet(shape: Shape, kinds: list[str]) -> None:
    plain = shape.run(shape.build())
    pipe = dcache.enable(shape.build(), methods.interval(interval=1, sites=kinds))
    assert torch.equal(shape.run(pipe), plain)

    pipe = shape.build()
    found = [s.module for s in discover(pipe.unet).sublayers if s.kind in kinds]
    counts = dict.fromkeys(found, 0)
    for module in found:
        module.register_forward_hook(lambda m, a, o: counts.__setitem__(m, counts[m] + 1))
    cached = shape.run(dcache.enable(pipe, methods.interval(interval=2, sites=kinds)))
    assert set(counts.values()) == {4}
    assert dcache.stats(pipe).predicted == 3 * len(found)
    # A picture of one token is attended to in full, whatever asks: that never changes.
    assert torch.equal(cached, plain) is (shape is SVD and kinds == ["cross_attn"])
    assert float((cached - plain).abs().mean() / plain.abs().mean()) < 0.1
    assert torch.equal(shape.run(dcache.enable(pipe, dcache.trace(pipe))), cached)


def test_a_sublayer_that_is_called_in_chunks_remembers_every_chunk() -> None:
    def make() -> Any:
        pipe = SVD.build()
        pipe.unet.enable_forward_chunking(chunk_size=1, dim=1)
        return pipe

    method = methods.interval(interval=2, sites="mlp")
    whole = dcache.enable(SVD.build(), method)
    wanted = SVD.run(whole)
    pipe = dcache.enable(make(), method)
    torch.testing.assert_close(SVD.run(pipe), wanted)
    assert dcache.stats(pipe).predicted == dcache.stats(whole).predicted > 0


# UNets of another build ---------------------------------------------------------------------------


def _score_model() -> nn.Module:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 32),
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        time_embedding_type="fourier",
        attention_head_dim=4,
    )
    return ready(model, 0)


def _walk(model: nn.Module) -> torch.Tensor:
    x = torch.randn(1, 3, 8, 8, generator=generator(2))
    with torch.no_grad():
        for t in (5.0, 4.0, 3.0, 2.0, 1.0):
            x = x - 0.1 * model(x, torch.tensor([t])).sample
    return x


@pytest.mark.parametrize("level", range(4))
def test_a_second_skip_beside_the_first_is_noticed(level: int) -> None:
    # Score models carry a picture along the down and up blocks, beside the skips: an outer bracket cuts it.
    plain = _walk(_score_model())
    model = _score_model()
    dcache.enable(model, bracket(level))
    if level < 2:
        with pytest.warns(DcacheWarning, match=r"a replay .* differs .*sites='model'"):
            cached = _walk(model)
    else:
        cached = _walk(model)
    assert dcache.stats(model).predicted > 0
    assert float((cached - plain).abs().mean() / plain.abs().mean()) < 0.1


def test_a_unet_with_its_controlnet_inside_is_remembered_whole() -> None:
    from diffusers import ControlNetXSAdapter, StableDiffusionControlNetXSPipeline, UNetControlNetXSModel

    unet: Any = (
        SHAPES["sd"]
        .model(0)
        .__class__(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=12,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    )
    adapter = ControlNetXSAdapter.from_unet(unet, size_ratio=0.5)
    pipe = StableDiffusionControlNetXSPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=ready(UNetControlNetXSModel.from_unet(unet, adapter), 0),
        controlnet=adapter,
        scheduler=NOISE_SAMPLERS["ddim"](),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    inputs: Call = {
        "prompt_embeds": embeds(1, 5, 12),
        "negative_prompt_embeds": embeds(2, 5, 12),
        "image": torch.rand(1, 3, 64, 64, generator=generator(3)),
        "num_inference_steps": STEPS,
        "output_type": "latent",
        "height": 64,
        "width": 64,
    }
    with pytest.raises(DcacheError, match=r"needs a UNet with skips and UNetControlNetXSModel has none"):
        dcache.enable(pipe, methods.deepcache())
    plain = pipe(**inputs, generator=generator(4)).images
    with pytest.warns(DcacheWarning, match=r"UNetControlNetXSModel has no block list .*sites='model'"):
        dcache.enable(pipe, methods.interval(interval=1))
    assert torch.equal(pipe(**inputs, generator=generator(4)).images, plain)
    dcache.enable(pipe, methods.interval(interval=2, sites="model"))
    assert not torch.equal(pipe(**inputs, generator=generator(4)).images, plain)
    assert dcache.stats(pipe).predicted == 3


def test_an_unconditional_pipeline_without_flags_or_prompts() -> None:
    # Its UNet is called with two positional arguments and returns a data class.
    pipe = dcache.enable(DDIM.build(), methods.deepcache(interval=2))
    plain, cached = DDIM.run(DDIM.build(), batch_size=2), DDIM.run(pipe, batch_size=2)
    assert cached.shape == plain.shape == (2, 3, 8, 8)
    assert dcache.stats(pipe).predicted == 3
    assert float((cached - plain).abs().mean()) < 0.1


def test_a_motion_unet_that_is_built_in_training_mode_is_cached() -> None:
    runs = []
    for training in (True, False):
        parts = {"unet": sd_model(), "motion_adapter": motion(), "scheduler": NOISE_SAMPLERS["ddim"]()}
        missing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
        pipe = AnimateDiffPipeline(**missing, **parts)
        assert pipe.unet.training
        pipe.unet.train(training)
        pipe.set_progress_bar_config(disable=True)
        dcache.enable(pipe, EVERY_2)
        runs.append(pipe(**latent(**TEXTS, **FRAMES)()).frames)
        stats = dcache.stats(pipe)
        assert (stats.computed, stats.predicted) == (3, 3)
    assert torch.equal(*runs)


def test_the_unet_of_kandinsky_with_its_published_blocks_has_brackets() -> None:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    crossed = ["SimpleCrossAttn"] * 3
    model = UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        layers_per_block=3,
        block_out_channels=(16, 32, 48, 64),
        down_block_types=("ResnetDownsampleBlock2D", *(f"{name}DownBlock2D" for name in crossed)),
        up_block_types=(*(f"{name}UpBlock2D" for name in crossed), "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=4,
        encoder_hid_dim=32,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        resnet_time_scale_shift="scale_shift",
    )
    dcache.enable(ready(model, 0), methods.interval(interval=2))
    image = {"image_embeds": torch.randn(1, 32, generator=torch.Generator().manual_seed(0))}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", dcache.DcacheWarning)
        for t in (900, 600, 300):
            model(torch.zeros(1, 4, 24, 24), t, encoder_hidden_states=None, added_cond_kwargs=image)
    # conv_in, three resnets in each of four blocks, three downsamplers.
    assert len(discover(model).skips) == 1 + 4 * 3 + 3
    assert dcache.trace(model).components[""].sites == ("bracket:0",)
    assert dcache.stats(model).predicted == 1
