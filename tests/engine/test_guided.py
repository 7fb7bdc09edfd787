"""What adds to a model from outside: ControlNet and T2I residuals, FreeU, IP-adapters, LoRA, dtypes."""

from typing import Any

import pytest
import torch

import dcache
from dcache import methods
from tests.engine.tiny_models import flux_loop, flux_model, flux_pipe, flux_run, sd_pipe, sd_run

EVERY_2 = methods.interval(interval=2)
ALL = methods.interval(interval=1)
IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(9))


def close(cached: torch.Tensor, plain: torch.Tensor, most: float = 0.5) -> None:
    """Cached differs from plain, and not by much."""
    assert torch.isfinite(cached).all()
    distance = float((cached - plain).norm() / plain.norm())
    assert 0 < distance < most


def residuals(i: int, scale: float = 1.0) -> dict[str, Any]:
    """Control samples for two double and two single blocks; they depend on the step."""
    g = torch.Generator().manual_seed(7)
    return {
        "controlnet_block_samples": [
            scale * (1 + 0.1 * i) * torch.randn(1, 16, 16, generator=g) for _ in range(2)
        ],
        "controlnet_single_block_samples": [scale * torch.randn(1, 16, 16, generator=g) for _ in range(2)],
    }


def controlled(model: Any, until: int = 99, scale: float = 1.0) -> torch.Tensor:
    return flux_loop(
        model,
        controlnet_block_samples=lambda i: (
            residuals(i, scale)["controlnet_block_samples"] if i < until else None
        ),
        controlnet_single_block_samples=lambda i: (
            residuals(i, scale)["controlnet_single_block_samples"] if i < until else None
        ),
    )


@pytest.mark.parametrize("lowering", ["auto", "replay"])
def test_flux_with_control_residuals_between_its_blocks(lowering: str) -> None:
    model = flux_model()
    plain = controlled(model)
    assert float((plain - flux_loop(model)).abs().max()) > 0.01
    dcache.enable(model, ALL, lowering=lowering)
    assert torch.equal(controlled(model), plain)
    dcache.enable(model, EVERY_2, lowering=lowering)
    close(controlled(model), plain)
    assert dcache.stats(model).predicted == 3


def test_the_residuals_of_a_predicted_step_are_not_added_a_second_time() -> None:
    # Large residuals: doubling or dropping them on a predicted step would double or halve the answer. A
    # replay of the last anchor at its own input must give the anchor's output: the same call again, said to
    # be another evaluation.
    model = flux_model()
    dcache.enable(model, EVERY_2)
    from tests.engine.tiny_models import flux_inputs

    more = {**flux_inputs(), **residuals(0, scale=20.0), "timestep": torch.tensor([1.0])}
    with torch.no_grad():
        dcache.step(model, 0)
        computed = model(**more)[0]
        dcache.step(model, 1)
        predicted = model(**more)[0]
    assert dcache.stats(model).predicted == 1
    torch.testing.assert_close(predicted, computed, rtol=1e-4, atol=1e-4)


def test_flux_with_control_that_ends_in_mid_run_starts_afresh_there() -> None:
    model = flux_model()
    plain = controlled(model, until=3)
    dcache.enable(model, EVERY_2)
    close(controlled(model, until=3), plain)
    stats = dcache.stats(model)
    assert (stats.reasons, stats.predicted) == ({"warmup": 1, "interval": 2, "shape": 1}, 2)


def test_stable_diffusion_with_a_controlnet() -> None:
    pipe = sd_pipe(controlnet=True)
    plain = sd_run(pipe, image=IMAGE)
    without = sd_run(pipe, image=IMAGE, controlnet_conditioning_scale=0.0)
    assert float((plain - without).norm() / plain.norm()) > 0.01
    dcache.enable(pipe, ALL)
    assert torch.equal(sd_run(pipe, image=IMAGE), plain)
    dcache.enable(pipe, EVERY_2)
    for _ in range(2):
        close(sd_run(pipe, image=IMAGE), plain)
        assert dcache.stats(pipe).predicted == 3
    # The ControlNet is no denoiser: it runs on every step, and has no session.
    assert list(dcache.stats(pipe).components) == []
    dcache.disable(pipe)
    assert torch.equal(sd_run(pipe, image=IMAGE), plain)


