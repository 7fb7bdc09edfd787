"""Models of tokens are refused at `enable`, with what to do; nothing is left behind."""

from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError
from dcache.identity.token_models import is_language_model, takes_tokens


class Causal(nn.Module):
    """Looks like a causal language model of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def forward(
        self, input_ids: torch.Tensor, attention_mask: Any = None, past_key_values: Any = None
    ) -> Any:
        return self.layers[0](input_ids)


class Decoder(Causal):
    """DiffusionGemma's call: a canvas of tokens to be denoised."""

    def forward(self, decoder_input_ids: torch.Tensor, past_key_values: Any = None) -> Any:  # type: ignore[override]
        return self.layers[0](decoder_input_ids)


class WithTime(nn.Module):
    """OmniGen's call: tokens of the prompt beside the latents and the timestep."""

    def forward(self, hidden_states: torch.Tensor, timestep: Any, input_ids: Any) -> torch.Tensor:
        return hidden_states + timestep


def tiny_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("build", [Causal, Decoder, tiny_llama])
@pytest.mark.parametrize("method", [None, "interval", "taylorseer"])
def test_a_language_model_is_refused_at_enable(build: Any, method: str | None) -> None:
    model = build()
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    with pytest.raises(
        DcacheError, match=rf"{type(model).__name__} takes token ids and no timestep: .*timestep"
    ):
        dcache.enable(model, method)
    assert {path: dict(vars(module)) for path, module in model.named_modules()} == before


@pytest.mark.parametrize(
    ("name", "model", "method", "message"),
    [
        ("LLaDA2Pipeline", Causal, None, "no mask id was found for Causal"),
        ("LLaDA2Pipeline", Causal, "interval", "LLaDA2Pipeline generates tokens: interval caches features"),
        (
            "LLaDA2Pipeline",
            Causal,
            "snapkv",
            "LLaDA2Pipeline generates tokens: 'snapkv' is no row policy",
        ),
        ("DiffusionGemmaPipeline", Decoder, None, "Decoder corrupts tokens uniformly: it has no mask token"),
        (
            "DiffusionGemmaPipeline",
            Decoder,
            "taylorseer",
            "DiffusionGemmaPipeline generates tokens",
        ),
    ],
)
def test_a_pipeline_that_generates_tokens_is_refused_at_enable(
    name: str, model: Any, method: str | None, message: str
) -> None:
    import diffusers

    instance = model().eval()
    pipe = getattr(diffusers, name)(instance, diffusers.BlockRefinementScheduler(), None)
    before = {path: dict(vars(module)) for path, module in instance.named_modules()}
    with pytest.raises(DcacheError, match=message):
        dcache.enable(pipe, method)
    assert {path: dict(vars(module)) for path, module in instance.named_modules()} == before
    assert dcache.disable(pipe) is pipe
    with pytest.raises(DcacheError, match="caching is not enabled"):
        dcache.stats(pipe)


@pytest.mark.parametrize("method", [None, "interval", "snapkv"])
def test_a_text_pipeline_of_transformers_is_refused_with_the_line_to_type(method: str | None) -> None:
    class TextGenerationPipeline:
        def __init__(self) -> None:
            self.model = tiny_llama()

    with pytest.raises(
        DcacheError,
        match=r"LlamaForCausalLM: give dcache\.enable the model itself, .*\(pipe\.model, 'snapkv'",
    ):
        dcache.enable(TextGenerationPipeline(), method)


def test_a_denoiser_that_takes_tokens_as_well_is_no_language_model() -> None:
    assert not takes_tokens(WithTime())
    assert not is_language_model(WithTime())
    assert is_language_model(Causal())
    dcache.enable(WithTime(), "interval", sites="model")


class Prefixed(nn.Module):
    """A wrapper that calls its tokens otherwise."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base = model

    def forward(self, tokens: torch.Tensor, **more: Any) -> Any:
        return self.base(tokens, **more)


class HandsOn(Prefixed):
    """A wrapper that hands everything on, as peft's and DataParallel do."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return self.base(*args, **kwargs)


@pytest.mark.parametrize("wrapper", [Prefixed, HandsOn])
@pytest.mark.parametrize("build", [Causal, tiny_llama])
def test_a_wrapped_language_model_is_refused_too(wrapper: Any, build: Any) -> None:
    model = wrapper(wrapper(build()))
    with pytest.raises(DcacheError, match=rf"{wrapper.__name__} takes token ids and no timestep"):
        dcache.enable(model, "interval")


class Robot(nn.Module):
    """A language model sees, and a small part that takes the timestep acts."""

    def __init__(self) -> None:
        super().__init__()
        self.sees, self.acts = Causal(), WithTime()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch


def test_a_wrapper_with_a_denoiser_beside_the_language_model_is_none() -> None:
    dcache.enable(Robot(), "interval", sites="model")


def test_an_autoencoder_is_refused_with_the_line_to_type() -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    with pytest.raises(DcacheError, match=r"AutoencoderKL encodes and decodes .*dcache\.enable\(pipe\)"):
        dcache.enable(vae, "interval")
    with pytest.raises(DcacheError, match="caching is not enabled"):
        dcache.stats(vae)
