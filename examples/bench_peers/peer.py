"""What the adapters of other libraries share: surely off again, and the bytes that a cache holds."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from dcache.eval.entries import BenchEntry
from dcache.eval.subject import Subject
from dcache.identity.denoisers import denoisers


@dataclass(frozen=True)
class Peer(BenchEntry):
    """One setting of another library's method. Subclasses say how it is switched on.

    Attributes:
        options: what the setting consists of, in the library's own words.
    """

    options: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the library's version and the options."""
        text = f"{self.library} {version(self.library)} {type(self).__name__} {self.spec} {self.options!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """As the library does it; behind the block the pipeline is what it was, whatever was left."""
        with restored(pipe), self.switched_on(pipe):
            yield

    @contextmanager
    def switched_on(self, pipe: Any) -> Iterator[None]:
        """Switch on and off by the library's own functions."""
        raise NotImplementedError
        yield


def guided(subject: Subject) -> bool:
    """Whether the runs have a second branch, without the prompt."""
    return (subject.guidance or 1.0) > 1


def denoiser(pipe: Any) -> nn.Module:
    """The pipeline's only denoiser."""
    (module,) = denoisers(pipe).values()
    return module


@contextmanager
def restored(pipe: Any) -> Iterator[None]:
    """Restore all attributes of the pipeline, of its class and of its denoiser's modules after the block.

    Peers have functions to disable themselves. These may leave something behind (a `forward` of the instance,
    an empty registry, another order of the submodules) or fail after an error; it is removed here, so that no
    peer affects the next one.
    """
    places = [vars(pipe)]
    for module in denoiser(pipe).modules():
        parts = vars(module).values()
        places += [vars(module), *(part for part in parts if type(part) in (dict, OrderedDict))]
    before = [dict(place) for place in places]
    kind, of_class = type(pipe), dict(vars(type(pipe)))
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.clear()
            place.update(was)
        for name in [*vars(kind)]:
            if name not in of_class:
                delattr(kind, name)
            elif vars(kind)[name] is not of_class[name]:
                setattr(kind, name, of_class[name])


def storage_bytes(*roots: Any) -> int:
    """Bytes of the distinct storages of all tensors that can be reached without passing through a module."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    waiting = list(roots)
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, nn.Module | type):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple | set):
            waiting += item
        elif hasattr(item, "__dict__") and not callable(item):
            waiting += vars(item).values()
    return sum(storages.values())
