"""Importers: conversion of files that other caching methods publish to schedules and coefficient files.

Each module reads one format: `fits(content)` detects it, `convert(content, options)` checks the whole content
and converts it. Sites have dcache's names. Whatever cannot be converted is reported in a note.
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from dcache.errors import DcacheError
from dcache.importers.content import content_of
from dcache.importers.imported import Imported, Options
from dcache.importers.numbers import numbers_of
from dcache.util.registry import Registry, modules

__all__ = ["FORMATS", "Format", "Imported", "Options", "detect", "read", "register"]


class Format(Protocol):
    """One format of files: a module of this package, or any object with these."""

    @property
    def TAKES(self) -> tuple[str, ...]:  # noqa: N802 - a module's constant
        """Fields of `Options` that the format uses."""
        ...

    def fits(self, content: Any) -> bool:
        """Whether a file's content (JSON, or tensors by name) has this format."""
        ...

    def convert(self, content: Any, options: Options) -> Imported:
        """Check the whole content and convert it.

        Raises:
            DcacheError: the content is damaged, or an option is missing.
        """
        ...


FORMATS: Registry[Format] = Registry(
    "format",
    modules(__name__, "bac", "ecad", "harmonica", "l2c", "magcache", "sglang", "smoothcache", "teacache")
    | {
        "cache-dit": partial(import_module, f"{__name__}.cache_dit"),
        "diffusers": partial(import_module, f"{__name__}.diffusers_hooks"),
    },
)


def register(name: str, form: Format) -> None:
    """Register a format, so that `read` finds it by name and detects it from a file's content.

    Raises:
        DcacheError: another format has this name.
    """
    FORMATS.register(name, form)


def read(path: str | os.PathLike[str], source: str | None = None, **options: Any) -> Imported:
    """Read a file of another method.

    Args:
        path: the file; for BAC also a folder with a file for each site.
        source: one of `FORMATS`; None detects it from the content.
        options: fields of `Options`, for facts that the file lacks.

    Raises:
        DcacheError: the file cannot be read, has no known format or fits several, or is damaged; or an option
            is missing or not used by the format.
    """
    if source is not None and source not in FORMATS:
        raise DcacheError(f"format {source!r} is unknown: expected one of {', '.join(FORMATS)}")
    content = content_of(Path(path))
    try:
        name = source or detect(content)
        form = FORMATS.get(name)
        imported = form.convert(content, _options(name, form.TAKES, options))
    except (DcacheError, RecursionError) as error:
        raise DcacheError(f"{path}: {error}") from None
    if imported.schedule is None:
        return imported
    origin = {**imported.schedule.measured.get("imported", {}), "format": name, "file": Path(path).name}
    return replace(imported, schedule=replace(imported.schedule, measured={"imported": origin}))


def detect(content: Any) -> str:
    """Name of the format that a file's content fits.

    Raises:
        DcacheError: it fits none, or several.
    """
    names = [name for name in FORMATS if FORMATS.get(name).fits(content)]
    if len(names) == 1:
        return names[0]
    if names:
        raise DcacheError(f"this can be a file of {' or of '.join(names)}: say which, with --from")
    if isinstance(content, dict) and str(content.get("format", "")).startswith("dcache."):
        raise DcacheError(f"this is a {content['format']} file of dcache: there is nothing to import")
    if numbers_of(content) is not None:
        raise DcacheError(
            "this is a list of numbers without a name: say what they are, with --from magcache (ratios of "
            "magnitudes) or --from teacache (coefficients of its polynomial)"
        )
    raise DcacheError(
        f"this is none of the formats {', '.join(FORMATS)}, as far as can be detected. If you know which "
        "it is, say so with --from"
    )


def _options(name: str, takes: tuple[str, ...], given: dict[str, Any]) -> Options:
    known = [field.name for field in fields(Options)]
    unknown = [option for option in given if option not in known]
    if unknown:
        raise DcacheError(f"importers take {', '.join(known)}, got {', '.join(unknown)}")
    useless = [option for option, value in given.items() if value is not None and option not in takes]
    if useless:
        accepted = ", ".join(takes) or "no options"
        raise DcacheError(f"{name} has no use for {', '.join(useless)}: it takes {accepted}")
    return Options(**given)
