"""The guider tap: diffusers' guiders know which condition each denoiser call is for.

A guider of a modular pipeline makes one batch of inputs per condition, each with an identifier
("pred_cond", "pred_uncond", "pred_cond_skip", ...), and says before and after each denoiser call that it is
the next batch's turn. Which of them there are may change from one evaluation to the next, so ordinals do not
tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dcache.intercept.method import MethodIntercept

_INPUTS = ("prepare_inputs", "prepare_inputs_from_block_state")
_BEFORE = "prepare_models"
_AFTER = "cleanup_models"


Notice = Callable[[nn.Module, str | None], None]


class GuiderIntercept:
    """Names the branches of the denoisers that one guider guides.

    Args:
        guider: the guider.
        notice: called with each denoiser and the condition that its next calls are for, None behind them.

    Attributes:
        names: identifiers of the batches of the evaluation under way.
        turn: how many of them were begun.
    """

    def __init__(self, guider: Any, notice: Notice) -> None:
        self.guider = guider
        self.notice = notice
        self.names: list[str] = []
        self.turn = 0
        around = {**dict.fromkeys(_INPUTS, self._prepared), _BEFORE: self._begin, _AFTER: self._end}
        present = {name: f for name, f in around.items() if callable(getattr(guider, name, None))}
        self.taps = [MethodIntercept(guider, name, f) for name, f in present.items()]
        for method_tap in self.taps:
            method_tap.install()

    def remove(self) -> None:
        """Give the guider its own methods back."""
        for method_tap in self.taps:
            method_tap.remove()

    def _prepared(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        batches = original(*args, **kwargs)
        key = getattr(owner, "_identifier_key", "")
        self.names = [str(getattr(batch, key, i)) for i, batch in enumerate(batches)]
        self.turn = 0
        return batches

    def _begin(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        self._tell(args, kwargs, self.names[self.turn] if self.turn < len(self.names) else None)
        self.turn += 1
        return original(*args, **kwargs)

    def _end(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        self._tell(args, kwargs, None)
        return original(*args, **kwargs)

    def _tell(self, args: Any, kwargs: Any, name: str | None) -> None:
        for denoiser in (*args, *kwargs.values()):
            if isinstance(denoiser, nn.Module):
                self.notice(denoiser, name)


def guider_intercepts(pipe: Any, before: list[GuiderIntercept], notice: Notice) -> list[GuiderIntercept]:
    """Taps of a pipeline's guiders, as they are now; those of guiders it had before are taken off."""
    components = getattr(pipe, "components", None)
    parts = components.values() if isinstance(components, dict) else ()
    guiders = [part for part in parts if _is_guider(part)]
    current = [intercept for intercept in before if any(intercept.guider is guider for guider in guiders)]
    for intercept in before:
        if intercept not in current:
            intercept.remove()
    return current + [
        GuiderIntercept(g, notice) for g in guiders if all(intercept.guider is not g for intercept in current)
    ]


def _is_guider(thing: Any) -> bool:
    return all(callable(getattr(thing, name, None)) for name in (_INPUTS[0], _BEFORE, _AFTER))


def guidance_of(pipe: Any) -> float | None:
    """The guidance scale of a pipeline's last call, where it is kept as most of diffusers' do; else None."""
    scale = getattr(pipe, "_guidance_scale", None)
    return float(scale) if isinstance(scale, int | float) else None
