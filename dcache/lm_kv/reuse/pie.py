"""PIE: new text is computed, keys behind it are turned, and nothing else is computed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dcache.lm_kv.reuse.method import Reuse, reuse

if TYPE_CHECKING:
    from dcache.lm_kv.reuse.joining import Joining


@dataclass(frozen=True)
class NewText:
    """No token of a chunk."""

    def __call__(self, text: Joining) -> torch.Tensor:
        """Bool `[T]`."""
        return torch.zeros_like(text.reused)


@reuse
def pie() -> Reuse:
    """Reuse: compute new text alone, and turn the keys behind it to their places.

    He et al. 2024 (arXiv 2407.03157), section 3.2: after an edit the keys of all later tokens are turned by
    R(i' - i), from their old place i to the new one i'; values stay. In a text that is joined of chunks it is
    the reuse without any repair.
    """
    return Reuse(rule=NewText())
