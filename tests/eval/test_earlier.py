"""A folder that a release with digests of the first kind wrote: gone on with where that is sure to be right.

`data/version-1` was written by that release: dcache eval demo --prompts demo:2 --steps 4 --device cpu
--methods "newton:interval=2;teacache;mine.json" --stage generate --no-warm-up, with `data/mine.json`.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcache.errors import DcacheError
from dcache.eval import digest
from dcache.eval.earlier import adopt
from dcache.eval.evaluation import evaluate
from dcache.eval.manifest import FILE, Manifest
from dcache.eval.settings import Settings
from dcache.eval.specs import parse
from dcache.eval.store import Store
from dcache.eval.subject import coefficients, load
from dcache.schedule import Schedule

DATA = Path(__file__).parent / "data"
METHODS = "newton:interval=2;teacache;mine.json"
FOLDERS = ["uncached", "newton-2-aa654892", "teacache-e6d93eee", "file-mine-f7b64c0d"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy; the schedule file lies in the current folder, as it did then."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / "mine.json", tmp_path)
    return Path(shutil.copytree(DATA / "version-1", tmp_path / "old"))


@pytest.fixture(scope="module")
def subject() -> Any:
    return load("demo", steps=4, device="cpu", dtype="float32")


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Pictures, records and schedules, and when they were written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for name in ("images", "calls", "schedules")
        for path in (folder / name).rglob("*.*")
    }


def go_on(folder: Path, subject: Any, methods: str = METHODS) -> Store:
    """Generate what is missing; the pipeline's own digest is left to `tests.identity`."""
    content = json.loads((folder / FILE).read_text())
    content["pipeline"]["digest"] = subject.digest
    (folder / FILE).write_text(json.dumps(content))
    settings = Settings(steps=4, device="cpu")
    prompts = content["prompts"]
    return evaluate("demo", prompts, methods, settings, out=folder, stages=["generate"], warm_up=False).store


def notes(store: Store) -> list[str]:
    """The labels of the methods of which the manifest notes that an earlier release made their pictures."""
    return [note.partition(":")[0] for note in store.manifest.notes if "earlier release" in note]


def test_it_is_gone_on_with_and_says_so_once(folder: Path, subject: Any) -> None:
    before = files(folder)
    assert len(before) == 8 + 4 + 3
    for _ in range(2):
        store = go_on(folder, subject)
        assert [entry.folder for entry in store.methods] == FOLDERS
        assert files(folder) == before
        assert notes(store) == ["newton 2", "teacache", "file mine"]
    again = Manifest.read(folder).methods
    assert [entry.digest_version for entry in again[1:]] == [digest.VERSION] * 3
    assert [entry.digest for entry in again[1:]] == [
        choice.digest for choice in parse(METHODS, coefficients("demo"))
    ]


def test_it_can_be_scored_as_it_is(folder: Path) -> None:
    result = evaluate(out=folder, stages=["score"], metrics=["psnr"])
    assert result.scores is not None
    assert list(result.scores["methods"]) == FOLDERS


def test_a_schedule_that_says_something_else_now_is_made_again(folder: Path, subject: Any) -> None:
    Schedule.of_steps([0, 1], 4).save("mine.json")
    before = files(folder)
    store = go_on(folder, subject)
    (new,) = [entry for entry in store.methods if entry.folder not in FOLDERS]
    assert new.label == f"file mine {new.digest[:4]}"
    assert store.complete(new)
    assert notes(store) == ["newton 2", "teacache"]
    assert {path: content for path, content in files(folder).items() if new.folder not in path} == before


def adopted(folder: Path, methods: str) -> list[str]:
    """The labels of the methods that get the pictures of the old entries."""
    store = Store.open(folder)
    adopt(store, parse(methods, coefficients("demo")))
    return notes(store)


def test_what_was_asked_for_in_other_words_is_made_again(folder: Path) -> None:
    assert adopted(folder, "newton:interval=3;interval:interval=2;taylorseer:interval=2") == []
    assert adopted(folder, "newton:interval=2,order=1") == []


def test_a_schedule_whose_trace_is_damaged_is_made_again(folder: Path) -> None:
    (folder / "schedules" / f"{FOLDERS[-1]}.json").write_text("{")
    assert adopted(folder, METHODS) == ["newton 2", "teacache"]


def test_a_schedule_may_have_moved(folder: Path) -> None:
    Path("other").mkdir()
    shutil.move("mine.json", "other")
    assert adopted(folder, "other/mine.json") == ["file mine"]


def test_a_preset_with_a_file_of_the_users_is_made_again(folder: Path) -> None:
    """Nothing tells whether the file is what it was."""
    Path("numbers.json").write_text(json.dumps({"magcache": {"ratios": [1.0, 0.9, 0.8, 0.7]}}))
    manifest = Manifest.read(folder)
    spec = "magcache:ratios=numbers.json"
    (choice,) = parse(spec)
    entry = replace(manifest.methods[1], folder=f"{choice.file_name}-00000000", label=choice.label, spec=spec)
    replace(manifest, methods=[*manifest.methods, entry]).write(folder)
    assert not choice.same_as(spec, None)
    assert adopted(folder, spec) == []


def test_of_two_that_may_be_meant_none_is_taken(folder: Path) -> None:
    """Numbers that were measured anew between two runs of one specification."""
    manifest = Manifest.read(folder)
    other = replace(manifest.methods[2], folder="teacache-12345678", label="teacache 1234")
    replace(manifest, methods=[*manifest.methods, other]).write(folder)
    assert adopted(folder, METHODS) == ["newton 2", "file mine"]


def test_another_version_is_refused(folder: Path) -> None:
    content = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(content | {"version": 3}))
    with pytest.raises(
        DcacheError, match=r"expected dcache.eval of version 1 or 2, got \('dcache.eval', 3\)"
    ):
        Manifest.read(folder)
