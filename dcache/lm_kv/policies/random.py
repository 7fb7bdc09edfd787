"""Random tokens: the baseline."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Chance
from dcache.util.checks import check_whole


@preset
def random(
    budget: float | None = None, sinks: int = 0, window: float = 0, every: int = 0, seed: int = 0
) -> Policy:
    """Keep random tokens: the baseline that a policy must beat.

    Args:
        budget: as in `Policy`.
        sinks: first tokens kept.
        window: newest tokens kept.
        every: decoded tokens between evictions; 0 evicts after prompts alone.
        seed: another one draws others.
    """
    check_whole("seed", seed, 0)
    return Policy(scorer=Chance(seed), budget=budget, sinks=sinks, window=window, every=every)
