"""`dcache policy`: shipped policies in open loop and in a simulator, a schedule for one's own policy."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.cli.groups import add_group
from dcache.cli.parser import path_of
from dcache.cli.policy_calibrate import add_calibrate
from dcache.cli.progress import shares
from dcache.errors import DcacheError
from dcache.eval.limits import Whole, check_limit, check_within
from dcache.eval.packages import require
from dcache.util.files import make_folder, try_file, try_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.demo.policies.policy import ChunkPolicy
    from dcache.demo.policies.settings import Setting
    from dcache.profile import Profile

SETTINGS_HELP = (
    "separated by ';': a sampler with its steps, then a method and warm=N (evaluations of a chunk "
    "that begins with the previous one), each if wanted, as in 'ddpm:100; ddim:10 interval:interval=2'; "
    "the first is what the others are compared with"
)
SIDE_BY_SIDE = 50
FILMED = 4


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command and its parts."""
    parts = add_group(
        commands,
        "policy",
        "diffusion policies: cost and action error, success in a simulator, a schedule for your own",
        "Diffusion policies with and without caching (docs/policy.md, docs/policy-tasks.md).",
    )
    _add_demo(parts)
    _add_bench(parts)
    add_calibrate(parts)


def _add_demo(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parts.add_parser(
        "demo",
        help="open loop on stored observations: action error at equal noise, computed share, latency",
        description="Plan chunks for stored observations with every setting. Needs no simulator.",
    )
    _add_shared(parser)
    parser.add_argument(
        "--observations",
        type=path_of,
        metavar="FILE",
        help=".npz or .safetensors with states and actions (default: the shipped ones)",
    )
    parser.add_argument(
        "--timed",
        type=int,
        default=8,
        metavar="N",
        help="observations that are timed; 0 for no times (default: 8)",
    )
    parser.set_defaults(run=demo)


def _add_bench(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parts.add_parser(
        "bench",
        help="closed loop in a simulator: success and its difference to the first setting",
        description=(
            "Run the same held-out episodes with every setting (needs the extra `policy`). The same command "
            "continues where an earlier one stopped."
        ),
    )
    _add_shared(parser)
    parser.add_argument("--episodes", type=int, default=200, metavar="N", help="of each (default: 200)")
    parser.add_argument(
        "--at-once",
        type=int,
        default=SIDE_BY_SIDE,
        metavar="N",
        help=f"episodes side by side (default: {SIDE_BY_SIDE})",
    )
    parser.add_argument(
        "--out", type=path_of, default=Path("policy-bench"), metavar="FOLDER", help="folder for the files"
    )
    parser.add_argument(
        "--gif", type=path_of, metavar="FILE", help=f"also film an episode of the first {FILMED} settings"
    )
    parser.set_defaults(run=bench)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", default="pusht", metavar="TASK", help="pusht or drawer-open (default: pusht)"
    )
    parser.add_argument("--settings", metavar="LIST", help=SETTINGS_HELP)
    parser.add_argument(
        "--weights", type=path_of, metavar="FOLDER", help="of train.py, in place of the shipped"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def demo(arguments: argparse.Namespace) -> int:
    """Plan chunks, print the table."""
    from dcache.demo.policies.open_loop import load_observations, measure
    from dcache.demo.policies.tables import open_loop_legend, open_loop_table
    from dcache.eval.machine import heading, machine, versions

    policy, settings = _loaded(arguments)
    settings = _without_warm_start(settings, named=arguments.settings is not None)
    observations = load_observations(arguments.task, arguments.observations)
    check_within(Whole(0, len(observations)), arguments.timed, "--timed")
    with shares(0, 1) as progress:
        profile = partial(_profile, arguments.task)
        rows = measure(policy, settings, observations, arguments.timed, profile, progress)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    print(heading(machine(), versions()), open_loop_table(rows, policy.task), sep="\n\n")
    print(open_loop_legend(policy.task, len(observations), arguments.timed))
    return 0


def _without_warm_start(settings: list[Setting], named: bool) -> list[Setting]:
    """The settings for stored observations, which have no previous chunk.

    Raises:
        DcacheError: one of the named settings has a warm start.
    """
    warm = [setting.spec for setting in settings if setting.warm is not None]
    if warm and named:
        raise DcacheError(
            f"stored observations have no previous chunk for warm=, got {warm[0]!r}: leave warm= out, or use "
            "dcache policy bench"
        )
    return [setting for setting in settings if setting.warm is None]


def bench(arguments: argparse.Namespace) -> int:
    """Run the episodes, print the table, write the files."""
    from dcache.demo.policies.bench import bench as run_bench
    from dcache.demo.policies.figures import figures
    from dcache.demo.policies.journal import Journal
    from dcache.demo.policies.tables import closed_loop_legend, closed_loop_table
    from dcache.eval.machine import heading, machine, versions
    from dcache.util.files import write_json

    policy, settings = _loaded(arguments)
    check_limit("images_per_prompt", arguments.episodes, "--episodes")
    check_limit("batch_size", arguments.at_once, "--at-once")
    try_folder(arguments.out)
    if arguments.gif:
        require("policy", "--gif", "PIL")
        try_file(arguments.gif)
    journal = Journal(make_folder(arguments.out) / f"{arguments.task}.jsonl", policy.digest)
    profile = partial(_profile, arguments.task)
    with shares(0, 1) as progress:
        run_bench(policy, settings, arguments.episodes, arguments.at_once, journal, profile, progress)
    rows = figures({setting.spec: journal.of(setting.spec) for setting in settings}, settings[0].spec)
    content = {"task": arguments.task, "policy": policy.digest, "rows": [asdict(row) for row in rows]}
    written = [write_json(arguments.out / f"{arguments.task}.json", content | {"machine": machine()})]
    if arguments.gif:
        written.append(_film(policy, settings[:FILMED], profile, arguments.gif))
    if arguments.json:
        print(json.dumps(content, indent=1))
    else:
        print(heading(machine(), versions()), closed_loop_table(rows), sep="\n\n")
        print(closed_loop_legend(policy.task), f"\nwrote {', '.join(map(str, written))}", sep="\n")
    return 0


def _loaded(arguments: argparse.Namespace) -> tuple[ChunkPolicy, list[Setting]]:
    from dcache.demo.policies.policy import load_policy
    from dcache.demo.policies.settings import DEFAULT, parse

    settings = parse(DEFAULT if arguments.settings is None else arguments.settings)
    return load_policy(arguments.task, arguments.weights), settings


def _profile(task: str, steps: int) -> Profile:
    from dcache.demo.policies.observed import load_profile

    return load_profile(task, steps)


def _film(policy: ChunkPolicy, settings: list[Setting], profile: Any, path: Path) -> Path:
    from dcache.demo.policies.bench import HELD_OUT, film
    from dcache.demo.policies.rollouts import save

    episodes = [film(policy, setting, setting.resolved(profile), HELD_OUT) for setting in settings]
    return save(path, [episode.frames for episode in episodes], [episode.success for episode in episodes])
