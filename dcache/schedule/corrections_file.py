"""The numbers of a schedule's corrections: a safetensors file beside the schedule's file, which names it.

The name contains a digest of its bytes, so that writing another schedule never overwrites it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.predictors.corrections import Correction, Corrections
from dcache.util import files
from dcache.util.text import first_sentence

_SUFFIX = ".safetensors"


def packed(corrections: Mapping[str, Corrections]) -> bytes:
    """The file's content.

    Args:
        corrections: component -> corrections.

    Returns:
        safetensors bytes with the arrays `i.j.scale` and `i.j.shift`, (evaluations, C) float32, of component
        i and its site j.
    """
    from safetensors.torch import save

    arrays = {}
    for i, component in enumerate(corrections.values()):
        for j, rows in enumerate(component.table.values()):
            arrays[f"{i}.{j}.scale"] = torch.stack([row.scale for row in rows.values()])
            arrays[f"{i}.{j}.shift"] = torch.stack([row.shift for row in rows.values()])
    return save(arrays)


def reference(schedule_file: Path, data: bytes) -> dict[str, str]:
    """The entry "tables" of the schedule's file: name and SHA-256 of the file with the numbers."""
    digest = hashlib.sha256(data).hexdigest()
    return {"file": f"{schedule_file.name.removesuffix('.json')}-{digest[:8]}{_SUFFIX}", "sha256": digest}


def write(schedule_file: Path, tables: Mapping[str, str], data: bytes) -> None:
    """Write the file beside the schedule's file, which is written afterwards.

    Args:
        schedule_file: path of the schedule's file.
        tables: the result of `reference`.
        data: the result of `packed`.
    """
    files.write(schedule_file.with_name(tables["file"]), lambda temporary: temporary.write_bytes(data))


def read(folder: Path, tables: Any, contents: Mapping[str, Any]) -> dict[str, Corrections]:
    """Read the corrections of a schedule.

    Args:
        folder: folder of the schedule's file.
        tables: the entry "tables" of that file, as `reference` makes it.
        contents: component -> description of its corrections, as `Corrections.content` makes it.

    Returns:
        component -> corrections.

    Raises:
        DcacheError: the file cannot be read, is not the one that was written with the schedule, or does not
            fit the descriptions.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    name, digest = _checked_reference(tables)
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise DcacheError(
            f"the schedule's corrections are in {name}, which must lie beside it, and it cannot be read: "
            f"{error.strerror}"
        ) from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise DcacheError(f"{name} is not the file that was written with this schedule: its digest differs")
    try:
        arrays = load(data)
    except (SafetensorError, ValueError) as error:
        raise DcacheError(f"{name} is no safetensors file: {first_sentence(error)}") from None
    try:
        return {
            component: _parsed(content, arrays, f"{i}.")
            for i, (component, content) in enumerate(contents.items())
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DcacheError(
            f"the schedule's corrections do not fit {name}: {type(error).__name__} {first_sentence(error)}"
        ) from None


def _checked_reference(tables: Any) -> tuple[str, str]:
    """Name and digest of the file. The name must have no folder: the file is always beside the schedule."""
    name = tables.get("file") if isinstance(tables, dict) else None
    digest = tables.get("sha256") if isinstance(tables, dict) else None
    if not isinstance(name, str) or not isinstance(digest, str) or set(tables) != {"file", "sha256"}:
        raise DcacheError(f'corrections need "tables" with a "file" and its "sha256", got {tables!r}')
    if name != Path(name).name or set(name) & set("/\\:\0") or not name.endswith(_SUFFIX):
        raise DcacheError(
            f"the corrections' file must be a name without a folder that ends with {_SUFFIX}, got {name!r}"
        )
    return name, digest


def _parsed(content: Any, arrays: Mapping[str, torch.Tensor], prefix: str) -> Corrections:
    table: dict[str, dict[int, Correction]] = {}
    dims: dict[str, int] = {}
    for j, (site, entry) in enumerate(content["sites"].items()):
        scale, shift = arrays[f"{prefix}{j}.scale"], arrays[f"{prefix}{j}.shift"]
        evaluations, anchors = list(entry["evaluations"]), list(entry["anchors"])
        expected = (len(evaluations), entry["channels"])
        if tuple(scale.shape) != expected or tuple(shift.shape) != expected or len(anchors) != expected[0]:
            raise DcacheError(
                f"the corrections of {site!r} have scales of {tuple(scale.shape)}, shifts of "
                f"{tuple(shift.shape)} and {len(anchors)} anchors, expected {expected} and {expected[0]}"
            )
        rows = zip(evaluations, scale.unbind(), shift.unbind(), anchors, strict=True)
        table[site] = {t: Correction(a, b, anchor) for t, a, b, anchor in rows}
        dims[site] = entry["dim"]
    corrections = Corrections(table, dims)
    if corrections.content() != content:
        raise DcacheError("the corrections do not match the schedule: their digests differ")
    return corrections
