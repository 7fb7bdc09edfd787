"""`Learned`: what was learned from one observed run, as a value and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcache.errors import DcacheError
from dcache.observation.tuning.kind import Kind
from dcache.predictors import make
from dcache.profile import Floats
from dcache.schedule.plan import check_clock_fits, check_terms
from dcache.schedulers.planners.tuned import Halves, ObservedCall

FORMAT = "dcache.observed"
VERSION = 1
_TABLES = ("gram", "taus", "effects")
_HALVES = ("mean", "difference", "cross")
# Share of a call's operations in the site, where they could not be counted.
USUAL_SHARE = 0.95


class Refined(NamedTuple):
    """A plan that was refined on rendered pictures (`dcache.refine`).

    Attributes:
        computed: the computed evaluations of the whole run.
        predictor: name of the predictor.
        parameters: its parameters, as JSON.
        clock: its clock.
        prompts: number of prompts that it was refined on.
        psnr: mean PSNR in dB on prompts that it was not refined on.
    """

    computed: tuple[int, ...]
    predictor: str
    parameters: Mapping[str, Any]
    clock: str | None
    prompts: int
    psnr: float


@dataclass(frozen=True)
class Learned:
    """What one observed run of a kind showed, and the plans that were refined since.

    Attributes:
        observed: the tables, of the evaluations in which the denoiser was called.
        first: the first of these evaluations.
        share: share of the whole call's operations in the site, in all these evaluations.
        counted: whether the share was counted; else it is a usual one.
        seconds: wall clock of the run.
        refined: number of computed evaluations, of those that were observed -> refined plan.
    """

    observed: ObservedCall
    first: int = 0
    share: float = USUAL_SHARE
    counted: bool = False
    seconds: float = 0.0
    refined: Mapping[int, Refined] = field(default_factory=dict)

    def save(self, path: Path, kind: Kind) -> None:
        """Write a file of tables with a JSON header.

        Args:
            path: path of the file; it is written as a whole or not at all.
            kind: the kind of the run, which `load` compares.

        Raises:
            DcacheError: it cannot be written.
        """
        from safetensors.numpy import save

        from dcache.util import files

        observed = self.observed
        arrays = {name: np.ascontiguousarray(getattr(observed, name), np.float64) for name in _TABLES}
        if observed.halves is not None:
            arrays |= {
                name: np.ascontiguousarray(getattr(observed.halves, name), np.float64) for name in _HALVES
            }
        about = {
            "version": VERSION,
            "kind": kind,
            "clock": observed.clock,
            "guided": observed.guided,
            "guidance": observed.guidance,
            "first": self.first,
            "share": self.share,
            "counted": self.counted,
            "seconds": self.seconds,
            "refined": {str(computes): plan for computes, plan in self.refined.items()},
        }
        content = save(arrays, {FORMAT: json.dumps(about)})
        files.write(path, lambda temporary: temporary.write_bytes(content))

    @staticmethod
    def load(path: Path, kind: Kind) -> Learned | None:
        """Read a file; None if there is none, or if it is damaged or of another kind or version."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {})[FORMAT])
                arrays = {name: np.asarray(file.get_tensor(name), np.float64) for name in file.keys()}  # noqa: SIM118
            if about["version"] != VERSION or about["kind"] != json.loads(json.dumps(kind)):
                return None
            return _learned(about, arrays)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, DcacheError):
            return None


def kind_in(path: Path) -> Kind | None:
    """The kind of the run that a file is of; None if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            kind = Kind(*json.loads((file.metadata() or {})[FORMAT])["kind"])
        return kind._replace(sites=tuple(kind.sites), size=tuple(kind.size))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _learned(about: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Learned:
    """The value in a file.

    Raises:
        KeyError: a table is missing.
        ValueError: a table has another shape, or a number is not finite.
    """
    count = len(arrays["taus"])
    expected = {"taus": (count,), "effects": (count,)} | dict.fromkeys(("gram", *_HALVES), (count, count))
    for name, table in arrays.items():
        if table.shape != expected[name] or not np.isfinite(table).all():
            raise ValueError(name)
    halves = Halves(*(arrays[name] for name in _HALVES)) if "mean" in arrays else None
    share = float(about["share"])
    if not 0.0 < share <= 1.0 or count < 2:
        raise ValueError("share")
    observed = ObservedCall(
        *(arrays["gram"], about["clock"], arrays["taus"], arrays["effects"]),
        halves=halves,
        guided=bool(about["guided"]),
        guidance=None if about["guidance"] is None else float(about["guidance"]),
    )
    steps = Kind(*about["kind"]).steps
    refined = {int(k): _refined(fields, steps) for k, fields in about.get("refined", {}).items()}
    counted, seconds = bool(about["counted"]), float(about["seconds"])
    return Learned(observed, int(about["first"]), share, counted, seconds, refined)


def _refined(fields: Any, steps: int) -> Refined:
    """A refined plan of a file.

    Raises:
        DcacheError: its predictor is unknown, or has other parameters or another clock.
        ValueError: it has other fields, or an evaluation that is not in the run.
    """
    listed, predictor, parameters, clock, prompts, psnr = fields
    computed = tuple(map(int, listed))
    if not computed or computed[0] != 0 or list(computed) != sorted({*computed} & {*range(steps)}):
        raise ValueError("computed")
    check_terms(None, clock, "separate", "")
    check_clock_fits(make(predictor, parameters), clock)
    return Refined(computed, predictor, parameters, clock, int(prompts), float(psnr))
