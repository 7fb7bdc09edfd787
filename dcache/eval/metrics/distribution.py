"""Distances between sets of pictures: Frechet (FID) and kernel (KID), and the Inception score of one set.

The arithmetic on the features is torchmetrics', in float64. None of the three has a bootstrap interval: a
Frechet distance is no mean over pictures, and a resampled set, which repeats pictures, has a larger distance
than the set itself. KID and the Inception score report the spread over their subsets.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from dcache.eval.metrics.base import Metric, Rows, Sample, Score
from dcache.eval.metrics.inception import INCEPTION, POOLED

if TYPE_CHECKING:
    from torch import Tensor, nn

SUBSETS, SUBSET_SIZE = 100, 1000
SPLITS = 10
FEW_FOR_SPLITS = 5000
PACKAGES = {"torchmetrics": "torchmetrics", "torch_fidelity": "torch-fidelity"}
# Only one process computes, with the features of all; torchmetrics must not synchronise with the others.
ALONE: dict[str, Any] = {"sync_on_compute": False}


def frechet(rows: Rows, against: Rows, name: str) -> Score:
    """Frechet distance between Gaussians fitted to two sets of features, (N, D) and (M, D)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    count, features = min(len(rows), len(against)), rows.shape[1]
    if count < 2:
        return Score(why_not=f"{name} needs at least two pictures on both sides, and there is {count}")
    rows, against = _rotated(rows.astype(np.float64), against.astype(np.float64))
    metric = FrechetInceptionDistance(feature=_given(rows.shape[1]), **ALONE)
    metric.update(_tensor(against), real=True)
    metric.update(_tensor(rows), real=False)
    return _finite(Score(float(metric.compute()), warnings=_few(name, count, features)))


def fid(sample: Sample) -> Score:
    """Frechet Inception distance (Heusel et al. 2017), over the 2048 pooled features."""
    return frechet(sample.rows[:, :POOLED], _against(sample)[:, :POOLED], "FID")


def kid(sample: Sample) -> Score:
    """Kernel Inception distance (Binkowski et al. 2018): mean over 100 random subsets of 1000, unbiased.

    With no more pictures than a subset has, all of them are compared once.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    rows, against = sample.rows[:, :POOLED], _against(sample)[:, :POOLED]
    count = min(len(rows), len(against))
    if count < 2:
        return Score(why_not=f"KID needs at least two pictures on both sides, and there is {count}")
    whole = len(rows) == len(against) <= SUBSET_SIZE
    with _reproducible():
        metric = KernelInceptionDistance(
            feature=_given(POOLED),
            subsets=1 if whole else SUBSETS,
            subset_size=min(SUBSET_SIZE, count),
            **ALONE,
        )
        metric.update(_tensor(against), real=True)
        metric.update(_tensor(rows), real=False)
        value, std = metric.compute()
    return _finite(Score(float(value), std=None if whole else float(std)))


def inception_score(sample: Sample) -> Score:
    """Inception score (Salimans et al. 2016): mean over ten random splits."""
    from torchmetrics.image.inception import InceptionScore

    logits = sample.rows[:, POOLED:]
    count = len(logits)
    if count < 2 * SPLITS:
        return Score(
            why_not=f"the Inception score has {SPLITS} splits: {count} pictures are too few for them"
        )
    with _reproducible():
        metric = InceptionScore(feature=_given(logits.shape[1]), splits=SPLITS, **ALONE)
        metric.update(_tensor(logits))
        value, std = metric.compute()
    warning = [
        f"Inception score of {count} pictures: it grows with their number, and published ones are of 50 000; "
        "compare methods of this run only"
    ]
    return _finite(Score(float(value), std=float(std), warnings=warning if count < FEW_FOR_SPLITS else []))


METRICS = (
    Metric(
        name="fid",
        title="FID",
        what="Frechet distance between the InceptionV3 features of two sets of pictures (torch-fidelity's)",
        better="lower",
        against="pictures",
        digits=2,
        source=INCEPTION,
        summary=fid,
        packages=PACKAGES,
        kinds=("image",),
    ),
    Metric(
        name="kid",
        title="KID",
        what="squared MMD (cubic kernel) between the InceptionV3 features of two sets of pictures",
        better="lower",
        against="pictures",
        digits=5,
        source=INCEPTION,
        summary=kid,
        packages=PACKAGES,
        kinds=("image",),
    ),
    Metric(
        name="inception-score",
        title="Inception score",
        what="how sure InceptionV3 is of each picture's class, and how varied the classes are",
        better="higher",
        against="",
        digits=2,
        source=INCEPTION,
        summary=inception_score,
        packages=PACKAGES,
        kinds=("image",),
    ),
)


def _few(name: str, count: int, features: int) -> list[str]:
    if count >= features:
        return []
    return [
        f"{name} of {count} pictures: with {features} features it needs at least {features} on both sides, "
        "and published comparisons use 10 000 or more; compare methods of this run only"
    ]


def _rotated(rows: Rows, against: Rows) -> tuple[Rows, Rows]:
    """The rows in the basis of all pictures, if there are fewer pictures than dimensions.

    A rotation does not change the Frechet distance, and the cost of its eigenvalues is cubic in the
    dimensions.
    """
    if len(rows) + len(against) >= rows.shape[1]:
        return rows, against
    basis = np.linalg.qr(np.concatenate([rows, against]).T).Q
    return rows @ basis, against @ basis


def _given(features: int) -> nn.Module:
    """A network for torchmetrics that passes features through unchanged."""
    from torch import nn

    network = nn.Identity()
    network.num_features = features  # type: ignore[assignment]
    return network


def _tensor(rows: Rows) -> Tensor:
    import torch

    return torch.from_numpy(rows.astype(np.float64))


def _against(sample: Sample) -> Rows:
    return sample.rows if sample.against is None else sample.against


def _finite(score: Score) -> Score:
    if score.value is not None and math.isfinite(score.value):
        return score
    return Score(why_not=f"the value is {score.value}: the features are not finite or all alike")


@contextmanager
def _reproducible() -> Iterator[None]:
    # torchmetrics draws from torch's global generator, and warns that it keeps all features.
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(0)
        yield
