"""The schedule file: JSON with a stable key order, written atomically and fully checked when read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dcache.errors import DcacheError
from dcache.predictors.corrections import Corrections
from dcache.schedule.plan import Plan, RunLength
from dcache.util import files
from dcache.util.checks import check_whole

FORMAT = "dcache.schedule"
VERSION = 1


T = TypeVar("T")


def write(
    content: Mapping[str, Any], corrections: Mapping[str, Corrections], path: str | os.PathLike[str]
) -> Path:
    """Write a schedule's file; returns its path.

    Args:
        content: the result of `Schedule.content`.
        corrections: component -> corrections; their numbers are written to a second file beside this one.
        path: path of the file.

    Raises:
        DcacheError: the file cannot be written, or `measured` has values that are not JSON's.
    """
    from dcache.schedule import corrections_file

    target = files.as_path(path, "schedule")
    whole = {"format": FORMAT, "version": VERSION, **content}
    try:
        numbers = corrections_file.packed(corrections) if corrections else b""
        if corrections:
            whole["tables"] = corrections_file.reference(target, numbers)
        whole["checksum"] = _checksum(whole)
        text = json.dumps(whole, indent=1) + "\n"
    except (TypeError, ValueError) as error:
        raise DcacheError(f"the schedule cannot be written as JSON: {error}") from None
    if corrections:
        corrections_file.write(target, whole["tables"], numbers)
    return files.write(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read(path: str | os.PathLike[str], build: Callable[..., T]) -> T:
    """Read and check a schedule's file, and build the schedule.

    Args:
        path: path of the file.
        build: `Schedule`; an argument, because this module must not import the one that uses it.

    Raises:
        DcacheError: the file does not exist, is truncated, was edited by hand, or is not a schedule.
    """
    path = files.as_path(path, "schedule")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DcacheError(
            f"cannot read the schedule {path}: there is no such file. {files.how_to_calibrate(path)}"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise DcacheError(f"cannot read the schedule {path}: {reason}") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DcacheError(
            f"{path} is not valid JSON, so it was truncated or damaged. Write it again with Schedule.save."
        ) from error
    try:
        return build(**_fields(content, path.parent))
    except (DcacheError, RecursionError) as error:
        raise DcacheError(f"{path}: {error}") from None


def _checksum(content: Mapping[str, Any]) -> str:
    core = {k: v for k, v in content.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(core, sort_keys=True).encode()).hexdigest()[:16]


_TYPES: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "steps": (int,),
    "sampler": (str,),
    "resolution": (list,),
    "guidance": (int, float, type(None)),
    "components": (dict,),
    "measured": (dict,),
}
_PLAN_TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "config": (str,),
    "codec": (str, type(None)),
    "predictor": (str,),
    "parameters": (dict,),
    "clock": (str, type(None)),
    "branches": (str,),
    "rows": (dict,),
}
# Keys of a component that are named differently in `Plan`.
FIELDS = {"sibling": "uncond_from"}


def _fields(content: Any, folder: Path) -> dict[str, Any]:
    """The fields of the schedule, by name."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DcacheError(
            f'this is no schedule: expected a JSON object with "format": "{FORMAT}". Files of other methods '
            "become one by dcache import"
        )
    if content.get("version") != VERSION:
        raise DcacheError(
            f"schedule version {content.get('version')!r} is not readable here, expected {VERSION}: "
            "it was written by another release of dcache"
        )
    _check("the schedule", content, _TYPES, ("format", "version", "checksum", "sigmas", "tables"))
    if "checksum" in content and content["checksum"] != _checksum(content):
        raise DcacheError(
            "the checksum does not fit the content: the file was edited by hand or damaged. To accept an "
            'edit, delete its "checksum" line.'
        )
    check_whole('"steps"', content["steps"], 1)
    for side in content["resolution"]:
        check_whole('every entry of "resolution"', side, 1)
    guidance = content["guidance"]
    if isinstance(guidance, bool) or (guidance is not None and not abs(guidance) < math.inf):
        raise DcacheError(f'"guidance" must be a number or null, got {guidance!r}')
    return {
        "steps": content["steps"],
        "components": _components(content, folder),
        "method": content["method"],
        "sampler": content["sampler"],
        "resolution": tuple(content["resolution"]),
        "guidance": guidance,
        "measured": content["measured"],
        "sigmas": _sigmas(content.get("sigmas", [])),
    }


def _components(content: Mapping[str, Any], folder: Path) -> dict[str, Plan]:
    from dcache.schedule import corrections_file

    plans = content["components"]
    contents = {n: p["corrections"] for n, p in plans.items() if isinstance(p, dict) and "corrections" in p}
    if bool(contents) != ("tables" in content):
        raise DcacheError(
            'a schedule needs both "corrections" of components and "tables" with their numbers, or neither'
        )
    corrections = corrections_file.read(folder, content["tables"], contents) if contents else {}
    components = {}
    for name, plan in plans.items():
        if not isinstance(plan, dict):
            raise DcacheError(f"component {name!r} must be an object, got {type(plan).__name__}")
        _check(f"component {name!r}", plan, _PLAN_TYPES, ("sibling", "corrections", "runs"))
        rows = {branch: _rows(name, branch, sites) for branch, sites in plan["rows"].items()}
        runs = _runs(name, plan.get("runs", []))
        fields = {FIELDS.get(str(key), str(key)): value for key, value in plan.items()}
        corrected = corrections.get(name)
        components[name] = Plan(**{**fields, "rows": rows, "corrections": corrected, "runs": runs})
        components[name].make_predictor()
    return components


def _check(
    name: str, content: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], optional: tuple[str, ...]
) -> None:
    missing = [key for key in types if key not in content]
    unknown = [key for key in content if key not in types and key not in optional]
    if missing or unknown:
        raise DcacheError(
            f"{name} lacks {missing} and has unknown {unknown}: expected exactly {sorted(types)}"
        )
    for key, allowed in types.items():
        if not isinstance(content[key], allowed):
            raise DcacheError(
                f"{name}: {key!r} must be {' or '.join(t.__name__ for t in allowed)}, "
                f"got {type(content[key]).__name__}"
            )


def _sigmas(values: Any) -> tuple[float, ...]:
    plain = isinstance(values, list) and all(type(v) in (int, float) for v in values)
    if not plain or any(abs(v) > 1 for v in values):
        raise DcacheError(f'"sigmas" must be a list of numbers from 0 to 1, got {str(values)[:60]}')
    return tuple(map(float, values))


def _runs(component: str, values: Any) -> tuple[RunLength, ...]:
    pairs = isinstance(values, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in values)
    if not pairs or any(type(n) is not int or n < 0 for pair in values for n in pair):
        raise DcacheError(
            f'"runs" of component {component!r} must be a list of pairs [evaluations, entries of the '
            f"sampler's table], got {str(values)[:60]}"
        )
    return tuple(RunLength(*pair) for pair in values)


def _rows(component: str, branch: str, sites: Any) -> dict[str, tuple[bool, ...]]:
    if not isinstance(sites, dict) or not sites:
        raise DcacheError(
            f"branch {branch!r} of component {component!r} has no rows: expected an object with one text of "
            f"0 and 1 per site, got {sites!r}"
        )
    for site, row in sites.items():
        if not isinstance(row, str) or set(row) - {"0", "1"}:
            raise DcacheError(
                f"row {site!r} of component {component!r} must be a text of 0 and 1, got {row!r}"
            )
    return {site: tuple(c == "1" for c in row) for site, row in sites.items()}
