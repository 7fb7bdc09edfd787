"""The trained video pipeline: an unmodified `WanPipeline` of diffusers."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.demo.data import folder
from dcache.demo.pipeline import no_progress_bars
from dcache.demo.video.clips import FRAMES, SIDE

if TYPE_CHECKING:
    import torch
    from diffusers import WanPipeline

STEPS = 20
GUIDANCE = 3.0
# The pipeline's class, and its file in diffusers.
CLASS, SOURCE = "WanPipeline", "pipelines/wan/pipeline_wan.py"
# Heights and widths are multiples of it.
MULTIPLE = 16
FEWEST_STEPS = 1


def model_path() -> Path:
    """The shipped pipeline's folder."""
    return folder("video")


def coefficients() -> None:
    """None: no coefficients were measured on this model, so presets that need some do not run on it."""


def schedules() -> None:
    """None: no schedules were calibrated for this model."""


def load_pipeline(
    device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None, path: Path | None = None
) -> "WanPipeline":
    """Load the pipeline in float32, or in `dtype`, without progress bars.

    Args:
        device: where it is moved.
        dtype: of all its parts.
        path: folder of another pipeline of this class; None for the shipped one.

    Raises:
        DcacheError: the shipped models are not installed.
    """
    path = model_path() if path is None else path
    from diffusers import WanPipeline

    logging.getLogger("diffusers.pipelines.wan.pipeline_wan").addFilter(_not_about_one)
    with no_progress_bars():
        pipe: WanPipeline = WanPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    if dtype is not None:
        pipe.to(dtype)
    return pipe


def _not_about_one(record: logging.LogRecord) -> bool:
    """Filter out diffusers' warning that a number "has to be divisible by 1", which every number is."""
    return "has to be divisible by 1." not in record.getMessage()


def call_options() -> dict[str, Any]:
    """The keyword arguments of a usual call, a fresh dict each time: `pipe(prompts, **call_options())`."""
    return {
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "height": SIDE,
        "width": SIDE,
        # The autoencoder does not compress time; for such models diffusers' pipeline adds a frame.
        "num_frames": FRAMES - 1,
        "max_sequence_length": 16,
    }
