"""What the pipelines around UNets are made of, tiny: encoders, tokenizers, autoencoders, pictures, calls."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.builders import Call, embeds, generator, model, ready
from tests.zoo.entry import STEPS, Entry

Parts = Mapping[str, Any]
TOKENS = 5
WORDS = 40
TEXT = 12


def assemble(name: str, parts: Parts) -> Any:
    """A pipeline from its parts, functions called; other required ones are None.

    Args:
        name: of a class of diffusers, or `module:class` where the package does not export it.
        parts: the constructor's arguments.
    """
    module, _, last = name.rpartition(":")
    kind = getattr(importlib.import_module(module or "diffusers"), last)
    arguments = inspect.signature(kind.__init__).parameters.values()
    missing = {p.name: None for p in arguments if p.default is p.empty and p.name != "self"}
    pipe = kind(**missing | values(parts))
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            # Some pipelines make their denoiser themselves: fresh, for training.
            part.requires_grad_(False).eval()
    return pipe


def values(arguments: Parts) -> Call:
    """The arguments, functions called."""
    return {name: v() if inspect.isroutine(v) else v for name, v in arguments.items()}


def entry(name: str, parts: Parts, call: Callable[[], Call], **more: Any) -> Entry:
    """An entry from a table of parts.

    Args:
        name: as for `assemble`; the entry has the name of the class.
        parts: the constructor's arguments, or functions that make them.
        call: makes the arguments of a call.
        **more: the entry's other fields; `label` is another name for it.
    """
    label = more.pop("label", name.rpartition(":")[2])
    return Entry(label, lambda: assemble(name, parts), call, **more)


def unet(name: str, parts: Parts, call: Callable[[], Call], **more: Any) -> Entry:
    """An entry whose denoiser is a UNet: no list of blocks, so that there is no first one to look at.

    Args:
        name: as for `entry`.
        parts: as for `entry`.
        call: as for `entry`.
        **more: as for `entry`.
    """
    return entry(name, parts, call, refused={"fbcache": "has 0 block"}, **more)


def arguments(**given: Any) -> Callable[[], Call]:
    """What makes the arguments of a call: functions are called each time."""
    return lambda: values(given)


def latent(**given: Any) -> Callable[[], Call]:
    """The same, with the usual steps and generator, for latents as the output."""
    usual = {"num_inference_steps": STEPS, "output_type": "latent", "generator": seeded(1)}
    return arguments(**{**usual, **given})


def seeded(seed: int) -> Callable[[], torch.Generator]:
    """What makes a random state."""
    return lambda: generator(seed)


def drawn(seed: int, *size: int) -> Callable[[], torch.Tensor]:
    """What makes a random tensor, (1, *size)."""
    return lambda: embeds(seed, *size)


def picture(size: int = 16, seed: int = 7, mode: str = "RGB") -> Callable[[], Image.Image]:
    """What makes a picture of coloured noise, or with mode "L" a mask whose right half is white."""

    def make() -> Image.Image:
        if mode == "L":
            mask = np.zeros((size, size), np.uint8)
            mask[:, size // 2 :] = 255
            return Image.fromarray(mask)
        noise = torch.randint(0, 256, (size, size, 3), generator=generator(seed))
        return Image.fromarray(noise.numpy().astype(np.uint8))

    return make


def video(frames: int = 2, size: int = 16) -> Callable[[], list[Image.Image]]:
    """What makes a list of pictures."""
    return lambda: [picture(size, seed)() for seed in range(frames)]


class Words:
    """A tokenizer: one number for each word, the same in every run."""

    model_max_length = TOKENS
    pad_token = "!"
    pad_token_id = 0
    bos_token_id = 1
    eos_token_id = 2

    def __init__(self, length: int = TOKENS) -> None:
        self.model_max_length = length

    def __call__(self, text: str | list[str], max_length: int | None = None, **more: Any) -> Any:
        from transformers import BatchEncoding

        length = self.model_max_length if max_length is None else max_length
        texts = [text] if isinstance(text, str) else list(text)
        rows = [[1, *map(self.number, line.split()), 2][:length] for line in texts]
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        lengths = {"length": mask.sum(1)} if more.get("return_length") else {}
        return BatchEncoding({"input_ids": ids, "attention_mask": mask, **lengths})

    @staticmethod
    def number(word: str) -> int:
        """A word as a number from 3 on."""
        return 3 + sum(map(ord, word)) % (WORDS - 3)

    added_tokens_encoder: Mapping[str, int] = {}

    @staticmethod
    def tokenize(text: str) -> list[str]:
        return text.split()

    def batch_decode(self, ids: Any, **_: Any) -> list[str]:
        return [" ".join(map(str, row)) for row in ids.tolist()]


def words(length: int = TOKENS) -> Callable[[], Words]:
    """What makes a tokenizer for that many tokens."""
    return lambda: Words(length)


def seeded_module(make: Callable[[], Any], seed: int = 0) -> Any:
    """A module with weights from this seed, whatever ran before, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ready(make(), seed)


