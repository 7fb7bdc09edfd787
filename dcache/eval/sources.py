"""What can be checked of a pipeline's name and of the options of its calls before it is loaded."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError

# Shipped pipeline -> its module, which has `load_pipeline`, `call_options`, `coefficients`, `FEWEST_STEPS`,
# `MULTIPLE` (of heights and widths), `CLASS` and `SOURCE`.
SHIPPED = {"demo": "dcache.demo.pipeline", "demo-video": "dcache.demo.video.pipeline"}
INDEX = "model_index.json"
EXPECTED = (
    f"Expected {', '.join(SHIPPED)}, a folder written by save_pretrained, or the id of a pipeline on the hub."
)


def check_source(name: str, options: Mapping[str, Any]) -> None:
    """Check a pipeline's name, and the options of its calls if it is a shipped one.

    Args:
        name: as in `dcache.eval.subject.load`.
        options: keyword arguments of the pipeline's calls.

    Raises:
        DcacheError: no pipeline can have this name, its folder is damaged, or an option does not fit.
    """
    if name in SHIPPED:
        _check_shipped(name, options)
        return
    if not name.strip() or "\0" in name:
        raise DcacheError(f"no pipeline has the name {name!r}. {EXPECTED}")
    path = Path(name)
    if path.is_dir():
        _check_folder(path)
    elif path.exists():
        raise DcacheError(f"{name} is a file and no pipeline. {EXPECTED}")
    elif (
        path.is_absolute()
        or name.startswith((".", "~"))
        or name.count("/") > 1
        or os.sep in name.rstrip("/")[-1:]
    ):
        raise DcacheError(f"there is no folder {name}. {EXPECTED}")


def _check_shipped(name: str, options: Mapping[str, Any]) -> None:
    shipped = importlib.import_module(SHIPPED[name])
    if options.get("num_frames") is not None and "num_frames" not in shipped.call_options():
        raise DcacheError(f"{name} makes pictures, which have no frames: leave --frames out")
    takes = arguments_of(shipped.CLASS, shipped.SOURCE)
    unknown = [option for option in options if takes and option not in takes]
    if unknown:
        raise DcacheError(
            f"{name} takes no {', '.join(map(repr, unknown))}: its call takes {', '.join(takes)}"
        )
    for side in ("height", "width"):
        value = options.get(side)
        if isinstance(value, int) and value % shipped.MULTIPLE:
            raise DcacheError(f"{side} must be a multiple of {shipped.MULTIPLE} for {name}, got {value}")
    steps = options.get("num_inference_steps")
    if isinstance(steps, int) and steps < shipped.FEWEST_STEPS:
        raise DcacheError(f"steps must be at least {shipped.FEWEST_STEPS} for {name}, got {steps}")


def arguments_of(pipeline: str, source: str) -> list[str]:
    """Names of the arguments of a pipeline's call, from its source: importing it takes seconds.

    Args:
        pipeline: name of the class.
        source: path of its file in the package diffusers.

    Returns:
        The names; none where another version of diffusers has no such file or class.
    """
    spec = importlib.util.find_spec("diffusers")
    for folder in (spec and spec.submodule_search_locations) or ():
        try:
            tree = ast.parse((Path(folder) / source).read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            continue
        for kind in tree.body:
            if isinstance(kind, ast.ClassDef) and kind.name == pipeline:
                calls = [f for f in kind.body if isinstance(f, ast.FunctionDef) and f.name == "__call__"]
                return [argument.arg for call in calls for argument in call.args.args[1:]]
    return []


def _check_folder(path: Path) -> None:
    try:
        content = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DcacheError(f"{path} is no pipeline: it has no {INDEX}. {EXPECTED}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DcacheError(
            f"{path / INDEX} cannot be read as JSON: it is damaged. Write the folder again with "
            "save_pretrained"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("_class_name"), str | list):
        raise DcacheError(
            f"{path / INDEX} does not name a pipeline's class: it is damaged. Write the folder again with "
            "save_pretrained"
        )
