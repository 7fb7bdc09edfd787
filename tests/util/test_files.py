"""Files are whole or not there, and a full disk is an error that says so."""

import errno
import math
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dcache.errors import DcacheError
from dcache.util.files import as_path, make_folder, read_tensors, try_file, try_folder, write, write_json


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


def test_a_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    assert try_file(tmp_path / "a.json") == tmp_path / "a.json"
    assert try_folder(tmp_path / "not" / "yet") == tmp_path / "not" / "yet"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DcacheError, match=r"cannot write to .*file is a file"):
            try_folder(path)
    with pytest.raises(DcacheError, match=r"it is a folder\. Give the name of a file"):
        try_file(tmp_path)
    with pytest.raises(DcacheError, match="there is no folder"):
        try_file(tmp_path / "no" / "a.json")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "kept")]


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(DcacheError, match=r"Read-only file system\. Choose another folder before the work"):
        try_folder(tmp_path / "out")


def test_a_small_disk_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(DcacheError, match=r"expected 16\.0 MiB free on its disk, got 1\.0 MiB"):
        try_folder(tmp_path)
    try_folder(tmp_path, room=1 << 20)


@pytest.mark.parametrize("path", [3, None, "", b"a.json", True, ["a"]])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(DcacheError, match="expected the path of a schedule file, got"):
        as_path(path, "schedule")


def test_a_path_may_be_text_or_an_object() -> None:
    assert as_path("a/b", "schedule") == as_path(Path("a/b"), "schedule") == Path("a/b")


def test_tensors_are_read_with_their_metadata_and_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"ids": torch.tensor([3, 5])}, path, metadata={"format": "a 1"})
    tensors, metadata = read_tensors(path, "cache")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"ids": [3, 5]}
    assert metadata == {"format": "a 1"}
    path.write_bytes(b"something else")
    for wrong in (path, tmp_path / "none"):
        with pytest.raises(DcacheError, match=f"cannot read the cache {re.escape(str(wrong))}: "):
            read_tensors(wrong, "cache")
