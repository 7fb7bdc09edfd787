"""Denoisers that no argument's name gives away are found by watching the first run."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from dcache.engine.session import session_of
from tests.engine.tiny_models import Mix
from tests.pipelines import generator

STEPS = 6


class Denoiser(nn.Module):
    """Its noise level has a name that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Mix() for _ in range(3)])
        self.runs = 0

    def forward(self, x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        for block in self.blocks:
            x = block(x + r / 1000)
        return x


class Encoder(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Pipe:
    """An encoder, a denoiser and a decoder of one kind around a real sampler."""

    def __init__(self, evaluations_per_step: int = 1) -> None:
        from diffusers import EulerDiscreteScheduler

        torch.manual_seed(0)
        self.encoder, self.decoder = Encoder(), Encoder()
        self.core: Any = Denoiser().eval()
        self.scheduler = EulerDiscreteScheduler()
        self.per_step = evaluations_per_step

    def maybe_free_model_hooks(self) -> None:
        """As diffusers' pipelines."""

    @torch.no_grad()
    def __call__(self, steps: int = STEPS) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        x = self.encoder(torch.ones(1, 2, 4))
        for t in self.scheduler.timesteps:
            for _ in range(self.per_step):
                out = self.core(x, t)
            x = self.scheduler.step(out, t, x).prev_sample
        x = self.decoder(x)
        self.maybe_free_model_hooks()
        return x


def traces(pipe: Any) -> list[dict[str, Any]]:
    """What hangs on the pipe and its parts."""
    parts = (pipe, pipe.encoder, pipe.decoder, pipe.core, pipe.scheduler)
    return [{k: v for k, v in vars(part).items() if k not in ("runs", "_step_index")} for part in parts]


@pytest.mark.parametrize("branches", [1, 2])
def test_the_module_called_in_two_evaluations_running_is_the_denoiser(branches: int) -> None:
    plain = Pipe(branches)()
    pipe = Pipe(branches)
    dcache.enable(pipe, "interval", interval=2)
    assert "nothing ran yet" in str(dcache.stats(pipe))
    cached = pipe()
    stats = dcache.stats(pipe)
    # The first evaluation went by; the second is computed for want of history, then every other one.
    assert (stats.steps, stats.computed, stats.predicted) == (STEPS, 3 * branches, 2 * branches)
    assert session_of(pipe.core) is not None
    assert session_of(pipe.encoder) is None is session_of(pipe.decoder)
    assert not torch.equal(cached, plain)
    assert dcache.trace(pipe).components.keys() == {"core"}
    pipe()
    # Now it is known, and the first evaluation goes by all the same: runs are alike.
    assert (dcache.stats(pipe).computed, dcache.stats(pipe).predicted) == (3 * branches, 2 * branches)
    assert not hasattr(pipe.encoder, "_compiled_call_impl") or pipe.encoder._compiled_call_impl is None


def test_computing_everything_changes_no_bit_and_a_trace_replays() -> None:
    pipe = Pipe()
    assert torch.equal(dcache.enable(pipe, "interval", interval=1)(), Pipe()())
    cached = dcache.enable(Pipe(), "newton", interval=2, warmup=2)
    picture, trace = cached(), dcache.trace(cached)
    assert isinstance(trace, Schedule)
    for pipe in (dcache.enable(Pipe(), trace), dcache.enable(cached, trace), cached):
        assert torch.equal(pipe(), picture)


@pytest.mark.parametrize("after", ["enable", "run", "error"])
def test_disable_leaves_nothing_behind(after: str) -> None:
    pipe, twin = Pipe(), Pipe()
    if after == "run":
        twin()
    dcache.enable(pipe, "interval")
    if after == "run":
        pipe()
    if after == "error":
        pipe.core.blocks[1] = nn.Linear(3, 3)
        with pytest.raises(RuntimeError):
            pipe()
        pipe.core.blocks[1] = Mix()
    dcache.disable(pipe)
    assert [set(d) for d in traces(pipe)] == [set(d) for d in traces(twin)]
    dcache.enable(pipe, "interval")
    assert dcache.disable(pipe) is pipe


def test_scopes_nest_and_the_watch_is_renewed() -> None:
    pipe = dcache.enable(Pipe(), "interval", interval=2)
    with dcache.enabled(pipe, "interval", interval=1):
        pipe()
        assert dcache.stats(pipe).predicted == 0
    pipe()
    assert dcache.stats(pipe).predicted > 0
    assert dcache.stats(pipe).method.startswith("interval(interval=2")


def test_a_run_of_one_step_finds_nothing_and_says_so() -> None:
    pipe = dcache.enable(Pipe(), "interval", interval=2)
    with pytest.warns(DcacheWarning, match=r"no denoiser found in Pipe.*encoder, decoder, core"):
        pipe(1)
    pipe()
    assert dcache.stats(pipe).predicted == 2


def test_a_replaced_sampler_is_followed() -> None:
    from diffusers import DDIMScheduler

    pipe = dcache.enable(Pipe(), "interval", interval=2)
    pipe.scheduler = DDIMScheduler()
    pipe()
    assert dcache.stats(pipe).predicted == 2


def test_what_cannot_be_bound_is_told_when_it_is_found() -> None:
    pipe = dcache.enable(Pipe(), methods.deepcache(interval=2))
    with pytest.raises(DcacheError, match="needs a UNet"):
        pipe()
    assert_memory = pytest.raises(DcacheError, match="only a run can tell")
    with assert_memory:
        dcache.memory_estimate(Pipe(), "interval")
    compiled = Pipe()
    compiled.core = SimpleNamespace()
    compiled.core = torch.compile(Denoiser())
    with pytest.raises(DcacheError, match="compiled as a whole"):
        dcache.enable(compiled, "interval")


def test_stable_cascade_names_its_time_otherwise() -> None:
    from diffusers import DDPMWuerstchenScheduler, StableCascadePriorPipeline, StableCascadeUNet
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    def build() -> Any:
        torch.manual_seed(0)
        prior = StableCascadeUNet(
            in_channels=4, out_channels=4, conditioning_dim=16, block_out_channels=(16, 16),
            dropout=(0.0, 0.0), num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1), clip_text_in_channels=12, clip_text_pooled_in_channels=12,
            clip_image_in_channels=12, clip_seq=1,
            switch_level=(False,), timestep_ratio_embedding_dim=16,
        ).eval()  # fmt: skip
        text = CLIPTextConfig(vocab_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2)
        encoder = CLIPTextModelWithProjection(text).eval()
        pipe = StableCascadePriorPipeline(None, encoder, prior, DDPMWuerstchenScheduler())
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(pipe: Any) -> torch.Tensor:
        embeds = {
            name: torch.randn(1, n, 12, generator=generator(n))
            for name, n in (("prompt_embeds", 5), ("prompt_embeds_pooled", 1))
        }
        embeds |= {f"negative_{name}": -value for name, value in embeds.items()}
        result = pipe(num_inference_steps=STEPS, height=128, width=128, generator=generator(1), **embeds)
        return result.image_embeddings

    plain = run(build())
    pipe = dcache.enable(build(), methods.interval(interval=1, sites="model"))
    assert torch.equal(run(pipe), plain)
    assert dcache.trace(pipe).components.keys() == {"prior"}
    dcache.enable(pipe, methods.interval(interval=2, sites="model"))
    cached = run(pipe)
    assert (dcache.stats(pipe).steps, dcache.stats(pipe).predicted) == (STEPS, 2)
    assert not torch.equal(cached, plain)
    assert torch.equal(run(dcache.enable(pipe, dcache.trace(pipe))), cached)


class Plain:
    """A pipeline with none of the methods that could hold a watch."""

    def __init__(self) -> None:
        from diffusers import EulerDiscreteScheduler

        torch.manual_seed(0)
        self.encoder, self.core, self.scheduler = Encoder(), Denoiser().eval(), EulerDiscreteScheduler()

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        self.scheduler.set_timesteps(STEPS)
        x = self.encoder(torch.ones(1, 2, 4))
        for t in self.scheduler.timesteps:
            out = self.core(self.scheduler.scale_model_input(x, t), t)
            x = self.scheduler.step(out, t, x).prev_sample
        return x


@pytest.mark.parametrize("runs", [0, 1, 3])
def test_caching_comes_off_a_pipeline_without_any_method_to_hold_it(runs: int) -> None:
    pipe = Plain()
    picture = pipe()
    parts = (pipe, pipe.encoder, pipe.core, pipe.scheduler)
    before = [set(vars(part)) for part in parts]
    dcache.enable(pipe, "interval", interval=2)
    for _ in range(runs):
        assert not torch.equal(pipe(), picture)
        # Of evaluations 1 to 5, for the first one only shows the denoiser.
        assert (dcache.stats(pipe).steps, dcache.stats(pipe).predicted) == (STEPS, 2)
    dcache.disable(pipe)
    assert [set(vars(part)) for part in parts] == before
    assert torch.equal(pipe(), picture)
    assert session_of(pipe.core) is None