def test_a_controlnet_that_is_switched_off_in_mid_run() -> None:
    pipe = sd_pipe(controlnet=True)
    plain = sd_run(pipe, image=IMAGE, control_guidance_end=0.5)
    dcache.enable(pipe, ALL)
    assert torch.equal(sd_run(pipe, image=IMAGE, control_guidance_end=0.5), plain)
    dcache.enable(pipe, EVERY_2)
    close(sd_run(pipe, image=IMAGE, control_guidance_end=0.5), plain)
    assert dcache.stats(pipe).predicted == 3


@pytest.mark.parametrize("level", [0, 1, 2])
def test_constant_features_are_exact_whatever_is_added_to_the_skips(level: int) -> None:
    # The same input at every evaluation: whatever a bracket remembers is what it would compute.
    pipe = sd_pipe()
    unet = pipe.unet
    g = torch.Generator().manual_seed(4)
    x, text = torch.randn(1, 4, 8, 8, generator=g), torch.randn(1, 5, 16, generator=g)
    shapes = [(8, 8), (8, 8), (8, 4), (16, 4)]
    down = tuple(torch.randn(1, c, s, s, generator=g) for c, s in shapes)
    control = {
        "down_block_additional_residuals": down,
        "mid_block_additional_residual": torch.randn(1, 16, 4, 4),
    }
    adapter = {
        "down_intrablock_additional_residuals": [
            torch.randn(1, 8, 8, 8, generator=g),
            torch.randn(1, 16, 4, 4, generator=g),
        ]
    }
    for more in ({}, control, adapter):
        with torch.no_grad():
            dcache.disable(unet)
            plain = unet(x, 500, text, **_fresh(more)).sample
            dcache.enable(unet, methods.interval(interval=2, sites=f"bracket:{level}"))
            for i in range(4):
                dcache.step(unet, i)
                torch.testing.assert_close(unet(x, 500, text, **_fresh(more)).sample, plain)
        assert dcache.stats(unet).predicted == 2


def _fresh(more: dict[str, Any]) -> dict[str, Any]:
    # diffusers pops the intrablock residuals off the list it is given.
    return {k: list(v) if isinstance(v, list) else v for k, v in more.items()}


def test_freeu_scales_what_a_predicted_step_hands_on_as_it_does_on_a_computed_one() -> None:
    pipe = sd_pipe()
    plain_without = sd_run(pipe)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    plain = sd_run(pipe)
    dcache.enable(pipe, ALL)
    assert torch.equal(sd_run(pipe), plain)
    dcache.enable(pipe, EVERY_2)
    close(sd_run(pipe), plain)
    pipe.disable_freeu()
    close(sd_run(pipe), plain_without)
    assert dcache.stats(pipe).predicted == 3


def test_added_conditions_and_attention_arguments_pass_through() -> None:
    # The forward pops `scale` off the arguments it is given.
    pipe = flux_pipe()
    lora(pipe)
    plain = flux_run(pipe, joint_attention_kwargs={"scale": 0.5})
    assert not torch.equal(plain, flux_run(pipe))
    dcache.enable(pipe, ALL)
    assert torch.equal(flux_run(pipe, joint_attention_kwargs={"scale": 0.5}), plain)
    dcache.enable(pipe, EVERY_2)
    close(flux_run(pipe, joint_attention_kwargs={"scale": 0.5}), plain)
    assert dcache.stats(pipe).predicted == 3


# between runs -------------------------------------------------------------------------------------


def lora(pipe: Any, seed: int = 0) -> None:
    from peft import LoraConfig

    torch.manual_seed(seed)
    pipe.transformer.add_adapter(
        LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v", "proj_out", "net.2"]), "tiny"
    )
    for parameter in pipe.transformer.parameters():
        parameter.requires_grad_(False)
    pipe.transformer.eval()


