"""The share of a denoiser's weights that a memo can spare, from its config alone: on torch's meta device."""

from __future__ import annotations

import torch
from torch import nn

from dcache.errors import DcacheError
from dcache.time_memo.clock import Clock
from dcache.time_memo.guesses import guesses
from dcache.time_memo.hollow import Hollow
from dcache.time_memo.observe import observe
from dcache.time_memo.report import MemoReport


def share_of(module: nn.Module, text: bool = False) -> MemoReport:
    """What a memo would take of a denoiser; nothing is computed.

    Args:
        module: the denoiser, made under `torch.device("meta")`.
        text: also what depends on the text's embeddings.

    Raises:
        DcacheError: its forward cannot be followed without data, or its arguments cannot be guessed.
    """
    _give_data(module)
    errors = []
    for given in guesses(module):
        try:
            with torch.no_grad(), Hollow():
                seen = observe(module, module, (), given, text, Clock(module).name)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            continue
        return MemoReport.of(module, seen.timed, observed=True)
    # Guesses of other layouts fail on shapes: what most of them failed on is the reason.
    reasons = [error.splitlines()[0] for error in errors] or ["its arguments cannot be guessed"]
    reason = max(reasons, key=reasons.count)
    raise DcacheError(
        f"{type(module).__name__} cannot be followed without data ({reason}). Run it once instead: "
        "dcache.memo(pipe), one call, print(dcache.memo_report(pipe))."
    )


def _give_data(module: nn.Module) -> None:
    """Let parameters of the denoiser itself (positions, tokens for padding) be zeros instead of shapes."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        zeros = torch.zeros(parameter.shape, dtype=parameter.dtype)
        setattr(module, name, nn.Parameter(zeros, requires_grad=False))
