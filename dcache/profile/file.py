"""The profile file: safetensors with float64 tables and a JSON header; fully checked when read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.profile.latencies import Latencies
from dcache.profile.tables import FeatureTables, Floats
from dcache.util import files

FORMAT = "dcache.profile"
VERSION = 1
_BY_SITE = ("computed", "predicted", "flops", "overhead")
# Tables that belong to no site: field -> name in the file.
_LOOSE = {
    "ratios": "ratios",
    "input_output_changes": "changes",
    "importance": "importance",
    "segments": "segments",
}
# Fields that are JSON values.
_PLAIN = ("steps", "prompts", "sketch", "model", "config", "component", "sampler", "guidance")

Sites = Mapping[str, Mapping[str, Mapping[str, FeatureTables]]]
T = TypeVar("T")


def write(fields: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a profile's file atomically; returns its path.

    Args:
        fields: name -> value of the profile's fields.
        path: path of the file.

    Raises:
        DcacheError: the file cannot be written, or `made` has values that are not JSON's.
    """
    from safetensors.numpy import save

    arrays: dict[str, Floats] = {}
    names: list[list[str]] = []
    sites: Sites = fields["sites"]
    for site, branches in sites.items():
        for branch, frames in branches.items():
            for frame, tables in frames.items():
                key = str(len(names))
                names.append([site, branch, frame])
                for part in ("gram", "distance", "size"):
                    arrays[f"{key}.{part}"] = np.ascontiguousarray(getattr(tables, part), np.float64)
    for field, name in _LOOSE.items():
        if (table := fields[field]) is not None:
            arrays[name] = np.ascontiguousarray(table, np.float64)
    latencies: Latencies | None = fields["latencies"]
    about = {name: fields[name] for name in _PLAIN} | {
        "version": VERSION,
        "tables": names,
        "important": list(fields["important"]),
        "attention": dict(fields["attention"]),
        "removal": dict(fields["removal"]),
        "resolution": list(fields["resolution"]),
        "sigmas": list(fields["sigmas"]),
        "latencies": None if latencies is None else asdict(latencies),
        "made": dict(fields["made"]),
    }
    try:
        header = {FORMAT: json.dumps(about, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise DcacheError(f"the profile cannot be written as JSON: {error}") from None
    # Not `save_file`, whose error on a full disk is no OSError.
    content = save(arrays, header)
    return files.write(files.as_path(path, "profile"), lambda temporary: temporary.write_bytes(content))


def read(path: str | os.PathLike[str], build: Callable[..., T]) -> T:
    """Read and check a profile's file, and build the profile.

    Args:
        path: path of the file.
        build: `Profile`; an argument, because this module must not import the one that uses it.

    Raises:
        DcacheError: the file does not exist, is damaged, or is not a profile.
    """
    from safetensors import SafetensorError, safe_open

    path = files.as_path(path, "profile")
    try:
        with safe_open(path, framework="numpy") as opened:
            header = opened.metadata() or {}
            if FORMAT not in header:
                raise DcacheError("this is no profile: expected one that `dcache calibrate` wrote")
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return _built(json.loads(header[FORMAT], parse_constant=_finite), arrays, build)
    except FileNotFoundError as error:
        raise DcacheError(
            f"cannot read the profile {path}: there is no such file. {files.how_to_calibrate(path)}"
        ) from error
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise DcacheError(
            f"cannot read the profile {path}: expected a file that `dcache calibrate` wrote, and this is "
            f"damaged or of another kind. {files.how_to_calibrate(path)}"
        ) from error
    except DcacheError as error:
        raise DcacheError(f"{path}: {error}") from None


def _finite(constant: str) -> float:
    raise ValueError(f"the header holds {constant}")


def _latencies(timed: Any) -> Latencies:
    uncached, spread = float(timed["uncached"]), float(timed["spread"])
    tables = {
        name: {str(site): float(value) for site, value in timed.get(name, {}).items()} for name in _BY_SITE
    }
    every = [uncached, spread, *(value for table in tables.values() for value in table.values())]
    if not uncached or not all(0 <= value < np.inf for value in every):
        raise ValueError("latencies must be finite and not below 0, that of the whole call above 0")
    return Latencies(uncached, **tables, pictures=int(timed["pictures"]), spread=spread)


def _built(about: Any, arrays: Mapping[str, NDArray[Any]], build: Callable[..., T]) -> T:
    try:
        if about["version"] != VERSION:
            raise DcacheError(
                f"profile version {about['version']!r} is not readable here, expected {VERSION}"
            )
        sites: dict[str, dict[str, dict[str, FeatureTables]]] = {}
        for i, (site, branch, frame) in enumerate(about["tables"]):
            parts = (arrays[f"{i}.{part}"].astype(np.float64) for part in ("gram", "distance", "size"))
            sites.setdefault(str(site), {}).setdefault(str(branch), {})[str(frame)] = FeatureTables(*parts)
        timed = about["latencies"]
        loose = {field: arrays[name].astype(np.float64) for field, name in _LOOSE.items() if name in arrays}
        return build(
            sites=sites,
            latencies=None if timed is None else _latencies(timed),
            important=tuple(map(str, about["important"])),
            attention={str(k): float(v) for k, v in about["attention"].items()},
            # Profiles of before have none.
            removal={str(k): float(v) for k, v in about.get("removal", {}).items()},
            resolution=tuple(int(n) for n in about["resolution"]),
            sigmas=tuple(float(s) for s in about["sigmas"]),
            made=dict(about["made"]),
            steps=about["steps"],
            prompts=int(about["prompts"]),
            sketch=float(about["sketch"]),
            model=str(about["model"]),
            config=str(about["config"]),
            component=str(about["component"]),
            sampler=str(about["sampler"]),
            guidance=None if about["guidance"] is None else float(about["guidance"]),
            **loose,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DcacheError(f"the profile's header is damaged: {type(error).__name__} {error}") from None
