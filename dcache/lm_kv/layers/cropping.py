"""Taking the newest columns of all layers back, or of none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dcache.lm_kv.layers.layer import LayerCache


def crop_layers(layers: Sequence[LayerCache], others: Sequence[Any], tokens_to_remove: int) -> None:
    """Take the newest columns back; where a layer refuses, nothing was changed.

    Args:
        layers: a cache's layers with full attention.
        others: those that are the library's.
        tokens_to_remove: minus the number of columns, or 0.

    Raises:
        DcacheError: it is positive, or some of these columns are compressed already.
        RuntimeError: a layer of the library's cannot take them back.
    """
    for layer in layers:
        layer.check_crop(tokens_to_remove)
    # The library's layers replace what they hold and do not write to it.
    before = [{name: _copied(value) for name, value in vars(layer).items()} for layer in others]
    try:
        for layer in others:
            layer.crop(tokens_to_remove)
    except Exception:
        for layer, state in zip(others, before, strict=True):
            vars(layer).update(state)
        raise
    for layer in layers:
        layer.crop(tokens_to_remove)


def _copied(value: Any) -> Any:
    """A dictionary's copy; states of convolutions are in one."""
    return dict(value) if isinstance(value, dict) else value
