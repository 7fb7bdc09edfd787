"""The site `frames` on SkyReels-V2's asynchronous mode: fewer rows, the same video."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import cpu_offload

import dcache
from dcache.errors import DcacheError
from tests.builders import generator
from tests.families.video import SKYREELS
from tests.pipelines import SHAPES
from tests.zoo import videos_wan

# Three blocks of two latent frames, of four tokens each.
ASYNC = {"ar_step": 2, "causal_block_size": 2, "num_frames": 21, "base_num_frames": 21}


class Counted:
    """A pipeline, and the tokens that its first block runs on."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.tokens = pipe, 0
        pipe.transformer.blocks[0].register_forward_hook(self._count)

    def _count(self, _module: Any, _args: Any, output: torch.Tensor) -> None:
        self.tokens += output.shape[1]

    def run(self, **over: Any) -> torch.Tensor:
        self.tokens = 0
        return SKYREELS.run(self.pipe, "sequential", **{**ASYNC, **over})


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return Counted(SKYREELS.build("unipc")).run()


@pytest.fixture
def counted() -> Counted:
    return Counted(SKYREELS.build("unipc"))


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_rows_of_the_mask_and_one_write_a_frame_give_the_video(counted: Counted, plain: torch.Tensor) -> None:
    dcache.enable(counted.pipe, "causal")
    assert error(counted.run(), plain) < 1e-5
    # The first run also makes one call of all frames, to compare with.
    first, again = counted.tokens, counted.run()
    assert first - counted.tokens == 24
    assert error(again, plain) < 1e-5
    # Seven evaluations of each of three blocks, and the first two are written once: of eleven of all blocks.
    assert counted.tokens == 2 * 8 * (3 * 7 + 2)
    stats = dcache.stats(counted.pipe)
    assert (stats.steps, stats.computed, stats.predicted) == (11, 2 * 3 * 7, 0)


def test_undone_it_leaves_nothing(counted: Counted, plain: torch.Tensor) -> None:
    # Every call leaves diffusers' own attributes.
    counted.run()
    before = {name: set(vars(module)) for name, module in counted.pipe.transformer.named_modules()}
    with dcache.enabled(counted.pipe, "causal"):
        counted.run()
    after = {name: set(vars(module)) for name, module in counted.pipe.transformer.named_modules()}
    assert before == after
    assert torch.equal(counted.run(), plain)


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), {"threshold": 0.3}])
def test_a_trace_replays_the_bits(counted: Counted, options: dict[str, Any]) -> None:
    dcache.enable(counted.pipe, "causal", **options)
    video = counted.run()
    predicted = dcache.stats(counted.pipe).predicted
    assert (predicted > 0) == bool(options)
    dcache.enable(counted.pipe, dcache.trace(counted.pipe))
    assert torch.equal(counted.run(), video)
    assert dcache.stats(counted.pipe).predicted == predicted


@pytest.mark.slow
def test_blocks_decide_each_for_itself(counted: Counted) -> None:
    dcache.enable(counted.pipe, "causal", threshold=0.3)
    counted.run()
    rows = dcache.trace(counted.pipe).components["transformer"].rows
    assert all(list(each) == ["frames:0", "frames:1", "frames:2"] for each in rows.values())
    assert all(len(set(each.values())) == 3 for each in rows.values())


def test_bytes_are_those_of_keys_values_latents_and_timesteps(counted: Counted) -> None:
    dcache.enable(counted.pipe, "causal")
    counted.run()
    # 24 rows of 24 channels, twice, in three blocks; 4 x 6 x 16 latents; six timesteps of eight bytes.
    assert dcache.stats(counted.pipe).bytes_held == 2 * (3 * 2 * 24 * 24 * 4 + 4 * 6 * 16 * 4 + 6 * 8)
    assert dcache.stats(counted.pipe).bytes_now == 0


def test_bytes_count_what_calls_share_during_the_next_call_and_behind_it(counted: Counted) -> None:
    dcache.enable(counted.pipe, "causal", share=True)
    counted.run()
    prompt = SKYREELS.arguments("sequential", **ASYNC)["prompt_embeds"]
    stored, moments = 3 * 2 * 24 * 24 * 4 + prompt.nbytes, 4 * 6 * 16 * 4 + 6 * 8
    alone = 2 * (stored + moments)
    stats = dcache.stats(counted.pipe)
    assert (stats.bytes_held, stats.bytes_now) == (alone, alone)
    # Another prompt cannot use the old one's keys and values, which stay until the call is over. The other
    # branch writes into its own, and has other latents.
    counted.run(prompt_embeds=prompt + 1)
    stats = dcache.stats(counted.pipe)
    assert (stats.bytes_held, stats.bytes_now) == (alone + stored + 2 * moments, alone)


