"""Lowering of a sublayer: one module is the region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcache.engine.region import Region
from dcache.intercept.module_call import Intercept
from dcache.intercept.pytree import first_tensor, flatten, rebuild

if TYPE_CHECKING:
    pass


class ModuleCall(Intercept):
    """One module is the region."""

    def __init__(self, module: nn.Module, region: Region) -> None:
        super().__init__(module)
        self.region = region
        self.recipe: Any = None
        self.constants: dict[int, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Predict or compute."""
        call = self.region.session.call
        if call is None:
            return self.inner(*args, **kwargs)
        region = self.region.next_of(call)
        if region.decide(call):
            entries = [first_tensor(args, kwargs)] if region.codec.is_delta else ()
            predicted = region.predict(call, entries)
            for i, constant in self.constants.items():
                predicted[i] = constant
            return rebuild(predicted, self.recipe)
        opened = region.open(call, [first_tensor(args, kwargs)]) if region.codec.is_delta else [None]
        output = self.inner(*args, **kwargs)
        leaves, self.recipe = flatten(output)
        if call.observing:
            self.constants = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, torch.Tensor)}
        region.remember(call, opened + [None] * (len(leaves) - 1), leaves)
        return output


class HollowCall(Intercept):
    """A module whose output nobody reads when the region is predicted: a placeholder of the true shapes."""

    def __init__(self, module: nn.Module, region: Region) -> None:
        super().__init__(module)
        self.region = region
        self.shapes: dict[Any, tuple[list[Any], Any]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the placeholder or compute."""
        region = self.region
        call = region.session.call
        if call is None:
            return self.inner(*args, **kwargs)
        if region.decide(call):
            shapes, recipe = self.shapes[call.branch.signature]
            return rebuild(
                [torch.empty(s[0], dtype=s[1], device=s[2]) if type(s) is tuple else s for s in shapes],
                recipe,
            )
        output = self.inner(*args, **kwargs)
        if call.observing:
            leaves, recipe = flatten(output)
            marks = [(x.shape, x.dtype, x.device) if isinstance(x, torch.Tensor) else x for x in leaves]
            self.shapes[call.branch.signature] = (marks, recipe)
        return output
