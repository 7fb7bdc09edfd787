"""Exclusive access to an evaluation folder, with clean-up after a killed run."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcache.errors import DcacheError
from dcache.util.files import TEMPORARY, make_folder

LOCK = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder for the block; make it if it is missing, and delete temporary files of killed runs.

    The operating system releases the lock when the process ends, so a killed run leaves none behind.

    Raises:
        DcacheError: another run has the lock, or the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DcacheError(
            f"another run is writing to {folder}: wait until it is done, or choose another folder (--out)"
        ) from None
    except OSError as error:
        # Some network file systems have no locks. There the run goes on without one.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise DcacheError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        for path in folder.rglob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
