"""The whole-model site: the denoiser's output is remembered, nothing inside it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, final

import torch

from dcache.cache.codec import Codec
from dcache.engine.call import Call
from dcache.engine.protocols import Engine
from dcache.engine.region import Region
from dcache.errors import DcacheError
from dcache.intercept.pytree import first_tensor, flatten, rebuild
from dcache.sites.site import Site


@final
class WholeRegion(Region):
    """The region of the model itself.

    Attributes:
        recipe: how to put the output together from its leaves.
        constants: the leaves that are no tensors, None in the place of those that are.
    """

    def __init__(self, engine: Engine, site: Site, codec: Codec) -> None:
        super().__init__(engine, site, codec)
        self.recipe: Any = None
        self.constants: list[Any] = []

    def parts(self) -> Iterator[Region]:
        """This region alone."""
        yield self

    def run(
        self, call: Call, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, float]:
        """Predict or compute the output; returns it and the seconds spent in the model."""
        delta = self.codec.is_delta
        entry = first_tensor(args, kwargs)
        if self.decide(call):
            predicted = self.predict(call, [entry] + [None] * len(self.constants) if delta else ())
            leaves = [c if p is None else p for p, c in zip(predicted, self.constants, strict=True)]
            return rebuild(leaves, self.recipe), 0.0
        opened = self.open(call, [entry]) if delta else [None]
        before = perf_counter()
        output = inner(*args, **kwargs)
        spent = perf_counter() - before
        outputs, self.recipe = flatten(output)
        self.constants = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in outputs]
        first = outputs[0]
        fits = (
            entry is not None and entry.is_floating_point() and entry.shape == getattr(first, "shape", None)
        )
        if delta and not fits:
            came, gave = _shape_of(entry), _shape_of(first)
            raise DcacheError(
                "codec 'delta' at sites='model' needs an output of the input's shape; this model maps "
                f"{came} to {gave}: use codec='value'"
            )
        self.remember(call, opened + [None] * (len(outputs) - 1), outputs)
        return output, spent


def _shape_of(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
