"""dLLM-Cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.diffusion_lm.layer_rows import LayerRows
from dcache.diffusion_lm.method import RowPolicy
from dcache.diffusion_lm.registry import preset
from dcache.diffusion_lm.step import Step
from dcache.util.checks import check_number, check_whole


@dataclass(frozen=True)
class DLLMCache(RowPolicy):
    """The answer's rows pass through every layer, which computes some of them; the prompt's at intervals."""

    prompt: int
    response: int
    share: float
    taps = True

    def observer(self, layers: int) -> LayerRows:
        """Which rows each layer computes."""
        return LayerRows(layers, self.share, self.response)

    def probe(self, layers: int) -> LayerRows:
        """Half of the rows in each layer."""
        return LayerRows(layers, 0.5, 2)

    def rows(self, step: Step) -> torch.Tensor:
        """The generation region, and everything when the prompt's interval is over."""
        return step.region | (step.turns % self.prompt == 0)[:, None]


@preset
def dllm_cache(prompt: int = 50, response: int = 8, share: float = 0.25) -> RowPolicy:
    """dLLM-Cache: in each layer the answer's rows whose values changed most (arXiv 2506.06295).

    Args:
        prompt: forwards of a sequence after which its prompt is computed.
        response: forwards of a sequence after which all rows of its answer are computed.
        share: of the answer's rows, computed in each layer of the other forwards; 0 to 1.
    """
    check_whole("prompt", prompt, 1)
    check_whole("response", response, 1)
    check_number("share", share, 0, 1)
    return DLLMCache(prompt, response, share)
