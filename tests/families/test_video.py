"""Video families: blocks found and skipped, sublayers as declared, and the traps of each family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, methods
from dcache.engine.session import session_of
from dcache.sites.discovery import discover
from tests.families import video
from tests.families.video import (
    COGVIDEOX,
    HUNYUAN,
    HUNYUAN15,
    LTX,
    LTX2,
    LTX_I2V,
    MOCHI,
    SKYREELS,
    VIDEO,
    WAN22,
    WAN22_5B,
    WAN_I2V,
    WAN_VACE,
)
from tests.pipelines import STEPS, Shape, at_step_end, before_step, generator

PAIRS = [
    pytest.param(shape, guidance, id=f"{shape}-{guidance}") for shape in VIDEO for guidance in shape.guidance
]


def counted(modules: list[nn.Module]) -> Counter[int]:
    """Counts by position how often each module really runs."""
    runs: Counter[int] = Counter()
    for i, module in enumerate(modules):
        module.register_forward_hook(lambda *_, i=i: runs.update([i]))
    return runs


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far two results lie apart, relative to the second."""
    return float((a - b).norm() / b.norm())


def models(pipe: Any) -> dict[str, nn.Module]:
    """Every denoiser of a pipeline."""
    names = ("transformer", "transformer_2")
    return {name: getattr(pipe, name) for name in names if getattr(pipe, name, None) is not None}


# Every family -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "guidance"), PAIRS)
def test_a_cached_run_is_close_finite_and_not_the_same(shape: Shape, guidance: str) -> None:
    pipe = shape.build()
    plain = shape.run(pipe, guidance, num_inference_steps=2 * STEPS)
    far = distance(shape.run(pipe, guidance, seed=2, num_inference_steps=2 * STEPS), plain)
    dcache.enable(pipe, "newton", interval=2, warmup=1)
    cached = shape.run(pipe, guidance, num_inference_steps=2 * STEPS)
    assert dcache.stats(pipe).predicted > 0
    assert bool(torch.isfinite(cached).all())
    assert not torch.equal(cached, plain)
    assert distance(cached, plain) < min(0.1, far / 10)


@pytest.mark.parametrize(("shape", "guidance"), PAIRS)
def test_blocks_are_found_and_run_in_computed_evaluations_only(shape: Shape, guidance: str) -> None:
    pipe = shape.build()
    blocks = {
        name: shape.blocks(type("part", (), {shape.part: model})) for name, model in models(pipe).items()
    }
    runs = {name: counted(list(found)) for name, found in blocks.items()}
    dcache.enable(pipe, "newton", interval=2, warmup=1)
    shape.run(pipe, guidance)
    assert list(blocks) == list(dcache.trace(pipe).components)
    parts = dcache.stats(pipe).components or {shape.part: dcache.stats(pipe)}
    for name, model in models(pipe).items():
        assert discover(model).blocks == blocks[name]
        assert len(blocks[name]) == shape.depth
        stats = parts[name]
        assert stats.predicted > 0
        assert runs[name] == dict.fromkeys(range(shape.depth), stats.computed)


