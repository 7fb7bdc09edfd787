"""`RunSettings`: the arguments that bench, eval, calibrate and search share, checked before any loading."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dcache.errors import DcacheError
from dcache.eval.limits import LIMITS, check_device, check_limit
from dcache.eval.prompts import COLUMN, SETS, read
from dcache.eval.sources import check_source

PROMPTS = "a file (txt, csv, jsonl, parquet), a named set such as demo:8, or the prompt itself"
PIPE = "demo, demo-video, a folder written by save_pretrained, or the id of a pipeline on the hub"
# Option -> type, metavar and help; their default is the pipeline's.
CALL = {
    "steps": (int, "N", "sampling steps"),
    "guidance": (float, "G", "guidance scale"),
    "height": (int, "H", "height of a picture, in pixels"),
    "width": (int, "W", "width of a picture, in pixels"),
    "frames": (int, "F", "frames of a clip"),
}
# Option -> keyword argument of diffusers' pipelines.
KEYWORDS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "height": "height",
    "width": "width",
    "frames": "num_frames",
}


@dataclass(frozen=True)
class RunSettings:
    """Settings of one run of a command; None is a default of the pipeline or of the command.

    Attributes:
        pipeline: `demo`, `demo-video`, a folder, or an id of the hub; None where the folder of an evaluation
            names it.
        prompts: source of the prompts, as in `dcache.eval.prompts.read`.
        prompt_column: column of a csv or parquet file, key of a jsonl file.
        steps, guidance, height, width, frames: settings of the pipeline's call.
        dtype, device: as in `dcache.eval.subject.load`.
        option: further arguments of the pipeline's call, by name; from texts NAME=VALUE.
        seed: seed of the first picture.
        repeats: timed calls of each.
        images_per_prompt, batch_size: pictures of each prompt, and in a call.
        speedup, budget, cap: wanted speedup, most evaluations, GiB of host memory for features.
        workers, threads: processes, and torch's threads in each.
    """

    pipeline: str | None = "demo"
    prompts: str | None = None
    prompt_column: str = COLUMN
    steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    option: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    repeats: int | None = None
    images_per_prompt: int | None = None
    batch_size: int | None = None
    speedup: float | None = None
    budget: int | None = None
    iterations: int | None = None
    router: int | None = None
    cap: float | None = None
    workers: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            DcacheError: a number is out of range, an option is given twice, or pipeline, prompts or device
                cannot be used.
        """
        for name in LIMITS:
            check_limit(name, getattr(self, name), f"--{name.replace('_', '-')}")
        for name in ("prompts", "prompt_column"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise DcacheError(f"--{name.replace('_', '-')} is empty: leave it out, or give a text")
        twice = [name for name, keyword in KEYWORDS.items() if self.given(name) and keyword in self.option]
        if twice:
            raise DcacheError(
                f"--{twice[0]} and --option {KEYWORDS[twice[0]]} are the same: give one of them"
            )
        if self.pipeline is not None:
            named = {keyword: getattr(self, name) for name, keyword in KEYWORDS.items() if self.given(name)}
            check_source(self.pipeline, named | dict(self.option))
        check_device(self.device)

    @staticmethod
    def of(arguments: argparse.Namespace) -> RunSettings:
        """The settings of a command line; a command may lack some of the options.

        Raises:
            DcacheError: as in `__post_init__`, or an `--option` is not of the form NAME=VALUE.
        """
        given = vars(arguments)
        values = {each.name: given[each.name] for each in fields(RunSettings) if each.name in given}
        return RunSettings(**values | {"option": _options(values.get("option", ()))})

    def given(self, name: str) -> bool:
        """Whether a setting differs from None."""
        return getattr(self, name) is not None

    def call(self) -> dict[str, Any]:
        """Keyword arguments for `dcache.eval.subject.load`."""
        names = (*CALL, "dtype", "device")
        return {name: getattr(self, name) for name in names} | {"options": dict(self.option)}

    def texts(self) -> list[str]:
        """The prompts, or the default ones of a shipped pipeline.

        Raises:
            DcacheError: there are no prompts.
        """
        if self.prompts is None and self.pipeline not in SETS:
            raise DcacheError(
                f"{self.pipeline} needs --prompts: a file, a named set such as demo:8, or a prompt"
            )
        return read(self.prompts or str(self.pipeline), self.prompt_column)


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the pipeline and of its call."""
    parser.add_argument("pipeline", nargs="?", default="demo", metavar="PIPE", help=PIPE)
    add_call(parser)


def add_call(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a pipeline's call."""
    from dcache.eval.subject import DTYPES

    for name, (kind, metavar, text) in CALL.items():
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=f"{text} (default: the pipeline's)")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="dtype of the weights; auto: bfloat16 on a GPU, else float32",
    )
    parser.add_argument("--device", default="auto", help="auto: the first GPU, else the CPU")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="further argument of the pipeline's call; may be repeated",
    )


def add_prompts(parser: argparse.ArgumentParser, text: str = PROMPTS) -> None:
    """Add the arguments of the prompts."""
    parser.add_argument("--prompts", metavar="P", help=text)
    parser.add_argument(
        "--prompt-column",
        default=COLUMN,
        metavar="NAME",
        help=f"column of the csv or parquet file, key of the jsonl file (default: {COLUMN})",
    )


def _options(texts: object) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in texts if isinstance(texts, list | tuple) else ():
        name, value = _option(text)
        if name in options:
            raise DcacheError(f"--option {name} is given twice: give it once")
        options[name] = value
    return options


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name.isidentifier():
        raise DcacheError(
            f"cannot read --option {text!r}: expected NAME=VALUE, as in max_sequence_length=256"
        )
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
