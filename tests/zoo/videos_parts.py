"""What the entries of videos and audio share: how an entry is made, frames of noise, VAEs, texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from tests.builders import Call, generator, inputs, noise_image, pipeline
from tests.pipelines import FLOW_EULER, Shape
from tests.zoo.entry import STEPS, Entry

TEXT = 12
# A model whose first argument is no sample has no difference of output and input.
NO_SAMPLE = {"easycache": "needs an output of the input's channels"}
# Blocks that do not follow each other have no first one whose output says how much changes.
NO_ORDER = {"fbcache": "looks inside"}


def call(
    random: Mapping[str, tuple[int, ...]] | None = None,
    size: int | None = 32,
    steps: str | None = "num_inference_steps",
    **fixed: Any,
) -> Callable[[], Call]:
    """How to make the arguments of a call.

    Args:
        random: name -> size without the batch, as of `tests.builders.inputs`.
        size: height and width, None where the pipeline takes none.
        steps: name of the argument that takes the number of steps, None where another one says it.
        fixed: arguments that are always the same; they replace the usual ones.
    """
    usual = {"output_type": "latent", **({} if steps is None else {steps: STEPS})}

    def make() -> Call:
        drawn = inputs(random or {}, size, **{**usual, **fixed})(1)
        return {"generator": generator(101), **drawn}

    return make


def entry(
    name: str,
    denoiser: Callable[[], nn.Module],
    inputs: Callable[[], Call],
    sampler: Callable[[], Any] = FLOW_EULER,
    parts: Mapping[str, Any] | None = None,
    then: Callable[[Any], object] = lambda _: None,
    **flags: Any,
) -> Entry:
    """An entry whose pipeline is built around a transformer and a sampler.

    Args:
        name: class name in diffusers.
        denoiser: builds the transformer.
        inputs: makes the arguments of a call.
        sampler: builds the sampler.
        parts: the other arguments of the pipeline; of a function, what it returns.
        then: called with the pipeline at the end.
        flags: `fast`, `refused`, `nothing`.
    """

    def build() -> Any:
        pipe = pipeline(name, **(parts or {}))(denoiser(), sampler())
        then(pipe)
        return pipe

    return Entry(name, build, inputs, **flags)


def of(
    shape: Shape, name: str, guidance: str = "", over: Mapping[str, Any] | None = None, **flags: Any
) -> Entry:
    """The entry of a family that the laws test too.

    Args:
        shape: the family.
        name: class name in diffusers.
        guidance: its mode of guidance, as of `Shape.arguments`.
        over: arguments of the call that replace the family's.
        flags: `fast`, `refused`, `nothing`.
    """
    arguments = {"num_inference_steps": STEPS, **(over or {})}
    return Entry(name, shape.build, lambda: shape.arguments(guidance, **arguments), **flags)


def spread(std: float = 0.2) -> Callable[[Any], None]:
    """Opens gates and output layers that are zero when fresh: small random numbers there.

    Args:
        std: their standard deviation.
    """

    def fill(made: nn.Module) -> None:
        for name, parameter in made.named_parameters():
            if not parameter.any() and not name.endswith("bias"):
                size, dtype = parameter.shape, parameter.dtype
                parameter.data.copy_(torch.randn(size, generator=generator(len(name)), dtype=dtype) * std)

    return fill


def picture(seed: int = 0) -> Any:
    """A picture of noise of the usual size, as PIL has it."""
    return noise_image(seed, 32)


def frames(count: int = 5, size: int = 32) -> list[Any]:
    """A video of noise, as a list of PIL's pictures."""
    return [noise_image(seed, size) for seed in range(count)]


def clip_processor() -> Any:
    """What prepares pictures for `clip_vision`."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(crop_size=4, size=4)


def clip_vision() -> nn.Module:
    """An encoder of pictures, 8 channels wide."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=4, patch_size=2)).eval()


def words() -> Any:
    """A tokenizer of fifty words, all of them numbers; others are unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    vocabulary = {**special, **{str(i): i + 3 for i in range(50)}}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=16, **names)


def t5() -> nn.Module:
    """A text encoder for the tokenizer `words`, `TEXT` channels wide."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    sizes = {"d_model": TEXT, "d_ff": 16, "d_kv": 6, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(**sizes, vocab_size=64)).eval()
