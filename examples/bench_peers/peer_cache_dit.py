"""cache-dit: DBCache at several depths and thresholds, with and without TaylorSeer, and static step masks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peer import Peer, guided, storage_bytes

from dcache.eval.subject import Subject

LIBRARY = "cache-dit"
# Read when it is imported, which happens below.
os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")
# (front, back, warm-up, threshold, most cached in a row); -1 is no limit, the first is the library's default.
SETTINGS = [
    (8, 0, 8, 0.08, -1),
    *((1, 0, 4, threshold, -1) for threshold in (0.08, 0.12, 0.16, 0.24, 0.32)),
    *((1, 0, 2, 0.4, run) for run in (2, 3)),
    *((4, 0, 4, threshold, -1) for threshold in (0.12, 0.2, 0.32)),
]
# Its named masks that keep their form when cut to 20 steps; "fast" and "ultra" lose their later computes.
NAMED_MASKS = ("slow", "medium")
INTERVALS = (2, 3, 4, 5, 7)
WARMUP = 3


class CacheDit(Peer):
    """DBCache with these options of `DBCacheConfig`; `order` adds the TaylorSeer calibrator."""

    @contextmanager
    def switched_on(self, pipe: Any) -> Iterator[None]:
        """`enable_cache` with a fresh configuration: the library writes into the one it gets."""
        import cache_dit

        options = dict(self.options)
        order = options.pop("order")
        calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order) if order else None
        config = cache_dit.DBCacheConfig(**options)
        try:
            cache_dit.enable_cache(pipe, cache_config=config, calibrator_config=calibrator)
            yield
        finally:
            cache_dit.disable_cache(pipe)

    def bytes_held(self, pipe: Any) -> int:
        """Of the contexts that its manager keeps."""
        return storage_bytes(pipe._context_manager)


def contestants(subject: Subject) -> list[CacheDit]:
    """Eighteen settings, each with and without TaylorSeer."""
    # Told that there is no second branch; else it counts every other step as one (1.5.3).
    alone = {} if guided(subject) else {"enable_separate_cfg": False}
    dynamic = {
        f"F{front}B{back} W{warmup} R{threshold:g}" + (f" MC{run}" if run > 0 else ""): {
            "Fn_compute_blocks": front,
            "Bn_compute_blocks": back,
            "max_warmup_steps": warmup,
            "residual_diff_threshold": threshold,
            "max_continuous_cached_steps": run,
        }
        for front, back, warmup, threshold, run in SETTINGS
    }
    static = {
        f"F1 mask {name}": {
            "Fn_compute_blocks": 1,
            "steps_computation_mask": mask,
            "steps_computation_policy": "static",
        }
        for name, mask in masks(subject.steps or 0).items()
    }
    return [
        CacheDit(
            f"{LIBRARY}: {name}{taylor}",
            f"DBCache {name}{taylor}",
            library=LIBRARY,
            options=options | alone | {"order": order},
        )
        for order, taylor in enumerate(("", " taylor"))
        for name, options in (dynamic | static).items()
    ]


def masks(steps: int) -> dict[str, list[int]]:
    """Two of its named masks, and regular ones: three computes, then every n-th step, and the last."""
    from cache_dit import steps_mask

    named = {policy: steps_mask(mask_policy=policy, total_steps=steps) for policy in NAMED_MASKS}
    regular = {
        f"every {n}": [int(i < WARMUP or (i - WARMUP + 1) % n == 0 or i == steps - 1) for i in range(steps)]
        for n in INTERVALS
    }
    return named | regular
