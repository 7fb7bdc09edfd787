"""Fidelity to the uncached picture of the same prompt and seed: PSNR, SSIM, LPIPS, and flicker of clips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.fidelity import flicker, psnr, ssim
from dcache.eval.metrics.base import (
    Batch,
    Metric,
    Pixels,
    Reader,
    Rows,
    Source,
    channels_first,
    framewise,
    identity,
)
from dcache.eval.metrics.mean import mean
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.metrics.weights import Weights, hub_with, locate

TORCHMETRICS = {"torchmetrics": "torchmetrics"}


def _pair(batch: Batch) -> tuple[Pixels, Pixels]:
    if batch.uncached is None:
        raise DcacheError("a paired metric was given no uncached pictures")
    return batch.pictures, batch.uncached


def _formula(measure: Callable[[Pixels, Pixels], list[float]]) -> Callable[[Batch], Rows]:
    return lambda batch: np.array(measure(*_pair(batch)), np.float64)[:, None]


def _psnr(_: MetricOptions) -> Reader:
    return Reader(identity("psnr"), _formula(psnr))


def _ssim(_: MetricOptions) -> Reader:
    return Reader(identity("ssim"), _formula(ssim))


def _flicker(_: MetricOptions) -> Reader:
    return Reader(identity("flicker"), _formula(flicker))


def _lpips(options: MetricOptions) -> Reader:
    import torch
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    weights, device = lpips_weights(options.lpips_net), options.device()
    path = locate(weights, options.lpips_weights)
    try:
        with hub_with(weights.name, path):
            network = LearnedPerceptualImagePatchSimilarity(options.lpips_net, normalize=True).net  # type: ignore[arg-type]
    except RuntimeError as error:
        raise DcacheError(f"{path} holds other weights than torchvision's {weights.name}") from error
    network = network.to(device)

    def read(batch: Batch) -> Rows:
        first, second = (channels_first(p, device).float() / 255 for p in _pair(batch))
        with torch.no_grad():
            return network(first, second, normalize=True).reshape(-1, 1).cpu().numpy()

    return Reader(
        identity("lpips", options.lpips_net, options.score_batch_size, device=device, network=network),
        framewise(read, options.score_batch_size),
    )


def lpips_weights(net: str) -> Weights:
    """The ImageNet weights of LPIPS's network, as torchvision publishes them."""
    from torchvision import models

    enum = {
        "alex": models.AlexNet_Weights,
        "vgg": models.VGG16_Weights,
        "squeeze": models.SqueezeNet1_1_Weights,
    }[net]
    return Weights(f"LPIPS's {net} network", enum.DEFAULT.url, "lpips_weights")


METRICS = (
    Metric(
        name="psnr",
        title="PSNR",
        unit="dB",
        what="peak signal-to-noise ratio to the uncached picture, on 8 bits, at most 100 dB; of a clip the "
        "mean over its frames",
        better="higher",
        against="uncached",
        digits=1,
        source=Source("psnr", _psnr, paired=True),
        summary=mean,
        packages={},
    ),
    Metric(
        name="ssim",
        title="SSIM",
        what="structural similarity to the uncached picture (11 x 11 Gaussian window); of a clip the mean "
        "over its frames",
        better="higher",
        against="uncached",
        digits=3,
        source=Source("ssim", _ssim, paired=True),
        summary=mean,
        packages=TORCHMETRICS,
    ),
    Metric(
        name="lpips",
        title="LPIPS",
        what="learned perceptual distance ({lpips_net}) to the uncached picture; of a clip the mean over its "
        "frames",
        better="lower",
        against="uncached",
        digits=3,
        source=Source("lpips", _lpips, paired=True),
        summary=mean,
        packages=TORCHMETRICS | {"torchvision": "torchvision"},
    ),
    Metric(
        name="flicker",
        title="flicker",
        what="how much the error to the uncached clip changes from frame to frame, in levels of 255",
        better="lower",
        against="uncached",
        digits=2,
        source=Source("flicker", _flicker, paired=True),
        summary=mean,
        packages={},
        kinds=("video",),
    ),
)
