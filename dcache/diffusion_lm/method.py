"""`RowMethod`: which rows are computed, as a value; `RowPolicy`: what a policy defines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch

from dcache.diffusion_lm.passes import Observer
from dcache.diffusion_lm.step import Step
from dcache.errors import DcacheError
from dcache.util.checks import check_whole


class RowPolicy:
    """Which rows of a step are computed. Subclasses define `rows`, and `refresh` where all are at times.

    Attributes:
        window: masked positions at the left that the decoder is restricted to; None for no window.
        needs: the part of a decode order that it reads, so that it does not run in a caller's own loop; ""
            for none.
        upcoming: it reads the positions to be decoded before the forward.
        block: tokens of a block in a caller's own loop; None where the loop tells.
        taps: its observer is shown each layer.
    """

    window: int | None = None
    needs: str = ""
    upcoming: bool = False
    block: int | None = None
    taps: bool = False

    def observer(self, layers: int) -> Observer | None:
        """An observer of the forwards of one batch; None for most policies, which measure nothing.

        Args:
            layers: how many the model has; 0 for policies without `taps`.
        """
        return None

    def probe(self, layers: int) -> Observer | None:
        """An observer for the self-check, which changes forwards wherever `observer`'s may."""
        return self.observer(layers)

    def refresh(self, step: Step) -> str | None:
        """The reason to compute all rows at this step, or None. The first step computes all anyway."""
        return None

    def rows(self, step: Step) -> torch.Tensor:
        """Rows bool `[B, T]` to compute; the engine adds those of the delay, and leaves pads out."""
        raise NotImplementedError


@dataclass(frozen=True)
class RowMethod:
    """A policy with its name and the engine's options.

    Attributes:
        name: the preset's name.
        policy: which rows.
        delay: 1: a position is computed once more after it was decoded, with its token; 0: it is not.
        mask_id: id of the mask token; None for that of the model's config.
        shift: whether row i predicts token i + 1, as in Dream; None reads it from the config.
        parameters: what the preset was called with.

    Raises:
        DcacheError: an option is out of range.
    """

    name: str = "rows"
    _: KW_ONLY
    policy: RowPolicy
    delay: int = 1
    mask_id: int | None = None
    shift: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Check the engine's options, and those of the policy that the engine reads."""
        if not isinstance(self.policy, RowPolicy):
            raise DcacheError(
                f"{self.name} must be made of a RowPolicy, got {self.policy!r}: return an instance of a "
                "subclass that defines rows"
            )
        if self.shift is not None and not isinstance(self.shift, bool):
            raise DcacheError(f"shift must be True, False or None, got {self.shift!r}")
        if self.delay not in (0, 1) or isinstance(self.delay, bool):
            raise DcacheError(f"delay must be 0 or 1, got {self.delay!r}")
        if self.mask_id is not None:
            check_whole("mask_id", self.mask_id, 0)
        for name in ("block", "window"):
            value = getattr(self.policy, name)
            if value is not None:
                check_whole(name, value, 1)

    def describe(self) -> str:
        """The preset's call as text."""
        options = {**self.parameters, **({"delay": self.delay} if self.delay != 1 else {})}
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
