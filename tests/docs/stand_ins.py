"""What the reader of a page brings: pipelines, models, texts, and functions, small and without a network.

Models of the hub are pipelines of the real class with tiny parts; `pipe` is the shipped demo.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import dcache
from dcache import lm_kv
from tests.builders import embeds, generator
from tests.diffusion_lm import masked_models
from tests.lm_kv import language_models
from tests.lm_kv.sharing import texts

IMAGE_TOKEN = 90


def demo() -> Any:
    """The shipped pipeline, called with a prompt alone as a reader's is."""
    from dcache.demo.pipeline import call_options, load_pipeline

    shipped = load_pipeline()

    class Readers(type(shipped)):
        @functools.wraps(type(shipped).__call__)
        def __call__(self, prompt: Any, **options: Any) -> Any:
            return super().__call__(prompt, **{**call_options(), **options})

    return _quiet(Readers(**shipped.components))


def flux() -> Any:
    """FLUX, with prompts as random embeddings and pictures of 64 pixels."""
    from tests.pipelines import FLUX
    from tests.zoo.images_parts import kl_vae

    pipe = FLUX.pipeline(FLUX.model(0), FLUX.samplers["flow_euler"]())
    pipe.register_modules(vae=kl_vae(channels=16)())
    pipe.default_sample_size = 8
    text = embeds(1, 6, 12), embeds(2, 8), torch.zeros(6, 3)
    pipe.encode_prompt = lambda *arguments, **options: text
    return _quiet(pipe)


def qwen() -> Any:
    """QwenImage; the page does not call it."""
    from tests.families.mmdit import QWEN

    return QWEN.build()


def skyreels() -> Any:
    """SkyReels V2, block-causal video, with prompts as random embeddings and 13 frames."""
    from tests.families.video import SKYREELS

    pipe = SKYREELS.build()
    sizes = {"height": 64, "width": 64, "num_frames": 49, "base_num_frames": 49, "num_inference_steps": 6}

    class Readers(type(pipe)):
        @functools.wraps(type(pipe).__call__)
        def __call__(self, prompt: Any, **options: Any) -> Any:
            text = {"prompt_embeds": embeds(1, 5, 12), "negative_prompt_embeds": embeds(2, 5, 12)}
            return super().__call__(**{"prompt": None, **sizes, **text, **options})

    return _quiet(Readers(**pipe.components))


def demo_prompts(count: int) -> list[str]:
    """Captions that the shipped model knows."""
    from dcache.demo.task import prompts

    return prompts(count)


def unet() -> Any:
    """Stable Diffusion, with prompts as random embeddings."""
    from tests.pipelines import SD

    pipe = SD.build()

    class Readers(type(pipe)):
        @functools.wraps(type(pipe).__call__)
        def __call__(self, prompt: Any, **options: Any) -> Any:
            return super().__call__(**{**SD.arguments(), **options})

    return _quiet(Readers(**pipe.components, requires_safety_checker=False))


def llava() -> Any:
    """Llava with four tokens to a picture of 28 pixels."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28,
        patch_size=14, projection_dim=32,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**language_models.GROUPED),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config).eval()


def pictured() -> dict[str, torch.Tensor]:
    """A text with one picture in it, for `llava`."""
    ids = torch.tensor([[5, 6, 7, *[IMAGE_TOKEN] * 4, 8, 9, 10, 11, 12]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 28, 28),
    }


def tokenizer() -> Any:
    """Of single words and marks, within the tiny models' vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", ".", "!", "?", *(str(i) for i in range(90))]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


# Ids of the hub's pipelines -> how a tiny one is made; `...` is a placeholder in the pages too.
HUB: dict[Any, Callable[[], Any]] = {
    ...: flux,
    "black-forest-labs/FLUX.1-dev": flux,
    "Qwen/Qwen-Image": qwen,
}


class Robot(nn.Module):
    """What the pages use of lerobot's DiffusionPolicy: chunks from stacked observations."""

    def __init__(self) -> None:
        super().__init__()
        self.diffusion = SimpleNamespace(generate_actions=lambda seen: seen["state"].new_zeros(1, 16, 2))


def policy() -> Any:
    """A small decoder of chunks under a DDIM sampler."""
    from diffusers import DDIMScheduler

    from dcache.policy import Sampled
    from tests.policies import ACTIONS, HORIZON, Decoder, made

    sampler = DDIMScheduler(100, clip_sample=False)
    return Sampled(made(Decoder), sampler, (HORIZON, ACTIONS), 13)


def profile() -> Any:
    """The shipped pipeline's."""
    from dcache.demo.pipeline import model_path
    from dcache.profile import Profile

    return Profile.load(model_path() / "demo.profile.safetensors")


