"""The trained demo pipeline: an unmodified `PixArtAlphaPipeline` of diffusers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.demo.data import folder

if TYPE_CHECKING:
    import torch
    from diffusers import PixArtAlphaPipeline

STEPS = 20
GUIDANCE = 3.0
# The pipeline's class, and its file in diffusers.
CLASS, SOURCE = "PixArtAlphaPipeline", "pipelines/pixart_alpha/pipeline_pixart_alpha.py"
# Heights and widths are multiples of it.
MULTIPLE = 8
# With one step diffusers' PixArt pipeline takes a code path for distilled models only.
FEWEST_STEPS = 2


def model_path() -> Path:
    """The shipped pipeline's folder."""
    return folder("image")


def coefficients() -> Path:
    """The file of measured coefficients, written by examples/measure_coefficients.py."""
    return model_path() / "coefficients.json"


def schedules() -> Path:
    """The folder of calibrated schedules, written by examples/calibrate_demo.py."""
    return folder("schedules")


def load_pipeline(
    device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None, path: Path | None = None
) -> "PixArtAlphaPipeline":
    """Load the pipeline in float32, or in `dtype`, without progress bars.

    Args:
        device: where it is moved.
        dtype: of all its parts.
        path: folder of another pipeline of this class; None for the shipped one.

    Raises:
        DcacheError: the shipped models are not installed.
    """
    path = model_path() if path is None else path
    from diffusers import PixArtAlphaPipeline

    with no_progress_bars():
        pipe: PixArtAlphaPipeline = PixArtAlphaPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    if dtype is not None:
        pipe.to(dtype)
    return pipe


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Disable the progress bars of diffusers and transformers inside the block."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in shown:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in shown:
            log.enable_progress_bar()


def call_options() -> dict[str, Any]:
    """The keyword arguments of a usual call, a fresh dict each time: `pipe(prompts, **call_options())`."""
    return {
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "height": 64,
        "width": 64,
        "max_sequence_length": 16,
        "clean_caption": False,
        "use_resolution_binning": False,
    }