def home(pipeline: str) -> Any:
    """The file of a pipeline of diffusers, as a module: it names the classes of the parts."""
    import diffusers

    return importlib.import_module(getattr(diffusers, pipeline).__module__)


def beside(pipeline: str, name: str, **config: Any) -> Callable[..., Any]:
    """What makes a module that a pipeline's own file names, from a configuration; a call may change that.

    Args:
        pipeline: a class of diffusers.
        name: of the module's class.
        **config: its configuration.
    """

    def make(**over: Any) -> Any:
        kind = getattr(home(pipeline), name)
        return seeded_module(lambda: kind(**{**config, **over}))

    return make


def clip_text(
    hidden: int = TEXT, project: int | None = None, tokens: int = TOKENS, layers: int = 1
) -> Callable[[], Any]:
    """What makes CLIP's text encoder; with a projection where a size for it is given."""

    def make() -> Any:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        config = CLIPTextConfig(
            vocab_size=WORDS,
            hidden_size=hidden,
            intermediate_size=hidden,
            projection_dim=project or hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=tokens,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        kind = CLIPTextModel if project is None else CLIPTextModelWithProjection
        return seeded_module(lambda: kind(config))

    return make


def clip_vision(project: int = TEXT, size: int = 8) -> Callable[[], Any]:
    """What makes CLIP's image encoder."""

    def make() -> Any:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(
            hidden_size=12,
            intermediate_size=12,
            projection_dim=project,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=size,
            patch_size=4,
        )
        return seeded_module(lambda: CLIPVisionModelWithProjection(config))

    return make


def clip_images(size: int = 8) -> Callable[[], Any]:
    """What makes CLIP's image processor."""

    def make() -> Any:
        from transformers import CLIPImageProcessor

        return CLIPImageProcessor(crop_size=size, size=size)

    return make


# An autoencoder that halves a picture; without one the pipelines divide sizes by 8.
vae = model(
    "AutoencoderKL",
    block_out_channels=(8, 8),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    latent_channels=4,
    norm_num_groups=4,
    layers_per_block=1,
    sample_size=16,
)


def _scaled(prior: Any) -> None:
    """Fresh, a prior multiplies all it makes by zero at the end."""
    prior.clip_std.fill_(1.0)


prior = model(
    "PriorTransformer",
    _scaled,
    num_attention_heads=2,
    attention_head_dim=6,
    num_layers=2,
    embedding_dim=12,
    num_embeddings=5,
    additional_embeddings=4,
)

# Embeddings of a prompt. The second text encoder of Stable Diffusion XL gives the pooled one, of size 8.
POOLED = {"pooled_prompt_embeds": drawn(3, 8), "negative_pooled_prompt_embeds": drawn(4, 8)}
TEXTS = {"prompt_embeds": drawn(1, 5, 12), "negative_prompt_embeds": drawn(2, 5, 12), "guidance_scale": 3.0}
TEXTS_XL = {**TEXTS, **POOLED}
SIZED = {"height": 16, "width": 16}
