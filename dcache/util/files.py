"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError

# How the names of temporary files begin; no other file's does.
TEMPORARY = ".dcache-"


def write(path: Path, save: Callable[[Path], object]) -> Path:
    """Let `save` write to a temporary file beside `path`, then put it in its place in one move.

    Raises:
        DcacheError: the place cannot be written to, or the disk is full; what stood there is untouched.
    """
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f"{TEMPORARY}{path.stem}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        try:
            save(temporary)
            # mkstemp makes files that only their owner can read; these are as shared as any other file.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DcacheError(
            f"cannot write {path}: {error.strerror or error}. Nothing that was written before is lost: make "
            "room or choose another folder, and run the same command again."
        ) from error
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write JSON; refuse NaN, which JSON does not have."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def make_folder(path: Path) -> Path:
    """Create the folder if it is not there.

    Raises:
        DcacheError: it cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DcacheError(f"cannot create the folder {path}: {error.strerror}") from None
    return path
