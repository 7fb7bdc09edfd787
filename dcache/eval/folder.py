"""A folder that one run at a time writes to, and that a killed run leaves clean for the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcache.errors import DcacheError
from dcache.util.files import TEMPORARY, make_folder

LOCK = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there, until the block ends or the process does; sweep it first.

    Raises:
        DcacheError: another run holds it, or it cannot be written to.
    """
    make_folder(folder)
    try:
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise DcacheError(f"cannot write to {folder}: {error.strerror}") from None
    with lock:
        if not _lock(lock.fileno()):
            raise DcacheError(
                f"another run is writing to {folder}: wait until it is done, or give another folder (--out)"
            )
        for path in folder.rglob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)
        yield


def _lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:
        # Windows has no such locks: there, two runs on one folder are the user's to avoid.
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Nor do some network file systems.
        return True
    return True
