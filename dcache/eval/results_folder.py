"""A folder of results that a repeated command adds to: what is done is read, and not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.errors import DcacheError
from dcache.eval.machine import machine, versions
from dcache.util.files import make_folder, write_json

if TYPE_CHECKING:
    import torch

SETTINGS = "settings.json"
# Values of a weight that are in a model's digest.
VALUES = 64


def open_results(out: Path, about: Mapping[str, Any], part: str) -> Path:
    """The folder of single results; a folder of other settings is refused.

    Args:
        out: folder of the evaluation.
        about: JSON values that all results of a folder share.
        part: name of the folder of single results in it.

    Raises:
        DcacheError: the folder holds results of other settings, or cannot be written to.
    """
    folder = make_folder(out / part)
    path = out / SETTINGS
    # A command that failed before its first result leaves settings alone, which bind nobody.
    if path.exists() and any(folder.iterdir()):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            others = [name for name in about if before.get(name) != about[name]]
        except (OSError, ValueError, AttributeError):
            others = ["everything"]
        if others:
            raise DcacheError(
                f"{out} has results of another evaluation ({', '.join(others)} differ): choose another "
                "--out, or remove that folder"
            )
    else:
        write_json(path, {**about, "machine": machine(), "versions": versions()})
    return folder


def model_facts(name: str, model: torch.nn.Module) -> dict[str, str]:
    """What results of one model share: its name, the dtype of its weights, and a digest of them.

    The digest is of some values of each weight, so that a model that was trained on in the same folder is
    another one.
    """
    content = hashlib.sha256()
    for key, weight in sorted(model.state_dict().items()):
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // VALUES)].float().cpu()
        content.update(f"{key} {tuple(weight.shape)}".encode() + some.numpy().tobytes())
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {"model": name, "dtype": dtype, "weights": content.hexdigest()[:12]}


def made_once(path: Path, needed: tuple[str, ...], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """A result from its file; it is made and written where there is none, or a damaged one.

    Args:
        path: the file.
        needed: entries that a whole result has, none of them empty or 0.
        make: makes the result, of JSON values.
    """
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if all(known[name] for name in needed):
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    write_json(path, dict(make()))
    # As it is read from a file: lists in place of tuples.
    again: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return again
