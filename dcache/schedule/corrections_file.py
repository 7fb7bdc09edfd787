"""The numbers of a schedule's corrections: a safetensors file beside the schedule's own, named in it.

The name holds the digest of its bytes, so that a schedule that is written anew never breaks the old one.
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

_SUFFIX = ".safetensors"


def packed(corrections: Mapping[str, Corrections]) -> bytes:
    """The file's bytes: for each component and site, by their places, (evaluations, C) of scale and shift."""
    from safetensors.torch import save

    arrays = {}
    for i, its in enumerate(corrections.values()):
        for j, rows in enumerate(its.table.values()):
            arrays[f"{i}.{j}.scale"] = torch.stack([row.scale for row in rows.values()])
            arrays[f"{i}.{j}.shift"] = torch.stack([row.shift for row in rows.values()])
    return save(arrays)


def reference(schedule_file: Path, data: bytes) -> dict[str, str]:
    """What the schedule's file says of this one."""
    digest = hashlib.sha256(data).hexdigest()
    return {"file": f"{schedule_file.name.removesuffix('.json')}-{digest[:8]}{_SUFFIX}", "sha256": digest}


def write(schedule_file: Path, told: Mapping[str, str], data: bytes) -> None:
    """Write it beside the schedule's file; before that one, which names it."""
    files.write(schedule_file.with_name(told["file"]), lambda temporary: temporary.write_bytes(data))


def read(folder: Path, told: Any, wanted: Mapping[str, Any]) -> dict[str, Corrections]:
    """Component -> corrections.

    Args:
        folder: where the schedule's file is.
        told: what it says of the file with the numbers.
        wanted: component -> what it says of the corrections, as `Corrections.content` does.

    Raises:
        DcacheError: the file is not there, or not the one that was written with the schedule, or what is told
            of it makes no sense.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    name, digest = _told(told)
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
        raise DcacheError(f"{name} is no safetensors file: {error}") from None
    try:
        return {component: _parsed(its, arrays, f"{i}.") for i, (component, its) in enumerate(wanted.items())}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DcacheError(
            f"what the schedule says of its corrections does not fit {name}: {type(error).__name__} {error}"
        ) from None


def _told(told: Any) -> tuple[str, str]:
    name = told.get("file") if isinstance(told, dict) else None
    digest = told.get("sha256") if isinstance(told, dict) else None
    if not isinstance(name, str) or not isinstance(digest, str) or set(told) != {"file", "sha256"}:
        raise DcacheError(f'corrections need "tables" with a "file" and its "sha256", got {told!r}')
    if name != Path(name).name or set(name) & set("/\\:\0") or not name.endswith(_SUFFIX):
        raise DcacheError(
            f"the file of the corrections must be named plainly, beside the schedule, got {name!r}"
        )
    return name, digest


def _parsed(content: Any, arrays: Mapping[str, torch.Tensor], prefix: str) -> Corrections:
    table: dict[str, dict[int, Correction]] = {}
    dims: dict[str, int] = {}
    for j, (site, its) in enumerate(content["sites"].items()):
        scale, shift = arrays[f"{prefix}{j}.scale"], arrays[f"{prefix}{j}.shift"]
        evaluations, anchors = list(its["evaluations"]), list(its["anchors"])
        expected = (len(evaluations), its["channels"])
        if tuple(scale.shape) != expected or tuple(shift.shape) != expected or len(anchors) != expected[0]:
            raise DcacheError(
                f"the corrections of {site!r} are told to be {expected}, and are {tuple(scale.shape)}"
            )
        rows = zip(evaluations, scale.unbind(), shift.unbind(), anchors, strict=True)
        table[site] = {t: Correction(a, b, anchor) for t, a, b, anchor in rows}
        dims[site] = its["dim"]
    found = Corrections(table, dims)
    if found.content() != content:
        raise DcacheError("the corrections are not those that the schedule tells of: their digests differ")
    return found
