"""The attention implementation of transformers' configs, set while forwards run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any


class AttentionSwitch:
    """Sets an implementation in configs for as long as at least one forward needs it, in any thread.

    Args:
        name: the implementation, as it is registered with transformers.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = RLock()
        # id of a config -> (forwards that run with this implementation, the one that was set before).
        self._previous: dict[int, tuple[int, str]] = {}

    def on(self, configs: Iterable[Any]) -> None:
        """A forward begins."""
        with self._lock:
            for config in configs:
                count, before = self._previous.get(id(config), (0, config._attn_implementation))
                self._previous[id(config)] = (count + 1, before)
                # Not the property: it would also set the configs of other parts, an image encoder's say.
                config._attn_implementation_internal = self.name

    def off(self, configs: Iterable[Any]) -> None:
        """It ended; what was set before the first of those that still run comes back with the last."""
        with self._lock:
            for config in configs:
                count, before = self._previous.pop(id(config))
                if count > 1:
                    self._previous[id(config)] = (count - 1, before)
                else:
                    config._attn_implementation_internal = before

    @contextmanager
    def during(self, configs: Iterable[Any]) -> Iterator[None]:
        """Inside this block a forward runs."""
        configs = list(configs)
        self.on(configs)
        try:
            yield
        finally:
            self.off(configs)

    def before(self, config: Any) -> str:
        """The implementation before; it may be set again already, by another thread whose forward ended."""
        with self._lock:
            entry = self._previous.get(id(config))
            return str(config._attn_implementation if entry is None else entry[1])
