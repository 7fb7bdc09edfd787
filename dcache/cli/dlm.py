"""`dcache dlm`: masked-diffusion language models: row policies, what they keep of quality, what they cost."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.cli.groups import add_device, add_group, add_methods
from dcache.cli.parser import path_of
from dcache.cli.progress import shares
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.packages import require
from dcache.util.files import try_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

OPTIONS = {
    "prompts": "number of prompts",
    "seeds": "runs of all prompts, each with noise of its own",
    "seed": "the first seed",
    "length": "tokens of a prompt's text; shipped models have prompts of one length",
    "new": "tokens to decode",
    "block": "tokens of a block, for policies without a block of their own",
    "steps": "forwards of the fixed schedule",
}


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command and its parts."""
    parts = add_group(
        commands,
        "dlm",
        "masked-diffusion language models: list, show and measure row policies",
        "Caching for masked-diffusion language models (docs/diffusion_lm).",
    )
    add_methods(parts, "list the row policies", _available)
    _add_demo(parts)
    _add_eval(parts)
    _add_bench(parts)


def _add_demo(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parts.add_parser(
        "demo",
        help="the shipped models, a minute: quality, rows, and a picture of the rows",
        description=(
            "Decode texts of two shipped models with every policy, and compare each with the uncached loop "
            "of its decode order. The pictures show which rows were computed at which step."
        ),
    )
    parser.add_argument("--prompts", type=int, default=60, metavar="N", help="texts of each (default: 60)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    parser.add_argument("--out", type=path_of, default=Path("dlm-demo-out"), metavar="FOLDER")
    parser.set_defaults(run=demo)


def _add_eval(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parts.add_parser(
        "eval",
        help="quality of every policy beside the uncached loop of its decode order",
        description=(
            "Decode the same prompts with every policy and several seeds. MODEL is mirror or acrostic "
            "(shipped), a folder, or the id of a model on the hub, which answers questions to texts. The "
            "same command continues where an earlier one stopped."
        ),
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--policies", metavar="LIST", help="row policies, separated by ';' (default: the model's)"
    )
    for name, text in OPTIONS.items():
        default = getattr(RowSettings, name)
        shown = "the model's" if default is None and name != "steps" else default
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {shown})"
        )
    parser.add_argument("--decoder", default=RowSettings.decoder, metavar="NAME")
    parser.add_argument("--threshold", type=float, default=RowSettings.threshold, metavar="P")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0 takes the likeliest token (default: the model's)"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    add_device(parser)
    parser.add_argument("--out", type=path_of, default=Path("dlm-eval-out"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=evaluate_policies)


def _add_bench(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parts.add_parser(
        "bench",
        help="seconds of policies against the uncached loop, on random weights",
        description=(
            "Policies and the uncached loop take turns on a bidirectional Llama of 8 layers with random "
            "weights: width 512, 256 tokens of which 128 are a prompt."
        ),
    )
    parser.add_argument("--policies", default="dual;dkv", metavar="LIST", help="row policies, by ';'")
    parser.add_argument("--batches", default="1,8", metavar="LIST", help="sizes of batches (default: 1,8)")
    parser.add_argument("--temperatures", default="0,1", metavar="LIST", help="of sampling (default: 0,1)")
    parser.add_argument("--block", type=int, default=32, metavar="N", help="tokens of a block (default: 32)")
    parser.add_argument("--steps", type=int, default=32, metavar="N", help="forwards of a turn (default: 32)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="turns of each (default: 3)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.set_defaults(run=bench_policies)


def _available() -> dict[str, str]:
    from dcache import diffusion_lm

    return diffusion_lm.available()


def demo(arguments: argparse.Namespace) -> int:
    """Run the demonstration, print a table for each model, write the pictures."""
    require("lm_eval", "dcache dlm demo", "transformers", "matplotlib")
    from dcache.demo.texts.run import NEXT, shown
    from dcache.eval.diffusion_lm.report import legend, table
    from dcache.eval.machine import heading, machine, versions

    settings = RowSettings(prompts=arguments.prompts, seeds=1, seed=arguments.seed)
    try_folder(arguments.out)
    print(heading(machine(), versions()))
    files = []
    with shares(0, 1) as progress:
        for one in shown(settings, arguments.out, progress):
            print(f"\n{one.subject.name}: {one.title}", table(one.rows), legend(one.subject), sep="\n\n")
            files += one.files
    print(f"\nwrote {', '.join(map(str, files))}\n\n{NEXT}")
    return 0


def evaluate_policies(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write the files."""
    require("lm_eval", "dcache dlm eval", "transformers", "jinja2", "matplotlib")
    from dcache.eval.diffusion_lm.entries import parse
    from dcache.eval.diffusion_lm.evaluation import evaluate
    from dcache.eval.diffusion_lm.figures import figures_of
    from dcache.eval.diffusion_lm.picture import picture_of
    from dcache.eval.diffusion_lm.report import legend, table, write_report
    from dcache.eval.diffusion_lm.subject import load

    names = (*OPTIONS, "decoder", "threshold", "temperature")
    settings = RowSettings(**{name: getattr(arguments, name) for name in names})
    entries = None if arguments.policies is None else parse(arguments.policies)
    try_folder(arguments.out)
    with shares(0, 1) as progress:
        subject = load(arguments.model, arguments.device, arguments.dtype, arguments.trust_remote_code)
        entries, settings = entries or parse(subject.policies), settings.of(subject)
        measured = evaluate(subject, entries, settings, arguments.out, progress)
        picture = picture_of(subject, entries, settings, arguments.out / "rows.png")
    if not arguments.json:
        print(table(figures_of(measured, settings.seeds)), legend(subject), sep="\n\n")
    files = write_report(arguments.out, subject, settings, measured, {"rows computed at each step": picture})
    if arguments.json:
        print((arguments.out / "results.json").read_text(encoding="utf-8"), end="")
    else:
        print(f"\nwrote {', '.join(map(str, [*files, picture]))}")
    return 0


def bench_policies(arguments: argparse.Namespace) -> int:
    """Bench, print the table."""
    require("lm_kv", "dcache dlm bench", "transformers")
    from dcache.eval.diffusion_lm.bench import BenchSettings, bench, legend, table
    from dcache.eval.diffusion_lm.entries import parse
    from dcache.eval.machine import heading, machine, versions

    settings = BenchSettings.parsed(
        arguments.batches, arguments.temperatures, arguments.block, arguments.steps, arguments.repeats
    )
    entries = parse(arguments.policies)
    with shares(0, 1) as progress:
        result = bench(entries, settings, arguments.device, arguments.dtype, progress)
    if arguments.json:
        print(json.dumps(asdict(result), indent=1))
    else:
        print(heading(machine(), versions()), table(result), legend(result), sep="\n\n")
    return 0
