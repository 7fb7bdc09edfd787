"""Importance: the error of the final pictures if one site alone is predicted, in one evaluation alone."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from dataclasses import replace

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.fidelity import squared_errors
from dcache.eval.processes import ProcessGroup, join
from dcache.eval.progress import StageProgress
from dcache.eval.subject import Subject
from dcache.identity.denoisers import denoisers
from dcache.profile import Floats, Profile
from dcache.schedule import Plan, Schedule
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results

# Mean squared error assigned to broken pictures: the largest between pictures in [0, 1].
BROKEN = 1.0


def importance(  # noqa: PLR0913
    subject: Subject,
    profile: Profile,
    prompts: Sequence[str],
    *,
    sites: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    progress: StageProgress = lambda _stage: None,
    group: ProcessGroup | None = None,
    results: Results | None = None,
) -> Profile:
    """The profile with the importance of every evaluation added; rows of other sites stay.

    The evaluation is predicted by reuse. Evaluation 0 cannot be predicted and gets NaN. Each site takes a run
    of all prompts for each of the others.

    Args:
        subject: the pipeline that was profiled.
        profile: its profile.
        prompts: one picture each.
        sites: names of the profile's sites; None is the outermost one.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        progress: called with a description of each stage; the first ones estimate the duration.
        group: the processes that share the prompts; None is the group that this process was started in.
        results: runs of an earlier run of the same command; None keeps nothing.

    Raises:
        DcacheError: fewer prompts than processes, or a site that was not observed.
    """
    chosen = [profile.whole_site] if sites is None else list(sites)
    unknown = [site for site in chosen if site not in profile.sites]
    if unknown or not chosen:
        have = ", ".join(profile.sites)
        raise DcacheError(f"expected sites of the profile, which has {have}; got {unknown or 'none'}")
    group = join() if group is None else group
    if len(prompts) < group.world_size:
        raise DcacheError(
            f"expected at least one prompt for each of {group.world_size} process(es), got {len(prompts)}"
        )
    part = np.array_split(np.arange(len(prompts)), group.world_size)[group.rank]
    mine = [prompts[i] for i in part]
    progress("importance: uncached pictures")
    began = time.perf_counter()
    begin, earlier = seed + int(part[0]), results or Results()
    renderer = group.all(lambda: Renderer(subject, mine, begin, batch_size, results=earlier, part="single"))
    each = time.perf_counter() - began
    runs = len(chosen) * (profile.steps - 1)
    progress(f"importance: {runs} runs of {len(mine)} pictures, at most about {runs * each:.0f} s")
    rows = group.all(lambda: [_row(renderer, subject, profile, site, progress) for site in chosen])
    # Every process has the mean over its own prompts: weigh by their number.
    every = group.gather((np.array(rows), len(mine)))
    mean = sum(row * (count / len(prompts)) for row, count in every)
    old = dict(
        zip(profile.important, profile.importance if profile.importance is not None else (), strict=True)
    )
    merged = old | dict(zip(chosen, np.asarray(mean), strict=True))
    return replace(profile, importance=np.stack(list(merged.values())), important=tuple(merged))


def _row(
    renderer: Renderer, subject: Subject, profile: Profile, site: str, progress: StageProgress
) -> Floats:
    """(T,), mean squared error of the pictures for each predicted evaluation; NaN for the first."""
    errors = np.full(profile.steps, np.nan)
    for t in range(1, profile.steps):
        progress(f"importance of {site}: evaluation {t} of {profile.steps - 1}")
        pictures = renderer.pictures(reused(subject, profile, site, {t}))
        error = float(squared_errors(pictures, renderer.reference).mean())
        errors[t] = error if np.isfinite(error) else BROKEN
    return errors


def reused(subject: Subject, profile: Profile, site: str, evaluations: Container[int]) -> Schedule:
    """The schedule that predicts one site at these evaluations by reuse, and computes all else."""
    others = [name for name in denoisers(subject.pipe) if name != profile.component]
    plans = {name: Plan({"*": {"model": (True,) * profile.steps}}) for name in others}
    row = tuple(t not in evaluations for t in range(profile.steps))
    plans[profile.component] = Plan({"*": {site: row}}, model=profile.model, config=profile.config)
    return Schedule(profile.steps, plans, method="importance")
