"""`engine_for`: bind a model for a policy, and check that rows chosen between its layers are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm.bind.choose import WIDTH, bind, close, probe_ids
from dcache.diffusion_lm.engine import Engine, RowLogits, Stream
from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.step import Plan, Step
from dcache.diffusion_lm.taps import LayerTaps
from dcache.errors import DcacheError


def engine_for(model: nn.Module, call: Callable[..., Any], policy: RowPolicy) -> Engine:
    """The bound model, with taps on its layers where the policy needs them.

    Args:
        model: a language model.
        call: its call behind dcache's intercept.
        policy: the policy.

    Raises:
        DcacheError: the model does not fit; nothing stays on it then.
    """
    engine = Engine(model, call, bind(model, call))
    if not policy.taps:
        return engine
    try:
        engine.taps = LayerTaps(model)
        _check(engine, policy)
    except BaseException:
        engine.remove()
        raise
    return engine


def _check(engine: Engine, policy: RowPolicy) -> None:
    """Compute all rows, and then some of an unchanged sequence, which have to be as before.

    Raises:
        DcacheError: they are not, or the model fails.
    """
    ids = probe_ids(engine.model)
    half = torch.arange(WIDTH, device=ids.device).expand(ids.shape) >= WIDTH // 2
    layers = 0 if engine.taps is None else engine.taps.count
    stream = Stream(engine, torch.arange(WIDTH, device=ids.device).expand(ids.shape), policy.probe(layers))

    def compute(turn: int) -> RowLogits:
        turns = torch.full_like(ids[:, 0], turn)
        step = Step(turn, turn, ids, half, half & False, half, WIDTH // 2, WIDTH, WIDTH // 2, turns)
        every = torch.ones_like(half)
        rows = every
        if stream.observer is not None:
            step = replace(step, **dict[str, Any](stream.observer.notes(ids)))
            rows = every if turn == 0 else policy.rows(step)
            stream.observer.begin(Plan(step, rows, rows & (turn == 0), every, every[:, 0]))
        return stream.forward(ids, rows, {})

    # Any error means that the model does not fit: its code is unknown.
    try:
        plain = compute(0).logits
        some = compute(1)
        named = some.selection.named
        exact = close(some.logits[named], some.selection.take(plain)[named])
        reason = "" if exact else "rows chosen between layers differ from the same rows of a whole pass"
    except Exception as error:
        reason = f"{type(error).__name__} {str(error)[:80]}"
    if reason:
        raise DcacheError(
            f"{type(engine.model).__name__} cannot choose rows between its layers ({reason}). Its layers "
            "would have to take hidden states first, and tensors by rows; use dcache.methods.dual() or dkv()."
        )
