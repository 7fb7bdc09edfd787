"""A folder that one run at a time writes to, and that a killed run leaves clean for the next."""

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
    """Hold a folder, made if it is not there, until the block ends or the process does; sweep it first.

    Raises:
        DcacheError: another run holds it, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DcacheError(
            f"another run is writing to {folder}: wait until it is done, or give another folder (--out)"
        ) from None
    except OSError as error:
        # Some network file systems have no locks: there, two runs on one folder are the user's to avoid.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise DcacheError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        for path in folder.rglob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
