"""What the evaluations of one run are conditioned on: a robot's observation, a prompt, an image.

A chunk of actions may be broken off and the next one begin in the middle of the noise levels (a warm start).
Timesteps then go on as if nothing had happened, and samples of a few numbers say little; but the observation
is another one. Features of the old one must not be used: that run is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from dcache.identity.timestep import TimeArgument
from dcache.intercept.pytree import first_tensor

# Evaluations in a row, each with another value of an argument, after which it is taken for one that changes
# within a run (features of a control network, a second time).
_IN_A_ROW = 3
# Elements of an argument that are compared; of a longer one these are spread over it.
_ELEMENTS = 1 << 20


class Observation:
    """The conditioning arguments of one run, by content.

    Args:
        on_unsteady: called with the position or name of an argument that turns out to change within a run.

    Attributes:
        changing: these arguments.
    """

    def __init__(self, on_unsteady: Callable[[str], None]) -> None:
        self.on_unsteady = on_unsteady
        self.changing: set[int | str] = set()
        self._known: dict[int | str, torch.Tensor] = {}
        # Argument -> evaluations in a row in which it was another one, None once it stayed the same.
        self._changes: dict[int | str, int | None] = {}

    def begin(self, args: Sequence[Any], kwargs: Mapping[str, Any], time: TimeArgument) -> None:
        """A run opens with this call."""
        self._known = {key: _sampled(value).clone() for key, value in self._arguments(args, kwargs, time)}

    def differs(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], time: TimeArgument, later: bool = True
    ) -> bool:
        """Whether a call is conditioned on something else than the run.

        One sync for each conditioning argument. An argument that changed in each of three evaluations in a
        row, and was never the same in two, tells nothing from then on.

        Args:
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.
            time: where it has its timestep.
            later: whether it has another timestep than the last call, as the next evaluation of a run has.
        """
        other = False
        for key, value in self._arguments(args, kwargs, time):
            known, now = self._known.get(key), _sampled(value)
            # Another size is another branch, whose histories begin afresh.
            if known is None or known.shape != now.shape or known.device != now.device:
                continue
            if torch.equal(known, now):
                self._changes[key] = None
                continue
            changes = self._changes.get(key, 0)
            if changes is not None and later:
                changes = self._changes[key] = changes + 1
                if changes > _IN_A_ROW:
                    self.changing.add(key)
                    self.on_unsteady(str(key))
                    continue
            other = True
        return other

    def _arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], time: TimeArgument
    ) -> Iterator[tuple[int | str, torch.Tensor]]:
        """Position or name and value of the tensors beside sample and time; also those in a dict."""
        sample, moment = first_tensor(args, kwargs), time.argument(args, kwargs)
        for key, value in _flat((*enumerate(args), *kwargs.items())):
            if value.ndim > 1 and value is not sample and value is not moment and key not in self.changing:
                yield key, value


def _flat(items: Iterable[tuple[int | str, Any]]) -> Iterator[tuple[int | str, torch.Tensor]]:
    """The tensors among arguments, and those in arguments that are dicts."""
    for key, value in items:
        if isinstance(value, torch.Tensor):
            yield key, value
        elif isinstance(value, dict):
            yield from ((f"{key}.{k}", part) for k, part in value.items() if isinstance(part, torch.Tensor))


def _sampled(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach()
    return plain if plain.numel() <= _ELEMENTS else plain.flatten()[:: plain.numel() // _ELEMENTS]
