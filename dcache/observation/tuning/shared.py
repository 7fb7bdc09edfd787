"""What the processes of one denoiser observed, put together: each of them has the features of its tokens."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import nn

from dcache.errors import DcacheError
from dcache.intercept.ranks import ranks_of
from dcache.observation.tuning.watch import Watch
from dcache.profile import Floats

Result = TypeVar("Result")


def features_of_all(module: nn.Module, watch: Watch, steps: int) -> tuple[int, dict[str, Floats]]:
    """`watch.features`, with the samples of all processes behind one another.

    Raises:
        DcacheError: nothing can be planned from what one of them saw, or one of them failed.
    """
    ranks = ranks_of(module)
    if ranks is None:
        return watch.features(steps)
    try:
        seen: tuple[int, dict[str, Floats]] | str = watch.features(steps)
    except DcacheError as error:
        # The others wait for a part.
        seen = str(error)
    parts = ranks.gathered(seen)
    failed = next((part for part in parts if isinstance(part, str)), None)
    if failed is not None:
        raise DcacheError(failed)
    branches = parts[0][1]
    return parts[0][0], {name: np.concatenate([part[1][name] for part in parts], -1) for name in branches}


def of_first_rank(module: nn.Module, value: Result) -> Result:
    """The first process's value on all of them: what lies in its cache folder counts."""
    ranks = ranks_of(module)
    if ranks is None:
        return value
    first: Result = ranks.gathered(value if ranks.rank == 0 else None)[0]
    return first


def keeps_files(module: nn.Module) -> bool:
    """Whether this process writes the cache folder: one of them does."""
    ranks = ranks_of(module)
    return ranks is None or ranks.rank == 0
