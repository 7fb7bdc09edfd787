"""Importers: what other caching methods publish, as schedules and coefficient files of dcache.

Each module reads one format: `fits(content)` tells whether a file's content is of it, `convert(content,
options)` checks all of it and translates. Sites are named as everywhere in dcache, and nothing that a format
says is dropped without a note.
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

from dcache.errors import DcacheError
from dcache.importers.content import content_of
from dcache.importers.imported import Imported, Options
from dcache.util.registry import Registry, modules

__all__ = ["FORMATS", "Format", "Imported", "Options", "detect", "read", "register"]


class Format(Protocol):
    """One format of files: a module of this package, or any object with these."""

    @property
    def TAKES(self) -> tuple[str, ...]:  # noqa: N802 - a module's constant
        """Fields of `Options` that it has a use for."""
        ...

    def fits(self, content: Any) -> bool:
        """Whether a file's content, JSON or tensors by name, is of it."""
        ...

    def convert(self, content: Any, options: Options) -> Imported:
        """Check all of the content and translate it."""
        ...


FORMATS: Registry[Format] = Registry(
    "format",
    modules(__name__, "bac", "ecad", "harmonica", "l2c", "magcache", "smoothcache", "teacache"),
)


def register(name: str, form: Format) -> None:
    """Make a format known by name to `read`, which also tells it from a file's content.

    Raises:
        DcacheError: another format has this name.
    """
    FORMATS.register(name, form)


def read(path: str | os.PathLike[str], source: str | None = None, **options: Any) -> Imported:
    """Read a file of another method.

    Args:
        path: the file; of BAC also the folder with a file for each site.
        source: one of `FORMATS`; None to tell it from the content.
        options: fields of `Options` that the format needs because its files do not tell.

    Raises:
        DcacheError: the file cannot be read, is of no known format or of several, is damaged, or an option is
            missing or of no use.
    """
    if source is not None and source not in FORMATS:
        raise DcacheError(f"format {source!r} is unknown: expected one of {', '.join(FORMATS)}")
    content = content_of(Path(path))
    try:
        name = source or detect(content)
        form = FORMATS.get(name)
        found = form.convert(content, _options(name, form.TAKES, options))
    except (DcacheError, RecursionError) as error:
        raise DcacheError(f"{path}: {error}") from None
    if found.schedule is None:
        return found
    told = {**found.schedule.measured.get("imported", {}), "format": name, "file": Path(path).name}
    return replace(found, schedule=replace(found.schedule, measured={"imported": told}))


def detect(content: Any) -> str:
    """The one format that a file's content fits.

    Raises:
        DcacheError: it fits none, or several.
    """
    found = [name for name in FORMATS if FORMATS.get(name).fits(content)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DcacheError(f"this can be a file of {' or of '.join(found)}: say which, with --from")
    if isinstance(content, dict) and str(content.get("format", "")).startswith("dcache."):
        raise DcacheError(f"this is dcache's own {content['format']} already: there is nothing to import")
    raise DcacheError(f"this is a file of none of {', '.join(FORMATS)}, as far as can be seen")


def _options(name: str, takes: tuple[str, ...], given: dict[str, Any]) -> Options:
    known = [field.name for field in fields(Options)]
    unknown = [option for option in given if option not in known]
    if unknown:
        raise DcacheError(f"importers take {', '.join(known)}, got {', '.join(unknown)}")
    useless = [option for option, value in given.items() if value is not None and option not in takes]
    if useless:
        told = ", ".join(takes) or "no options"
        raise DcacheError(f"{name} has no use for {', '.join(useless)}: it takes {told}")
    return Options(**given)