def moved(context: Any) -> str | None:
    """A rule of the reader's own."""
    return "third" if context.index % 3 == 0 else None


def seed(number: int) -> torch.Generator:
    """A random state, as the pages write it."""
    return generator(number)


def sentence(length: int, start: int = 1) -> torch.Tensor:
    """Ids int64 `[1, length]`."""
    return texts.ids(1, length, start)


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _padded(name: str) -> Callable[[], Any]:
    return lambda: language_models.batch(length=80)[name]


BEHIND = texts.batches(32)[1]
PIPE = {"dcache": lambda: dcache, "pipe": demo}
LM = {
    "lm_kv": lambda: lm_kv,
    "torch": lambda: torch,
    "model": lambda: language_models.llama(2),
    "batch": lambda: language_models.batch(length=80),
}
ROWS = {"model": masked_models.llama, "input_ids": lambda: masked_models.prompts(2)}
# Beginning of a page's path -> names that it takes from the reader; the longest beginning counts.
NAMES: dict[str, dict[str, Callable[[], Any]]] = {
    "": {},
    "README.md": {"model": LM["model"], "batch": LM["batch"], "policy": policy},
    "docs/README.md": PIPE,
    "docs/add-a-method.md": {"pipe": demo, "my_rule": lambda: moved},
    "docs/calibrate.md": {**PIPE, "prompts": lambda: demo_prompts(8)},
    "docs/corrections.md": {
        "pipe": demo,
        "prompts": lambda: ["a red circle", "a blue square"],
        "full_precision_pipe": demo,
    },
    "docs/default.md": PIPE,
    "docs/diffusion_lm/README.md": {
        **ROWS, "guide": lambda: masked_models.llama(is_causal=True, num_hidden_layers=2),
    },
    "docs/editing.md": {**PIPE, "seed": lambda: seed},
    "docs/hub.md": {"pipe": demo, "profile": profile},
    "docs/import.md": PIPE,
    "docs/lm_kv/": LM,
    "docs/lm_kv/episodes.md": {
        **LM,
        "segments": lambda: list(sentence(96)[0].split(16)),
        "embed": lambda: lambda parts: torch.stack([part.float()[:3] for part in parts]),
        "question": lambda: sentence(5, 2)[0],
    },
    "docs/lm_kv/policies/ape.md": {
        **LM,
        "prefix_ids": lambda: sentence(6),
        "ids_1": lambda: sentence(12, 2)[0],
        "ids_2": lambda: sentence(9, 3)[0],
        "ids_3": lambda: sentence(10, 4)[0],
        "question_ids": lambda: sentence(4, 5),
    },
    "docs/lm_kv/policies/hogwild.md": {
        **LM,
        "prompt_ids": lambda: sentence(12),
        "first_words": lambda: texts.ids(2, 3, 2),
        "mask": lambda: torch.ones(2, 15, dtype=torch.long),
    },
    "docs/lm_kv/policies/hydragen.md": {
        **LM,
        "prefix_ids": lambda: texts.batches(32)[0],
        "input_ids": lambda: BEHIND["input_ids"],
        "mask": lambda: BEHIND["attention_mask"],
    },
    "docs/lm_kv/policies/look_m.md": {**LM, "model": llava, "batch": pictured},
    "docs/lm_kv/policies/prepacking.md": {
        **LM, "input_ids": _padded("input_ids"), "attention_mask": _padded("attention_mask"),
    },
    "docs/lm_kv/policies/rekv.md": {
        **LM,
        "model": llava,
        "frames": lambda: torch.randn(3, 1, 3, 28, 28),
        "ids": lambda: torch.full((1, 4), IMAGE_TOKEN),
        "question": lambda: sentence(4),
    },
    "docs/lm_kv/policies/sentencekv.md": {**LM, "tokenizer": tokenizer},
    "docs/lm_kv/policies/speckv.md": {**LM, "small_model": lambda: language_models.llama(1)},
    "docs/lm_kv/policies/triforce.md": {**LM, "input_ids": lambda: sentence(40)},
    "docs/memory.md": PIPE,
    "docs/methods/": PIPE,
    "docs/methods/causal.md": {**PIPE, "pipe": skyreels, "prompt": lambda: "a red fox"},
    "docs/methods/deepcache.md": {**PIPE, "pipe": unet},
    "docs/methods/policy_default.md": {"dcache": PIPE["dcache"], "policy": policy},
    "docs/policy.md": {"robot": Robot},
}  # fmt: skip


def names_for(page: str) -> dict[str, Any]:
    """What the page takes from its reader, by name."""
    beginning = max((start for start in NAMES if page.startswith(start)), key=len)
    return {name: make() for name, make in NAMES[beginning].items()}
