"""The parts of a metric: a source that computes a row of numbers for each picture, and a summary of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcache.eval.fidelity import CLIP
from dcache.eval.metrics.options import MetricOptions

if TYPE_CHECKING:
    from torch import nn

Pixels = NDArray[np.uint8]
Rows = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Batch:
    """Pictures to be read together.

    Attributes:
        pictures: uint8, (N, H, W, 3), or clips (N, F, H, W, 3).
        uncached: the uncached pictures of the same prompts and seeds, for a paired source; else None.
        prompts: one for each picture.
    """

    pictures: Pixels
    uncached: Pixels | None
    prompts: list[str]


@dataclass(frozen=True)
class Reader:
    """A loaded source.

    Attributes:
        identity: digest of all that decides the rows, except pictures and prompts.
        read: returns the rows of a batch, (N, D), one for each picture or clip.
    """

    identity: str
    read: Callable[[Batch], Rows]


@dataclass(frozen=True)
class Source:
    """Computes rows of numbers from pictures. Metrics with the same source share its rows.

    Attributes:
        name: name of its folder among the stored features.
        load: loads it; raises DcacheError if it cannot be loaded.
        paired: whether it compares with the uncached picture of the same prompt and seed.
    """

    name: str
    load: Callable[[MetricOptions], Reader]
    paired: bool = False


@dataclass(frozen=True)
class Sample:
    """The input of a summary: the rows of one method.

    Attributes:
        rows: (N, D), in item order.
        against: (M, D) rows of the pictures to compare with, for a metric that compares distributions.
        prompts: (N,) number of each row's prompt.
    """

    rows: Rows
    against: Rows | None
    prompts: NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """One metric of one method.

    Attributes:
        value: the value; None if there is none, for the reason in `why_not`.
        low, high: the 95 % interval of a bootstrap over prompts, for metrics that have one.
        std: standard deviation over random subsets or splits, for metrics that have them.
        each: the value of each item, in item order.
        warnings: remarks for readers.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    std: float | None = None
    each: list[float] | None = None
    why_not: str | None = None
    warnings: list[str] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """The score as JSON values, for `scores.json`."""
        always: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "each": self.each}
        more = {"std": self.std, "why_not": self.why_not}
        return always | {key: value for key, value in more.items() if value is not None}


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: name on the command line and in files.
        title: name in tables.
        what: description, one line; names of options in braces are filled in.
        unit: unit of the value, or "".
        better: "higher" or "lower".
        against: what it compares with: "uncached", "prompts", "" for nothing, or "pictures" (the reference
            pictures, or the uncached ones without a reference).
        digits: decimals to show.
        source: computes its rows.
        summary: computes the score of a method from the rows.
        packages: module -> name for pip.
        kinds: kinds of pictures it is defined for, of "image" and "video".
    """

    name: str
    title: str
    what: str
    better: str
    against: str
    digits: int
    source: Source
    summary: Callable[[Sample], Score]
    packages: dict[str, str]
    unit: str = ""
    kinds: tuple[str, ...] = ("image", "video")


def framewise(read: Callable[[Batch], Rows], size: int) -> Callable[[Batch], Rows]:
    """Extend a reader of pictures to clips, in batches of `size`; a clip's row is the mean over its frames.

    Args:
        read: reads a batch of pictures.
        size: most pictures in a batch.
    """

    def read_all(batch: Batch) -> Rows:
        count, shape = len(batch.pictures), batch.pictures.shape
        frames = shape[1] if len(shape) == CLIP else 1
        flat = batch.pictures.reshape(-1, *shape[-3:])
        uncached = None if batch.uncached is None else batch.uncached.reshape(flat.shape)
        prompts = [prompt for prompt in batch.prompts for _ in range(frames)]
        parts = []
        for start in range(0, len(flat), size):
            part = slice(start, start + size)
            beside = None if uncached is None else uncached[part]
            parts.append(read(Batch(flat[part], beside, prompts[part])))
        rows = np.concatenate(parts)
        return rows.reshape(count, frames, -1).mean(axis=1) if frames > 1 else rows

    return read_all


def channels_first(pictures: Pixels, device: str) -> Any:
    """uint8 pictures (N, H, W, 3) as a tensor (N, 3, H, W) on a device."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).to(device)


def identity(name: str, *settings: object, device: str = "cpu", network: nn.Module | None = None) -> str:
    """Digest of all that decides a reader's rows: settings, torch's version, device, a network's weights."""
    import torch

    parts = (name, *settings, torch.__version__, torch.device(device).type)
    digest = hashlib.sha256("\n".join(map(str, parts)).encode())
    for key, tensor in network.state_dict().items() if network is not None else ():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
