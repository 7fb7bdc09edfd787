"""ImageReward (Xu et al. 2023): a model of human preference for a picture given its prompt."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.metrics.base import Batch, Metric, Reader, Rows, Source, framewise, identity
from dcache.eval.metrics.mean import mean
from dcache.eval.metrics.options import MetricOptions
from dcache.util.text import first_sentence


def _load(options: MetricOptions) -> Reader:
    from PIL import Image

    try:
        import ImageReward
    except ImportError as error:
        raise DcacheError(
            f"the package image-reward cannot be imported: {first_sentence(error)}. It pins old "
            "versions of others (timm 0.6.13): install it in an environment of its own and "
            "run the score stage alone there"
        ) from error
    name, device = options.image_reward_model, options.device()
    config = Path(name).with_name("med_config.json")
    try:
        # It prints to standard output, which is for the command's results.
        with contextlib.redirect_stdout(io.StringIO()):
            beside = str(config) if Path(name).is_file() and config.is_file() else None
            network = ImageReward.load(name, device=device, med_config=beside)
    except (OSError, RuntimeError, ValueError) as error:
        raise DcacheError(
            f"cannot load ImageReward {name!r}: {first_sentence(error)}. Without a network name its "
            "checkpoint, with med_config.json beside it, by --image-reward-model FILE (both from "
            "https://huggingface.co/THUDM/ImageReward)"
        ) from error

    def read(batch: Batch) -> Rows:
        both = zip(batch.prompts, batch.pictures, strict=True)
        return np.array([[network.score(prompt, Image.fromarray(picture))] for prompt, picture in both])

    return Reader(identity("image-reward", name, device=device, network=network), framewise(read, 1))


METRICS = (
    Metric(
        name="image-reward",
        title="ImageReward",
        what="how much people would like the picture for its prompt, by {image_reward_model}; 0 is the mean "
        "of its training data, prompts are cut at 35 tokens; of a clip the mean over its frames",
        better="higher",
        against="prompts",
        digits=3,
        source=Source("image-reward", _load),
        summary=mean,
        packages={"ImageReward": "image-reward"},
    ),
)
