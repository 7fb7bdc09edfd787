"""Where the picture's tokens lie in joint attention: in front of the text's, or behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dcache.intercept.pytree import first_tensor
from dcache.sites.sublayers import values


class PictureTokens:
    """Learns it from an attention that projects picture and text apart and joins them (FLUX's double blocks).

    Attributes:
        first: whether the picture's tokens come first; None until that is known.
    """

    def __init__(self) -> None:
        self.first: bool | None = None
        self._stream: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def hooks(self, attention: nn.Module) -> list[Any]:
        """Hooks on an attention and its value projections; the caller removes them."""
        own = [getattr(attention, name) for name in values(attention)]
        return [
            attention.register_forward_pre_hook(self._enter, with_kwargs=True),
            *(projection.register_forward_hook(self._project) for projection in own),
        ]

    def see(self, value: torch.Tensor) -> None:
        """Take the values that an attention joined.

        Args:
            value: (B, heads, M, C), as for scaled_dot_product_attention.
        """
        own, self._values = self._values, None
        joined = value.transpose(1, 2).flatten(2)
        if self.first is not None or own is None or own.shape[1] >= joined.shape[1]:
            return
        count = own.shape[1]
        ends = [
            own.shape == end.shape and torch.equal(end, own)
            for end in (joined[:, :count], joined[:, -count:])
        ]
        if ends[0] != ends[1]:
            self.first = ends[0]

    def of_picture(self, masses: torch.Tensor, count: int) -> torch.Tensor:
        """The picture's part of (B, M) masses: its `count` tokens, or all where its place is not known."""
        if self.first is None or masses.shape[1] <= count:
            return masses
        return masses[:, :count] if self.first else masses[:, -count:]

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._stream, self._values = first_tensor(args, kwargs), None

    def _project(self, _: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if args and args[0] is self._stream:
            self._values = output
