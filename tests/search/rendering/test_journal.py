"""The journal survives what a killed process leaves behind, and knows its own search."""

from pathlib import Path

import pytest

from dcache.errors import DcacheError
from dcache.search.rendering.journal import Journal

ABOUT = {"seed": 1, "prompts": "abc", "recipes": ("reuse", "newton")}


def begun(path: Path, count: int = 3) -> Journal:
    journal = Journal.start(path, ABOUT, resume=False)
    for i in range(count):
        journal.add((f"digest{i}", 0), {"values": {"psnr": float(i)}})
    return journal


def test_what_was_added_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    begun(path)
    again = Journal.start(path, ABOUT, resume=True)
    assert again.results == {(f"digest{i}", 0): {"values": {"psnr": float(i)}} for i in range(3)}
    assert again.damaged == 0
    again.add(("digest3", 1), {"values": {"psnr": None}})
    assert len(Journal.start(path, ABOUT, resume=True).results) == 4


@pytest.mark.parametrize("kept", [1, 20, 60])
def test_a_torn_last_line_is_skipped_and_ended(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "search.jsonl"
    begun(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    again = Journal.start(path, ABOUT, resume=True)
    assert (set(again.results), again.damaged) == ({("digest0", 0), ("digest1", 0)}, 1)
    again.add(("digest9", 0), {"values": {}})
    third = Journal.start(path, ABOUT, resume=True)
    assert ("digest9", 0) in third.results
    assert third.damaged == 1


def test_a_changed_line_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    begun(path)
    path.write_text(path.read_text().replace('"psnr": 1.0', '"psnr": 99.0'))
    again = Journal.start(path, ABOUT, resume=True)
    assert (set(again.results), again.damaged) == ({("digest0", 0), ("digest2", 0)}, 1)


def test_a_file_without_an_evaluation_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    begun(path, 0)
    other = {**ABOUT, "seed": 2}
    Journal.start(path, other, resume=False).add(("digest", 0), {})
    assert len(path.read_bytes().splitlines()) == 2
    assert Journal.start(path, other, resume=True).results == {("digest", 0): {}}
    with pytest.raises(DcacheError, match="exists already"):
        Journal.start(path, other, resume=False)
    # A torn line may be somebody's evaluation: it is not written over.
    begun(tmp_path / "torn", 0)
    with (tmp_path / "torn").open("a") as opened:
        opened.write('{"key": ["dig')
    with pytest.raises(DcacheError, match="exists already"):
        Journal.start(tmp_path / "torn", ABOUT, resume=False)


def test_another_search_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    begun(path)
    with pytest.raises(DcacheError, match="exists already: continue that search"):
        Journal.start(path, ABOUT, resume=False)
    with pytest.raises(DcacheError, match="is of another search: prompts, seed differ"):
        Journal.start(path, {**ABOUT, "seed": 2, "prompts": "x"}, resume=True)
    (tmp_path / "other").write_text("hello\nworld\n")
    with pytest.raises(DcacheError, match="is no journal of a search"):
        Journal.start(tmp_path / "other", ABOUT, resume=True)
    assert len(Journal.start(path, ABOUT, resume=True).results) == 3


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(DcacheError, match=r"cannot write the journal .*--resume"):
        Journal.start(folder / "search.jsonl", ABOUT, resume=False)
