"""CacheBlend: tokens whose keys deviate most from those of the whole text are computed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.reuse.method import Reuse, reuse
from dcache.util.checks import check_number, check_whole

if TYPE_CHECKING:
    from dcache.lm_kv.reuse.joining import Joining


@dataclass(frozen=True)
class Deviating:
    """The chunks' tokens with the largest deviation of their keys at one layer.

    Attributes:
        ratio: their share.
        check: the layer; those below it are computed for all tokens.
    """

    ratio: float
    check: int

    def __call__(self, text: Joining) -> torch.Tensor:
        """Bool `[T]`."""
        reused = text.reused
        count = int(int(reused.sum()) * self.ratio + 1e-9)
        if count in (0, int(reused.sum())):
            return reused if count else torch.zeros_like(reused)
        if len(text.layers) == 1:
            # Its keys and values depend on their own tokens alone: none deviates.
            return torch.zeros_like(reused)
        if self.check not in text.layers[1:]:
            raise DcacheError(
                f"check must be a layer from 1 to {len(text.layers) - 1}, got {self.check}: keys of layer 0 "
                "do not depend on other tokens, so none deviates there"
            )
        everything = torch.arange(len(reused), device=reused.device)
        before = text.states.keys[self.check].clone()
        computed = text.compute(everything, until=self.check)
        if computed is None:
            raise RuntimeError(f"the forward did not reach layer {self.check}")
        deviation = (computed[0].float() - before.float()).square().sum((0, 1, 3))
        # In ascending order of position where deviations are equal.
        order = deviation.masked_fill(~reused, -1.0).argsort(descending=True, stable=True)
        return torch.zeros_like(reused).index_fill(0, order[:count], True)


@reuse
def cacheblend(ratio: float = 0.15, check: int = 1) -> Reuse:
    """Reuse: compute the tokens again whose keys deviate most from those of the whole text.

    Yao et al. 2024 (arXiv 2405.16444), section 4.3, with the one check layer of LMCache: all tokens run
    through the layers below `check`; there deviation_i = sum over heads and channels of (K_new - K_old)^2,
    and the `ratio` of tokens with the largest run through all layers.

    Args:
        ratio: share of the chunks' tokens that are computed again, 0 to 1; 1 is the whole prefill.
        check: layer at which keys are compared, at least 1.

    Raises:
        DcacheError: an option is outside its range.
    """
    check_number("ratio", ratio, 0.0, 1.0)
    check_whole("check", check, 1)
    return Reuse(rule=Deviating(ratio, check))
