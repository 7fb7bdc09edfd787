"""Row methods that are in force on a model, for callers' own loops and for `generate`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm import limits
from dcache.diffusion_lm.bind.choose import bind
from dcache.diffusion_lm.call import RowIntercept
from dcache.diffusion_lm.engine import Engine
from dcache.diffusion_lm.method import RowMethod
from dcache.diffusion_lm.row_stats import RowStats
from dcache.errors import DcacheError


@dataclass
class Enabled:
    """A method on one model; it stays behind, for its figures, when it is taken off.

    Attributes:
        method: which rows.
        intercept: the model's call and its runs; None when it is taken off.
        stats: figures of the last run.
    """

    method: RowMethod
    intercept: RowIntercept | None
    stats: RowStats = field(default_factory=RowStats)

    @property
    def engine(self) -> Engine:
        """The bound model.

        Raises:
            DcacheError: it was taken off.
        """
        if self.intercept is None:
            raise DcacheError("this method was disabled")
        return self.intercept.engine


_enabled: weakref.WeakKeyDictionary[nn.Module, Enabled] = weakref.WeakKeyDictionary()


def enable(model: nn.Module, method: RowMethod, pipe: Any = None, automatic: bool = False) -> None:
    """Enable a method on a model, in place of what was enabled before.

    Args:
        model: a masked-diffusion language model.
        method: which rows.
        pipe: the pipeline that calls it, if any.
        automatic: the method is the default's; `frozen` takes its place where attention is block-causal.

    Raises:
        DcacheError: the model or the method does not fit; nothing was changed then.
    """
    limits.check_model(model)
    if pipe is not None and method.policy.needs:
        raise DcacheError(
            f"{method.name} needs {method.policy.needs}, which {type(pipe).__name__} does not tell: use "
            "dcache.methods.dual() or dkv() there, or dcache.diffusion_lm.generate with the model"
        )
    mask_id = limits.mask_of(model, method.mask_id, pipe)
    before = find(model)
    disable(model)
    intercept = RowIntercept(model, method, mask_id, automatic)
    intercept.install()
    try:
        with torch.no_grad():
            intercept.engine = Engine(model, intercept.plain, bind(model, intercept.plain))
    except BaseException:
        intercept.remove()
        if before is not None and before.intercept is not None:
            _switch_on(model, before)
        raise
    _enabled[model] = entry = Enabled(method, intercept)
    entry.stats = intercept.stats = RowStats(method.describe(), intercept.engine.binding.name)
    intercept.began = lambda stats: setattr(entry, "stats", stats)


def find(model: Any) -> Enabled | None:
    """What is enabled on a model now."""
    entry = _enabled.get(model) if isinstance(model, nn.Module) else None
    return entry if entry is not None and entry.intercept is not None else None


def disable(model: Any) -> None:
    """Take the method off again; without effect where none is on."""
    entry = find(model)
    if entry is not None and entry.intercept is not None:
        entry.intercept.remove()
        entry.intercept.engine.binding.remove()
        _enabled[model] = Enabled(entry.method, None, entry.stats)


def stats(model: Any) -> RowStats | None:
    """Figures of the last run, also after `disable`; None where no method was ever enabled."""
    entry = _enabled.get(model) if isinstance(model, nn.Module) else None
    return None if entry is None else entry.stats


def restorer(model: Any) -> Callable[[], None]:
    """A function that enables what is enabled now once more, after `disable`, with the figures it had."""
    entry = find(model)
    return (lambda: None) if entry is None else lambda: _switch_on(model, entry)


def _switch_on(model: nn.Module, entry: Enabled) -> None:
    before = entry.intercept
    if before is None:
        return
    enable(model, entry.method, automatic=before.automatic)
    _enabled[model].stats = entry.stats
