"""The features of one run, held in host memory until their tables are computed.

A feature (one site, branch and frame in one evaluation) is a long vector. If all features fit into the cap,
they are kept whole, in float32. If not, long ones are reduced to as many numbers as fit: one half is a
count-sketch (Charikar et al. 2002), whose inner products are unbiased, the other half a sample of the
coordinates, for sums over coordinates. All evaluations of a run use the same sketch, so that differences of
features have the same relative error as the features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from dcache.errors import DcacheError
from dcache.profile import FeatureTables

# Smallest size of a sketch.
FEWEST = 64
# Columns that are converted to float64 at once.
_CHUNK = 1 << 14


class Key(NamedTuple):
    """Identifies a feature: its site, guidance branch and frame (`value` or `delta`)."""

    site: str
    branch: str
    frame: str

    def __str__(self) -> str:
        return f"{self.frame} of {self.site!r} on branch {self.branch!r}"


def room(sizes: Mapping[Key, int], steps: int, cap: int) -> int | None:
    """Largest number of elements to keep of a feature; None if all features fit whole.

    Args:
        sizes: number of elements of every feature.
        steps: evaluations, each with a feature of every key.
        cap: bytes for all features of a run.

    Raises:
        DcacheError: fewer than `FEWEST` elements are left for a feature.
    """
    left = cap // (4 * steps)
    for i, size in enumerate(sorted(sizes.values())):
        share = left // (len(sizes) - i)
        if size > share:
            if share < FEWEST:
                least = 4 * steps * sum(min(size, FEWEST) for size in sizes.values())
                raise DcacheError(
                    f"a cap of {cap} bytes leaves {max(share, 0)} numbers for each of {len(sizes)} features "
                    f"in each of {steps} evaluations, and a sketch needs at least {FEWEST}. Raise the cap to "
                    f"{least} bytes or more, or observe fewer sites"
                )
            return share
        left -= size
    return None


def sketch_error(numbers: int) -> float:
    """Largest standard error of a sketched inner product, relative to the product of the vectors' lengths."""
    return math.sqrt(2.0 / (numbers // 2))


def not_finite(key: Key, index: int) -> DcacheError:
    """The error for a feature with NaN or infinity."""
    return DcacheError(
        f"the {key} is NaN or infinite in evaluation {index}, so nothing can be planned from this run. Try "
        "more steps, or float32 instead of a 16-bit dtype"
    )


class FeatureBuffer:
    """Stores the features of one run, whole or as sketches.

    Args:
        sizes: number of elements of every feature; its pieces must add up to it.
        steps: evaluations of a run.
        cap: bytes to hold at most.
        device: device on which the tables are computed.

    Raises:
        DcacheError: the cap is too small for a sketch.

    Attributes:
        numbers: size of a sketched feature; None if all are whole.
    """

    def __init__(
        self, sizes: Mapping[Key, int], steps: int, cap: int, device: torch.device | str = "cpu"
    ) -> None:
        self.sizes = dict(sizes)
        self.steps = steps
        self.device = torch.device(device)
        self.numbers = room(sizes, steps, cap)
        self._rows = {
            key: torch.empty(steps, size if self._whole(key) else self.numbers or 0)
            for key, size in self.sizes.items()
        }
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Clear the buffer for another run; `seed` draws its sketch."""
        self._seed = seed
        self._seen: dict[Key, set[int]] = {key: set() for key in self.sizes}
        self._pieces: dict[tuple[Key, int], list[torch.Tensor]] = {}
        self._mixes: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def put(self, key: Key, index: int, pieces: Sequence[torch.Tensor]) -> None:
        """Store a feature of evaluation `index`, or some pieces of it.

        Raises:
            DcacheError: the key or evaluation is not expected, or the feature is longer than its size.
        """
        waiting = self._pieces.setdefault((key, index), [])
        waiting += [piece.detach().flatten().float() for piece in pieces]
        count = sum(map(len, waiting))
        if key not in self.sizes or index >= self.steps or count > self.sizes[key]:
            raise self._irregular(key, index)
        if count < self.sizes[key]:
            return
        vector = torch.cat(self._pieces.pop((key, index)))
        self._rows[key][index] = vector if self._whole(key) else self._sketched(vector)
        self._seen[key].add(index)

    def tables(self, key: Key) -> FeatureTables:
        """The tables of one key. An evaluation without the feature gets the one of the nearest evaluation.

        Raises:
            DcacheError: a feature has NaN or infinity, is incomplete, or was never stored.
        """
        for waiting, index in self._pieces:
            if waiting == key:
                raise self._irregular(key, index)
        rows, seen = self._rows[key], sorted(self._seen[key])
        broken = [t for t in seen if not bool(torch.isfinite(rows[t]).all())]
        if broken:
            raise not_finite(key, broken[0])
        if not seen:
            raise DcacheError(f"the {key} was not computed in this run: leave the site out")
        nearest = [_nearest(seen, t) for t in range(self.steps)]
        if nearest != seen:
            rows = rows[nearest]
        if self._whole(key):
            return _tables(rows, rows, self.sizes[key], self.device)
        half = (self.numbers or 0) // 2
        return _tables(rows[:, :half], rows[:, half:], self.sizes[key], self.device)

    def _whole(self, key: Key) -> bool:
        return self.numbers is None or self.sizes[key] <= self.numbers

    def _sketched(self, vector: torch.Tensor) -> torch.Tensor:
        """(numbers,): a count-sketch, then a sample of the coordinates."""
        numbers = self.numbers or 0
        half = numbers // 2
        place = (len(vector), vector.device)
        if place not in self._mixes:
            rng = torch.Generator().manual_seed(self._seed)
            order = torch.randperm(len(vector), generator=rng)
            signs = torch.randint(0, 2, (len(vector),), generator=rng, dtype=torch.int8) * 2 - 1
            self._mixes[place] = (order.to(vector.device), signs.to(vector.device))
        order, signs = self._mixes[place]
        mixed = vector[order]
        sample = mixed[: numbers - half].clone()
        mixed.mul_(signs)
        # Bucket j gets every `half`-th of the shuffled elements: buckets of equal size, no atomic additions.
        padded = torch.nn.functional.pad(mixed, (0, -len(mixed) % half))
        return torch.cat([padded.view(-1, half).sum(0), sample])

    def _irregular(self, key: Key, index: int) -> DcacheError:
        return DcacheError(
            f"the {key} has another size in evaluation {index} than in other evaluations, so they cannot be "
            "compared: leave the site out (sites=...)"
        )


def _nearest(among: Sequence[int], t: int) -> int:
    return min(among, key=lambda s: abs(s - t))


def _tables(rows: torch.Tensor, sample: torch.Tensor, size: int, device: torch.device) -> FeatureTables:
    """Tables of features: means of inner products from `rows` (T, N), of L1 sums from `sample` (T, M).

    `size` is the number of elements of the whole feature.
    """
    steps = len(rows)
    gram = torch.zeros(steps, steps, dtype=torch.float64, device=device)
    for part in torch.split(rows, _CHUNK, 1):
        some = part.to(device, torch.float64)
        gram += some @ some.T
    distance, lengths = torch.zeros_like(gram), torch.zeros(steps, dtype=torch.float64, device=device)
    for part in torch.split(sample, _CHUNK, 1):
        some = part.to(device, torch.float64)
        distance += torch.cdist(some, some, p=1.0)
        lengths += some.abs().sum(1)
    count = sample.shape[1]
    means = (gram / size, distance / count, lengths / count)
    return FeatureTables(*(np.asarray(table.cpu().numpy(), np.float64) for table in means))
