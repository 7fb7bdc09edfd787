"""Single-stream families: what runs at a predicted step, and each family's own traps."""

from __future__ import annotations

import inspect
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.engine.session import session_of
from dcache.sites import discovery, structure
from tests.families.single import (
    DIT,
    HUNYUAN_DIT,
    LUMINA,
    LUMINA2,
    SANA,
    SINGLE,
    STABLE_AUDIO,
    Z_IMAGE,
    hunyuan_model,
)
from tests.laws.product import PRESETS, plain
from tests.pipelines import STEPS, Shape, generator

EVERY_2 = methods.interval(interval=2)
COMPUTED = [i % 2 == 0 for i in range(STEPS)]


class Watch:
    """Which of some modules really ran, by evaluation of a pipeline's sampler."""

    def __init__(self, pipe: Any, modules: dict[Any, nn.Module]) -> None:
        self.ran: list[Counter[Any]] = [Counter()]
        for name, module in modules.items():
            module.register_forward_hook(lambda *_, n=name: self.ran[-1].update([n]))
        step = pipe.scheduler.step

        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.ran.append(Counter())
            return step(*args, **kwargs)

        pipe.scheduler.step = stepped

    def of(self, name: Any) -> list[int]:
        """How often one module ran in each evaluation."""
        return [ran[name] for ran in self.ran[:-1]]


def assert_ran(counts: list[int], expected: list[int]) -> None:
    """So often in each evaluation; in the first perhaps once more: Z-Image sets up tables in it.

    Whether each call writes them, or only the first, is what one repeated call tells.
    """
    assert counts[1:] == expected[1:]
    assert counts[0] - expected[0] in {0, 1}


def session(shape: Shape, pipe: Any) -> Any:
    """The session of a pipeline's denoiser."""
    found = session_of(shape.denoiser(pipe))
    assert found is not None
    return found


def usual(shape: Shape) -> torch.Tensor:
    """The latents of a run without dcache."""
    return plain(shape.name, next(iter(shape.samplers)), next(iter(shape.guidance)))[0]


# Every family -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SINGLE, ids=str)
def test_the_trunk_is_found_and_a_predicted_step_runs_none_of_it(shape: Shape) -> None:
    """No warning either: those are errors, so nothing fell back to the whole model."""
    pipe = shape.build()
    blocks = shape.blocks(pipe)
    watch = Watch(pipe, dict(enumerate(blocks)))
    dcache.enable(pipe, EVERY_2)
    shape.run(pipe, "off")
    assert session(shape, pipe).binding.structure.blocks == blocks
    assert len(blocks) == shape.depth
    assert [s.name for s in session(shape, pipe).binding.sites] == ["trunk"]
    for i in range(shape.depth):
        assert_ran(watch.of(i), [int(computed) for computed in COMPUTED])


@pytest.mark.parametrize(("shape", "kind"), [(s, k) for s in SINGLE for k in s.sublayers], ids=str)
def test_a_predicted_sublayer_is_not_run_and_its_block_is(shape: Shape, kind: str) -> None:
    pipe = shape.build()
    found = [s for s in discovery.discover(shape.denoiser(pipe)).sublayers if s.kind == kind]
    assert [s.depth for s in found] == list(range(shape.depth))
    blocks = {f"block {i}": block for i, block in enumerate(shape.blocks(pipe))}
    watch = Watch(pipe, {**blocks, **{s.name: s.module for s in found}})
    dcache.enable(pipe, methods.interval(interval=2, sites=kind))
    shape.run(pipe, "off")
    for name in blocks:
        # The self-check replays the first.
        assert_ran(watch.of(name), [1 + (i == 0) for i in range(STEPS)])
    for s in found:
        assert_ran(watch.of(s.name), [int(computed) for computed in COMPUTED])


@pytest.mark.parametrize("shape", SINGLE, ids=str)
def test_leaf_replay_gives_what_the_lowering_gives(shape: Shape) -> None:
    method = methods.newton(interval=2, codec="value", clock="step")
    outputs = [
        shape.run(dcache.enable(shape.build(), method, lowering=lowering)) for lowering in ("auto", "replay")
    ]
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], usual(shape))


