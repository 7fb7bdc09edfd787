"""Atomic writing of files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError

# Prefix of temporary files, and of no other file.
TEMPORARY = ".dcache-"


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
