"""`SdpaCalls`: other arguments for calls of torch's attention function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class SdpaCalls(TorchFunctionMode):
    """Inside this mode calls of `scaled_dot_product_attention` get other arguments.

    Args:
        changed: of the call's arguments by name; returns those to use.
    """

    def __init__(self, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__()
        self.changed = changed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See torch."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return func(**self.changed({**dict(zip(_NAMES, args, strict=False)), **(kwargs or {})}))
