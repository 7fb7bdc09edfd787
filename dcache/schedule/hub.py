"""Schedules on Hugging Face's hub: the file, a card with its figures, and a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dcache.errors import DcacheError
from dcache.schedule.picture import png_of
from dcache.schedule.plan import Plan
from dcache.util import hub

FILE, PICTURE, CARD = "dcache.schedule.json", "schedule.png", "README.md"
# Rows of a picture.
_MOST_ROWS = 64


class Pushed(Protocol):
    """Interface: a `Schedule`."""

    steps: int
    components: Mapping[str, Plan]
    method: str
    sampler: str
    resolution: tuple[int, ...]
    guidance: float | None
    measured: Mapping[str, Any]

    def save(self, path: Path) -> Path:
        """Write the file."""
        ...


def push(schedule: Any, repository: str, base_model: str = "", **options: Any) -> str:
    """Upload a schedule with its card; returns the repository's address.

    Args:
        schedule: the schedule.
        repository: "owner/name".
        base_model: the model's repository, for the card.
        **options: `private` and `token`, as in `dcache.util.hub.push`.

    Raises:
        DcacheError: the hub cannot be reached, or refuses; or an option is unknown.
    """
    unknown = sorted(set(options) - {"private", "token"})
    if unknown:
        raise DcacheError(f"push_to_hub takes base_model, private and token, got {', '.join(unknown)}")
    name, _ = hub.place_of(repository)

    def fill(folder: Path) -> None:
        schedule.save(folder / FILE)
        rows = [
            row for plan in schedule.components.values() for b in plan.rows.values() for row in b.values()
        ]
        (folder / PICTURE).write_bytes(png_of(rows[:_MOST_ROWS]))
        (folder / CARD).write_text(card(schedule, name, base_model), encoding="utf-8")

    return hub.push(repository, fill, message="Schedule of dcache", **options)


def pull(repository: str, token: str | None = None) -> Path:
    """The path of a downloaded schedule's file; its tables lie beside it.

    Raises:
        DcacheError: the hub cannot be reached, or the repository has no schedule.
    """
    folder = hub.pull(repository, (FILE, "dcache.schedule-*.safetensors"), token)
    path = folder / FILE
    if not path.exists():
        raise DcacheError(
            f"{hub.place_of(repository)[0]} on the hub has no {FILE}, so it is no schedule of dcache"
        )
    return path


def card(schedule: Pushed, name: str, base_model: str = "") -> str:
    """The text of a repository's README.md.

    Args:
        schedule: the schedule.
        name: of the repository.
        base_model: the model's repository.
    """
    header = ["---", "library_name: dcache", "tags: [dcache, diffusion, caching]"]
    header += [f"base_model: {json.dumps(base_model)}"] if base_model else []
    figures = "\n".join(f"| {what} | {value} |" for what, value in _figures(schedule))
    return "\n".join([
        *header,
        "---",
        f"# {name}",
        "",
        "Where a diffusion model is computed and where it is predicted from what was computed before.",
        "",
        "```python",
        "import dcache",
        "",
        f'dcache.enable(pipe, "hub:{name}")',
        "```",
        "",
        f"![computed (dark) and predicted (light) evaluations, a row for each site]({PICTURE})",
        "",
        "| | |",
        "|---|---|",
        figures,
        "",
        "```",
        str(schedule),
        "```",
        "",
    ])  # fmt: skip


def _figures(schedule: Pushed) -> Iterator[tuple[str, str]]:
    yield "evaluations", str(schedule.steps)
    for name, plan in schedule.components.items():
        events = sum(len(row) for rows in plan.rows.values() for row in rows.values())
        yield f"computed{f' ({name})' if name else ''}", f"{plan.computed} of {events} site events"
        yield "model", plan.model or "any"
        yield "predictor", plan.predictor
    for what, value in (
        ("method", schedule.method),
        ("sampler", schedule.sampler),
        ("guidance", "" if schedule.guidance is None else f"{schedule.guidance:g}"),
        ("resolution", " x ".join(map(str, schedule.resolution))),
    ):
        if value:
            yield what, value
    for name, value in schedule.measured.items():
        if isinstance(value, float):
            yield name, f"{value:.4g}"
        elif isinstance(value, bool | int | str):
            yield name, str(value).replace("|", "/")
