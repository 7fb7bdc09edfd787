"""Layer roles by probing (FreeFlux): how much the pictures change when one block attends without positions.

A block whose pictures change little reads content: keys and values of another call may be put there without
moving anything. One whose pictures change much reads positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dcache.errors import DcacheError
from dcache.identity.denoisers import denoiser_named
from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.pytree import argument_names
from dcache.sites.discovery import discover
from dcache.sites.kv import kv_sites


def rope_errors(
    pipe: Any, render: Callable[[], torch.Tensor], sites: str = "kv", component: str | None = None
) -> dict[int, float]:
    """For each block the mean squared change of the pictures without its rotary positions.

    Args:
        pipe: a pipeline, or a denoiser.
        render: makes the same pictures in each call.
        sites: blocks, as in `dcache.sites.kv`; each takes a run.
        component: name of the denoiser, where the pipeline has several.

    Raises:
        DcacheError: a block's attention is given no rotary positions, or `component` names no denoiser.
    """
    _, module = denoiser_named(pipe, component)
    before, errors = render(), {}
    for site in kv_sites(discover(module), sites):
        intercept = _WithoutPositions(site.attention)
        intercept.install()
        try:
            after = render()
        finally:
            intercept.remove()
        if not intercept.removed:
            attention = f"{type(site.attention).__name__} of block {site.depth}"
            raise DcacheError(
                f"roles are probed by leaving rotary positions out, and {attention} of "
                f"{type(module).__name__} is given none"
            )
        errors[site.depth] = float((after.float() - before.float()).square().mean())
    return errors


class _WithoutPositions(ModuleIntercept):
    """In front of a self-attention: its rotary positions turn nothing.

    Attributes:
        removed: whether it was given any.
    """

    name = "positions"

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.removed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the attention's call."""
        names = argument_names(self.module.forward)
        named = {name: i for i, name in enumerate(names[: len(args)])}
        given = list(args)
        for name in (name for name in (*named, *kwargs) if "rotary" in name):
            if name in kwargs:
                kwargs[name] = self._identity(kwargs[name])
            else:
                given[named[name]] = self._identity(given[named[name]])
        return self.inner(*given, **kwargs)

    def _identity(self, positions: Any) -> Any:
        """Positions that turn nothing: cosines of one and sines of zero, or complex ones."""
        if isinstance(positions, torch.Tensor) and positions.is_complex():
            self.removed = True
            return torch.ones_like(positions)
        if isinstance(positions, tuple | list) and len(positions) == 2:
            self.removed = True
            cosines, sines = positions
            return torch.ones_like(cosines), torch.zeros_like(sines)
        return positions
