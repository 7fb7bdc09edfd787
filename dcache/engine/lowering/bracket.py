"""Lowering of a UNet bracket: the sink's input is replaced, the skip stays fresh."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import nn

from dcache.engine.region import Region
from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.pytree import argument_names


@final
class BracketRegion(Region):
    """The region between the source and the sink of a UNet's skip."""

    def parts(self) -> Iterator[Region]:
        """This region alone."""
        yield self


class SkipConcatCall(ModuleIntercept):
    """The module that joins a bracket's inner result with the fresh skip."""

    name = "site"

    def __init__(self, module: nn.Module, region: BracketRegion, channels: int) -> None:
        super().__init__(module)
        self.region = region
        self.channels = channels
        self.name = next(iter(argument_names(module.forward)), "")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Remember the inner part of the input, or replace it by the prediction."""
        region = self.region
        call = region.engine.call
        if call is None:
            return self.inner(*args, **kwargs)
        joined = args[0] if args else kwargs[self.name]
        if region.decide(call):
            inner = region.predict(call, ())[0]
            joined = torch.cat([inner, joined[:, -self.channels :]], dim=1)
            if not args:
                return self.inner(**{**kwargs, self.name: joined})
            return self.inner(joined, *args[1:], **kwargs)
        region.remember(call, [None], [joined[:, : -self.channels]])
        return self.inner(*args, **kwargs)
