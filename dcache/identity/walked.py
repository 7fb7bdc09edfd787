"""The table that a pipeline's loop goes through: how many evaluations it lists, and when they are over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import torch

from dcache.identity.run import Run
from dcache.identity.sampler import tap_of
from dcache.util.checks import is_number


class Walked:
    """A table of timesteps for a loop to iterate over, with a notice behind its last entry.

    Args:
        table: the timesteps.
        ended: called when a loop asks for an entry behind the last one.

    >>> from dcache.identity.walked import Walked
    >>> list(Walked([3, 1], lambda: print("over")))
    over
    [3, 1]
    """

    def __init__(self, table: Any, ended: Callable[[], None]) -> None:
        self.table = table
        self.ended = ended

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place: Any) -> Any:
        return self.table[place]

    def __iter__(self) -> Iterator[Any]:
        # No generator of ours, which would be one more Python call in each evaluation.
        return chain(self.table, _Notice(self.ended))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.table, name)


class _Notice:
    def __init__(self, ended: Callable[[], None]) -> None:
        self.ended = ended

    def __iter__(self) -> Iterator[Any]:
        self.ended()
        return iter(())


def noticed(
    sampler: Any, args: Any, kwargs: Any, ended: Callable[[Run | None], None]
) -> tuple[Any, Mapping[str, Any]]:
    """The arguments of a pipeline's `progress_bar`, such that the end of the loop is noticed.

    The run that the sampler just opened learns how many entries of its table the loop goes through.

    Args:
        sampler: the pipeline's.
        args: positional arguments; the first one, or `iterable`, is what the loop goes through.
        kwargs: keyword arguments.
        ended: called with that run behind the loop, with None where the sampler opened none.
    """
    watched = tap_of(sampler)
    run = None if watched is None else watched.run
    if run is not None and run.started:
        return args, kwargs
    table = args[0] if args else kwargs.get("iterable")
    entries = entries_in(table, getattr(sampler, "timesteps", None))
    if entries is None:
        return args, kwargs
    if run is not None:
        run.walks = entries
    walked = Walked(table, partial(ended, run))
    return ((walked, *args[1:]), kwargs) if args else (args, {**kwargs, "iterable": walked})


def entries_in(part: Any, timesteps: Any) -> int | None:
    """The number of entries of a part of a sampler's table; None where it is no such part (one sync).

    Args:
        part: what a loop is about to iterate over.
        timesteps: the table.
    """
    values, table = _numbers(part), _numbers(timesteps)
    begins = range(len(table) - len(values) + 1)
    fits = any(table[begin : begin + len(values)] == values for begin in begins)
    return len(values) if fits and values else None


def _numbers(values: Any) -> list[float]:
    """The entries of a table, empty for anything else."""
    # A tensor or an array of numpy's, which is not loaded for its name.
    if hasattr(values, "tolist") and hasattr(values, "ndim"):
        return [float(value) for value in values.tolist()] if values.ndim == 1 else []
    if not isinstance(values, list | tuple):
        return []
    numbers = all(
        is_number(value) or (isinstance(value, torch.Tensor) and value.numel() == 1) for value in values
    )
    return [float(value) for value in values] if numbers else []
