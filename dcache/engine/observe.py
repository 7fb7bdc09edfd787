"""Observers: callbacks for the calls and sites of one denoiser, for measurements and planning.

```python
with observe(pipe.transformer, observer):
    pipe(prompt)
```

Without observers a run only checks an empty list.
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
    """The outputs of a site in one computed call.

    Attributes:
        values: the site's outputs that later modules read; they must not be changed. In the first call of a
            signature all outputs count as read.
        changes: under the codec `delta`, the same minus the inputs that they continue; an output that
            continues no input is unchanged. None under `value`.
        places: place of each of `values` among all outputs of the site.
    """

    values: Sequence[torch.Tensor]
    changes: Sequence[torch.Tensor] | None
    places: tuple[int, ...]


class Observer:
    """Base of observers of one denoiser; every method may be overridden.

    Attributes:
        sees_outputs: whether `on_compute` is called.
        stores: False lets the engine store no anchors, except for its self-check; only for runs that compute
            everything.
    """

    sees_outputs = True
    stores = True

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        """Wraps the denoiser's call with all of dcache's work; must return the result of `denoise`."""
        return denoise()

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Called when a call of the denoiser begins, with its arguments."""

    def on_output(self, call: Call, output: Any) -> None:
        """Called with the denoiser's output."""

    def on_enter(self, site: str, call: Call) -> None:
        """Called when a site is reached, before the decision to predict it."""

    def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
        """Called when a site was computed, before its output is stored.

        For a module that runs several times in an evaluation it is called each time.
        """

    def on_leave(self, site: str, call: Call, computed: bool) -> None:
        """Called when a site was computed and its output stored, or when it was predicted."""


def is_observable(module: nn.Module) -> bool:
    """True if caching is enabled on a module, so that it can be observed."""
    return denoiser_of(module) is not None


@contextmanager
def observe(module: nn.Module, observer: Observer) -> Iterator[None]:
    """Attach an observer to a denoiser on which caching is enabled, for the duration of the with-block.

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
    """Detach all observers for the duration of the with-block.

    Args:
        observers: the session's list, which is emptied and restored.
    """
    detached = observers[:]
    observers.clear()
    try:
        yield
    finally:
        observers[:] = detached
