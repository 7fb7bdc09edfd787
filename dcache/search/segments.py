"""Segments: the error of the final pictures where evaluations in a row alone are predicted (LeMiCa's edges).

Each segment takes a run: all evaluations up to its first are computed, the next ones reuse that, all others
are computed. So the error is that of the whole run from there on, and not of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.progress import StageProgress
from dcache.eval.subject import Subject
from dcache.profile import Floats, Profile
from dcache.search.check import refuse_other
from dcache.search.importance import BROKEN, reused
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results
from dcache.util.checks import check_whole

# Most predicted evaluations of a segment.
LONGEST = 5


def with_segments(
    subject: Subject,
    profile: Profile,
    prompts: Sequence[str],
    *,
    longest: int = LONGEST,
    seed: int = 0,
    batch_size: int = 8,
    results: Results | None = None,
    progress: StageProgress = lambda _stage: None,
) -> Profile:
    """The profile with `segments`, measured at its `whole_site`.

    Args:
        subject: the pipeline.
        profile: a profile of the pipeline.
        prompts: one picture each in every run; there are `count_of(profile.steps, longest)` runs and the
            uncached one.
        longest: most predicted evaluations of a segment.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        results: runs of an earlier run of the same command; None keeps nothing.
        progress: called with a description of each stage.

    Raises:
        DcacheError: no prompts, a profile of another model, or `longest` out of range.
    """
    if not prompts:
        raise DcacheError("expected at least one prompt to measure segments, got none")
    check_whole("longest", longest, 1)
    refuse_other(profile, subject)
    T, L = profile.steps, min(longest, max(profile.steps - 1, 1))
    progress("segments: uncached pictures")
    renderer = Renderer(subject, prompts, seed, batch_size, results=results or Results(), part="segments")
    errors, count = np.full((T, L), np.nan), count_of(T, L)
    each = [(i, n) for i in range(T) for n in range(1, L + 1) if i + n < T]
    for number, (i, n) in enumerate(each, 1):
        progress(f"segments: run {number} of {count}")
        schedule = reused(subject, profile, profile.whole_site, range(i + 1, i + n + 1))
        errors[i, n - 1] = _error(renderer.pictures(schedule), renderer.reference)
    made = {**profile.made, "segments": {"prompts": len(prompts)}}
    return replace(profile, segments=errors, made=made)


def count_of(steps: int, longest: int) -> int:
    """Number of segments of 1 to `longest` predicted evaluations in a run of so many."""
    return sum(min(longest, steps - 1 - i) for i in range(steps))


def _error(pictures: Floats, reference: Floats) -> float:
    error = float(np.abs(pictures - reference).mean())
    return error if np.isfinite(error) else BROKEN
