"""The processes that compute one denoiser together: diffusers' context parallelism (`enable_parallelism`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from dcache.errors import DcacheError
from dcache.kernels.changes import Sums

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """The processes that hold parts of one denoiser's tokens.

    All of its methods are collective: they return once every rank has called them.

    Attributes:
        group: their process group.
    """

    group: Any

    @property
    def count(self) -> int:
        """How many there are."""
        return distributed.get_world_size(self.group)

    @property
    def rank(self) -> int:
        """The place of this process among them, from 0."""
        return distributed.get_rank(self.group)

    def total(self, sums: Sums) -> Sums:
        """The sums over the tokens of all ranks, in one reduction.

        Raises:
            DcacheError: another rank failed, or did not answer within the group's timeout.
        """
        stacked = torch.stack(list(sums.values))
        self._reduce(stacked, distributed.ReduceOp.SUM)
        # Parts may differ in length by a token, so elements are no multiple: ratios of sums need none.
        return Sums(sums.names, stacked.unbind(), sums.count * self.count)

    def agreed(self, change: float) -> float:
        """The largest change of all ranks, NaN if it is one on any of them.

        Raises:
            DcacheError: as `total`.
        """
        unknown = math.isnan(change)
        values = torch.tensor([float(unknown), 0.0 if unknown else change], device=self._device())
        self._reduce(values, distributed.ReduceOp.MAX)
        flag, highest = values.tolist()
        return math.nan if flag else highest

    def all_do(self, flag: bool) -> bool:
        """Whether something is true on all ranks.

        Raises:
            DcacheError: as `total`.
        """
        return self.agreed(float(not flag)) == 0

    def gathered(self, value: Any) -> list[Any]:
        """An object of every rank, in their order; objects are pickled.

        Raises:
            DcacheError: as `total`.
        """
        values: list[Any] = [None] * self.count
        self._together(lambda: distributed.all_gather_object(values, value, self.group))
        return values

    def _reduce(self, values: torch.Tensor, operation: Any) -> None:
        self._together(lambda: distributed.all_reduce(values, operation, self.group))

    def _together(self, collective: Callable[[], Result]) -> Result:
        try:
            return collective()
        except RuntimeError as error:
            # What torch raises where a peer is gone, or where the group's timeout is over.
            reason = str(error).strip().splitlines()[0]
            raise DcacheError(
                f"rank {self.rank} of {self.count} waited for the others, and one of them has stopped or "
                f"makes other calls ({reason}). Look at the first error of the other "
                "ranks, and enable the same method on all of them."
            ) from error

    def _device(self) -> torch.device:
        accelerator = torch.accelerator.current_accelerator()
        on_host = accelerator is None or "gloo" in str(distributed.get_backend(self.group))
        return torch.device("cpu") if on_host or accelerator is None else accelerator


def ranks_of(module: nn.Module) -> Ranks | None:
    """The processes that a denoiser's tokens are split among, None where one has them all."""
    config = getattr(getattr(module, "_parallel_config", None), "context_parallel_config", None)
    mesh = getattr(config, "_flattened_mesh", None)
    return None if mesh is None or mesh.size() < 2 else Ranks(mesh.get_group())
