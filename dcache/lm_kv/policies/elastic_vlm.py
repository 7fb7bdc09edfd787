"""Elastic Cache for vision-language models."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.text_sums import AnchorsOfThePrompt, PromptSums
from dcache.lm_kv.storage.nearest import MergeInto


@preset
def elastic_vlm(budget: float | None = None, window: float = 24, sinks: int = 0, every: int = 32) -> Policy:
    """Merge a prompt's tokens into the nearest of the most attended ones (Liu et al. 2024, arXiv 2407.18121).

    While tokens are decoded the prompt's stay, and decoded ones go at a fixed distance from the end. It must
    see all weights.

    Args:
        budget: as in `Policy`.
        window: newest tokens kept; 24 as published.
        sinks: first tokens kept beside the score.
        every: decoded tokens between evictions; 1 as published.
    """
    return Policy(
        scorer=AnchorsOfThePrompt(),
        observer=PromptSums(),
        reducer=MergeInto("average", -1.0, by_position=True),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
