"""Row methods that are in force on a model, for callers' own loops and for `generate`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm import limits
from dcache.diffusion_lm.call import RowIntercept
from dcache.diffusion_lm.engine import Engine
from dcache.diffusion_lm.method import RowMethod
from dcache.diffusion_lm.prepare import engine_for
from dcache.diffusion_lm.row_stats import RowStats
from dcache.errors import DcacheError
from dcache.intercept.module_call import intercepts_of


@dataclass
class Enabled:
    """A method on one model; it stays behind, for its figures, when it is taken off.

    Attributes:
        method: which rows.
        mask_id: id of the mask token.
        automatic: the method is the default's.
        stats: figures of the last run.
        on: it was not taken off.
    """

    method: RowMethod
    mask_id: int
    automatic: bool
    stats: RowStats
    on: bool = True


def engine_of(model: nn.Module) -> Engine:
    """The bound model, where a method is enabled on it.

    Raises:
        DcacheError: none is.
    """
    return _intercept_of(model).engine


_enabled: weakref.WeakKeyDictionary[nn.Module, Enabled] = weakref.WeakKeyDictionary()


def enable(
    model: nn.Module,
    method: RowMethod,
    pipe: Any = None,
    automatic: bool = False,
    mask_id: int | None = None,
) -> None:
    """Enable a method on a model, in place of what was enabled before.

    Args:
        model: a masked-diffusion language model.
        method: which rows.
        pipe: the pipeline that calls it, if any.
        automatic: the method is the default's; `frozen` takes its place where attention is block-causal.
        mask_id: id of the mask token where neither the method nor the config has it.

    Raises:
        DcacheError: the model or the method does not fit; nothing was changed then.
    """
    limits.check_model(model)
    if pipe is not None and method.policy.needs:
        raise DcacheError(
            f"{method.name} needs {method.policy.needs}, which {type(pipe).__name__} does not tell: use "
            "dcache.methods.dual() or dkv() there, or dcache.diffusion_lm.generate with the model"
        )
    mask_id = limits.mask_of(model, method.mask_id if mask_id is None else mask_id, pipe)
    before = find(model)
    disable(model)
    intercept = RowIntercept(model, method, mask_id, automatic)
    intercept.install()
    try:
        with torch.no_grad():
            intercept.engine = engine_for(model, intercept.plain, method.policy)
    except BaseException:
        intercept.remove()
        if before is not None:
            _switch_on(model, before)
        raise
    stats = RowStats(method.describe(), intercept.engine.binding.name)
    # The model holds the intercept, and not this registry: it would keep the model alive.
    _enabled[model] = entry = Enabled(method, mask_id, automatic, stats)
    intercept.began = lambda stats: setattr(entry, "stats", stats)
    intercept.recorded = lambda: setattr(entry.stats, "recorded", entry.stats.recorded + 1)


def find(model: Any) -> Enabled | None:
    """The entry of the method that is enabled on a model; None where none is."""
    entry = _enabled.get(model) if isinstance(model, nn.Module) else None
    return entry if entry is not None and entry.on else None


def disable(model: Any) -> None:
    """Take the method off again; without effect where none is on."""
    entry = find(model)
    if entry is not None:
        # None is left where the model was compiled as a whole in the meantime.
        for intercept in intercepts_of(model):
            if isinstance(intercept, RowIntercept):
                intercept.remove()
                intercept.engine.remove()
        _enabled[model] = replace(entry, on=False)


def stats(model: Any) -> RowStats | None:
    """Figures of the last run, also after `disable`; None where no method was ever enabled."""
    entry = _enabled.get(model) if isinstance(model, nn.Module) else None
    return None if entry is None else entry.stats


def restorer(model: Any) -> Callable[[], None]:
    """A function that enables what is enabled now once more, after `disable`, with the figures it had."""
    entry = find(model)
    return (lambda: None) if entry is None else lambda: _switch_on(model, entry)


def _switch_on(model: nn.Module, entry: Enabled) -> None:
    enable(model, entry.method, automatic=entry.automatic, mask_id=entry.mask_id)
    _enabled[model].stats = entry.stats


def _intercept_of(model: nn.Module) -> RowIntercept:
    for intercept in intercepts_of(model):
        if isinstance(intercept, RowIntercept):
            return intercept
    raise DcacheError(f"no row method is enabled on this {type(model).__name__}")
