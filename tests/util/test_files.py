"""Files are whole or not there, and a full disk is an error that says so."""

import errno
import math
import os
from pathlib import Path

import pytest

from dcache.errors import DcacheError
from dcache.util.files import make_folder, write, write_json


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "figure.txt"

    def half(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, half)
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write(path, half)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("figure.txt", "old")]
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, math.nan)
    assert path.read_text() == "old"


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "figure.txt"
    path.write_text("old")

    def full(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        DcacheError, match=r"cannot write .*figure\.txt: No space left on device\. .*free some space"
    ):
        write(path, full)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("figure.txt", "old")]


def test_a_written_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    assert write_json(tmp_path / "a.json", {}).stat().st_mode == plain.stat().st_mode


def test_a_folder_below_a_file_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DcacheError, match="cannot create the folder"):
        make_folder(tmp_path / "file" / "below")
