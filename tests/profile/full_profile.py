"""A profile with everything in it, and all of it comparable."""

from typing import Any

import numpy as np

from dcache.profile import FeatureTables, Latencies, Profile

STEPS = 4


def tables(seed: int, steps: int = STEPS) -> tuple[FeatureTables, np.ndarray]:
    """Tables of random features, by their definition, and the features."""
    z = np.random.default_rng(seed).normal(size=(steps, 30))
    distance = np.array([[np.abs(a - b).mean() for b in z] for a in z])
    return FeatureTables(z @ z.T / 30, distance, np.abs(z).mean(axis=1)), z


def profile(**more: Any) -> Profile:
    """One with everything in it."""
    sites = {
        "trunk": {q: {"value": tables(i)[0], "delta": tables(i + 5)[0]} for i, q in enumerate(("0", "1"))},
        "attn:0": {"0": {"value": tables(20)[0]}},
        "mlp.context:3": {"0": {"value": tables(21)[0]}},
    }
    known = {
        "latencies": Latencies(
            1.5, {"trunk": 0.25}, {"trunk": 0.01}, {"trunk": 1e9}, {"trunk": 0.02}, 2, 0.03
        ),
        "prompts": 3,
        "sketch": 0.1,
        "ratios": np.array([1.0, 0.9, 0.8, 0.7]),
        "input_output_changes": np.array([[0.1, 0.2], [0.3, 0.4]]),
        "importance": np.array([[np.nan, 0.1, 0.2, 0.3]]),
        "important": ("trunk",),
        "segments": np.array([[0.1, 0.2], [0.3, 0.4], [0.5, np.nan], [np.nan, np.nan]]),
        "attention": {"block:0": 0.5},
        "model": "Toy",
        "config": "abc",
        "component": "transformer",
        "sampler": "Euler",
        "resolution": (64, 32),
        "guidance": 3.0,
        "sigmas": (1.0, 0.7, 0.4, 0.2, 0.0),
        "made": {"by": "hand", "machine": {"cores": 2}},
    }
    return Profile(STEPS, sites, **(known | more))


def flat(one: Profile) -> dict[str, Any]:
    """Everything in it, comparable."""
    found = {
        k: v
        for k, v in vars(one).items()
        if k not in ("sites", "ratios", "input_output_changes", "importance", "segments")
    }
    arrays = {
        f"{s}/{q}/{f}": vars(t) for s, qs in one.sites.items() for q, fs in qs.items() for f, t in fs.items()
    }
    found |= {f"{k}.{n}": a.tolist() for k, t in arrays.items() for n, a in t.items()}
    loose = {
        "ratios": one.ratios,
        "input_output_changes": one.input_output_changes,
        "importance": one.importance,
        "segments": one.segments,
    }
    return found | {k: None if v is None else np.nan_to_num(v, nan=-1).tolist() for k, v in loose.items()}
