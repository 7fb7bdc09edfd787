"""What the entries of images share: how an entry is made, pictures, masks, autoencoders."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from tests.builders import Call, embeds, generator, model, pipeline
from tests.families.video import wan_vae
from tests.pipelines import FLOW_EULER
from tests.zoo.entry import STEPS, Entry

# A strength of 0.75 leaves six of these steps.
MORE_STEPS = 8


def entry(
    name: str,
    denoiser: Callable[[], nn.Module],
    inputs: Callable[[], Call],
    sampler: Callable[[], Any] = FLOW_EULER,
    part: str = "transformer",
    change: Callable[[Any], object] = lambda pipe: None,
    **more: Any,
) -> Entry:
    """An entry whose pipeline is made of a denoiser, a sampler and parts.

    Args:
        name: class name in diffusers; what follows a blank is a note.
        denoiser: builds it.
        inputs: makes the arguments of a call; steps, generator and output_type may be left out.
        sampler: builds it.
        part: the argument that takes the denoiser.
        change: called with the pipeline at the end.
        more: other parts of the pipeline.
    """

    def build() -> Any:
        pipe = pipeline(name.partition(" ")[0], part, **more)(calmed(denoiser()), sampler())
        change(pipe)
        return pipe

    def arguments() -> Call:
        call = {"num_inference_steps": STEPS, "output_type": "latent", "generator": generator(100)}
        return {**call, **inputs()}

    return Entry(name, build, arguments)


def half_mask(size: int = 64) -> Any:
    """A PIL mask whose left half is to be painted."""
    from PIL import Image

    pixels = torch.zeros(size, size, dtype=torch.uint8)
    pixels[:, : size // 2] = 255
    return Image.fromarray(pixels.numpy())


def kl_vae(channels: int = 4, levels: int = 4) -> Callable[[], nn.Module]:
    """How to build an autoencoder that makes a picture 2 ** (levels - 1) times smaller."""
    return lambda: _shifted(
        model(
            "AutoencoderKL",
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=channels,
            norm_num_groups=1,
            block_out_channels=(4,) * levels,
            layers_per_block=1,
        )()
    )


def _shifted(vae: Any) -> nn.Module:
    vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    return vae


def calmed(model: nn.Module) -> nn.Module:
    """Less dependence on the time: real models change little from step to step, random ones a lot.

    The first layer of the time's embedding loses the sines and cosines that turn quickly, all others half of
    their weights.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and re.search(r"time|t_embed|temb|guidance_layer", name):
            halves = parameter.data.unflatten(1, (2, -1)) if parameter.shape[1] % 2 == 0 else None
            if halves is not None and re.search(r"linear_1|mlp\.0|in_layer", name):
                halves[..., : halves.shape[-1] * 3 // 4] = 0.0
            else:
                parameter.data.mul_(0.5)
    return model


def opened(model: nn.Module, seed: int = 7, std: float = 0.2) -> nn.Module:
    """Small random numbers in place of projections of zeros, which close the gates of a fresh model."""
    state = generator(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1 and not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=state) * std)
    return model.eval()


def words(prompt: str, *size: int) -> torch.Tensor:
    """Embeddings that depend on the prompt, without a text encoder."""
    return embeds(sum(prompt.encode()), *size)


class Letters:
    """A tokenizer whose tokens are the letters, so that it needs no vocabulary from a file."""

    model_max_length = 8
    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2
    padding_side = "right"
    added_tokens_encoder: ClassVar[dict[str, int]] = {}

    def tokenize(self, text: str) -> list[str]:
        """The letters."""
        return list(text)

    def __call__(
        self, text: str | list[str], padding: Any = True, max_length: int = 8, **options: Any
    ) -> Any:
        """Tokens as lists; as tensors, with a mask, padded to `max_length` or to the longest."""
        from transformers import BatchEncoding

        texts = [text] if isinstance(text, str) else text
        rows = [[3 + letter % 29 for letter in line.encode()][:max_length] or [1] for line in texts]
        if "return_tensors" not in options:
            return BatchEncoding({"input_ids": rows[0] if isinstance(text, str) else rows})
        length = max_length if padding == "max_length" else max(map(len, rows))
        ids = [row + [0] * (length - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
        return BatchEncoding({"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)})


def llama(hidden: int = 8) -> Callable[[], nn.Module]:
    """How to build a tiny text encoder that reads the tokens of `Letters`."""

    def make() -> nn.Module:
        from transformers import LlamaConfig, LlamaModel

        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=hidden,
            intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        return LlamaModel(config).eval()

    return make


def coarse(factor: int, name: str = "vae_scale_factor") -> Callable[[Any], None]:
    """Let a pipeline's autoencoder shrink pictures by another factor, for pipelines that fix their size."""

    def change(pipe: Any) -> None:
        encode = pipe.vae.encode
        pipe.vae.encode = lambda x, *args, **kwargs: encode(x[..., ::factor, ::factor], *args, **kwargs)
        setattr(pipe, name, getattr(pipe, name) * factor)

    return change


QWEN_VAE = wan_vae(name="AutoencoderKLQwenImage")
