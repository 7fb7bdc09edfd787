"""The whole-model site: the denoiser's output is remembered, nothing inside it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from dcache.engine.region import Region
from dcache.errors import DcacheError
from dcache.intercept.pytree import flatten, rebuild

if TYPE_CHECKING:
    from dcache.engine.call import Call


class WholeRegion(Region):
    """The region of the model itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recipe: Any = None
        self.constants: list[Any] = []

    def run(
        self, call: Call, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, float]:
        """Predict or compute the output; returns it and the seconds spent in the model."""
        delta = self.codec.is_delta
        entry = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)), None)
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
        if delta and (entry is None or entry.shape != outputs[0].shape):
            came = None if entry is None else tuple(entry.shape)
            raise DcacheError(
                "codec 'delta' at sites='model' needs an output of the input's shape; this model maps "
                f"{came} to {tuple(outputs[0].shape)}: use codec='value'"
            )
        self.remember(call, opened + [None] * (len(outputs) - 1), outputs)
        return output, spent