@pytest.mark.parametrize("shape", SINGLE, ids=str)
def test_the_clock_is_the_samplers_whatever_the_model_is_told(shape: Shape) -> None:
    """Lumina2 and Z-Image are told 1 - t, Stable Audio the arc tangent of sigma; logsnr rises in all."""
    pipe = shape.build()
    taus: list[float] = []
    step = pipe.scheduler.step

    def stepped(*args: Any, **kwargs: Any) -> Any:
        taus.append(session(shape, pipe).state.branches["0"].history("trunk").taus[-1])
        return step(*args, **kwargs)

    pipe.scheduler.step = stepped
    dcache.enable(pipe, methods.newton(interval=1, clock="logsnr"))
    shape.run(pipe)
    assert len(taus) == dcache.stats(pipe).steps == STEPS
    assert all(a < b for a, b in pairwise(taus))


# DiT ----------------------------------------------------------------------------------------------


def test_dit_reads_block_0_behind_a_trunk_that_is_not_run() -> None:
    """The output layer takes its modulation from `transformer_blocks[0].norm1.emb`, fresh at every step."""
    pipe = DIT.build()
    first = DIT.blocks(pipe)[0]
    watch = Watch(pipe, {"block": first, "emb": first.norm1.emb})
    dcache.enable(pipe, EVERY_2)
    DIT.run(pipe)
    assert watch.of("block") == [int(computed) for computed in COMPUTED]
    # Once in the block, once in the model; the self-check replays the first call.
    assert watch.of("emb") == [3] + [1 + int(computed) for computed in COMPUTED[1:]]


def test_dit_keeps_the_halves_of_its_guidance_apart() -> None:
    """The conditional half comes first: another label changes that half alone, at predicted steps too."""
    runs: list[list[torch.Tensor]] = []
    for label in (3, 4):
        pipe, said = DIT.build(), []
        step = pipe.scheduler.step
        # The same latents whatever the model says, so that the runs can be compared.
        pipe.scheduler.step = lambda y, t, x, step=step: step(torch.zeros_like(y), t, x)
        DIT.denoiser(pipe).proj_out_2.register_forward_hook(lambda m, a, y, said=said: said.append(y))
        dcache.enable(pipe, methods.newton(interval=2, last=False))
        DIT.run(pipe, class_labels=[label])
        assert dcache.stats(pipe).predicted > 0
        assert len(said) == STEPS + 1
        runs.append(said)
    for one, other in zip(*runs, strict=True):
        assert not torch.equal(one[0], other[0])
        torch.testing.assert_close(one[1], other[1])


# Sana ---------------------------------------------------------------------------------------------


def test_sana_with_timesteps_a_thousandfold_smaller_than_the_samplers() -> None:
    pipe = SANA.build()
    SANA.denoiser(pipe).register_to_config(timestep_scale=0.001)
    expected = SANA.run(pipe)
    dcache.enable(pipe, PRESETS["newton-1-logsnr"].all_compute())
    assert torch.equal(SANA.run(pipe), expected)
    dcache.enable(pipe, PRESETS["newton-1-logsnr"].method())
    SANA.run(pipe)
    assert dcache.stats(pipe).steps == STEPS
    assert dcache.stats(pipe).predicted > 0


# Lumina2 and Z-Image ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [LUMINA2, Z_IMAGE], ids=str)
def test_refiners_are_no_part_of_the_trunk_and_stay_fresh(shape: Shape) -> None:
    pipe = shape.build()
    model = shape.denoiser(pipe)
    refiners = {
        f"{n} {i}": b for n in ("noise", "context") for i, b in enumerate(getattr(model, f"{n}_refiner"))
    }
    assert len(refiners) == 4
    watch = Watch(pipe, {"layer": model.layers[0], **refiners})
    dcache.enable(pipe, EVERY_2)
    shape.run(pipe, "off")
    assert_ran(watch.of("layer"), [int(computed) for computed in COMPUTED])
    for name in refiners:
        assert_ran(watch.of(name), [1 + (i == 0) for i in range(STEPS)])


def test_lumina2_stops_calling_one_branch_and_the_other_goes_on() -> None:
    """The conditional branch is called first and to the end; the unconditional one has fewer tokens."""
    pipe = dcache.enable(LUMINA2.build(), EVERY_2)
    LUMINA2.run(pipe, "part")
    (plan,) = dcache.trace(pipe).components.values()
    assert plan.rows["0"]["trunk"] == tuple(COMPUTED)
    guided = sum((i + 1) / STEPS <= 0.6 for i in range(STEPS))
    assert 0 < guided < STEPS
    assert plan.rows["1"]["trunk"][:guided] == tuple(COMPUTED[:guided])
    # An event for every call, and none for the calls that were not made.
    assert dcache.stats(pipe).computed + dcache.stats(pipe).predicted == STEPS + guided


