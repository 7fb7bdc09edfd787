"""`Subject`: the pipeline under test, with the options of its calls."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.eval.fidelity import CLIP, PICTURE
from dcache.eval.limits import check_device
from dcache.eval.packages import require, torchvision_problem
from dcache.eval.sources import EXPECTED, SHIPPED, check_source
from dcache.util.text import first_sentence

if TYPE_CHECKING:
    from torch import nn

DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass
class Subject:
    """A pipeline and the options of its calls.

    Attributes:
        pipe: a diffusers pipeline.
        name: name in reports.
        options: keyword arguments of every call, beside prompts and seeds.
    """

    pipe: Any
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            DcacheError: the pipeline's call does not take an option, or is given it for each batch.
        """
        takes = self._takes()
        unknown = [name for name in self.options if name not in takes]
        # The **kwargs of diffusers' own pipelines take deprecated names only, and drop all others in silence.
        diffusers = type(self.pipe).__module__.startswith("diffusers.")
        anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values()) and not diffusers
        if unknown and not anything:
            raise DcacheError(
                f"{type(self.pipe).__name__} takes no {', '.join(map(repr, unknown))}: its call takes "
                f"{', '.join(name for name in takes if name != 'self')}"
            )
        twice = [name for name in self.options if name in {"generator", "output_type", *self._inputs([])}]
        if twice:
            raise DcacheError(
                f"{', '.join(twice)} cannot be an option of the calls: prompts, their number, seeds and "
                "pictures as arrays are given for each batch. Leave it out"
            )

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Call the pipeline once; makes one picture or clip for each prompt.

        Args:
            prompts: the prompts of one batch. For a pipeline that takes `class_labels`: class numbers as
                texts. For one that takes neither, only their number counts.
            seeds: seeds of the noise, one for each picture.

        Returns:
            Pictures (N, H, W, 3) or clips (N, F, H, W, 3), float32 in [0, 1]; they may have NaN.

        Raises:
            DcacheError: the pipeline refused the call's arguments, or did not return one picture or clip for
                each prompt.
        """
        import torch

        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.no_grad(), self._refusals():
            output = self.pipe(
                **self._inputs(list(prompts)), generator=noise, output_type="np", **self.options
            )
        pictures = getattr(output, "images", None)
        pictures = getattr(output, "frames", None) if pictures is None else pictures
        pixels = np.asarray(pictures) if pictures is not None else np.zeros(0)
        if pixels.ndim not in (PICTURE, CLIP) or len(pixels) != len(prompts):
            raise DcacheError(
                f"expected one picture (H, W, 3) or clip (F, H, W, 3) for each of {len(prompts)} prompts, "
                f"and {type(self.pipe).__name__} returned {type(output).__name__} with shape {pixels.shape}"
            )
        return pixels.astype(np.float32, copy=False)

    @property
    def steps(self) -> int | None:
        """Sampling steps: the option, or the pipeline's default."""
        return self._option("num_inference_steps")

    @property
    def guidance(self) -> float | None:
        """Guidance scale: the option, or the pipeline's default."""
        return self._option("guidance_scale")

    @property
    def kind(self) -> str:
        """Kind of output: "image" or "video"."""
        return "video" if "num_frames" in self._takes() else "image"

    @property
    def condition(self) -> str:
        """What a picture is asked for by: "prompt", "class_labels" (a number), or "" for nothing."""
        return next((name for name in ("prompt", "class_labels") if name in self._takes()), "")

    @property
    def denoisers(self) -> list[nn.Module]:
        """The pipeline's denoisers; empty if they can only be detected in a run."""
        from dcache.identity.denoisers import denoisers

        return list(denoisers(self.pipe).values())

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits over the components' configurations, shapes and some weights.

        They change with other weights, a LoRA or another sampler.
        """
        from dcache.identity.digest import model_digest

        return model_digest(type(self.pipe).__name__, getattr(self.pipe, "components", {}))

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn a pipeline's own refusal of its arguments into a `DcacheError`; errors of dcache pass."""
        try:
            yield
        except (TypeError, ValueError) as error:
            if _passed_through_dcache(error):
                raise
            options = ", ".join(f"{name}={value!r}" for name, value in self.options.items()) or "no options"
            raise DcacheError(
                f"{type(self.pipe).__name__} refused the call with {options}: "
                f"{first_sentence(error)}. Change the options"
            ) from error

    def _option(self, name: str) -> Any:
        parameter = self._takes().get(name)
        return self.options.get(name, None if parameter is None else parameter.default)

    def _takes(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(type(self.pipe).__call__).parameters

    def _inputs(self, prompts: list[str]) -> dict[str, Any]:
        if self.condition == "prompt":
            return {"prompt": prompts}
        if self.condition == "class_labels":
            return {"class_labels": [int(prompt) for prompt in prompts]}
        return {"batch_size": len(prompts)} if "batch_size" in self._takes() else {}


def coefficients(name: str) -> Path | None:
    """The coefficients file of a shipped pipeline; None for all others. Loads no model."""
    path: Path | None = importlib.import_module(SHIPPED[name]).coefficients() if name in SHIPPED else None
    return path


def load(  # noqa: PLR0913
    name: Any,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> Subject:
    """Load a pipeline to measure.

    Args:
        name: `demo`, `demo-video`, a folder written by `save_pretrained`, or an id of the hub; or a loaded
            pipeline, whose dtype and device do not change.
        steps: sampling steps. None is the pipeline's default, here and below.
        guidance: guidance scale.
        height: height of a picture, in pixels.
        width: width of a picture, in pixels.
        frames: frames of a clip.
        dtype: dtype of the weights; `auto` is bfloat16 on a GPU, float32 elsewhere.
        device: `auto` is the first GPU, or the CPU if there is none.
        options: further keyword arguments of the call.

    Raises:
        DcacheError: the pipeline cannot be loaded, or does not take an option.
    """
    import torch

    named = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "height": height,
        "width": width,
        "num_frames": frames,
    }
    given = {key: value for key, value in named.items() if value is not None} | dict(options or {})
    if not isinstance(name, str):
        if (dtype, device) != ("auto", "auto"):
            raise DcacheError(
                "a loaded pipeline keeps its dtype and device: expected 'auto' for both, got "
                f"{dtype!r} and {device!r}. Cast and move the pipeline before"
            )
        return Subject(name, type(name).__name__, given)
    check_source(name, given)
    dtype, device = placed(dtype, device)
    kind: torch.dtype = getattr(torch, dtype)
    if name in SHIPPED:
        more = ("accelerate",) if name == "demo-video" else ()
        require("demo", f"the shipped pipeline {name}", "transformers", *more)
        shipped = importlib.import_module(SHIPPED[name])
        # The shipped weights are loaded in float32 and cast afterwards.
        pipe = shipped.load_pipeline(device, None if kind is torch.float32 else kind)
        return Subject(pipe, name, shipped.call_options() | given)
    return Subject(_loaded(name, kind).to(device), name, given)


def placed(dtype: str, device: str) -> tuple[str, str]:
    """Resolve `auto` in a dtype and a device: bfloat16 on the first GPU, or float32 on the CPU.

    Raises:
        DcacheError: there is no such dtype or device.
    """
    import torch

    check_device(device)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if dtype not in DTYPES:
        raise DcacheError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    auto = "bfloat16" if where.startswith("cuda") else "float32"
    return auto if dtype == "auto" else dtype, where


def _loaded(name: str, dtype: Any) -> Any:
    from diffusers import DiffusionPipeline, __version__

    # The argument was renamed in diffusers 0.42.
    old = tuple(map(int, __version__.split(".")[:2])) < (0, 42)
    try:
        pipe = DiffusionPipeline.from_pretrained(name, **{"torch_dtype" if old else "dtype": dtype})
    except Exception as error:  # Damaged folders raise a dozen kinds of errors.
        if (problem := torchvision_problem()) is not None:
            raise DcacheError(f"cannot load the pipeline {name!r}: {problem}") from error
        where = "" if Path(name).is_dir() else " from the hub or its cache on this machine"
        raise DcacheError(
            f"cannot load the pipeline {name!r}{where} ({type(error).__name__}). {EXPECTED}"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _passed_through_dcache(error: BaseException) -> bool:
    """Whether an error came from code of dcache below the pipeline, and not from the pipeline alone."""
    # The first two frames are this module's own, of the call and of its context manager.
    modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return any(name.partition(".")[0] == "dcache" and name != __name__ for name in modules)