@pytest.mark.parametrize("shape", VIDEO, ids=str)
def test_declared_sublayers_are_all_that_a_block_adds_to_its_streams(shape: Shape) -> None:
    pipe = shape.build()
    model = shape.denoiser(pipe)
    found = discover(model).sublayers
    assert {s.kind for s in found} == set(shape.sublayers)
    assert {s.depth for s in found} == set(range(shape.depth))
    assert len({s.name for s in found}) == len(found)
    for sublayer in found:
        sublayer.module.register_forward_hook(lambda m, args, out: zeros(out))
    seen: list[bool] = []

    def unchanged(block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        leaves = output if isinstance(output, tuple) else (output,)
        seen.append(all(any(torch.equal(leaf, g) for g in given) for leaf in leaves))

    for block in shape.blocks(pipe):
        block.register_forward_hook(unchanged, with_kwargs=True)
    shape.run(pipe, num_inference_steps=2)
    assert len(seen) >= 2 * shape.depth
    assert all(seen)


def zeros(output: Any) -> Any:
    """Zeros in the place of every tensor."""
    if isinstance(output, torch.Tensor):
        return torch.zeros_like(output)
    return tuple(zeros(o) for o in output) if isinstance(output, tuple) else output


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("shape", VIDEO, ids=str)
def test_sublayer_outputs_are_taken_before_the_gate(shape: Shape, place: int) -> None:
    pipe = shape.build()
    block = shape.blocks(pipe)[place]
    inside = set(block.modules())
    found = [s for s in discover(shape.denoiser(pipe)).sublayers if s.module in inside]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = block.register_forward_pre_hook(
        lambda m, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    shape.run(pipe, num_inference_steps=3)
    hook.remove()
    args, kwargs = calls[0]
    times = {id(v) for k, v in kwargs.items() if k.startswith("temb") and v is not None} or {id(args[2])}

    def output(kind: str, kept: dict[nn.Module, Any], scale: float) -> Any:
        """The block's output where only this kind adds anything: what it gave first, whatever the time."""
        hooks = [
            s.module.register_forward_hook(
                lambda m, a, out, k=s.kind: kept.setdefault(m, out) if k == kind else zeros(out)
            )
            for s in found
        ]
        with torch.no_grad():
            result = block.forward(
                *[a * scale if id(a) in times else a for a in args],
                **{k: v * scale if id(v) in times else v for k, v in kwargs.items()},
            )
        for hook in hooks:
            hook.remove()
        return result[0] if isinstance(result, tuple) else result

    # Text cross-attention has no gate in these families.
    for kind in {s.kind for s in found} - {"cross_attn"}:
        kept: dict[nn.Module, Any] = {}
        first, other = output(kind, kept, 1.0), output(kind, kept, 2.0)
        assert kept
        assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", VIDEO, ids=str)
def test_predicted_sublayers_do_not_run(shape: Shape) -> None:
    pipe = shape.build()
    model = shape.denoiser(pipe)
    found = discover(model).sublayers
    runs = counted([s.module for s in found])
    dcache.enable(pipe, "interval", interval=2, sites=list(shape.sublayers))
    shape.run(pipe)
    (branch, *_) = dcache.trace(pipe).components[shape.part].rows.values()
    assert set(branch) == {s.name for s in found}
    stats = dcache.stats(pipe).components.get(shape.part, dcache.stats(pipe))
    assert stats.predicted > 0
    assert sum(runs.values()) == stats.computed


# Wan ----------------------------------------------------------------------------------------------


def test_wan22_gives_each_denoiser_a_session_of_its_own(tmp_path: Path) -> None:
    pipe = WAN22.build()
    plain = WAN22.run(pipe)
    first, second = counted([pipe.transformer]), counted([pipe.transformer_2])
    dcache.enable(pipe, "interval", interval=2)
    assert session_of(pipe.transformer) is not session_of(pipe.transformer_2)
    cached = WAN22.run(pipe)
    # Two branches each; the boundary lies behind evaluation 3. The first call is replayed once as a check.
    assert (first[0], second[0]) == (2 * 4 + 1, 2 * 3 + 1)

    stats = dcache.stats(pipe)
    assert list(stats.components) == ["transformer", "transformer_2"]
    assert stats.steps == STEPS
    high, low = stats.components.values()
    assert (high.computed, high.predicted) == (2 * 2, 2 * 2)
    assert (low.computed, low.predicted) == (2 * 2, 2 * 1)
    assert low.reasons == {"no_history": 2, "interval": 2}
    assert (stats.computed, stats.predicted) == (8, 6)

    trace = dcache.trace(pipe)
    assert list(trace.components) == ["transformer", "transformer_2"]
    rows = {name: part.rows["*"]["trunk"] for name, part in trace.components.items()}
    # What a denoiser was not called for counts as computed.
    assert [i for i in range(STEPS) if not rows["transformer"][i]] == [1, 3]
    assert [i for i in range(STEPS) if not rows["transformer_2"][i]] == [5]

    fresh = dcache.enable(WAN22.build(), str(trace.save(tmp_path / "wan22.json")), strict=True)
    assert torch.equal(WAN22.run(fresh), cached)
    assert torch.equal(WAN22.run(dcache.disable(pipe)), plain)
    for model in (pipe.transformer, pipe.transformer_2):
        assert session_of(model) is None


def test_wan22_predicts_nothing_across_the_boundary() -> None:
    # One more prediction would be due at evaluation 4, where the second denoiser has remembered nothing.
    pipe = dcache.enable(WAN22.build(), "interval", interval=5)
    runs = counted([*pipe.transformer.blocks, *pipe.transformer_2.blocks])
    WAN22.run(pipe, "off")
    assert set(runs.values()) == {1}
    assert dcache.stats(pipe).components["transformer_2"].reasons == {"no_history": 1}


@pytest.mark.parametrize(
    ("preset", "options"),
    [("interval", {}), ("newton", {"order": 2}), ("taylorseer", {"interval": 3, "warmup": 2})],
    ids=["interval", "newton", "taylorseer"],
)
def test_wan22_estimates_and_holds_what_both_denoisers_remember(preset: str, options: dict[str, Any]) -> None:
    pipe = WAN22.build()
    method = methods.make(preset, **options)
    estimate = dcache.memory_estimate(pipe, method, **WAN22.arguments())
    dcache.enable(pipe, method)
    held: list[list[int]] = []

    def look() -> None:
        held.append([part.bytes_now for part in dcache.stats(pipe).components.values()])

    before_step(pipe, look)
    WAN22.run(pipe, num_inference_steps=2 * STEPS)
    # One hands over to the other: the estimate is what both hold, of which the first lets go.
    assert held[STEPS - 1] == [estimate // 2, 0]
    assert held[-1] == [0, estimate // 2]
    assert max(map(sum, held)) <= estimate
    assert dcache.stats(pipe).bytes_now == 0


def test_wan22_notices_that_its_second_denoiser_was_replaced() -> None:
    pipe = dcache.enable(WAN22.build(), "interval", interval=2)
    WAN22.run(pipe)
    pipe.transformer_2 = video.wan_model(seed=11)
    again = WAN22.run(pipe)
    twin = WAN22.build()
    twin.transformer_2 = video.wan_model(seed=11)
    assert torch.equal(again, WAN22.run(dcache.enable(twin, "interval", interval=2)))
    assert dcache.stats(pipe).components["transformer_2"].predicted > 0


def test_wan22_with_one_denoiser_only_has_one_component() -> None:
    pipe = WAN22.build()
    pipe.register_modules(transformer_2=None)
    pipe.register_to_config(boundary_ratio=None)
    dcache.enable(pipe, "interval", interval=2)
    WAN22.run(pipe)
    assert list(dcache.trace(pipe).components) == ["transformer"]
    assert dcache.stats(pipe).components == {}


@pytest.mark.parametrize("shape", [WAN22_5B, LTX_I2V], ids=str)
def test_a_timestep_per_token_is_no_trouble_in_a_pipeline(shape: Shape) -> None:
    pipe = shape.build()
    model = shape.denoiser(pipe)
    seen: list[torch.Tensor] = []
    hook = model.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True
    )
    shape.run(pipe)
    hook.remove()
    # The first frame is the image: it is clean.
    assert seen[0].ndim == 2
    assert len(seen[0][0].unique()) == 2
    assert float(seen[0].min()) == 0.0
    dcache.enable(pipe, methods.newton(interval=2, clock="timestep"))
    shape.run(pipe)
    assert dcache.stats(pipe).steps == STEPS
    assert dcache.stats(pipe).predicted > 0


def test_a_timestep_per_token_in_a_hand_written_loop_needs_to_be_told() -> None:
    model = dcache.enable(video.wan_model(0), methods.newton(interval=2, clock="step"))
    latents, text = torch.randn(1, 4, 2, 4, 4), torch.randn(1, 5, 12)
    timesteps = torch.full((1, 8), 900.0)
    timesteps[:, :4] = 0.0
    with torch.no_grad():
        with pytest.raises(DcacheError, match=r"dcache\.step"):
            model(hidden_states=latents, timestep=timesteps, encoder_hidden_states=text)
        for i in range(6):
            dcache.step(model, index=i)
            model(hidden_states=latents, timestep=timesteps * (1 - i / 6), encoder_hidden_states=text)
    stats = dcache.stats(model)
    assert (stats.steps, stats.computed, stats.predicted) == (6, 4, 2)


def test_vace_hints_are_fresh_in_every_evaluation() -> None:
    pipe = WAN_VACE.build()
    plain = WAN_VACE.run(pipe)
    without = WAN_VACE.run(pipe, conditioning_scale=0.0)
    hints = counted(list(pipe.transformer.vace_blocks))
    assert not set(pipe.transformer.vace_blocks) & set(discover(pipe.transformer).blocks)
    dcache.enable(pipe, "newton", interval=2)
    cached = WAN_VACE.run(pipe)
    # Two branches, and one replay of the first call.
    assert set(hints.values()) == {2 * STEPS + 1}
    assert distance(cached, plain) < distance(without, plain) / 2


# SkyReels: a sampler per frame, which are copies of the pipeline's --------------------------------

ROLLING = {
    "together": ({}, STEPS),
    "rolling": ({"ar_step": 2, "causal_block_size": 1}, STEPS + 3 * 2),
    "in blocks": ({"ar_step": 2, "causal_block_size": 2}, STEPS + 2),
}


@pytest.mark.parametrize("sites", ["trunk", "model", "sublayers"])
@pytest.mark.parametrize("way", ROLLING)
def test_evaluations_are_counted_where_every_frame_has_a_sampler(way: str, sites: str) -> None:
    arguments, evaluations = ROLLING[way]
    pipe = SKYREELS.build()
    plain = SKYREELS.run(pipe, **arguments)
    dcache.enable(pipe, "interval", interval=1, sites=sites)
    assert torch.equal(SKYREELS.run(pipe, **arguments), plain)
    dcache.enable(pipe, "newton", interval=2, sites=sites, codec="value")
    cached = SKYREELS.run(pipe, **arguments)
    trace = dcache.trace(pipe)
    assert trace.steps == dcache.stats(pipe).steps == evaluations
    assert 0 < distance(cached, plain) < 0.1
    assert torch.equal(SKYREELS.run(dcache.enable(pipe, trace), **arguments), cached)


def test_a_clock_that_no_sampler_of_many_tells_is_refused() -> None:
    pipe = dcache.enable(SKYREELS.build(), methods.newton(clock="logsnr"))
    with pytest.raises(DcacheError, match="clock='step'"):
        SKYREELS.run(pipe)


# HunyuanVideo -------------------------------------------------------------------------------------


def refiners(model: nn.Module) -> list[nn.Module]:
    """The blocks that prepare the text."""
    blocks: nn.ModuleList = model.context_embedder.token_refiner.refiner_blocks  # type: ignore[assignment,union-attr]
    return list(blocks)


@pytest.mark.parametrize("shape", [HUNYUAN, HUNYUAN15], ids=str)
def test_the_refiner_is_no_part_of_the_trunk(shape: Shape) -> None:
    pipe = shape.build()
    model = shape.denoiser(pipe)
    runs = counted(refiners(model))
    dcache.enable(pipe, "interval", interval=2)
    shape.run(pipe)
    stats = dcache.stats(pipe)
    # It runs in every call, and in replays of the first one: a check, a search for dead outputs, and another
    # one where the model fails without such an output, for that could be the caller's error.
    calls = stats.computed + stats.predicted
    assert set(runs.values()) == {calls + 4}
    assert not set(refiners(model)) & set(discover(model).blocks)


@pytest.mark.parametrize("shape", [HUNYUAN, HUNYUAN15, COGVIDEOX, MOCHI], ids=str)
def test_the_text_stream_that_nobody_reads_behind_the_trunk_is_not_held(shape: Shape) -> None:
    pipe = dcache.enable(shape.build(), "interval", interval=2)
    session = session_of(shape.denoiser(pipe))
    assert session is not None
    stored: list[list[tuple[int, ...]]] = []

    def look() -> None:
        stored.append(
            [tuple(t.shape) for branch in session.state.branches.values() for t in branch.tensors()]
        )

    before_step(pipe, look)
    shape.run(pipe)
    tokens = {HUNYUAN: 8, HUNYUAN15: 32, COGVIDEOX: 8, MOCHI: 8}[shape]
    assert stored[-1]
    assert {size[1] for size in stored[-1]} == {tokens}


@pytest.mark.parametrize("shape", [HUNYUAN, COGVIDEOX], ids=str)
def test_streams_of_one_length_are_told_apart(shape: Shape) -> None:
    # Eight tokens of video, and as many of text.
    arguments = {"prompt_embeds": torch.randn(1, 8, 12), "prompt_attention_mask": torch.ones(1, 8)}
    model = shape.model(0)
    if shape is COGVIDEOX:
        model = video.cogvideox_model(0, max_text_seq_length=8)
        arguments = {
            "prompt_embeds": arguments["prompt_embeds"],
            "negative_prompt_embeds": torch.ones(1, 8, 12),
        }
    outputs = []
    for lowering in ("auto", "replay"):
        pipe = dcache.enable(
            shape.build(model=model), methods.interval(interval=2, codec="value"), lowering=lowering
        )
        outputs.append(shape.run(pipe, "off", **arguments))
        assert list(dcache.trace(pipe).components["transformer"].sites) == ["trunk"]
    assert torch.equal(*outputs)


def guiders() -> dict[str, Callable[[], Any]]:
    """Guiders of diffusers that HunyuanVideo 1.5 can use."""
    import diffusers
    from diffusers.hooks import LayerSkipConfig

    def skipping(**what: bool) -> Callable[[], Any]:
        return lambda: diffusers.SkipLayerGuidance(
            guidance_scale=3.0,
            skip_layer_config=LayerSkipConfig([2], fqn="transformer_blocks", **what),
            skip_layer_guidance_start=0.1,
            skip_layer_guidance_stop=0.9,
        )

    return {
        "off": lambda: diffusers.ClassifierFreeGuidance(enabled=False),
        "part": lambda: diffusers.ClassifierFreeGuidance(guidance_scale=3.0, start=0.2, stop=0.8),
        "projected": lambda: diffusers.AdaptiveProjectedGuidance(guidance_scale=3.0),
        "smoothed": lambda: diffusers.SmoothedEnergyGuidance(guidance_scale=3.0, seg_guidance_layers=[1]),
        "skip": skipping(),
        "skip_ff": skipping(skip_attention=False, skip_ff=True),
    }


BRANCHES = {
    "off": {"pred_cond"},
    "part": {"pred_cond", "pred_uncond"},
    "projected": {"pred_cond", "pred_uncond"},
    "smoothed": {"pred_cond", "pred_uncond", "pred_cond_seg"},
    "skip": {"pred_cond", "pred_uncond", "pred_cond_skip"},
    "skip_ff": {"pred_cond", "pred_uncond", "pred_cond_skip"},
}


@pytest.mark.parametrize("sites", ["trunk", "run:1-2", "block", "model"])
@pytest.mark.parametrize("name", BRANCHES)
def test_guiders_call_branches_by_name(name: str, sites: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

    # diffusers cannot skip a layer of this model until its class is registered.
    block = type(HUNYUAN15.blocks(HUNYUAN15.build())[0])
    metadata = TransformerBlockMetadata(0, 1)
    metadata._cls = block
    monkeypatch.setitem(TransformerBlockRegistry._registry, block, metadata)
    pipe = HUNYUAN15.build()

    def run() -> torch.Tensor:
        pipe.guider = guiders()[name]()
        return HUNYUAN15.run(pipe)

    plain = run()
    dcache.enable(pipe, "interval", interval=1, sites=sites)
    assert torch.equal(run(), plain)
    dcache.enable(pipe, methods.newton(interval=2, clock="step", sites=sites))
    cached = run()
    stats, trace = dcache.stats(pipe), dcache.trace(pipe)
    rows = trace.components["transformer"].rows
    assert stats.steps == STEPS
    assert stats.predicted > 0
    assert set(rows) == BRANCHES[name] or set(rows) == {"*"}
    assert 0 < distance(cached, plain) < 0.2
    dcache.enable(pipe, trace)
    assert torch.equal(run(), cached)
    assert torch.equal(dcache.disable(pipe) and run(), plain)


# LTX2 ---------------------------------------------------------------------------------------------


def both(pipe: Any, guidance: str = "three", **over: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Video and audio of one call."""
    result = pipe(**LTX2.arguments(guidance, **over))
    return result.frames, result.audio


@pytest.mark.parametrize("sites", ["trunk", "block", "run:1-2", "model", "sublayers"])
def test_ltx2_keeps_both_of_its_streams(sites: str) -> None:
    pipe = LTX2.build()
    plain = both(pipe)
    dcache.enable(pipe, "interval", interval=1, sites=sites)
    assert all(torch.equal(a, b) for a, b in zip(both(pipe), plain, strict=True))
    dcache.enable(pipe, methods.newton(interval=2, clock="step", sites=sites))
    for now, then in zip(both(pipe), plain, strict=True):
        assert bool(torch.isfinite(now).all())
        assert 0 < distance(now, then) < 0.12
    (plan,) = dcache.trace(pipe).components.values()
    assert sites == "sublayers" or set(plan.rows) <= {"*", "cond_uncond", "uncond_stg", "uncond_modality"}


def test_ltx2_streams_of_one_size_are_told_apart() -> None:
    # Eight tokens of video and eight of audio, equally wide: only the order of the outputs tells.
    pipe = LTX2.build(model=video.ltx2_model(0, audio_attention_head_dim=8, audio_cross_attention_dim=16))
    shapes: list[tuple[Any, Any]] = []
    hook = pipe.transformer.transformer_blocks[0].register_forward_hook(
        lambda m, args, out: shapes.append((out[0].shape, out[1].shape))
    )
    plain = both(pipe, frame_rate=28.0)
    hook.remove()
    assert shapes[0][0] == shapes[0][1]
    for codec in ("delta", "value"):
        dcache.enable(pipe, methods.newton(interval=2, clock="step", codec=codec))
        for now, then in zip(both(pipe, frame_rate=28.0), plain, strict=True):
            assert 0 < distance(now, then) < 0.12
        assert list(dcache.trace(pipe).components["transformer"].sites) == ["trunk"]


def test_ltx2_copies_its_sampler_and_every_evaluation_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = LTX2.build()
    stepped: list[Any] = []
    original = type(pipe.scheduler).step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        stepped.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(pipe.scheduler), "step", step)
    twin = LTX2.build()
    LTX2.run(twin)
    stepped.clear()
    dcache.enable(pipe, "interval", interval=2)
    LTX2.run(pipe)
    # Two samplers stepped, in turn.
    assert len(stepped) == 2 * STEPS
    assert len(set(map(id, stepped))) == 2
    assert dcache.stats(pipe).steps == STEPS
    assert dcache.trace(pipe).steps == STEPS
    dcache.disable(pipe)
    assert set(vars(pipe.scheduler)) == set(vars(twin.scheduler))


def test_ltx2_sublayers_of_one_kind_have_names_of_their_own() -> None:
    pipe = LTX2.build()
    names = [s.name for s in discover(pipe.transformer).sublayers if s.depth == 1]
    assert names == [
        "attn:1",
        "attn.audio:1",
        "cross_attn:1",
        "cross_attn.audio:1",
        "cross_attn.audio_to_video:1",
        "cross_attn.video_to_audio:1",
        "mlp:1",
        "mlp.audio:1",
    ]
    dcache.enable(pipe, "interval", interval=2, sites=["cross_attn.audio_to_video:1", "mlp.audio:0"])
    LTX2.run(pipe)
    assert set(dcache.trace(pipe).components["transformer"].sites) == {
        "cross_attn.audio_to_video:1",
        "mlp.audio:0",
    }


# LTX, CogVideoX, Mochi ----------------------------------------------------------------------------


def test_ltx_frees_its_histories_when_the_call_ends() -> None:
    pipe = dcache.enable(LTX.build(), "newton", interval=2)
    held: list[int] = []
    LTX.run(pipe, **at_step_end(LTX, lambda i: held.append(dcache.stats(pipe).bytes_now)))
    # Two prompts in one batch, 8 tokens, 16 channels, float32; two anchors.
    assert max(held) == 2 * (2 * 8 * 16 * 4)
    assert dcache.stats(pipe).bytes_now == 0


@pytest.mark.parametrize("guidance", COGVIDEOX.guidance)
def test_cogvideox_with_its_other_sampler(guidance: str) -> None:
    # Its step takes its arguments in another order, and draws noise.
    from diffusers import CogVideoXDPMScheduler

    def build() -> Any:
        pipe = COGVIDEOX.build()
        pipe.scheduler = CogVideoXDPMScheduler(**video.COGVIDEOX_NOISE)
        return pipe

    pipe = build()
    plain = COGVIDEOX.run(pipe, guidance)
    dcache.enable(pipe, "interval", interval=1)
    assert torch.equal(COGVIDEOX.run(pipe, guidance), plain)
    dcache.enable(pipe, "newton", interval=2)
    cached = COGVIDEOX.run(pipe, guidance)
    assert 0 < distance(cached, plain) < 0.12
    trace = dcache.trace(pipe)
    assert trace.steps == dcache.stats(pipe).steps == STEPS
    assert torch.equal(COGVIDEOX.run(dcache.enable(build(), trace), guidance), cached)


@pytest.mark.parametrize("clock", ["logsnr", "timestep", "step", None])
def test_cogvideox_begins_where_there_is_no_signal_at_all(clock: str | None) -> None:
    pipe = COGVIDEOX.build()
    plain = COGVIDEOX.run(pipe)
    assert float(pipe.scheduler.alphas_cumprod[-1]) == 0.0
    dcache.enable(pipe, methods.newton(interval=2, clock=clock, warmup=1))
    cached = COGVIDEOX.run(pipe)
    # Its first anchor lies at the very end of the noise; it is used from the second anchor on.
    assert bool(torch.isfinite(cached).all())
    assert 0 < distance(cached, plain) < 0.12


def test_mochi_timesteps_rise_in_its_pipeline_and_in_a_loop() -> None:
    pipe = MOCHI.build()
    model = pipe.transformer
    seen: list[float] = []
    hook = model.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(float(kwargs["timestep"][0])), with_kwargs=True
    )
    MOCHI.run(pipe)
    hook.remove()
    assert seen == sorted(seen)
    assert len(set(seen)) == STEPS

    dcache.enable(model, methods.newton(interval=2, warmup=1))
    call = {
        "hidden_states": torch.randn(1, 4, 2, 4, 4, generator=generator(0)),
        "encoder_hidden_states": torch.randn(1, 5, 16, generator=generator(1)),
        "encoder_attention_mask": torch.ones(1, 5, dtype=torch.bool),
    }
    with torch.no_grad():
        for _ in range(2):
            for t in seen:
                model(**call, timestep=torch.tensor([t]))
            stats = dcache.stats(model)
            assert (stats.steps, stats.predicted) == (STEPS, 3)


def test_mochi_drops_its_text_in_the_last_block() -> None:
    pipe = MOCHI.build()
    names = {s.name for s in discover(pipe.transformer).sublayers}
    assert "mlp.context:1" in names
    assert "mlp.context:2" not in names
    dcache.enable(pipe, "interval", interval=2, sites=["attn:2", "mlp:2"])
    MOCHI.run(pipe)
    assert dcache.stats(pipe).predicted == 2 * 3


def test_wan_image_to_video_reads_its_image() -> None:
    pipe = WAN_I2V.build()
    plain = WAN_I2V.run(pipe)
    other = WAN_I2V.run(pipe, image=video.image(9))
    assert not torch.equal(plain, other)
    dcache.enable(pipe, "newton", interval=2)
    cached = WAN_I2V.run(pipe)
    assert distance(cached, plain) < distance(other, plain) / 2
