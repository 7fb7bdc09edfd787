"""How much the final pictures suffer where one site alone is predicted in one evaluation alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.fidelity import squared_errors
from dcache.eval.processes import ProcessGroup, join
from dcache.eval.subject import Subject
from dcache.identity.denoisers import denoisers
from dcache.profile import Floats, Profile
from dcache.schedule import Plan, Schedule
from dcache.search.render import Renderer

# The mean squared error of pictures that are broken: no two pictures in [0, 1] are further apart.
BROKEN = 1.0


def importance(
    subject: Subject,
    profile: Profile,
    prompts: Sequence[str],
    *,
    sites: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    tell: Callable[[str], None] = lambda _what: None,
    team: ProcessGroup | None = None,
) -> Profile:
    """The profile with the importance of every evaluation; rows of other sites that it has are kept.

    Predicted is by reuse of the evaluation before, so that there is nothing to see of evaluation 0. For each
    site that takes a run of all prompts for each evaluation but one.

    Args:
        subject: the pipeline that was profiled.
        profile: what was seen of it.
        prompts: one picture each.
        sites: names of the profile's sites; None is the outermost one.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        tell: called with what is under way, first of all with how long it will take.
        team: the processes that share the prompts; None finds out.

    Raises:
        DcacheError: no prompts, or a site that was not observed.
    """
    chosen = [profile.whole_site] if sites is None else list(sites)
    unknown = [site for site in chosen if site not in profile.sites]
    if unknown or not chosen:
        have = ", ".join(profile.sites)
        raise DcacheError(f"importance is of sites of the profile, which has {have}; got {unknown or 'none'}")
    team = join() if team is None else team
    if len(prompts) < team.world_size:
        raise DcacheError(
            f"{len(prompts)} prompts for {team.world_size} process(es): give at least one for each"
        )
    part = np.array_split(np.arange(len(prompts)), team.world_size)[team.rank]
    own = [prompts[i] for i in part]
    tell("importance: uncached pictures")
    began = time.perf_counter()
    renderer = team.all(lambda: Renderer(subject, own, seed + int(part[0]), batch_size))
    each = time.perf_counter() - began
    runs = len(chosen) * (profile.steps - 1)
    tell(f"importance: {runs} runs of {len(own)} pictures, at most about {runs * each:.0f} s")
    rows = team.all(lambda: [_row(renderer, subject, profile, site, tell) for site in chosen])
    every = team.gather((np.array(rows), len(own)))
    mean = sum(found * (count / len(prompts)) for found, count in every)
    old = dict(
        zip(profile.important, profile.importance if profile.importance is not None else (), strict=True)
    )
    merged = old | dict(zip(chosen, np.asarray(mean), strict=True))
    return replace(profile, importance=np.stack(list(merged.values())), important=tuple(merged))


def _row(
    renderer: Renderer, subject: Subject, profile: Profile, site: str, tell: Callable[[str], None]
) -> Floats:
    """Mean squared error for each predicted evaluation; NaN for the first."""
    others = [name for name in denoisers(subject.pipe) if name != profile.component]
    plans = {name: Plan({"*": {"model": (True,) * profile.steps}}) for name in others}
    found = np.full(profile.steps, np.nan)
    for t in range(1, profile.steps):
        tell(f"importance of {site}: evaluation {t} of {profile.steps - 1}")
        row = tuple(i != t for i in range(profile.steps))
        plans[profile.component] = Plan({"*": {site: row}}, model=profile.model, config=profile.config)
        pictures = renderer.pictures(Schedule(profile.steps, dict(plans), method="importance"))
        error = float(squared_errors(pictures, renderer.reference).mean())
        found[t] = error if np.isfinite(error) else BROKEN
    return found
