"""Summary of metrics with a value for each picture: the mean and its interval."""

from __future__ import annotations

import numpy as np

from dcache.eval.bootstrap import interval
from dcache.eval.metrics.base import Sample, Score


def mean(sample: Sample) -> Score:
    """Mean over the items, with the 95 % interval of a bootstrap over prompts."""
    values = sample.rows[:, 0].astype(np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        return Score(why_not=f"{bad} of {len(values)} values are not finite")
    low, high = interval(values, sample.prompts) or (None, None)
    return Score(float(values.mean()), low, high, each=values.tolist())
