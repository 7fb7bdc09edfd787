"""Metrics of the demo: a small CLIP and a small feature network, trained on its coloured shapes only.

They need no download. Their values are meaningful only for the demo's own pictures.
"""

from __future__ import annotations

import numpy as np

from dcache.eval.metrics.base import (
    Batch,
    Metric,
    Reader,
    Rows,
    Sample,
    Score,
    Source,
    channels_first,
    framewise,
    identity,
)
from dcache.eval.metrics.clip import clip_reader
from dcache.eval.metrics.distribution import frechet
from dcache.eval.metrics.mean import mean
from dcache.eval.metrics.options import MetricOptions


def _load_clip(options: MetricOptions) -> Reader:
    from dcache.demo.judges import load_clip_shapes

    return clip_reader(*load_clip_shapes(), options)


def _load_features(options: MetricOptions) -> Reader:
    import torch

    from dcache.demo.judges import load_frechet_shapes

    device, size = options.device(), options.score_batch_size
    network = load_frechet_shapes(device)

    def read(batch: Batch) -> Rows:
        with torch.no_grad():
            return network(channels_first(batch.pictures, device)).cpu().numpy()

    return Reader(identity("frechet-shapes", size, device=device, network=network), framewise(read, size))


def _frechet(sample: Sample) -> Score:
    return frechet(sample.rows, np.asarray(sample.against), "frechet-shapes")


METRICS = (
    Metric(
        name="clip-shapes",
        title="clip-shapes",
        what="100 max(cos, 0) between picture and caption, by a small CLIP of the demo's shapes",
        better="higher",
        against="prompts",
        digits=2,
        source=Source("clip-shapes", _load_clip),
        summary=mean,
        packages={"tokenizers": "tokenizers"},
        kinds=("image",),
    ),
    Metric(
        name="frechet-shapes",
        title="frechet-shapes",
        what="Frechet distance between two sets of pictures, by a small network of the demo's shapes",
        better="lower",
        against="pictures",
        digits=3,
        source=Source("frechet-shapes", _load_features),
        summary=_frechet,
        packages={"torchmetrics": "torchmetrics"},
        kinds=("image",),
    ),
)
