"""The uncached model, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dcache.diffusion_lm.bind.base import Binding
from dcache.diffusion_lm.passes import Pass


class PlainBinding(Binding):
    """Calls the model as it is; all rows, nothing stored."""

    name = "none"

    def run(self, forward: Pass, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """See `Binding.run`."""
        more = {"use_cache": False} if "use_cache" in self.takes else {}
        return call(**self.fitting(arguments), **more)
