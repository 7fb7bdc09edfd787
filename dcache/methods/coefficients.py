"""Options of presets that hold measured numbers, tables or profiles: given directly or as files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.util.checks import is_finite, is_number
from dcache.util.files import how_to_calibrate
from dcache.util.text import short

HOW_TO_MEASURE = (
    "Measure them once per model, resolution and sampler: `python examples/measure_coefficients.py --out "
    "FILE.json PIPE` writes a file that every preset in need of numbers reads"
)


def numbers(
    preset: str, name: str, given: object, least: int, published: Mapping[str, Sequence[float]] | None = None
) -> tuple[float, ...]:
    """The numbers called `name`: from a sequence, a published set, or the preset's entry of a JSON file.

    Args:
        preset: name of the preset.
        name: name of its option.
        given: the numbers, the name of a published set, or the path of a file.
        least: smallest number of numbers.
        published: name -> published numbers; None if there are none.

    Raises:
        DcacheError: none are given, the name is unknown, the file cannot be read or lacks them, or they are
            no numbers.
    """
    if given is None:
        raise DcacheError(
            f"{preset} needs {name}=, a list of numbers or a file, and has none. {HOW_TO_MEASURE}."
        )
    if isinstance(given, str):
        spelled = {_plain(known): table for known, table in (published or {}).items()}
        if _plain(given) in spelled:
            return tuple(spelled[_plain(given)])
        refuse_name(preset, name, given, published or {})
    values = entry(preset, name, given) if isinstance(given, str | os.PathLike) else given
    plain = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    if not plain or not all(map(is_number, values)):  # type: ignore[arg-type]
        raise DcacheError(f"{name} of {preset} must be a list of numbers, got {str(values)[:60]}")
    if not all(map(is_finite, values)):  # type: ignore[arg-type]
        raise DcacheError(f"{name} of {preset} must be a list of finite numbers, got {str(values)[:60]}")
    table = tuple(float(v) for v in values)  # type: ignore[union-attr]
    if len(table) < least:
        count = "1 number" if least == 1 else f"{least} numbers"
        raise DcacheError(f"{name} of {preset} must be a list of at least {count}, got {len(table)}")
    return table


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def table_in(
    preset: str, given: str | os.PathLike[str] | Mapping[str, Any], names: Callable[[str], object]
) -> Any:
    """A preset's table, as given or from a JSON file.

    Args:
        preset: the preset's name.
        given: the table or a path. The file's content is the table if `names` is true for all of its keys;
            else the table is the file's entry for the preset.
        names: whether a key is one of a table.

    Raises:
        DcacheError: the file cannot be read, is not JSON, or lacks the entry.
    """
    if not isinstance(given, str | os.PathLike):
        return given
    try:
        content = json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    plain = isinstance(content, dict) and bool(content) and all(map(names, content))
    return content if plain else entry(preset, "table", given)


def refuse_name(preset: str, option: str, given: str, published: Iterable[str] = ()) -> None:
    """Refuse a model's name where numbers or a file are expected.

    A text is a name if it has no folder and no ending, and no file of that name exists.

    Raises:
        DcacheError: the text is a name; the message has the known names and the lines to type.
    """
    if Path(given).suffix or Path(given).name != given or os.path.exists(given):  # noqa: PTH110 - any text
        return
    names = "".join(f"{name!r}, " for name in published)
    raise DcacheError(
        f"{preset} has no {option} named {given!r}: expected {names}a list of numbers or a file. Measure "
        "them with `python examples/measure_coefficients.py --out FILE.json PIPE`, then call "
        f"dcache.enable(pipe, {preset!r}, {option}='FILE.json')."
    )


def profile_of(preset: str, given: object, alternative: str) -> Profile:
    """A profile, as given or from its file.

    Args:
        preset: the preset's name, for messages.
        given: the profile or the path of its file.
        alternative: the option that could be given instead.

    Raises:
        DcacheError: nothing is given, or the file is not a profile.
    """
    if given is None:
        raise DcacheError(
            f"{preset} needs profile=, a profile of this model, or {alternative}=, and has neither. "
            f"{how_to_calibrate('FILE.safetensors')}"
        )
    if not isinstance(given, Profile | str | os.PathLike):
        raise DcacheError(
            f"profile of {preset} must be a Profile or the path of its file, got {short(given)}. "
            f"{how_to_calibrate('FILE.safetensors')}"
        )
    return given if isinstance(given, Profile) else Profile.load(given)


def entry(preset: str, name: str, path: str | os.PathLike[str]) -> Any:
    """The entry `name` under a preset's name in a JSON file.

    Raises:
        DcacheError: the file cannot be read, is not JSON, or lacks the entry.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DcacheError(f"cannot read the file of {preset}'s {name} {path}: {error}") from None
    except ValueError as error:
        raise DcacheError(f"the file {path} is no JSON ({error}). {HOW_TO_MEASURE}.") from None
    options = content.get(preset) if isinstance(content, dict) else None
    if not isinstance(options, dict) or name not in options:
        have = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DcacheError(f"the file {path} has no {preset}.{name}; it has: {have}. {HOW_TO_MEASURE}.")
    return options[name]
