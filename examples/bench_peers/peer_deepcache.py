"""DeepCache: its helper for Stable Diffusion's UNet, at six intervals and six branches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from peer import Peer, storage_bytes

from dcache.errors import DcacheError

LIBRARY = "DeepCache"
INTERVALS = (2, 3, 4, 5, 6, 8)
BRANCHES = (0, 1, 2, 3, 4, 6)


@dataclass(frozen=True)
class DeepCache(Peer):
    """The helper with these parameters.

    Attributes:
        helpers: the one that is switched on, if any.
    """

    helpers: list[Any] = field(default_factory=list, repr=False, compare=False)

    @contextmanager
    def switched_on(self, pipe: Any) -> Iterator[None]:
        """By the helper's `enable` and `disable`."""
        if not hasattr(pipe, "unet"):
            raise DcacheError(f"DeepCache needs a UNet, and {type(pipe).__name__} has none")
        from DeepCache import DeepCacheSDHelper

        helper = DeepCacheSDHelper(pipe=pipe)
        helper.set_params(**self.options)
        helper.enable()
        self.helpers.append(helper)
        try:
            yield
        finally:
            self.helpers.clear()
            helper.disable()

    def bytes_held(self, pipe: Any) -> int:
        """Of the outputs that the helper keeps."""
        return storage_bytes(*(helper.cached_output for helper in self.helpers))


def contestants() -> list[DeepCache]:
    """Thirty-six settings."""
    return [
        DeepCache(
            f"{LIBRARY}: interval {interval} branch {branch}",
            f"DeepCache {interval} branch {branch}",
            library=LIBRARY,
            options={"cache_interval": interval, "cache_branch_id": branch},
        )
        for interval in INTERVALS
        for branch in BRANCHES
    ]
