"""What diffusers pipelines are made of, from tables: models, pipelines, samplers, arguments of calls."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

Call = dict[str, Any]


def generator(seed: int) -> torch.Generator:
    """A random state of its own."""
    return torch.Generator().manual_seed(seed)


def embeds(seed: int, *size: int) -> torch.Tensor:
    """Embeddings of one prompt."""
    return torch.randn(1, *size, generator=generator(seed))


def ready(model: nn.Module, seed: int) -> nn.Module:
    """Evaluation mode, and gates that open: with fresh adaLN tables the blocks would hardly matter."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if name.endswith("scale_shift_table"):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)) * 0.3)
    return model.eval()


def noise_image(seed: int = 0, size: int = 64) -> Any:
    """A PIL picture of noise."""
    from PIL import Image

    pixels = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8, generator=generator(seed))
    return Image.fromarray(pixels.numpy())


@contextmanager
def quiet() -> Iterator[None]:
    """Some models of diffusers import a part from the place that diffusers deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)
        yield


def model(name: str, then: Callable[[Any], object] = lambda _: None, **config: Any) -> Callable[..., Any]:
    """How to build a model of diffusers from a seed; a call may change the configuration.

    Args:
        name: of the class.
        then: called with the model at the end.
        config: its configuration.
    """

    def make(seed: int = 0, **over: Any) -> nn.Module:
        import diffusers

        torch.manual_seed(seed)
        with quiet():
            made = ready(getattr(diffusers, name)(**{**config, **over}), seed)
        then(made)
        return made

    return make


def pipeline(name: str, part: str = "transformer", **components: Any) -> Callable[[nn.Module, Any], Any]:
    """How to build a pipeline of diffusers around a denoiser and a sampler.

    Args:
        name: of the class.
        part: the argument that takes the denoiser.
        components: other arguments; of a function, what it returns. The other required ones are None.
    """

    def make(denoiser: nn.Module, sampler: Any) -> Any:
        import diffusers

        kind = getattr(diffusers, name)
        arguments = list(inspect.signature(kind).parameters.values())
        missing = {argument.name: None for argument in arguments if argument.default is argument.empty}
        made = {key: value() if inspect.isroutine(value) else value for key, value in components.items()}
        return kind(**{**missing, **made, part: denoiser, "scheduler": sampler})

    return make


def sampler(name: str, **config: Any) -> Callable[[], Any]:
    """How to build a sampler of diffusers."""

    def make() -> Any:
        import diffusers

        return getattr(diffusers, name)(**config)

    return make


def inputs(
    random: Mapping[str, tuple[int, ...]], size: int | None = 64, **fixed: Any
) -> Callable[[int], Call]:
    """How to make the arguments of a call from a seed.

    Args:
        random: name -> size without the batch; each has the seed after the last one's.
        size: height and width, None where the pipeline takes none.
        fixed: arguments that are always the same.
    """

    def make(seed: int) -> Call:
        area = {} if size is None else {"height": size, "width": size}
        drawn = {name: embeds(seed + i, *shape) for i, (name, shape) in enumerate(random.items())}
        return {**drawn, **area, **deepcopy(fixed)}

    return make


def fixed(**arguments: Any) -> Callable[[], Call]:
    """Arguments that are always the same."""
    return lambda: dict(arguments)


def scales(mode: str, scale: float = 3.0, **more: Any) -> dict[str, Callable[[], Call]]:
    """Guidance by that scale in this mode, and none."""
    return {mode: fixed(guidance_scale=scale, **more), "off": fixed(guidance_scale=1.0, **more)}


def prompts(*size: int) -> dict[str, tuple[int, ...]]:
    """The sizes of a prompt's and of a negative prompt's embeddings."""
    return {"prompt_embeds": size, "negative_prompt_embeds": size}


POOLED = {"pooled_prompt_embeds": (8,), "negative_pooled_prompt_embeds": (8,)}


def masks(mask: torch.Tensor) -> Call:
    """The same mask of both prompts."""
    return {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
