"""Lowering of a sublayer: one module is the region; placeholders for modules that need not run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import MethodType
from typing import Any, final

import torch
from torch import nn

from dcache.cache.codec import Codec
from dcache.engine.anchors import OutputForm
from dcache.engine.call import Call
from dcache.engine.protocols import Engine, Lowered
from dcache.engine.region import Region
from dcache.errors import DcacheError
from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.pytree import first_tensor, flatten, rebuild
from dcache.sites.site import Site


@final
class ModuleRegion(Region):
    """The region of one module.

    Attributes:
        again: regions of the module's further calls in one evaluation (one MLP for both streams).
        served: the call under way, and how many times the module was called in it before.
    """

    def __init__(self, engine: Engine, site: Site, codec: Codec, leader: Lowered | None = None) -> None:
        super().__init__(engine, site, codec, leader)
        self.again: list[ModuleRegion] = []
        self.served: tuple[Call, int] | None = None

    def parts(self) -> Iterator[Region]:
        """This region, and those of the module's further calls."""
        yield self
        yield from self.again

    def release(self) -> None:
        """The run is over: drop its tensors."""
        super().release()
        self.served = None
        for region in self.again:
            region.release()

    def next_of(self, call: Call) -> ModuleRegion:
        """The region for this call: itself on the module's first call in an evaluation, else a follower."""
        times = self.served[1] + 1 if self.served is not None and self.served[0] is call else 0
        self.served = (call, times)
        if times > len(self.again):
            site = replace(self.site, name=f"call {times + 1}")
            self.again.append(ModuleRegion(self.engine, site, self.codec, self))
        return self.again[times - 1] if times else self

    def continues(self, call: Call, place: tuple[Any, ...]) -> bool:
        """Whether what is remembered is of this call of the module; if it is of another, the call says so.

        Raises:
            DcacheError: it is not, and the modules that feed this one did not run.
        """
        form: OutputForm | None = None if self.history is None else self.history.form
        if form is not None and form.place == place and self.has_history:
            return True
        problem = self.other_call()
        if self.site.kind == "fused":
            raise DcacheError(f"{problem}, so it cannot be predicted: use sites='trunk' or sites='model'")
        call.problem = call.problem or problem
        return False


class ModuleCall(ModuleIntercept):
    """One module is the region."""

    name = "site"
    # From here to the block: torch's own frame is in between.
    frames = 2

    def __init__(self, module: nn.Module, region: ModuleRegion) -> None:
        super().__init__(module)
        self.region = region

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Predict or compute."""
        call = self.region.engine.call
        if call is None:
            return self.inner(*args, **kwargs)
        region = self.region.next_of(call)
        # Where the block calls it, and on what but for rows: half of them may run.
        caller = sys._getframe(self.frames)
        given = args[0] if args else next(iter(kwargs.values()), None)
        shape = given.shape[1:] if isinstance(given, torch.Tensor) else None
        place = (id(caller.f_code), caller.f_lasti, shape)
        if region.decide(call) and region.continues(call, place):
            entries = [first_tensor(args, kwargs)] if region.codec.is_delta else ()
            # An observer may disable caching meanwhile.
            history = region.history
            predicted = region.predict(call, entries)
            form: OutputForm = history.form  # type: ignore[union-attr]
            for i, constant in form.constants.items():
                predicted[i] = constant
            return rebuild(predicted, form.recipe)
        if region.predicting:
            # The decision was another call's.
            return self.inner(*args, **kwargs)
        opened = region.open(call, [first_tensor(args, kwargs)]) if region.codec.is_delta else [None]
        output = self.inner(*args, **kwargs)
        leaves, recipe = flatten(output)
        region.keep_form(call, leaves, recipe, place)
        region.remember(call, opened + [None] * (len(leaves) - 1), leaves)
        return output


class MethodCall(ModuleCall):
    """One method of a module is the region (torch's transformer layers); it stands in the method's place.

    A copied or pickled module has its plain method.
    """

    # The layer calls the method itself.
    frames = 1

    def __init__(self, module: nn.Module, method: str, region: ModuleRegion) -> None:
        super().__init__(module, region)
        self.method = method

    def install(self) -> None:
        """Stand in front of the method."""
        self.inner = getattr(self.module, self.method)
        setattr(self.module, self.method, self)

    def remove(self) -> None:
        """Give the module its own method back, unless it was replaced."""
        if not self.displaced:
            delattr(self.module, self.method)

    @property
    def displaced(self) -> bool:
        """Whether the method was replaced since."""
        return vars(self.module).get(self.method) is not self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The copied module's own method."""
        copied = memo.get(id(self.module))
        return self if copied is None else MethodType(getattr(type(self.module), self.method), copied)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the module's own method."""
        return getattr, (self.module, self.method)


class PlaceholderCall(ModuleIntercept):
    """A module whose output is not read when the region is predicted: a placeholder of the true shapes."""

    name = "site"

    def __init__(self, module: nn.Module, region: Region) -> None:
        super().__init__(module)
        self.region = region
        self.shapes: dict[Any, tuple[list[Any], Any]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the placeholder or compute."""
        region = self.region
        call = region.engine.call
        if call is None:
            return self.inner(*args, **kwargs)
        if region.decide(call):
            shapes, recipe = self.shapes[call.branch.signature]
            given = [torch.empty(s[0], dtype=s[1], device=s[2]) if type(s) is tuple else s for s in shapes]
            return rebuild(list(map(_poisoned, given)) if call.checking else given, recipe)
        output = self.inner(*args, **kwargs)
        if call.observing:
            leaves, recipe = flatten(output)
            marks = [(x.shape, x.dtype, x.device) if isinstance(x, torch.Tensor) else x for x in leaves]
            self.shapes[call.branch.signature] = (marks, recipe)
        return output


def _poisoned(leaf: Any) -> Any:
    """NaN in place of what freed memory holds: the very values that a replay must not find there."""
    wide = isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.element_size() > 1
    return leaf.fill_(torch.nan) if wide else leaf
