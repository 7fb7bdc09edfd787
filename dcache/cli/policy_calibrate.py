"""`dcache policy calibrate`: a schedule for a policy, planned from its chunks under stored observations."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.cli.calibrate_arguments import PROFILE, add_out, check_out
from dcache.cli.parser import path_of
from dcache.cli.progress import stages
from dcache.errors import DcacheError
from dcache.eval.limits import check_limit
from dcache.util.files import try_file

if TYPE_CHECKING:
    from argparse import _SubParsersAction

OUT = Path("policy.schedule.json")
DESCRIPTION = (
    "Make uncached chunks under the observations of a file, plan from them, check the plan under others of "
    "them, and save the schedule; with --out FILE.safetensors only the profile is saved. POLICY is pusht or "
    "drawer-open (shipped), or FILE.py:NAME: a policy, or a function or class that makes one without "
    "arguments. Observations are .npz or .safetensors, arrays (N, ...) by name; the policy gets each as a "
    "mapping of arrays (1, ...). After a kill the same command goes on."
)


def add_calibrate(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the part `calibrate`."""
    from dcache.schedulers.planners import PLANNERS

    parser = parts.add_parser(
        "calibrate", help="plan a schedule for a policy from observations", description=DESCRIPTION
    )
    parser.add_argument("policy", metavar="POLICY")
    parser.add_argument(
        "--observations",
        type=path_of,
        metavar="FILE",
        help="real ones, as different as the robot meets (default for shipped policies: the shipped ones)",
    )
    parser.add_argument(
        "--method",
        choices=tuple(PLANNERS),
        metavar="M",
        help=f"{', '.join(PLANNERS)} (default: knapsack, or pairs for a model without sublayers and blocks)",
    )
    parser.add_argument(
        "--speedup", type=float, default=2.0, metavar="S", help="speedup of a chunk (default: 2)"
    )
    parser.add_argument("--sites", metavar="LIST", help="sites to observe, by commas (default: all)")
    parser.add_argument("--runs", type=int, metavar="N", help="observations that are used (default: all)")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="R", help="timed chunks of each (default: 3)"
    )
    add_out(parser, OUT)
    parser.set_defaults(run=calibrate)


def calibrate(arguments: argparse.Namespace) -> int:
    """Observe, plan, check, save."""
    from dcache.policy.calibrate import observe_policy
    from dcache.policy.sources import policy_named
    from dcache.search.rendering.results import resumable

    seen = _checked(arguments)
    try_file(arguments.out)
    with stages() as progress:
        policy = policy_named(arguments.policy)
        checking = () if arguments.out.suffix == PROFILE else seen[: max(1, len(seen) // 3)]
        with resumable(arguments.out, _about(arguments, policy), "speedup") as results:
            if results.known:
                progress(f"going on with {results.known} results of an earlier run")
            profile = observe_policy(
                policy,
                seen[len(checking) :],
                sites=arguments.sites.split(",") if arguments.sites else None,
                repeats=arguments.repeats,
                results=results,
                progress=progress,
            )
            if not checking:
                profile.save(arguments.out)
            else:
                _plan(arguments, policy, profile, checking, progress)
    print(f"wrote {arguments.out}" + ("" if not checking else f": {_how(arguments.out)}"))
    return 0


def _checked(arguments: argparse.Namespace) -> Sequence[Any]:
    """Check all that needs no policy; returns the observations."""
    from dcache.policy.sources import shipped_observations
    from dcache.search.rendering.runs import load_observations

    out, file = arguments.out, arguments.observations or shipped_observations(arguments.policy)
    check_out(out)
    if file is None:
        raise DcacheError(
            "--observations FILE is needed: .npz or .safetensors with arrays (N, ...) by name, what the "
            "policy takes in N moments"
        )
    arguments.observations = file
    check_limit("repeats", arguments.repeats, "--repeats")
    if not 1 < arguments.speedup < math.inf:
        raise DcacheError(f"--speedup must be above 1, got {arguments.speedup:g}")
    seen = load_observations(file)
    least = 1 if out.suffix == PROFILE else 2
    count = len(seen) if arguments.runs is None else arguments.runs
    if not least <= count <= len(seen):
        raise DcacheError(
            f"expected {least} or more observations, for planning and for the check, of the {len(seen)} in "
            f"{file}, got {count}"
        )
    return seen[:count]


def _about(arguments: argparse.Namespace, policy: Any) -> dict[str, Any]:
    """Everything that decides the results, as JSON values."""
    from dcache.identity.digest import model_digest
    from dcache.policy.chunks import denoiser_of

    names = ("policy", "sites", "runs", "repeats")
    module = denoiser_of(policy)
    return {name: getattr(arguments, name) for name in names} | {
        "profile": arguments.out.suffix == PROFILE,
        "observations": hashlib.sha256(arguments.observations.read_bytes()).hexdigest()[:16],
        "denoiser": model_digest(type(module).__name__, {"denoiser": module}),
    }


def _plan(
    arguments: argparse.Namespace, policy: Any, profile: Any, checking: Sequence[Any], progress: Any
) -> None:
    """Plan a schedule, print how it does under other observations, save it."""
    from dcache.policy.calibrate import check_chunks, planner_for
    from dcache.profile import cost
    from dcache.schedulers.planners import for_speedup

    method = arguments.method or planner_for(profile)
    progress(f"planning: {method}")
    schedule = for_speedup(profile, method, arguments.speedup)
    expected = cost.speedup(schedule, profile.latencies)
    checked = check_chunks(policy, schedule, checking, progress=progress)
    error = "not measured: the noise is not torch's" if checked.error is None else f"{checked.error:.2%}"
    print(
        f"speedup: {expected:.2f}x expected, {checked.speedup:.2f}x measured\n"
        f"error of chunks of the same noise under {len(checking)} other observations: {error}\n"
        "a success rate needs the robot or its simulator",
        flush=True,
    )
    schedule.save(arguments.out)


def _how(out: Path) -> str:
    return f"dcache.enable(policy, {str(out)!r})  # dcache show {out}"