def test_lumina2_conditional_branch_does_not_notice_the_other() -> None:
    said: dict[str, list[torch.Tensor]] = {}
    for mode in ("off", "sequential"):
        pipe, calls = LUMINA2.build(), []
        step = pipe.scheduler.step
        pipe.scheduler.step = lambda y, t, x, step=step, **k: step(torch.zeros_like(y), t, x, **k)
        dcache.enable(pipe, methods.newton(interval=2))
        model = LUMINA2.denoiser(pipe)
        model.norm_out.register_forward_hook(lambda m, a, y, calls=calls: calls.append(y))
        LUMINA2.run(pipe, mode)
        said[mode] = calls
    # The first call of all is replayed by the self-check.
    once, both = said["off"][1:], said["sequential"][1::2]
    assert len(once) == len(both) == STEPS
    for one, other in zip(once, both, strict=True):
        assert torch.equal(one, other)


def test_z_image_shrinks_its_batch_and_begins_afresh() -> None:
    pipe = dcache.enable(Z_IMAGE.build(), methods.newton(interval=3, warmup=1))
    Z_IMAGE.run(pipe, "part")
    stats = dcache.stats(pipe)
    assert stats.reasons["shape"] == 1
    assert stats.steps == STEPS
    (plan,) = dcache.trace(pipe).components.values()
    (row,) = plan.rows["*"].values()
    (at,) = [i for i in range(STEPS) if row[i] and i not in (0, 3, 6)]
    # From there on nothing of the larger batch is left to predict from.
    assert [i for i in range(STEPS) if row[i]] in ([0, 3, at, STEPS - 1], [0, at, STEPS - 1])


def test_z_image_lists_come_back_as_lists_of_new_tensors() -> None:
    """The pipeline may write into what it is given; what is remembered is another copy."""
    model = Z_IMAGE.model(0)
    dcache.enable(model, methods.interval(interval=3, sites="model", warmup=0))
    x = [torch.randn(4, 1, 8, 8, generator=generator(i)) for i in range(2)]
    words = [torch.randn(5, 12, generator=generator(i)) for i in (2, 3)]
    outputs = []
    with torch.no_grad():
        for i in range(3):
            dcache.step(model, index=i, sigma=1.0 - 0.2 * i)
            (found,) = model(x, torch.full((2,), 0.2 * i), words, return_dict=False)
            assert type(found) is list
            assert [y.shape for y in found] == [y.shape for y in x]
            outputs.append([y.clone() for y in found])
            for y in found:
                y.zero_()
    assert dcache.stats(model).predicted == 2
    for later in outputs[1:]:
        for a, b in zip(outputs[0], later, strict=True):
            assert torch.equal(a, b)
            assert a.any()


def test_z_image_remembers_the_change_of_each_picture_of_its_list() -> None:
    """The latents come as a list in front of the timestep, which is their first argument that is a tensor."""
    pipe = Z_IMAGE.build()
    plain = Z_IMAGE.run(pipe)
    dcache.enable(pipe, methods.newton(interval=1, sites="model", codec="delta"))
    assert torch.equal(Z_IMAGE.run(pipe), plain)
    pictures = {}
    for codec in ("value", "delta"):
        dcache.enable(pipe, methods.interval(interval=2, sites="model", codec=codec))
        pictures[codec] = Z_IMAGE.run(pipe)
        assert dcache.stats(pipe).predicted > 0
    assert not torch.equal(pictures["value"], pictures["delta"])


@pytest.mark.parametrize(
    ("shape", "over", "why"),
    [
        (Z_IMAGE, {}, "its rows come as a list"),
        (LUMINA2, {"cfg_normalization": True}, "the sampler is not given"),
    ],
    ids=str,
)
def test_guidance_that_cannot_be_told_apart_is_left_alone_loudly(
    shape: Shape, over: dict[str, Any], why: str
) -> None:
    """Z-Image's batch is a list; Lumina2 by default scales every row of what it mixed by its own factor."""
    pipe = shape.build()
    expected = shape.run(pipe, **over)
    dcache.enable(pipe, methods.tgate(gate=3, attn_interval=1))
    why = f"site 'guidance' is never predicted: {why}"
    with pytest.warns(DcacheWarning, match="nothing was predicted"), pytest.warns(DcacheWarning, match=why):
        assert torch.equal(shape.run(pipe, **over), expected)


