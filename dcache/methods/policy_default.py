"""The default for diffusion policies: `dcache.enable(policy)` without a method."""

from __future__ import annotations

from dcache.method import Method
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.schedulers import Every, KnownLength, any_of, guarded


@preset("ours; docs/policy-tasks.md", sites="trunk, bracket or model")
def policy_default(interval: int = 4) -> Method:
    """For policies: compute every `interval`-th evaluation and the last, reuse the trunk in between.

    Chosen by measurements on two trained policies (docs/policy-tasks.md). The last evaluation decides about a
    chunk: where a loop does not say how long it is, its first chunk is computed in full.

    Args:
        interval: compute when `interval - 1` predictions have passed since the last compute; at least 1.
    """
    rule = any_of(KnownLength(), guarded(Every(interval), warmup=1, last=True))
    return Method(rule=rule, predictor=Reuse(), sites=("auto",))
