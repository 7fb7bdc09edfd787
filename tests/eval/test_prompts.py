"""Prompts from files and sets, and what is said of those that cannot be read."""

import json
import sys
from pathlib import Path

import pytest

from dcache.demo.pictures import demo_captions
from dcache.demo.video import clips
from dcache.errors import DcacheError
from dcache.eval.prompts import SETS, digest, read


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "a red fox\nein Füchslein, rot\n"),
        ("a.txt", "a red fox\r\nein Füchslein, rot"),
        ("a.TXT", b"\xef\xbb\xbfa red fox\n  ein F\xc3\xbcchslein, rot \n"),
        ("a.csv", 'seed,prompt\n1,a red fox\n2,"ein Füchslein, rot"\n'),
        ("a.jsonl", '{"prompt": "a red fox"}\n{"n": 1, "prompt": "ein Füchslein, rot"}\n'),
    ],
)
def test_every_kind_of_file_gives_its_prompts_in_order(name: str, content: str, tmp_path: Path) -> None:
    assert read(written(tmp_path / name, content)) == ["a red fox", "ein Füchslein, rot"]


def test_a_prompt_may_be_longer_than_the_name_of_a_file() -> None:
    long = "a red fox " * 500
    assert read(long) == [long.strip()]


def test_another_column_can_be_named(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.csv", "id,caption\n1,a fox\n"), "caption") == ["a fox"]
    assert read(written(tmp_path / "a.jsonl", '{"text": "a fox"}'), "text") == ["a fox"]


def test_a_field_of_a_csv_may_hold_line_ends(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.csv", 'prompt,x\n"a red\nfox",1\n')) == ["a red\nfox"]


def test_prompts_that_come_twice_stay(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.txt", "a\nb\na\n")) == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "a\n\nb\n", r"a\.txt, line 2: the prompt is empty"),
        ("a.txt", "a\n  \n", "line 2: the prompt is empty"),
        ("a.txt", "", "holds no prompts"),
        ("a.txt", b"one\ntwo \xe9\n", r"line 2: byte 0xe9 \(number 8 of the file\) is not UTF-8.*iconv"),
        ("a.csv", "prompt,x\na,1\n\nb,2\n", "line 3: the prompt is empty"),
        ("a.csv", "x,prompt\n1,a\n2\n", "line 3: the prompt is empty"),
        ("a.csv", "text,x\na,1\n", r"no column 'prompt', it has 'text', 'x': .*--prompt-column"),
        ("a.csv", "", "no column 'prompt', it has none"),
        ("a.csv", "prompt\n", "holds no prompts"),
        ("a.csv", 'prompt\n"a\n', "line 2: unexpected end of data"),
        ("a.csv", b"prompt\n\xff\n", "line 2: byte 0xff"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2 is not JSON"),
        ("a.jsonl", '{"prompt": "a"}\n\n', "line 2 is not JSON"),
        ("a.jsonl", '"a"\n', "line 1: expected an object with the key 'prompt', got \"a\""),
        ("a.jsonl", '{"text": "a"}\n', "line 1 has no column 'prompt', it has 'text'"),
        ("a.jsonl", '{"prompt": 3}\n', "line 1: expected a text, got 3"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(
    name: str, content: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(DcacheError, match=expected):
        read(written(tmp_path / name, content))


def test_what_names_no_prompts_is_told(tmp_path: Path) -> None:
    with pytest.raises(DcacheError, match=r"cannot read the prompts .*No such file"):
        read(str(tmp_path / "none.txt"))
    with pytest.raises(DcacheError, match=r"no prompts in 'black-forest-labs/FLUX.1-dev': expected a file"):
        read("black-forest-labs/FLUX.1-dev")
    (tmp_path / "a file").write_text("a\n")
    with pytest.raises(DcacheError, match=r"no prompts in .* ending in \.txt, \.csv, \.jsonl, \.parquet"):
        read(str(tmp_path / "a file"))


def test_words_are_a_prompt() -> None:
    assert read(" a red fox ") == ["a red fox"]


def test_named_sets_are_the_held_out_captions() -> None:
    assert read("demo:3") == [caption.text for caption in demo_captions(3)]
    assert read("demo-video:2") == [caption.text for caption in clips.demo_captions(2)]
    assert len(read("demo")) == 8
    for name, (_, _, most) in SETS.items():
        assert len(read(f"{name}:{most}")) == most
        for wrong in (0, most + 1, "x"):
            with pytest.raises(DcacheError, match=f"between 1 and {most}"):
                read(f"{name}:{wrong}")


def test_parquet_without_its_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DcacheError, match="needs pyarrow: pip install pyarrow"):
        read(written(tmp_path / "a.parquet", ""))


def test_parquet_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "other": ["c", None]}), path)
    assert read(str(path)) == ["a", "b"]
    with pytest.raises(DcacheError, match="row 2: expected a text, got None"):
        read(str(path), "other")
    with pytest.raises(DcacheError, match="no column 'text', it has 'prompt', 'other'"):
        read(str(path), "text")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DcacheError, match="cannot read the prompts"):
        read(str(path))


def test_the_digest_sees_every_prompt_and_their_order() -> None:
    lists = [["a", "b"], ["b", "a"], ["a"], ["a", "b", "b"], ["ab"]]
    assert len(set(map(digest, lists))) == len(lists)
    assert digest(json.loads('["a", "b"]')) == digest(["a", "b"])


@pytest.mark.parametrize("name", ["demo", "demo-video"])
def test_what_to_calibrate_with_and_what_to_judge_by_share_nothing(name: str) -> None:
    trained, held_out = read(f"{name}-train:80"), read(f"{name}:80")
    assert len(trained) == len(held_out) == 80
    assert not set(trained) & set(held_out)
    assert trained == read(f"{name}-train:80")
    assert trained[:5] == read(f"{name}-train:5")
