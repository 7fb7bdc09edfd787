"""Atomic writing of files, trying a place before the work whose results it is for, and reading tensors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.util.bytes import format_bytes

# Prefix of temporary files, and of no other file.
TEMPORARY = ".dcache-"
# Bytes that results of a usual command take at most: figures, schedules, plots.
ROOM = 16 << 20


def how_to_calibrate(path: object) -> str:
    """The commands that write a profile or a schedule, for messages."""
    return (
        f"`dcache calibrate PIPE --out {path}` makes one, for a policy `dcache policy calibrate POLICY "
        f"--observations SEEN.npz --out {path}`"
    )


def write(path: Path, save: Callable[[Path], object]) -> Path:
    """Write a file atomically: `save` writes a temporary file beside it, which then replaces it.

    Args:
        path: path of the file.
        save: called with the path of the temporary file.

    Returns:
        `path`.

    Raises:
        DcacheError: the folder cannot be written to, or the disk is full; an existing file is unchanged.
    """
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f"{TEMPORARY}{path.stem}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        try:
            save(temporary)
            # mkstemp makes files that only their owner can read. Set the usual permissions.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DcacheError(
            f"cannot write {path}: {error.strerror or error}. Nothing that was written before is lost: free "
            "some space or choose another folder, and run the same command again."
        ) from error
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file atomically; returns its path.

    Raises:
        DcacheError: the file cannot be written.
        ValueError: the content has NaN or infinity.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_tensors(path: Path, what: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The torch tensors and the metadata of a safetensors file, by name.

    Args:
        path: path of the file.
        what: what the file is, for the message: "cache".

    Raises:
        DcacheError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            # It is no mapping.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DcacheError(f"cannot read the {what} {path}: {error}") from None


def make_folder(path: Path) -> Path:
    """Create a folder and its parents if they do not exist; returns its path.

    Raises:
        DcacheError: the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DcacheError(f"cannot create the folder {path}: {error.strerror}") from None
    return path


def try_file(path: Path, room: int = ROOM) -> Path:
    """Check before the work that a file can be written after it: write a temporary file beside it.

    Nothing stays behind.

    Args:
        path: path of the file.
        room: bytes that have to be free.

    Returns:
        `path`.

    Raises:
        DcacheError: the path is a folder, its folder is missing or cannot be written to, or the disk has too
            little room.
    """
    if path.is_dir():
        raise DcacheError(f"cannot write {path}: it is a folder. Give the name of a file")
    if not path.absolute().parent.is_dir():
        raise DcacheError(f"cannot write {path}: there is no folder {path.absolute().parent}")
    try_folder(path.parent, room)
    return path


def try_folder(path: Path, room: int = ROOM) -> Path:
    """The same for a folder, which may be missing: its closest existing parent is tried.

    Raises:
        DcacheError: it is a file, it cannot be written to, or its disk has too little room.
    """
    try:
        there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        if not there.is_dir():
            raise DcacheError(f"cannot write to {path}: {there} is a file. Choose another folder")
        handle, name = tempfile.mkstemp(dir=there, prefix=TEMPORARY)
        try:
            os.write(handle, b"dcache")
        finally:
            os.close(handle)
            Path(name).unlink()
        free = shutil.disk_usage(there).free
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DcacheError(
            f"cannot write to {path}: {reason}. Choose another folder before the work begins"
        ) from error
    if free < room:
        raise DcacheError(
            f"{path} has too little room: expected {format_bytes(room)} free on its disk, got "
            f"{format_bytes(free)}. Free some space or choose another folder"
        )
    return path


def as_path(path: object, what: str) -> Path:
    """A path that a caller gave.

    Args:
        path: a text or an `os.PathLike`.
        what: what the file is, for the message: "schedule".

    Raises:
        DcacheError: it is neither, or it is empty.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise DcacheError(f"expected the path of a {what} file, got {path!r}")
    return Path(os.fspath(path))