@pytest.mark.parametrize("shape", [DIT, LUMINA, LUMINA2], ids=str)
def test_guidance_is_found_in_what_the_sampler_is_given(shape: Shape) -> None:
    """DiT gives it twice, the label first; Lumina mixes three of four channels and turns the sign."""
    pipe = shape.build()
    expected = shape.run(pipe)
    dcache.enable(pipe, methods.tgate(gate=3, attn_interval=1))
    assert not torch.equal(shape.run(pipe), expected)
    (plan,) = dcache.trace(pipe).components.values()
    rows = [rows["guidance"] for rows in plan.rows.values() if "guidance" in rows]
    assert (True,) * 3 + (False,) * (STEPS - 3) in rows


def z_image_control_pipe() -> Any:
    """The real ControlNet pipeline. The ControlNet shares the refiners of the denoiser."""
    from diffusers import AutoencoderKL, ZImageControlNetModel, ZImageControlNetPipeline

    model = Z_IMAGE.model(0)
    torch.manual_seed(1)
    control = ZImageControlNetModel(
        control_layers_places=[0, 2], control_in_dim=4, dim=24, n_heads=2, n_kv_heads=2
    ).eval()
    for layer in control.control_layers:
        nn.init.normal_(layer.after_proj.weight, std=0.3)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=2,
        shift_factor=0.0,
    ).eval()
    sampler = next(iter(Z_IMAGE.samplers.values()))()
    pipe = ZImageControlNetPipeline(sampler, vae, None, None, model, control)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("site", ["trunk", "run:0-1", "block", "sublayers", "model"])
def test_z_image_controlnet_adds_behind_blocks_and_is_no_denoiser(site: str) -> None:
    """It takes a timestep too, and no image by the usual name; it adds behind the last block as well."""

    def run(pipe: Any, **over: Any) -> torch.Tensor:
        image = torch.rand(1, 3, 64, 64, generator=generator(3))
        return Z_IMAGE.run(pipe, control_image=image, **over)

    pipe = z_image_control_pipe()
    expected = run(pipe)
    assert not torch.allclose(expected, run(pipe, controlnet_conditioning_scale=0.0))
    dcache.enable(pipe, methods.newton(interval=1, sites=site))
    assert session_of(pipe.controlnet) is None
    assert torch.equal(run(pipe), expected)
    dcache.enable(pipe, methods.newton(interval=2, sites=site))
    cached = run(pipe)
    assert dcache.stats(pipe).predicted > 0
    assert not torch.equal(cached, expected)
    assert list(dcache.trace(pipe).components) == ["transformer"]
    assert torch.equal(run(dcache.enable(pipe, dcache.trace(pipe))), cached)


# HunyuanDiT: long skips between blocks ------------------------------------------------------------


def hunyuan(layers: int) -> Any:
    """A pipeline; with six blocks skips join 0 to 5 and 1 to 4, with four 0 to 3."""
    return HUNYUAN_DIT.build(model=hunyuan_model(num_layers=layers))


@pytest.mark.parametrize("layers", [4, 6, 10])
def test_hunyuan_skips_are_where_the_model_puts_them(layers: int) -> None:
    """See which block is given which block's output as its skip."""
    pipe = hunyuan(layers)
    model = HUNYUAN_DIT.denoiser(pipe)
    given: list[tuple[int, int]] = []
    outputs: list[torch.Tensor] = []

    def note(block: nn.Module, args: Any, kwargs: dict[str, Any], output: torch.Tensor) -> None:
        given.extend((j, len(outputs)) for j, y in enumerate(outputs) if y is kwargs.get("skip"))
        outputs.append(output)

    for block in model.blocks:
        block.register_forward_hook(note, with_kwargs=True)
    HUNYUAN_DIT.run(pipe, "off", num_inference_steps=1)
    assert sorted(given) == discovery.discover(model).long_skips
    assert len(given) == layers // 2 - 1


