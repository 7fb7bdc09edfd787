"""Whether an observation jumped: features of the last chunk's kind are not trusted there."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dcache.errors import DcacheError


def encoded(observation: Any) -> torch.Tensor:
    """All numbers of an observation as one vector, float32, on the CPU."""
    return _joined(_numbers(_leaves(observation)), 1)[0]


class Jumps:
    """Compares each observation with the one under which the last chunk was made.

    Args:
        threshold: a change above this share of the larger observation's length is a jump; in a batch, a
            change of any row.
        encode: observation -> tensor; None is all of its numbers.
    """

    def __init__(self, threshold: float, encode: Callable[[Any], torch.Tensor] | None = None) -> None:
        self.threshold, self.encode = threshold, encode
        self.last: _Seen | None = None
        self._now: _Seen | None = None

    def see(self, observation: Any, rows: int = 1) -> bool:
        """Whether this observation jumped from the one that was kept.

        The first one did, and one of another size, with NaN, or with other names or texts (a new
        instruction).

        Args:
            observation: tensors, arrays, numbers and texts, in mappings, sequences and dataclasses.
            rows: rows of the last chunk's batch.

        Raises:
            DcacheError: there is nothing in it that could be compared.
        """
        leaves = list(_leaves(observation))
        names = tuple((name, leaf if isinstance(leaf, str) else "") for name, leaf in leaves)
        if self.encode is None:
            numbers = _numbers(leaves)
        else:
            numbers = _numbers(_leaves(torch.as_tensor(self.encode(observation))))
        if not numbers and not names:
            raise DcacheError(
                f"an observation of type {type(observation).__name__} has no numbers that could be compared "
                "with the last one's: give Loop encode=, a function from it to a vector, or jump=None"
            )
        last, self._now = self.last, _Seen(names, numbers)
        if (
            last is None
            or last.names != names
            or [x.shape for x in last.numbers] != [x.shape for x in numbers]
        ):
            return True
        return any(map(self._far, _joined(numbers, rows), _joined(last.numbers, rows)))

    def keep(self) -> None:
        """A chunk was made under the observation that was seen last."""
        self.last = self._now

    def forget(self) -> None:
        """The next observation is the first one."""
        self.last = self._now = None

    def _far(self, now: torch.Tensor, last: torch.Tensor) -> bool:
        change = float(torch.linalg.vector_norm(now - last))
        size = max(float(torch.linalg.vector_norm(now)), float(torch.linalg.vector_norm(last)))
        # NaN compares as false.
        return not change <= self.threshold * size


@dataclasses.dataclass(frozen=True)
class _Seen:
    """An observation: names of its parts, with texts, and copies of its numbers."""

    names: tuple[tuple[str, str], ...]
    numbers: list[torch.Tensor]


def _numbers(leaves: Iterable[tuple[str, torch.Tensor | str]]) -> list[torch.Tensor]:
    """Copies of the leaves that are numbers, float32, on the CPU."""
    parts = (part for _, part in leaves if isinstance(part, torch.Tensor))
    return [part.detach().to("cpu", torch.float32, copy=True) for part in parts]


def _joined(parts: Sequence[torch.Tensor], rows: int) -> torch.Tensor:
    """All numbers, (rows, n) where each part has so many rows, else (1, n)."""
    if rows == 1 or not all(part.ndim and len(part) == rows for part in parts):
        rows = 1
    return torch.cat([part.reshape(rows, -1) for part in parts], 1) if parts else torch.zeros(1, 0)


def copied(observation: Any) -> Any:
    """The observation in memory of its own: another thread reads it while the robot goes on.

    What cannot be copied (an open camera) is passed on as it is.
    """
    if isinstance(observation, torch.Tensor):
        return observation.detach().clone()
    if isinstance(observation, np.ndarray):
        return observation.copy()
    if type(observation) is dict:
        return {key: copied(value) for key, value in observation.items()}
    if type(observation) in (list, tuple):
        return type(observation)(map(copied, observation))
    try:
        return copy.deepcopy(observation)
    except Exception:  # Whatever an object's own copying raises.
        return observation


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor | str]]:
    """Name and value of the tensors and texts in an observation; mappings in the order of their names."""
    if isinstance(value, torch.Tensor | str):
        yield name, value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "US":
        yield name, str(value.tolist())
    elif isinstance(value, np.ndarray | np.number | np.bool_ | float | int):
        yield name, torch.as_tensor(np.asarray(value))
    else:
        for key, part in _parts(value):
            yield from _leaves(part, f"{name}.{key}")


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return sorted(((str(key), part) for key, part in value.items()), key=lambda each: each[0])
    if isinstance(value, list | tuple):
        return [(str(i), part) for i, part in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []
