"""What can be checked of a pipeline's name and of the options of its calls before it is loaded."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError

# Shipped pipeline -> its module, which has `load_pipeline`, `call_options`, `COEFFICIENTS`, `FEWEST_STEPS`,
# and `MULTIPLE` (of heights and widths).
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
    for side in ("height", "width"):
        value = options.get(side)
        if isinstance(value, int) and value % shipped.MULTIPLE:
            raise DcacheError(f"{side} must be a multiple of {shipped.MULTIPLE} for {name}, got {value}")
    steps = options.get("num_inference_steps")
    if isinstance(steps, int) and steps < shipped.FEWEST_STEPS:
        raise DcacheError(f"steps must be at least {shipped.FEWEST_STEPS} for {name}, got {steps}")


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
