"""Reading of foreign files: JSON, YAML and tensors, but no pickles, which could run code."""

from __future__ import annotations

import argparse
import json
import re
import warnings
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.util.text import first_sentence

YAMLS = (".yaml", ".yml")
TENSORS = (".pt", ".pth", ".ckpt", ".bin")
PICKLES = (".pkl", ".pickle")
# Published files are about 0.2 MB.
MOST_BYTES = 1 << 26
_ZIP = b"PK\x03\x04"
_SITE = re.compile(r"optimal_steps_(?P<site>.+)_(?P<budget>\d+)_(?P<metric>[a-z0-9]+)\.(?:json|txt)")


def content_of(path: Path) -> Any:
    """Content of a file: a value of JSON or YAML, or a dict with tensors; of a folder, lists by site (BAC).

    Raises:
        DcacheError: the file cannot be read, is too large, or is a pickle.
    """
    if path.suffix in PICKLES:
        raise DcacheError(
            f"{path} is a pickle, and reading a pickle may run any code. Convert it to JSON where it was "
            f"made: python -c \"import json, pickle; json.dump(pickle.load(open('{path.name}', 'rb')), "
            f"open('{path.stem}.json', 'w'), default=lambda o: o.tolist())\""
        )
    try:
        if path.is_dir():
            return _folder(path)
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_sentence(error)
        raise DcacheError(f"cannot read {path}: {reason}") from error
    if size > MOST_BYTES:
        raise DcacheError(f"expected a file of at most {MOST_BYTES} bytes, and {path} has {size}")
    if path.suffix in YAMLS:
        return _yaml(path)
    return _tensors(path) if path.suffix in TENSORS else _json(path)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_sentence(error)
        raise DcacheError(f"{path} cannot be read as JSON: {reason}") from error


def _yaml(path: Path) -> Any:
    """Read plain values of a YAML file; tags that would make other objects are refused."""
    try:
        import yaml
    except ImportError as error:
        raise DcacheError(f"{path} is a YAML file, which needs PyYAML: pip install pyyaml") from error
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_sentence(error)
        raise DcacheError(f"{path} cannot be read as YAML: {reason}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has the same key twice")
    return content


def _tensors(path: Path) -> Any:
    """Read a torch file with `weights_only=True`, which builds tensors and containers and runs no code."""
    import torch

    try:
        with path.open("rb") as opened:
            zipped = opened.read(4) == _ZIP
    except OSError as error:
        raise DcacheError(f"cannot read {path}: {error}") from None
    if not zipped:
        raise DcacheError(
            f"{path} is not a tensor file of torch 1.6 or newer. If it is an older one, save it again with "
            f"torch.save(torch.load({path.name!r}, weights_only=True), ...)"
        )
    try:
        # Training scripts store their arguments as a Namespace, which holds values only, like a dict.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Damaged files raise a dozen kinds of errors.
        raise DcacheError(
            f"{path} is damaged, or holds more than tensors, numbers and texts, which is not read because it "
            "may run any code. Save it again with these only"
        ) from error


def _folder(path: Path) -> dict[str, Any]:
    """Lists of a BAC folder, by site: files `optimal_steps_<site>_<budget>_<metric>`, .json or .txt."""
    lists: dict[str, Any] = {}
    kinds = set()
    for file in sorted(path.rglob("optimal_steps_*")):
        match = _SITE.fullmatch(file.name)
        if match is not None:
            kinds.add((match["budget"], match["metric"]))
            lists[match["site"]] = _steps(file)
    if len(kinds) > 1:
        schedules = ", ".join(f"{budget} steps by {metric}" for budget, metric in sorted(kinds))
        raise DcacheError(f"{path} holds several schedules ({schedules}): keep the files of one in a folder")
    if not lists:
        pickled = any(path.rglob("optimal_steps_*.pkl"))
        raise DcacheError(
            f"{path} has no file optimal_steps_<site>_<number>_<metric>.json or .txt"
            + (
                ", only pickles, which may run any code: convert each to JSON where it was made, with "
                "json.dump([int(i) for i in pickle.load(file)], out)"
                if pickled
                else ""
            )
        )
    return lists


def _steps(file: Path) -> Any:
    if file.suffix == ".json":
        return _json(file)
    try:
        return [int(word) for word in re.split(r"[\s,\[\]]+", file.read_text(encoding="utf-8")) if word]
    except (OSError, ValueError) as error:
        raise DcacheError(f"{file} does not hold a list of steps: {error}") from None
