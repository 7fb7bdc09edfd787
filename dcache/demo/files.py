"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, save: Callable[[Path], object]) -> Path:
    """Let `save` write to a temporary file beside `path`, then put it in its place in one move."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
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
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write JSON; refuse NaN, which JSON does not have."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return write(path, lambda temporary: temporary.write_text(text))
