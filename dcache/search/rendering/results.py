"""Results of a calibration's calls that outlive a kill: numbers in a journal, pictures in files beside it.

The folder is named after the file that is made, `FILE.resume`. It goes when that file is written, or refused.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.eval.folder import LOCK, alone
from dcache.search.rendering.journal import Journal
from dcache.util.files import ROOM, write

JOURNAL, ARRAYS = "journal.jsonl", ".npz"
Arrays = Mapping[str, NDArray[Any]]


class Results:
    """Results by name. Each is made once: in a later run it is read from the folder.

    Args:
        journal: the numbers; None keeps nothing, so every result is made.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal = journal
        self.folder = None if journal is None or journal.path is None else journal.path.parent

    @property
    def known(self) -> int:
        """Number of results that are known."""
        arrays = 0 if self.folder is None else len(list(self.folder.glob(f"*{ARRAYS}")))
        return arrays + (0 if self.journal is None else len(self.journal.results))

    def has(self, name: str) -> bool:
        """Whether the number of this name is known."""
        return self.journal is not None and (name, 0) in self.journal.results

    def number(self, name: str, make: Callable[[], Any]) -> Any:
        """A JSON value: the known one of this name, or the one that `make` returns, which is logged."""
        if self.journal is None:
            return make()
        if not self.has(name):
            self.journal.add((name, 0), {"value": make()})
        return self.journal.results[name, 0]["value"]

    def has_arrays(self, name: str) -> bool:
        """Whether the arrays of this name can be read."""
        path = self._path(name)
        return path is not None and _loaded(path) is not None

    def arrays(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Arrays by name: the known ones of this name, or those that `make` returns, which are saved.

        They are not saved where the disk would be full with them: then only a kill costs more.
        """
        path = self._path(name)
        if path is None:
            return make()
        known = _loaded(path)
        if known is not None:
            return known
        arrays = make()
        content: dict[str, Any] = dict(arrays)
        size = sum(array.nbytes for array in content.values())
        if shutil.disk_usage(path.parent).free > size + ROOM:
            write(path, lambda temporary: np.savez(temporary, **content))
        return arrays

    def _path(self, name: str) -> Path | None:
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        return None if self.folder is None else self.folder / f"{digest}{ARRAYS}"


@contextmanager
def resumable(out: Path, about: Mapping[str, Any], serves: str = "") -> Iterator[Results]:
    """The results of the work on a file; those of an earlier run that was killed are among them.

    After the block the folder is deleted. It is deleted too where a `DcacheError` refuses the work, for the
    same work would be refused again, and other settings would find results that are not theirs (but see
    `serves`). After a kill, Ctrl-C, a full disk or any other error it stays for the next run.

    Args:
        out: the file that is made.
        about: everything that decides the results.
        serves: a setting that may be another in the next run, such as "speedup": work that was refused stays.

    Raises:
        DcacheError: the folder is of another calibration, in use, or cannot be written to.
    """
    folder = out.with_name(f"{out.name}.resume")
    kept = True
    try:
        with alone(folder):
            results = Results(Journal.start(folder / JOURNAL, about, resume=True, what="calibration"))
            try:
                yield results
                kept = False
            except BaseException as error:
                kept = results.known > 0 and (bool(serves) or not _is_refusal(error))
                if kept:
                    command = f"with another {serves} the" if _is_refusal(error) else "the same"
                    error.add_note(f"What was measured is kept: {command} command goes on from {folder}")
                raise
            finally:
                if not kept:
                    for path in [*folder.glob(f"*{ARRAYS}"), folder / JOURNAL]:
                        path.unlink(missing_ok=True)
    finally:
        if not kept:
            (folder / LOCK).unlink(missing_ok=True)
            # Files of others in it stay, and the folder with them.
            if not any(folder.iterdir()):
                folder.rmdir()


def _is_refusal(error: BaseException) -> bool:
    """Whether an error says that the work cannot be done; a disk that is full ends it only for now."""
    return isinstance(error, DcacheError) and not isinstance(error.__cause__, OSError)


def _loaded(path: Path) -> Arrays | None:
    """Arrays that were saved; None if there are none, or if a crash has damaged them."""
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as opened:
            return dict(opened)
    except (OSError, ValueError, EOFError, BadZipFile):
        return None
