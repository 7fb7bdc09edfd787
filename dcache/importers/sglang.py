"""SGLang's DPCache: a JSON artefact with the steps that run all blocks, and the request that it is for.

The other steps go along the line through the last two computed outputs of the blocks, over the step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dcache.errors import DcacheError
from dcache.importers.exported import Exported, whole_row
from dcache.importers.imported import MOST_STEPS, Imported, Options
from dcache.schedule import Plan, Schedule
from dcache.util.checks import is_finite, is_whole

TAKES: tuple[str, ...] = ()
SCHEMA = "sglang-dpcache-schedule-v2"
PREDICTOR = {
    "name": "final-feature-linear-extrapolation",
    "order": 1,
    "arithmetic": "feature-dtype-elementwise-v1",
}
OBJECTIVE = "pact-mean-abs-final-feature-predicted-steps-only-v1"
# What the artefact says of the request; the engine refuses another one.
REQUEST = (
    "pipeline",
    "checkpoint",
    "num_inference_steps",
    "height",
    "width",
    "guidance_scale",
    "do_classifier_free_guidance",
    "quality",
    "attention_backend",
    "dtype",
    "scheduler",
    "scheduler_config_sha256",
    "timesteps",
    "sigmas",
)


def fits(content: Any) -> bool:
    """Whether the content names the artefact's schema."""
    return isinstance(content, dict) and str(content.get("schema", "")).startswith("sglang-dpcache-schedule")


def convert(content: Any, options: Options) -> Imported:
    """Convert an artefact to a schedule; what it says of the request is kept in `measured`.

    Args:
        content: content of the file.
        options: none are used.

    Raises:
        DcacheError: the content is of another version, or damaged.
    """
    if not fits(content) or content["schema"] != SCHEMA:
        raise DcacheError(f"this is not an artefact of SGLang's DPCache: expected schema {SCHEMA!r}")
    if content.get("predictor") != PREDICTOR:
        raise DcacheError(
            f"expected the predictor {PREDICTOR['name']!r}, got {str(content.get('predictor'))[:60]}"
        )
    request = _request(content.get("request"))
    steps, full = request["num_inference_steps"], content.get("full_steps")
    if (
        not isinstance(full, list)
        or not all(is_whole(t) and 0 <= t < steps for t in full)
        or full != sorted(set(full))
        or full[:2] != [0, 1]
    ):
        raise DcacheError(
            f"full_steps must be rising steps from 0 to {steps - 1} that begin with 0 and 1, "
            f"got {str(full)[:60]}"
        )
    places = set(full)
    row = tuple(t in places for t in range(steps))
    plan = Plan(
        {"*": {"trunk": row}}, codec="value", predictor="newton", parameters={"order": 1}, clock="step"
    )
    schedule = Schedule(
        steps,
        {"": plan},
        method="sglang-dpcache",
        resolution=(request["height"], request["width"]),
        guidance=float(request["guidance_scale"]),
        measured={"imported": {"request": request}},
    )
    return Imported("sglang", schedule)


def export(schedule: Schedule, request: Mapping[str, Any] | None = None) -> Exported:
    """The artefact for a schedule.

    Args:
        schedule: a schedule of the trunk.
        request: what the artefact says of the request, or another artefact that has it; None takes that of
            the artefact which the schedule was imported from.

    Raises:
        DcacheError: DPCache cannot follow the schedule, or the request is not known.
    """
    whole = whole_row(schedule, "SGLang's DPCache")
    if (whole.first, whole.last) != (0, None):
        raise DcacheError("SGLang's DPCache skips all blocks, and this schedule leaves some out of its run")
    if whole.row[:2] != (True, True):
        raise DcacheError("SGLang's DPCache computes the first two steps, and this schedule does not")
    origin: Any = schedule.measured.get("imported")
    known = request if request is not None else origin.get("request") if isinstance(origin, Mapping) else None
    about = _request(known.get("request", known) if isinstance(known, Mapping) else known)
    if about["num_inference_steps"] != schedule.steps:
        raise DcacheError(
            f"the request has {about['num_inference_steps']} steps, and the schedule {schedule.steps}"
        )
    plan, notes = whole.plan, [f"dropped: {what}" for what in whole.dropped]
    line = plan.predictor in {"newton", "taylor"} and (whole.order, plan.clock) == (1, "step")
    if not line:
        notes.append(
            f"dropped: predictor {plan.predictor} of order {whole.order} on the clock {plan.clock}; DPCache "
            "goes along the line through the last two computed steps"
        )
    if plan.codec != "value":
        notes.append("dropped: codec delta; DPCache stores what the blocks return")
    mandatory = min((*whole.row, False).index(False), len(whole.places))
    content = {
        "schema": SCHEMA,
        "schedule_method": "dcache",
        "predictor": dict(PREDICTOR),
        "objective": OBJECTIVE,
        "source_commit": f"dcache {schedule.digest()}",
        "request": about,
        "mandatory_full_steps": list(range(mandatory)),
        "force_last_full": whole.row[-1],
        "max_gap": None,
        "num_full_steps": len(whole.places),
        "full_steps": whole.places,
        "calibrated_cost": 0.0,
        "calibration": {"manifest_sha256": _sha256(schedule), "num_samples": 0},
    }
    return Exported(content, tuple(notes))


def _request(request: Any) -> dict[str, Any]:
    given = request if isinstance(request, Mapping) else {}
    if set(given) != set(REQUEST):
        missing = ", ".join(sorted(set(REQUEST) - set(given))) or "nothing, but there is more"
        raise DcacheError(
            "the artefact is for one request, which a schedule does not know: give --request FILE, a JSON "
            f"file with it or another artefact of that server. Missing: {missing}."
        )
    steps = request["num_inference_steps"]
    if not is_whole(steps) or not 2 <= steps <= MOST_STEPS:
        raise DcacheError(f"num_inference_steps must be a whole number from 2 to {MOST_STEPS}")
    sizes = [request[name] for name in ("height", "width")]
    fits_size = all(is_whole(size) and 0 < size < 1 << 20 for size in sizes)
    if not fits_size or not is_finite(request["guidance_scale"]):
        raise DcacheError("height and width must be whole numbers above 0, guidance_scale a finite number")
    for name, length in (("timesteps", steps), ("sigmas", steps + 1)):
        values = request[name]
        if not isinstance(values, list) or len(values) != length or not all(map(is_finite, values)):
            raise DcacheError(f"request.{name} must be {length} finite numbers")
    return dict(request)


def _sha256(schedule: Schedule) -> str:
    return hashlib.sha256(json.dumps(schedule.content(), sort_keys=True).encode()).hexdigest()