def test_a_memory_limit_that_is_too_small_is_said(counted: Counted) -> None:
    dcache.enable(counted.pipe, "causal", max_cache_bytes=1000)
    with pytest.raises(DcacheError, match="max_cache_bytes"):
        counted.run()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ar_step": 0}, "updated in every evaluation"),
        ({"causal_block_size": 1}, "those behind included"),
    ],
)
def test_a_prefix_that_is_not_constant_is_refused(
    counted: Counted, options: dict[str, Any], reason: str
) -> None:
    dcache.enable(counted.pipe, "causal")
    with pytest.raises(DcacheError, match=reason):
        counted.run(**options)


def test_a_model_that_attends_to_all_frames_is_refused() -> None:
    with pytest.raises(DcacheError, match="attends to all frames"):
        dcache.enable(SHAPES["wan"].build(), "causal")


def test_a_shared_prefix_and_a_memory_limit_are_refused() -> None:
    with pytest.raises(DcacheError, match="outlives its run"):
        dcache.enable(SKYREELS.build("unipc"), "causal", share=True, max_cache_bytes="1MB")


def group_offload(pipe: Any, level: str) -> None:
    blocks = 1 if level == "block" else None
    cpu = torch.device("cpu")
    pipe.transformer.enable_group_offload(
        cpu, cpu, offload_type=f"{level}_level", num_blocks_per_group=blocks
    )


def sequential_offload(pipe: Any) -> None:
    """As `enable_sequential_cpu_offload`, whose "cpu:0" accelerate does not take for a place to compute."""
    pipe.remove_all_hooks()
    for model in pipe.components.values():
        if isinstance(model, torch.nn.Module):
            cpu_offload(model, torch.device("cpu"), offload_buffers=len(model._parameters) > 0)


OFFLOADS = {
    "group of a block": lambda pipe: group_offload(pipe, "block"),
    "group of a leaf": lambda pipe: group_offload(pipe, "leaf"),
    "sequential": sequential_offload,
    "model": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
}


@pytest.mark.slow
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kind", OFFLOADS)
def test_offloaded_weights_give_the_same_bits_with_as_many_rows(
    counted: Counted, kind: str, share: bool
) -> None:
    dcache.enable(counted.pipe, "causal", share=share)
    counted.run()
    expected, tokens = counted.run(), counted.tokens
    offloaded = Counted(SKYREELS.build("unipc"))
    OFFLOADS[kind](offloaded.pipe)
    dcache.enable(offloaded.pipe, "causal", share=share)
    for _ in range(2):
        assert torch.equal(offloaded.run(), expected)
    assert offloaded.tokens == tokens


class Continued:
    """Continuations of one clip, whose two latent frames come first in the first window."""

    def __init__(self) -> None:
        name = "SkyReelsV2DiffusionForcingVideoToVideoPipeline"
        self.entry = next(entry for entry in videos_wan.ENTRIES if entry.name == name)
        self.counted = Counted(self.entry.build())

    def run(self, seed: int = 1, **over: Any) -> torch.Tensor:
        self.counted.tokens = 0
        call = {**self.entry.inputs(), **ASYNC, "num_frames": 29, "generator": generator(seed), **over}
        with torch.no_grad():
            return self.counted.pipe(**call).frames


@pytest.mark.slow
def test_continuations_of_a_clip_share_its_prefix() -> None:
    clip = Continued()
    plain = clip.run(seed=2)
    dcache.enable(clip.counted.pipe, "causal")
    clip.run()
    apart = clip.run(seed=2)
    tokens = clip.counted.tokens
    assert error(apart, plain) < 1e-5
    dcache.enable(clip.counted.pipe, "causal", share=True)
    clip.run()
    assert dcache.stats(clip.counted.pipe).bytes_now > 0
    assert torch.equal(clip.run(seed=2), apart)
    # The first block of each branch is not written again.
    assert tokens - clip.counted.tokens == 2 * 8


@pytest.mark.slow
def test_a_prefix_of_other_weights_or_frame_rate_is_not_shared() -> None:
    shared, plain = Continued(), Continued()
    dcache.enable(shared.counted.pipe, "causal", share=True)
    shared.run()
    # Writing through `.data`, as adapters do when they are fused, leaves no version.
    for clip in (shared, plain):
        for parameter in clip.counted.pipe.transformer.blocks[0].parameters():
            parameter.data.mul_(1.3)
    assert error(shared.run(seed=2), plain.run(seed=2)) < 1e-5
    assert error(shared.run(seed=2, fps=16), plain.run(seed=2, fps=16)) < 1e-5


def test_a_refused_call_is_refused_again(counted: Counted) -> None:
    # What is added to every token comes from all tokens, those behind included.
    attention = counted.pipe.transformer.blocks[1].attn1
    attention.register_forward_hook(lambda _module, _args, output: output + output.mean(1, keepdim=True))
    dcache.enable(counted.pipe, "causal")
    for _ in range(2):
        with pytest.raises(DcacheError, match="another output than among all"):
            counted.run()


def test_fresh_noise_on_the_prefix_is_refused() -> None:
    clip = Continued()
    dcache.enable(clip.counted.pipe, "causal")
    with pytest.raises(DcacheError, match="addnoise_condition"):
        clip.run(addnoise_condition=20)
