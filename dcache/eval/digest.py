"""The digest of a method: distinguishes methods that have the same specification text.

It is computed from plain values in a fixed order. Classes are hashed under the names listed here and fields
by position, so that a renamed class or field keeps the digest. Evaluation folders store digests: a change
that alters them needs another `VERSION`, and `dcache.eval.earlier` must recognise the old folders.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from dcache import probes, schedulers
from dcache.method import Method
from dcache.methods.expected_change import ExpectedChange, Sensitivities
from dcache.methods.output_rate import OutputRate
from dcache.methods.seacache import WienerFiltered
from dcache.predictors import Predictor
from dcache.predictors.corrections import Corrections
from dcache.probes import Probe
from dcache.schedule import Schedule
from dcache.schedulers.planned import Observing, Planned

# 1 was the hash of `repr`, in which every class had its name.
VERSION = 2
# Rules and change indicators. The names on the right are part of every digest: they never change.
NAMES: dict[type, str] = {
    schedulers.ChangeAbove: "change above",
    schedulers.Accumulated: "accumulated change",
    schedulers.AnyOf: "any of",
    schedulers.ByKind: "by kind",
    schedulers.BySite: "by site",
    schedulers.Every: "every",
    schedulers.Growing: "growing",
    schedulers.KnownLength: "known length",
    schedulers.Last: "last",
    schedulers.Listed: "listed",
    schedulers.MagCacheRule: "magnitude",
    schedulers.MaxRun: "max run",
    schedulers.EveryNthIndex: "multiple",
    Observing: "observing",
    Planned: "planned",
    schedulers.OutsideWindow: "outside window",
    schedulers.Retention: "retention",
    schedulers.StepTable: "row",
    schedulers.Shrinking: "shrinking",
    schedulers.DeltaDitStages: "stage",
    schedulers.Steered: "steered",
    schedulers.Switch: "switch",
    schedulers.Table: "table",
    schedulers.Warmup: "warmup",
    probes.SinceCompute: "since compute",
    probes.SinceStep: "since step",
    probes.FrameChange: "frame change",
    OutputRate: "output rate",
    WienerFiltered: "filtered",
    ExpectedChange: "expected change",
    Sensitivities: "sensitivities",
}


def digest_of(value: Any) -> str:
    """Twelve hexadecimal digits over all parts of a method, a schedule or another value."""
    text = json.dumps(plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def plain(value: Any) -> Any:
    """The value as plain JSON, the same in every process and release.

    An unknown object becomes its `repr`. That of a function differs from process to process: its pictures are
    made again, which is safer than taking another function's.
    """
    content: Any
    match value:
        case None | bool() | int() | float() | str():
            content = value
        case np.generic() | np.ndarray() | torch.Tensor():
            content = value.tolist()
        case Method():
            content = plain(_method(value))
        case Schedule():
            content = plain(value.content())
        case Corrections():
            content = value.digest
        case Mapping():
            content = {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            content = [plain(item) for item in value]
        case AbstractSet():
            content = sorted((plain(item) for item in value), key=json.dumps)
        case os.PathLike():
            content = str(value)
        case type():
            content = _name(value)
        case _ if is_dataclass(value):
            # Fields without a `repr` are computed from the others.
            parts = [getattr(value, field.name) for field in fields(value) if field.repr]
            content = [_name(type(value)), *map(plain, parts)]
        case _:
            content = repr(value)
    return content


def _method(method: Method) -> dict[str, Any]:
    """All fields but the parameters, which repeat the other fields in the preset's terms and may be paths."""
    return {
        "name": method.name,
        "rule": method.rule,
        "predictor": _predictor(method.predictor),
        # What a method caches elsewhere, where a model lacks its sites, is no part of what it is.
        "sites": tuple(site.partition("|")[0] for site in method.sites),
        "codec": method.codec,
        "clock": method.clock,
        "branches": method.branches,
        "probe": None if method.probe is None else _probe(method.probe),
        "fixed": method.fixed,
        "sibling": method.uncond_from,
        "steps": method.steps,
        "corrections": method.corrections,
        "sigmas": method.sigmas,
        "made_for": method.made_for,
        "predicts": method.predicts,
        # Only where there are any: digests of before stay as they are.
        **({"runs": [tuple(run) for run in method.runs]} if method.runs else {}),
        **({"shares": True} if method.shares else {}),
        **({"aim": tuple(method.aim)} if method.aim is not None else {}),
    }


def _predictor(predictor: Predictor) -> list[Any]:
    return [predictor.name, predictor.parameters()]


def _probe(probe: Probe) -> list[Any]:
    return [probe.where, probe.blocks, probe.indicator]


def _name(cls: type) -> str:
    """The name that a class is hashed under: from `NAMES`, or its qualified name."""
    return NAMES.get(cls, f"{cls.__module__}.{cls.__qualname__}")