@pytest.mark.parametrize(("layers", "level"), [(4, 0), (6, 0), (6, 1)])
def test_hunyuan_bracket_is_skipped_and_its_skip_stays_fresh(layers: int, level: int) -> None:
    pipe = hunyuan(layers)
    expected = HUNYUAN_DIT.run(pipe)
    watch = Watch(pipe, dict(enumerate(HUNYUAN_DIT.blocks(pipe))))
    site = f"bracket:{level}"
    dcache.enable(pipe, methods.interval(interval=2, sites=site))
    cached = HUNYUAN_DIT.run(pipe)
    assert not torch.equal(cached, expected)
    for i in range(layers):
        inside = level < i < layers - 1 - level
        often = [int(computed) for computed in COMPUTED] if inside else [1 + (i == 0) for i in range(STEPS)]
        assert watch.of(i) == often
    trace = dcache.trace(pipe)
    assert list(next(iter(trace.components.values())).sites) == [site]
    assert torch.equal(HUNYUAN_DIT.run(dcache.enable(pipe, trace)), cached)
    dcache.enable(pipe, methods.interval(interval=1, sites=site))
    assert torch.equal(HUNYUAN_DIT.run(pipe), expected)
    # It is the run of blocks between the two.
    run = f"run:{level + 1}-{layers - 2 - level}"
    assert torch.equal(
        HUNYUAN_DIT.run(dcache.enable(hunyuan(layers), methods.interval(interval=2, sites=run))), cached
    )


def test_hunyuan_bracket_under_deepcache_and_in_a_file(tmp_path: Path) -> None:
    pipe = dcache.enable(hunyuan(6), methods.deepcache(interval=3, branch_id=1))
    cached = HUNYUAN_DIT.run(pipe)
    assert dcache.stats(pipe).predicted == STEPS - 3
    path = dcache.trace(pipe).save(tmp_path / "bracket.json")
    assert torch.equal(HUNYUAN_DIT.run(dcache.enable(hunyuan(6), str(path), strict=True)), cached)
    replayed = dcache.enable(hunyuan(6), methods.deepcache(interval=3, branch_id=1), lowering="replay")
    assert torch.equal(HUNYUAN_DIT.run(replayed), cached)


@pytest.mark.parametrize("run", ["run:0-4", "run:0-1", "run:1-3", "run:2-5", "run:3-5"])
def test_hunyuan_run_that_cuts_a_skip_is_refused_when_bound(run: str) -> None:
    pipe = hunyuan(6)
    with pytest.raises(DcacheError, match=f"'{run}' .* cuts skip [01] of HunyuanDiT2DModel: it joins block"):
        dcache.enable(pipe, methods.interval(interval=2, sites=run))
    assert session_of(HUNYUAN_DIT.denoiser(pipe)) is None


@pytest.mark.parametrize(
    "run",
    [
        "run:0-0",
        "run:0-5",
        "run:1-4",
        "run:1-5",
        "run:2-3",
        "run:2-4",
        "run:4-4",
        "run:5-5",
        "block",
        "trunk",
    ],
)
def test_hunyuan_run_that_cuts_none_works(run: str) -> None:
    pipe = hunyuan(6)
    expected = HUNYUAN_DIT.run(pipe)
    dcache.enable(pipe, methods.newton(interval=2, sites=run))
    assert not torch.equal(HUNYUAN_DIT.run(pipe), expected)
    assert dcache.stats(pipe).predicted > 0
    assert not any(s.kind == "model" for s in session(HUNYUAN_DIT, pipe).binding.sites)


def test_hunyuan_cut_skip_would_be_noticed_by_the_self_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is no mere caution: without it the skip would carry the wrong block's output."""
    monkeypatch.setattr(structure, "refuse_cut_long_skips", lambda *_: None)
    pipe = dcache.enable(hunyuan(6), methods.interval(interval=2, sites="run:1-3"))
    with pytest.warns(DcacheWarning, match="replay .* differs from the computed output"):
        HUNYUAN_DIT.run(pipe)


def test_hunyuan_first_block_cache_looks_at_the_outermost_source() -> None:
    """The skip of block 0 is the entry of what is remembered behind it."""
    pipe = dcache.enable(hunyuan(6), methods.fbcache(threshold=0.6, max_run=2))
    HUNYUAN_DIT.run(pipe)
    assert [s.name for s in session(HUNYUAN_DIT, pipe).binding.sites] == ["run:1-5"]
    assert dcache.stats(pipe).predicted > 0


