"""The features of one run, held in host memory until their tables are formed.

Every feature (one site, branch and frame in one evaluation) is a long vector. Where all of them fit into the
cap they are kept whole, in float32. Where they do not, a long one becomes as many numbers as there is room
for: one half a count-sketch (Charikar et al. 2002), whose inner products are right on average, the other half
a sample of its coordinates, for what is a sum over coordinates. All evaluations of a run go through the same
sketch, so that differences of features are as exact, relative to their own length, as the features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from dcache.errors import DcacheError
from dcache.profile import FeatureTables

FEWEST = 64
_CHUNK = 1 << 14


class Key(NamedTuple):
    """What a row of features belongs to."""

    site: str
    branch: str
    frame: str

    def __str__(self) -> str:
        return f"{self.frame} of {self.site!r} on branch {self.branch!r}"


def room(sizes: Mapping[Key, int], steps: int, cap: int) -> int | None:
    """The most numbers that a feature may be kept as; None where all fit whole.

    Args:
        sizes: numbers of every feature.
        steps: evaluations, each with a feature of every key.
        cap: bytes for all of them.

    Raises:
        DcacheError: too few numbers are left to tell anything.
    """
    left = cap // (4 * steps)
    for i, size in enumerate(sorted(sizes.values())):
        share = left // (len(sizes) - i)
        if size > share:
            if share < FEWEST:
                least = 4 * steps * sum(min(size, FEWEST) for size in sizes.values())
                raise DcacheError(
                    f"a cap of {cap} bytes leaves {max(share, 0)} numbers for each of {len(sizes)} features "
                    f"in each of {steps} evaluations, and fewer than {FEWEST} tell nothing: {least} bytes "
                    "are the least; observe fewer sites, or raise the cap"
                )
            return share
        left -= size
    return None


def sketch_error(numbers: int) -> float:
    """Largest standard error of a sketched inner product, relative to the product of the vectors' lengths."""
    return math.sqrt(2.0 / (numbers // 2))


def not_finite(key: Key, index: int) -> DcacheError:
    """What to say of a broken feature."""
    return DcacheError(
        f"the {key} is NaN or infinite in evaluation {index}: nothing can be planned from a broken run. Try "
        "more steps, or float32 in place of a narrow dtype"
    )


class FeatureBuffer:
    """The features of a run of every key.

    Args:
        sizes: numbers of every feature; one comes in pieces that add up to it.
        steps: evaluations of a run.
        cap: bytes that may be held.
        device: where the tables are computed.

    Raises:
        DcacheError: the cap is too small for a useful sketch.

    Attributes:
        numbers: that a sketched feature is kept as, None where all are whole.
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
        """Forget what is held: another run begins, with a sketch of its own."""
        self._seed = seed
        self._seen: dict[Key, set[int]] = {key: set() for key in self.sizes}
        self._pieces: dict[tuple[Key, int], list[torch.Tensor]] = {}
        self._mixes: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def put(self, key: Key, index: int, pieces: Sequence[torch.Tensor]) -> None:
        """Take a feature, or a part of it, of evaluation `index`.

        Raises:
            DcacheError: it is not as long as those before it.
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
        """The tables of one key; an evaluation in which it was not called counts as the nearest that was.

        Raises:
            DcacheError: a feature has NaN or infinity, or only a part of it was seen.
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
        """A count-sketch, then a sample of the coordinates."""
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
        # Shuffled and dealt out in turns: every bucket gets as many, and no atomic addition is needed.
        padded = torch.nn.functional.pad(mixed, (0, -len(mixed) % half))
        return torch.cat([padded.view(-1, half).sum(0), sample])

    def _irregular(self, key: Key, index: int) -> DcacheError:
        return DcacheError(
            f"the {key} has another size in evaluation {index} than in others of this run, so that they "
            "cannot be compared: leave the site out (sites=...)"
        )


def _nearest(among: Sequence[int], t: int) -> int:
    return min(among, key=lambda s: abs(s - t))


def _tables(rows: torch.Tensor, sample: torch.Tensor, size: int, device: torch.device) -> FeatureTables:
    """Means over the elements: inner products of `rows`, sums over `sample`."""
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
    found = (gram / size, distance / count, lengths / count)
    return FeatureTables(*(np.asarray(one.cpu().numpy(), np.float64) for one in found))
