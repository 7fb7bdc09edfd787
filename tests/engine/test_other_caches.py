"""Two caches on one denoiser would predict from each other's predictions: refused, before and after."""

import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    apply_pyramid_attention_broadcast,
)

import dcache
from dcache import DcacheError, methods
from tests.engine.tiny_models import Toy, flux_pipe, flux_run, sd_pipe, walk

EVERY_2 = methods.interval(interval=2)
TIMES = [4, 3, 2, 1]


def test_diffusers_own_cache_enabled_before_is_refused_and_can_be_taken_off() -> None:
    pipe = flux_pipe()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(
        DcacheError, match=r"another cache is already enabled.*FirstBlockCacheConfig.*disable_cache\(\)"
    ):
        dcache.enable(pipe)
    assert not {"maybe_free_model_hooks", "progress_bar"} & set(vars(pipe))
    pipe.transformer.disable_cache()
    dcache.enable(pipe, EVERY_2)
    flux_run(pipe)
    assert dcache.stats(pipe).predicted == 3


def test_diffusers_own_cache_enabled_afterwards_is_noticed_at_the_next_run() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    expected = flux_run(pipe)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(DcacheError, match=r"another cache is already enabled.*FirstBlockCacheConfig"):
        flux_run(pipe)
    pipe.transformer.disable_cache()
    assert torch.equal(flux_run(pipe), expected)


def test_cache_dits_marker_is_refused() -> None:
    pipe = flux_pipe()
    pipe.transformer._is_cached = True
    with pytest.raises(DcacheError, match=r"another cache.*cache-dit; call cache_dit\.disable_cache"):
        dcache.enable(pipe)
    pipe.transformer._is_cached = False
    dcache.enable(pipe, EVERY_2)
    pipe.transformer._is_cached = True
    with pytest.raises(DcacheError, match="cache-dit"):
        flux_run(pipe)


def test_pyramid_attention_broadcast_is_refused_by_its_hooks() -> None:
    pipe = sd_pipe()
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("down_blocks", "up_blocks"),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(pipe.unet, config)
    with pytest.raises(DcacheError, match=r"another cache.*diffusers' hook"):
        dcache.enable(pipe)


def test_a_bare_module_notices_a_cache_at_its_next_run() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    walk(toy, TIMES)
    toy._is_cached = True
    with pytest.raises(DcacheError, match="another cache"):
        walk(toy, TIMES)
