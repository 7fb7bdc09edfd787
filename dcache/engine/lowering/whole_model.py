"""The whole-model site: the denoiser's output is remembered, nothing inside it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import perf_counter
from typing import Any, final

import torch

from dcache.engine.call import Call
from dcache.engine.region import Region, without_history
from dcache.errors import DcacheError
from dcache.intercept.pytree import flatten, rebuild, samples


@dataclass(frozen=True)
class OutputForm:
    """How an output is put together from what is remembered of it.

    Attributes:
        recipe: as `flatten` gave it.
        constants: the leaves that are not remembered, None in the place of those that are.
        dtypes: of the leaves that are remembered, None in the place of the others.
        changes: of which leaves the change is remembered.
    """

    recipe: Any
    constants: tuple[Any, ...]
    dtypes: tuple[Any, ...]
    changes: tuple[bool, ...]


@final
class WholeRegion(Region):
    """The region of the model itself.

    What it remembers of an output's form lies with the anchors, so that branches which ask for different
    containers are each given their own.
    """

    def parts(self) -> Iterator[Region]:
        """This region alone."""
        yield self

    def run(
        self, call: Call, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, float]:
        """Predict or compute the output; returns it and the seconds spent in the model."""
        entries = samples(args, kwargs) if self.codec.is_delta else ()
        if self.decide(call):
            return self._predicted(call, entries), 0.0
        opened = self.open(call, entries) if entries else ()
        before = perf_counter()
        output = inner(*args, **kwargs)
        spent = perf_counter() - before
        self._remember_output(call, entries, opened, args, kwargs, output)
        return output, spent

    def adopt(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        """Remember an output that was computed before this site was bound; arguments as before that call."""
        entries = samples(args, kwargs) if self.codec.is_delta else ()
        self.decide(call)
        opened = self.open(call, entries) if entries else ()
        self._remember_output(call, entries, opened, args, kwargs, output)

    def _predicted(self, call: Call, entries: Sequence[torch.Tensor]) -> Any:
        form: OutputForm | None = None if self.history is None else self.history.form
        if form is None:
            raise without_history(self.site)
        self.dtypes = form.dtypes
        bases = [entry if change else None for entry, change in zip_longest(entries, form.changes)]
        predicted = self.predict(call, bases if entries else ())
        leaves = [c if p is None else p for p, c in zip(predicted, form.constants, strict=True)]
        return rebuild(leaves, form.recipe)

    def _remember_output(
        self,
        call: Call,
        entries: Sequence[torch.Tensor],
        opened: Sequence[torch.Tensor | None],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        leaves, recipe = flatten(output)
        first = leaves[0] if leaves else None
        if first is None:
            # A call without a sample is withdrawn once it is over.
            return
        if self.codec.is_delta:
            _refuse_other_shape(entries[0] if entries else None, first)
        stored = _stored_leaves(leaves, args, kwargs)
        opened = [
            taken if taken is not None and taken.shape == _shape_of(leaf) else None
            for taken, leaf in zip_longest(opened[: len(stored)], stored)
        ]
        changes = tuple([taken is not None for taken in opened])
        self.remember(call, opened, stored)
        if self.history is not None:
            pairs = zip(leaves, stored, strict=True)
            constants = tuple([leaf if remembered is None else None for leaf, remembered in pairs])
            self.history.form = OutputForm(recipe, constants, self.dtypes, changes)


def _stored_leaves(
    leaves: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[torch.Tensor | None]:
    """The leaves to remember: tensors, but for those that were handed in and are handed on (keys, values)."""
    tensors = [leaf if isinstance(leaf, torch.Tensor) else None for leaf in leaves]
    if len(leaves) == 1:
        return tensors
    given = {id(leaf) for leaf in flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)}
    return [leaf if i == 0 or id(leaf) not in given else None for i, leaf in enumerate(tensors)]


def _refuse_other_shape(entry: torch.Tensor | None, first: Any) -> None:
    if entry is None or not entry.is_floating_point() or entry.shape != getattr(first, "shape", None):
        raise DcacheError(
            "codec 'delta' at sites='model' needs an output of the input's shape; this model maps "
            f"{_shape_of(entry)} to {_shape_of(first)}: use codec='value'"
        )


def _shape_of(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
