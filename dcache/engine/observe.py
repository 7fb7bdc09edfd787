"""Observation of one denoiser: what its sites give, and when, for those who measure and plan.

```python
with observe(pipe.transformer, observer):
    pipe(prompt)
```

A run without observers pays for the look at an empty list alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcache.engine.attachment import denoiser_of
from dcache.engine.call import Call
from dcache.errors import DcacheError


@dataclass(frozen=True, slots=True)
class SiteOutput:
    """What a site gave in one computed call.

    Attributes:
        values: its outputs that are read behind it; not to be changed.
        changes: the same minus the inputs that they continue, where the site's codec is `delta`; an output
            that continues none is itself. None under `value`.
        places: the place of each of `values` among all outputs of the site. In the first call of a signature
            all outputs count as read.
    """

    values: Sequence[torch.Tensor]
    changes: Sequence[torch.Tensor] | None
    places: tuple[int, ...]


class Observer:
    """Watches one denoiser; every method may be left as it is.

    Attributes:
        sees_outputs: whether `on_compute` is to be called.
        stores: False where the engine need not remember anything meanwhile, but what it checks itself with:
            in a run in which everything is computed.
    """

    sees_outputs = True
    stores = True

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        """Called in place of the denoiser's call, dcache's own work included; returns what `denoise` does."""
        return denoise()

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call of the denoiser begins, with these arguments."""

    def on_output(self, call: Call, output: Any) -> None:
        """The denoiser returned this."""

    def on_enter(self, site: str, call: Call) -> None:
        """A site is reached, before it is decided whether it is predicted."""

    def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
        """A site was computed, and its output is about to be stored.

        A module that is called several times in an evaluation is seen each time.
        """

    def on_leave(self, site: str, call: Call, computed: bool) -> None:
        """A site was computed, its output stored; or it was predicted."""


def is_observable(module: nn.Module) -> bool:
    """Whether caching is enabled on a module, so that it can be observed."""
    return denoiser_of(module) is not None


@contextmanager
def observe(module: nn.Module, observer: Observer) -> Iterator[None]:
    """Let an observer watch a denoiser that caching is enabled on, for as long as the block lasts.

    Raises:
        DcacheError: caching is not enabled on the module.
    """
    denoiser = denoiser_of(module)
    if denoiser is None:
        raise DcacheError(
            f"caching is not enabled on this {type(module).__name__}, so its sites cannot be observed: "
            "enable a method first"
        )
    observers = denoiser.observers
    observers.append(observer)
    try:
        yield
    finally:
        observers.remove(observer)


@contextmanager
def unobserved(observers: list[Observer]) -> Iterator[None]:
    """Inside this block observers see nothing.

    Args:
        observers: a session's own list.
    """
    asked = observers[:]
    observers.clear()
    try:
        yield
    finally:
        observers[:] = asked