def control_pipe(layers: int) -> Any:
    """The real ControlNet pipeline; its projections are not zero, so that they matter."""
    from diffusers import AutoencoderKL, HunyuanDiT2DControlNetModel, HunyuanDiTControlNetPipeline

    model = hunyuan_model(num_layers=layers)
    shared = set(inspect.signature(HunyuanDiT2DControlNetModel.__init__).parameters) & set(model.config)
    torch.manual_seed(1)
    control = HunyuanDiT2DControlNetModel(
        transformer_num_layers=layers, **{name: model.config[name] for name in shared}
    ).eval()
    for parameter in (*control.controlnet_blocks.parameters(), *control.input_block.parameters()):
        nn.init.normal_(parameter, std=0.3)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=2,
    ).eval()
    sampler = next(iter(HUNYUAN_DIT.samplers.values()))()
    pipe = HunyuanDiTControlNetPipeline(
        vae, None, None, model, sampler, None, None, control, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def controlled(pipe: Any, **over: Any) -> torch.Tensor:
    """The latents of a run under control."""
    torch.manual_seed(2)  # the autoencoder samples from the global state
    image = torch.rand(1, 3, 64, 64, generator=generator(3))
    return HUNYUAN_DIT.run(pipe, control_image=image, **over)


@pytest.mark.parametrize("site", ["trunk", "block", "bracket:0", "bracket:1", "sublayers"])
def test_hunyuan_controlnet_adds_to_the_skips(site: str) -> None:
    """The model pops them from the list that it is given, so a replay must be given another."""
    pipe = control_pipe(6)
    expected = controlled(pipe)
    assert not torch.allclose(expected, controlled(pipe, controlnet_conditioning_scale=0.0))
    dcache.enable(pipe, methods.newton(interval=1, sites=site))
    assert torch.equal(controlled(pipe), expected)
    dcache.enable(pipe, methods.newton(interval=2, sites=site))
    cached = controlled(pipe)
    assert dcache.stats(pipe).predicted > 0
    assert not torch.equal(cached, expected)
    assert torch.equal(controlled(dcache.enable(pipe, dcache.trace(pipe))), cached)


# Stable Audio -------------------------------------------------------------------------------------


def test_stable_audio_latents_leave_the_call_before_the_pipeline_says_that_it_is_over() -> None:
    """With `output_type="latent"` it returns early; the next call opens a run of its own all the same."""
    pipe = STABLE_AUDIO.build()
    expected = STABLE_AUDIO.run(pipe, output_type="latent")
    dcache.enable(pipe, methods.newton(interval=1))
    for _ in range(2):
        assert torch.equal(STABLE_AUDIO.run(pipe, output_type="latent"), expected)
        assert dcache.stats(pipe).steps == STEPS
    dcache.enable(pipe, EVERY_2)
    first = STABLE_AUDIO.run(pipe, output_type="latent")
    counts = dcache.stats(pipe)
    assert torch.equal(STABLE_AUDIO.run(pipe, output_type="latent"), first)
    again = dcache.stats(pipe)
    assert (again.steps, again.computed, again.predicted) == (STEPS, counts.computed, counts.predicted)
    dcache.disable(pipe)
    assert torch.equal(STABLE_AUDIO.run(pipe, output_type="latent"), expected)


def test_stable_audio_sampler_adds_the_same_noise_with_and_without_caching() -> None:
    """The noise of its stochastic sampler is seeded by the call's generator, which caching does not touch."""
    noises: list[list[torch.Tensor]] = []
    for cached in (False, True):
        pipe, seen = STABLE_AUDIO.build(), []
        step = pipe.scheduler.step

        def stepped(y: Any, t: Any, x: Any, step: Any = step, seen: Any = seen, **k: Any) -> Any:
            result = step(torch.zeros_like(y), t, x, **k)
            seen.append(result.prev_sample)
            return result

        stepped.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
        pipe.scheduler.step = stepped
        if cached:
            dcache.enable(pipe, EVERY_2)
        STABLE_AUDIO.run(pipe)
        noises.append(seen)
    assert len(noises[0]) == STEPS
    for a, b in zip(*noises, strict=True):
        assert torch.equal(a, b)
