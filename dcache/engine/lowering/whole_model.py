"""The whole-model site: the denoiser's output is remembered, nothing inside it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import perf_counter
from typing import Any, final

import torch

from dcache.cache.continued import continued, continues
from dcache.engine.call import Call
from dcache.engine.region import Region, without_history
from dcache.errors import DcacheError
from dcache.intercept.pytree import flatten, rebuild, samples, unpredictable


@dataclass(frozen=True)
class WholeForm:
    """How an output is put together from what is remembered of it.

    Attributes:
        recipe: as `flatten` gave it.
        constants: the leaves that are not remembered, None in the place of those that are.
        dtypes: of the leaves that are remembered, None in the place of the others.
        changes: shapes of the leaves of which the change is remembered, None in the place of the others.
    """

    recipe: Any
    constants: tuple[Any, ...]
    dtypes: tuple[Any, ...]
    changes: tuple[torch.Size | None, ...]


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
        opened = self._opened(call, entries)
        before = perf_counter()
        output = inner(*args, **kwargs)
        spent = perf_counter() - before
        self._remember_output(call, entries, opened, args, kwargs, output)
        return output, spent

    def adopt(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        """Remember an output that was computed before this site was bound; arguments as before that call."""
        entries = samples(args, kwargs) if self.codec.is_delta else ()
        self.decide(call)
        opened = self._opened(call, entries)
        self._remember_output(call, entries, opened, args, kwargs, output)

    def _predicted(self, call: Call, entries: Sequence[torch.Tensor]) -> Any:
        form: WholeForm | None = None if self.history is None else self.history.form
        if form is None:
            raise without_history(self.site)
        self.dtypes = form.dtypes
        bases = [
            None if entry is None or shape is None else continued(entry, shape)
            for entry, shape in zip_longest(entries, form.changes)
        ]
        predicted = self.predict(call, bases if entries else ())
        leaves = [c if p is None else p for p, c in zip(predicted, form.constants, strict=True)]
        return rebuild(leaves, form.recipe)

    def _opened(self, call: Call, entries: Sequence[torch.Tensor]) -> Sequence[torch.Tensor | None]:
        """Of each entry what is needed of it behind the call, before the model may write over it."""
        if not entries:
            return ()
        form: WholeForm | None = None if self.history is None else self.history.form
        if form is None:
            return self.open(call, entries)
        # What the output does not continue is left out once its shape is known.
        bases = [
            entry if entry is None or shape is None else continued(entry, shape)
            for entry, shape in zip_longest(entries, form.changes)
        ]
        return self.open(call, bases)

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
        # A number is returned again as the last computed call returned it: there is nothing to fall back to.
        problem = unpredictable([leaf for leaf in leaves if not isinstance(leaf, float | complex)])
        if problem and call.effects is not None and isinstance(first, torch.Tensor):
            # A first call, such as one that makes a cache: those that follow may do without.
            call.makes = problem
            return
        if problem:
            raise DcacheError(
                "sites='model' predicts a tensor, or a tuple, list, dict or dataclass of tensors; "
                f"{type(self.engine.module).__name__} returns {problem}. Return one of these, or disable "
                "caching."
            )
        if self.codec.is_delta:
            _refuse_other_shape(entries[0] if entries else None, first)
        stored = _stored_leaves(leaves, args, kwargs)
        opened = [_part(taken, leaf) for taken, leaf in zip_longest(opened[: len(stored)], stored)]
        changes = tuple([None if taken is None else taken.shape for taken in opened])
        self.remember(call, opened, stored)
        if self.history is not None:
            pairs = zip(leaves, stored, strict=True)
            constants = tuple([leaf if remembered is None else None for leaf, remembered in pairs])
            before: WholeForm | None = self.history.form
            if before is not None and _numbers(before.constants) != _numbers(constants):
                self.engine.warn(
                    f"{type(self.engine.module).__name__} returns a number beside its tensors that changes: "
                    "predictions return it as the last computed call did. Where the loop reads it, choose "
                    "sites inside the model, or disable caching."
                )
            self.history.form = WholeForm(recipe, constants, self.dtypes, changes)


def _numbers(constants: Sequence[Any]) -> list[float | None]:
    return [leaf if isinstance(leaf, int | float) else None for leaf in constants]


def _stored_leaves(
    leaves: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[torch.Tensor | None]:
    """The leaves to remember: tensors, but for those that were handed in and are handed on (keys, values)."""
    tensors = [leaf if isinstance(leaf, torch.Tensor) else None for leaf in leaves]
    if len(leaves) == 1:
        return tensors
    given = {id(leaf) for leaf in flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)}
    return [leaf if i == 0 or id(leaf) not in given else None for i, leaf in enumerate(tensors)]


def _part(taken: torch.Tensor | None, leaf: torch.Tensor | None) -> torch.Tensor | None:
    """The part of an entry that its output continues; None where the output continues none."""
    if taken is None or leaf is None or not continues(leaf.shape, taken.shape):
        return None
    # A view would keep what the output does not continue in memory.
    return taken if taken.shape == leaf.shape else continued(taken, leaf.shape).clone()


def _refuse_other_shape(entry: torch.Tensor | None, first: Any) -> None:
    given, came = _shape_of(entry), _shape_of(first)
    if entry is None or not entry.is_floating_point() or came is None or not continues(came, entry.shape):
        raise DcacheError(
            "codec 'delta' at sites='model' needs an output of the input's channels and tokens, or of a part "
            f"of them; this model maps {given} to {came}: use codec='value'"
        )


def _shape_of(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
