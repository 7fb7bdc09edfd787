"""Denoisers whose calls fill a cache of keys and values that the pipeline hands in.

Each loop is the pipeline's own, as far as it calls the denoiser: with everything computed the output and the
cache have the same bits as uncached, and whatever is predicted, the cache is as long as uncached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import Method, methods
from dcache.intercept.objects import attributes_of
from tests.builders import model
from tests.families.mmdit import FLUX2
from tests.pipelines import Call, generator
from tests.zoo.registry import ENTRIES

STEPS = 6
Part = tuple[torch.Tensor, Any]


def rand(seed: int, *size: int) -> torch.Tensor:
    """The same numbers for the same seed."""
    return torch.randn(*size, generator=generator(seed))


class Loop:
    """A pipeline of a denoiser and a sampler.

    Args:
        transformer: the denoiser.
        run: the loop; returns the latents and the cache.
    """

    def __init__(self, transformer: nn.Module, run: Callable[[Loop], Part]) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        self.transformer, self.run = transformer, run
        self.scheduler = FlowMatchEulerDiscreteScheduler()

    def progress_bar(self) -> None:
        """As diffusers' pipelines."""

    def maybe_free_model_hooks(self) -> None:
        """As diffusers' pipelines."""

    def walk(self, x: torch.Tensor, denoise: Callable[[torch.Tensor, float], torch.Tensor]) -> torch.Tensor:
        """All evaluations of one run of the sampler."""
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(denoise(x, float(t)), t, x, return_dict=False)[0]
        return x

    @torch.no_grad()
    def __call__(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The latents, and every tensor in the cache."""
        self.progress_bar()
        x, cache = self.run(self)
        self.maybe_free_model_hooks()
        return x, [t.clone() for t in tensors_of(cache)]


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor of a cache, in the order of its attributes."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)
    else:
        yield from tensors_of(dict(attributes_of(value) or {}))


# GLM-Image: two reference images are written, before or behind `set_timesteps`. ------------------------


_glm = model(
    "GlmImageTransformer2DModel",
    in_channels=4,
    out_channels=4,
    num_layers=4,
    text_embed_dim=12,
    time_embed_dim=8,
    condition_dim=4,
    prior_vq_quantizer_codebook_size=16,
    attention_head_dim=8,
    num_attention_heads=2,
)


def glm(loop: Loop, late: bool = False) -> Part:
    from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache

    cache = GlmImageKVCache(num_layers=4)

    def call(x: torch.Tensor, t: float) -> torch.Tensor:
        return loop.transformer(
            hidden_states=x,
            encoder_hidden_states=rand(5, 1, 6, 12),
            prior_token_id=torch.zeros(1, 16).long(),
            prior_token_drop=torch.zeros(1, 16).bool(),
            timestep=torch.tensor([t]),
            target_size=torch.tensor([[64.0, 64.0]]),
            crop_coords=torch.zeros(1, 2),
            kv_caches=cache,
            return_dict=False,
        )[0]

    if late:
        loop.scheduler.set_timesteps(STEPS)
    cache.set_mode("write")
    for image in range(2):
        call(rand(20 + image, 1, 4, 8, 8), 0.0)
    cache.next_sample()
    if not late:
        loop.scheduler.set_timesteps(STEPS)
    cache.set_mode("read")
    return loop.walk(rand(3, 1, 4, 8, 8), call), cache


# Flux 2 Klein: the first evaluation returns a cache, the others are given it. -----------------------------


def _klein() -> nn.Module:
    from diffusers.models.transformers import transformer_flux2 as module

    flux: Any = FLUX2.model(0)
    for block in flux.transformer_blocks:
        block.attn.set_processor(module.Flux2KVAttnProcessor())
    for block in flux.single_transformer_blocks:
        block.attn.set_processor(module.Flux2KVParallelSelfAttnProcessor())
    return flux


def klein(loop: Loop) -> Part:
    cache: list[Any] = []

    def call(x: torch.Tensor, t: float) -> torch.Tensor:
        first = not cache
        given: Call = {"kv_cache_mode": "extract", "num_ref_tokens": 4} if first else {}
        y = loop.transformer(
            hidden_states=torch.cat([rand(8, 1, 4, 16), x], 1) if first else x,
            encoder_hidden_states=rand(5, 1, 5, 12),
            timestep=torch.tensor([t / 1000]),
            img_ids=torch.zeros(1, 20 if first else 16, 4),
            txt_ids=torch.zeros(1, 5, 4),
            return_dict=False,
            **(given or {"kv_cache_mode": "cached", "kv_cache": cache[0]}),
        )
        if first:
            cache.append(y[1])
        return y[0]

    loop.scheduler.set_timesteps(STEPS)
    return loop.walk(rand(3, 1, 16, 16), call), cache


# SANA-WM's refiner: a call behind each block of frames captures its keys and values. ---------------------


_refiner = model(
    "SanaWMLTX2RefinerTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    cross_attention_dim=32,
    audio_in_channels=4,
    audio_out_channels=4,
    audio_num_attention_heads=2,
    audio_attention_head_dim=8,
    audio_cross_attention_dim=16,
    num_layers=3,
    caption_channels=12,
)


def refiner(loop: Loop) -> Part:
    """A sink of one frame, then three blocks of one frame, each with a run and a capture behind it."""
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMRefinerKVCache

    cache = SanaWMRefinerKVCache(3)

    def rope(position: int) -> Any:
        return loop.transformer.build_rotary_emb_for_absolute_positions(
            batch_size=1, frame_positions=[position], height=4, width=4, device=torch.device("cpu"), fps=16.0
        )

    def call(x: torch.Tensor, t: float, mode: str = "inject", position: int = 0) -> torch.Tensor:
        return loop.transformer(
            hidden_states=x,
            encoder_hidden_states=rand(5, 1, 5, 12),
            timestep=torch.full((1, 16), t),
            video_rotary_emb=rope(position),
            kv_cache=cache,
            kv_cache_mode=mode,
            return_dict=False,
        )[0]

    call(rand(9, 1, 16, 4), 0.0, "capture_pre_rope")
    for i in range(3):
        cache.get(i).store_sink(*cache.get(i).get_captured_pre_rope())
    frames = []
    for block in range(1, 4):
        cache.sink_pe = rope(block - 1)
        loop.scheduler.set_timesteps(STEPS)
        x = loop.walk(rand(30 + block, 1, 16, 4), partial(call, position=block))
        call(x, 0.0, "inject_and_capture_post_rope", block)
        for i in range(3):
            layer = cache.get(i)
            new, old = layer.get_captured_post_rope(), layer.get_history()
            both = new if old is None else [torch.cat(pair, 1) for pair in zip(old, new, strict=True)]
            layer.store_history(*both)
        frames.append(x)
    return torch.cat(frames, 1), cache


# Wan-Animate 2: the driving frames are encoded in front of the loop. -------------------------------------


_animate = model(
    "WanAnimate2Transformer3DModel",
    text_len=8,
    in_dim=8,
    dim=24,
    ffn_dim=32,
    freq_dim=16,
    text_dim=12,
    out_dim=4,
    num_heads=2,
    num_layers=3,
    use_img_emb=False,
)


def animate(loop: Loop) -> Part:
    """The driving frames are encoded once; every evaluation reads their keys and values."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    cache = WanAnimate2KVCache(3)

    def call(x: torch.Tensor, t: float, mode: str = "cached") -> torch.Tensor:
        grid = torch.tensor([[x.shape[2], 2, 2]])
        more: Call = {"offset_grid_sizes": grid}
        if mode == "cached":
            more = {"reference_grid_sizes": grid, "origin_len": 1, "origin_area": [32, 32]}
        (y,) = loop.transformer(
            [x[0]],
            torch.tensor([t]),
            [rand(5, 5, 12)],
            condition_latents=[rand(6, 4, *x.shape[2:])],
            kv_cache=cache,
            kv_cache_mode=mode,
            seq_len=4 * x.shape[2],
            return_dict=False,
            **more,
        )[0]
        return y[None]

    call(rand(9, 1, 4, 1, 4, 4), 1.0, "extract")
    loop.scheduler.set_timesteps(STEPS)
    return loop.walk(rand(3, 1, 4, 1, 4, 4), call), cache


@dataclass(frozen=True)
class Writer:
    """One loop.

    Attributes:
        build: the denoiser.
        run: its loop.
    """

    build: Callable[[], nn.Module]
    run: Callable[[Loop], Part]

    def loop(self) -> Loop:
        return Loop(self.build(), self.run)


WRITERS = {
    "glm": Writer(_glm, glm),
    "glm-late": Writer(_glm, partial(glm, late=True)),
    "klein": Writer(_klein, klein),
    "sana-refiner": Writer(_refiner, refiner),
    "wan-animate-2": Writer(_animate, animate),
}
# With everything computed, and with most of it predicted.
LINE = (1.0, 0.0)
PRESETS: dict[str, tuple[Callable[[], Method | None], Callable[[], Method | None]]] = {
    "interval": (lambda: methods.interval(interval=1), lambda: methods.interval(interval=3)),
    "fbcache": (lambda: methods.fbcache(threshold=0.0), lambda: methods.fbcache(threshold=9.0)),
    "dbcache": (
        lambda: methods.dbcache(front=1, back=1, threshold=0.0),
        lambda: methods.dbcache(front=1, back=1, warmup=1, threshold=9.0),
    ),
    "teacache": (
        lambda: methods.teacache(threshold=0.0, coefficients=LINE),
        lambda: methods.teacache(threshold=9.0, coefficients=LINE),
    ),
    "easycache": (
        lambda: methods.easycache(threshold=0.0),
        lambda: methods.easycache(threshold=9.0, warmup=2),
    ),
    "default": (lambda: methods.newton(interval=1), lambda: None),
}
FAST = {
    ("glm", "fbcache"),
    ("glm-late", "easycache"),
    ("klein", "teacache"),
    ("sana-refiner", "dbcache"),
    ("wan-animate-2", "interval"),
}


def marks_of(name: str, preset: str) -> list[pytest.MarkDecorator]:
    """Slow where it is not in the fast lane."""
    return [] if (name, preset) in FAST else [pytest.mark.slow]


CASES = [pytest.param(name, preset, marks=marks_of(name, preset)) for name in WRITERS for preset in PRESETS]


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wan-Animate 2 compiles the making of its mask, which takes longer than all else here."""
    from diffusers.models.transformers import transformer_wan_animate_2 as module
    from torch.nn.attention.flex_attention import create_block_mask

    def plain(*args: Any, **kwargs: Any) -> Any:
        return create_block_mask(*args, **{**kwargs, "_compile": False})

    monkeypatch.setattr(module, "create_block_mask", plain)


def same(a: tuple[torch.Tensor, list[torch.Tensor]], b: tuple[torch.Tensor, list[torch.Tensor]]) -> bool:
    """Whether latents and caches have the same bits."""
    pairs = zip([a[0], *a[1]], [b[0], *b[1]], strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(("name", "preset"), CASES)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.filterwarnings("ignore::dcache.DcacheWarning")
def test_the_cache_is_filled_as_without_dcache(name: str, preset: str) -> None:
    loop = WRITERS[name].loop()
    check(loop, loop, preset)


def check(pipe: Any, run: Callable[[], tuple[torch.Tensor, list[torch.Tensor]]], preset: str) -> None:
    """Latents and caches of a pipeline's calls, all computed, cached, replayed and without dcache again."""
    plain = run()
    lengths = stored(plain[1])
    assert lengths
    assert same(run(), plain)
    full, some = PRESETS[preset]
    dcache.enable(pipe, full())
    for _ in range(2):
        assert same(run(), plain), "all computed differs from uncached"
    dcache.enable(pipe, some())
    first = run()
    assert dcache.stats(pipe).predicted > 0
    assert stored(first[1]) == lengths
    assert same(run(), first), "the second run differs from the first"
    dcache.enable(pipe, dcache.trace(pipe))
    assert same(run(), first), "the trace does not replay"
    dcache.disable(pipe)
    assert same(run(), plain), "disable does not restore"


def stored(cache: list[torch.Tensor]) -> list[tuple[torch.Size, int]]:
    """Shapes, and how many numbers were written (some caches are made of zeros at their full size)."""
    return [(t.shape, int(t.count_nonzero())) for t in cache]


# Pipelines whose caches are made in their call; the first one compiles its attention, which takes long.
PIPELINES = ("AnyFlowFARPipeline", "QwenImage21Pipeline")
FAST_PIPELINE = ("QwenImage21Pipeline", "dbcache")


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        pytest.param(name, preset, marks=[] if (name, preset) == FAST_PIPELINE else pytest.mark.slow)
        for name in PIPELINES
        for preset in PRESETS
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_cache_of_a_pipeline_is_filled_as_without_dcache(name: str, preset: str) -> None:
    (entry,) = [entry for entry in ENTRIES if entry.name == name]
    pipe = entry.pipeline()
    caches: list[Any] = []

    def note(_module: nn.Module, _args: Any, kwargs: Any) -> None:
        given = kwargs["kv_cache"]
        # A check of the call is given another dict of the same tensors.
        places = {t.data_ptr() for t in tensors_of(given)}
        if all(given is not c and places.isdisjoint(t.data_ptr() for t in tensors_of(c)) for c in caches):
            caches.append(given)

    pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        caches.clear()
        latents = entry.run(pipe)[0]
        return latents, [t.clone() for t in tensors_of(caches)]

    check(pipe, run, preset)
