"""The cache folder: what was learned, one file for each kind of run.

Files are written whole and replaced at once, so processes need no lock: a reader finds the old file, the new
one or none, and of two writers the later wins.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from dcache.errors import DcacheError
from dcache.observation.tuning.kind import Kind
from dcache.observation.tuning.learned import Learned, kind_in
from dcache.util.bytes import format_bytes

VARIABLE = "DCACHE_HOME"
OFF = "off"
# Bytes of all files together; the ones that were used least recently go first.
MOST_BYTES = 64 << 20
_SUFFIX = ".safetensors"
_REFINING = "refining"


_apart: ContextVar[bool] = ContextVar("apart", default=False)


@contextmanager
def apart() -> Iterator[None]:
    """Neither read nor write the folder within the block: a result is to depend on its arguments alone."""
    before = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(before)


def home() -> Path | None:
    """The folder: DCACHE_HOME, else the platform's folder for caches; None if DCACHE_HOME is "off"."""
    if _apart.get():
        return None
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        return None if given.lower() == OFF else Path(given).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base or Path.home() / "AppData" / "Local") / "dcache" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dcache"
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "dcache"


def files() -> list[Path]:
    """The files, the one that was used last first."""
    folder = _folder()
    if folder is None:
        return []
    dated: list[tuple[float, Path]] = []
    with suppress(OSError):
        for path in folder.glob(f"*{_SUFFIX}"):
            # Another process may remove it meanwhile.
            with suppress(OSError):
                dated.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(dated, reverse=True)]


def load(kind: Kind) -> Learned | None:
    """What was learned of a kind by this process or another; None if nothing was."""
    path = _path(kind)
    if path is None:
        return None
    learned = Learned.load(path, kind)
    if learned is not None:
        with suppress(OSError):
            os.utime(path)
    return learned


def save(kind: Kind, learned: Learned, warn: Callable[[str], None], most_bytes: int = MOST_BYTES) -> None:
    """Keep what was learned of a kind, and remove files that were not used for long if there are too many.

    Args:
        kind: the kind.
        learned: what was learned.
        warn: says that the folder cannot be written to; the method works without it.
        most_bytes: bytes of all files together.
    """
    path = _path(kind)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        learned.save(path, kind)
    except (OSError, DcacheError) as error:
        warn(
            f"what was observed cannot be kept for later processes ({error}). Set {VARIABLE} to a folder "
            f"that can be written to, or to {OFF!r}."
        )
        return
    _shrink(most_bytes)


def refining(kind: Kind, marked: str) -> Path | None:
    """The file that a refinement's results lie beside while it is under way; None where nothing is kept.

    Args:
        kind: the kind of run that is refined.
        marked: text that changes with the refinement's arguments.
    """
    base = home()
    if base is None:
        return None
    try:
        (base / _REFINING).mkdir(parents=True, exist_ok=True)
    except OSError:
        # Saving the plan will say so.
        return None
    return base / _REFINING / f"{kind.digest()}-{hashlib.sha256(marked.encode()).hexdigest()[:8]}"


def clear() -> int:
    """Remove all files, and what refinements that were broken off have left; returns the number of files."""
    removed = 0
    base = home()
    if base is not None:
        shutil.rmtree(base / _REFINING, ignore_errors=True)
    for path in files():
        with suppress(OSError):
            path.unlink()
            removed += 1
    return removed


def describe() -> str:
    """The folder, and a line for each file, for people."""
    folder = _folder()
    if folder is None:
        return f"off ({VARIABLE}={OFF})"
    lines = [str(folder)]
    for path in files():
        kind = kind_in(path)
        text = "unreadable" if kind is None else f"{kind.model}, {kind.text()}"
        with suppress(OSError):
            lines.append(f"{path.name}  {format_bytes(path.stat().st_size)}  {text}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "nothing is kept"])


def _shrink(most_bytes: int) -> None:
    total = 0
    for path in files():
        with suppress(OSError):
            total += path.stat().st_size
            if total > most_bytes:
                path.unlink()


def _folder() -> Path | None:
    base = home()
    return None if base is None else base / "tuned"


def _path(kind: Kind) -> Path | None:
    folder = _folder()
    return None if folder is None else folder / f"{kind.digest()}{_SUFFIX}"