SITES = {
    "trunk": EVERY_2,
    "sublayers": methods.interval(interval=2, sites=["attn", "mlp", "fused"]),
    "probe": methods.fbcache(threshold=0.5),
}


@pytest.mark.parametrize("sites", SITES)
def test_a_lora_added_between_runs_takes_part_in_the_next_run(sites: str) -> None:
    method = SITES[sites]
    fresh = flux_pipe()
    lora(fresh)
    plain = flux_run(fresh)
    dcache.enable(fresh, method)
    expected = flux_run(fresh)
    predicted = dcache.stats(fresh).predicted
    pipe = flux_pipe()
    dcache.enable(pipe, method)
    before = flux_run(pipe)
    lora(pipe)
    for _ in range(2):
        assert torch.equal(flux_run(pipe), expected)
        assert dcache.stats(pipe).predicted == predicted > 0
    assert not torch.equal(before, expected)
    pipe.transformer.disable_adapters()
    assert torch.equal(flux_run(pipe), before)
    pipe.transformer.enable_adapters()
    assert torch.equal(flux_run(pipe), expected)
    dcache.disable(pipe)
    assert torch.equal(flux_run(pipe), plain)
    assert all(m.__dict__.get("_compiled_call_impl") is None for m in pipe.transformer.modules())


def test_a_lora_taken_off_between_runs_leaves_the_sites_where_they_belong() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, SITES["sublayers"])
    expected = flux_run(pipe)
    predicted = dcache.stats(pipe).predicted
    lora(pipe)
    flux_run(pipe)
    pipe.transformer.delete_adapters("tiny")
    pipe.unload_lora_weights()
    assert torch.equal(flux_run(pipe), expected)
    assert dcache.stats(pipe).predicted == predicted


def test_another_dtype_between_runs_starts_afresh() -> None:
    pipe, fresh = flux_pipe(), flux_pipe().to(torch.float64)
    dcache.enable(pipe, EVERY_2)
    flux_run(pipe)
    pipe.to(torch.float64)
    dcache.enable(fresh, EVERY_2)
    inputs = {
        "latents": torch.randn(1, 16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    }
    outputs = [_double(p, **inputs) for p in (pipe, fresh)]
    assert outputs[0].dtype == torch.float64
    assert torch.equal(*outputs)
    assert dcache.stats(pipe).predicted == 3


def _double(pipe: Any, **more: Any) -> torch.Tensor:
    from tests.engine.tiny_models import flux_inputs

    inputs = flux_inputs()
    return pipe(
        prompt_embeds=inputs["encoder_hidden_states"].double(),
        num_inference_steps=6,
        output_type="latent",
        pooled_prompt_embeds=inputs["pooled_projections"].double(),
        height=64,
        width=64,
        **more,
    ).images


def test_another_resolution_and_another_batch_between_runs() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    first = flux_run(pipe)
    _pair(pipe)
    assert dcache.stats(pipe).predicted == 3
    assert torch.equal(flux_run(pipe), first)


def _pair(pipe: Any) -> None:
    from tests.engine.tiny_models import flux_inputs

    inputs = flux_inputs(batch=2)
    pipe(
        prompt_embeds=inputs["encoder_hidden_states"],
        pooled_prompt_embeds=inputs["pooled_projections"],
        height=128,
        width=64,
        num_inference_steps=6,
        output_type="latent",
    )


def test_an_interrupted_run_leaves_nothing_behind() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    whole = flux_run(pipe)

    def stop(p: Any, step: int, _t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            raise ZeroDivisionError
        return kwargs

    def interrupt(p: Any, step: int, _t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        p._interrupt = step >= 1
        return kwargs

    with pytest.raises(ZeroDivisionError):
        flux_run(pipe, callback_on_step_end=stop)
    assert torch.equal(flux_run(pipe), whole)
    flux_run(pipe, callback_on_step_end=interrupt)
    assert dcache.stats(pipe).steps == 2
    assert torch.equal(flux_run(pipe), whole)
