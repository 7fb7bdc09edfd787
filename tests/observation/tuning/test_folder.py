"""The cache folder: where it is, what it holds, its limit, damage, and processes that share it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcache.observation.tuning import folder
from dcache.observation.tuning.kind import Kind
from dcache.observation.tuning.learned import Learned
from dcache.schedulers.planners.tuned import ObservedCall

KIND = Kind("Model", "abc", ("auto",), "DDIM", 5, "table", 3.0, (4, 8, 8))
# A process of its own: it cannot import tests, of which other packages install some too.
WRITER = """
import numpy as np
from dcache.observation.tuning import folder
from dcache.observation.tuning.kind import Kind
from dcache.observation.tuning.learned import Learned
from dcache.schedulers.planners.tuned import ObservedCall
kind = Kind("Model", "abc", ("auto",), "DDIM", 5, "table", 3.0, (4, 8, 8))
for i in range(30):
    z = np.random.default_rng(i).standard_normal((5, 9))
    folder.save(kind, Learned(ObservedCall(z @ z.T, None, np.arange(5.0), np.ones(5)), share=0.9), print)
    assert folder.load(kind) is not None, "a reader read a broken file"
"""
# A user's program; both observe, or the later one follows the plan of the earlier one.
STARTER = """
import warnings
import dcache
from dcache.demo.pipeline import call_options, load_pipeline
warnings.simplefilter("ignore", dcache.DcacheWarning)
pipe = dcache.enable(load_pipeline(), speedup=1.5)
for _ in range(2):
    pipe("a red circle", **call_options() | {"num_inference_steps": 4})
assert dcache.stats(pipe).plan.startswith("planned from one observed call"), dcache.stats(pipe).plan
"""


def learned(seed: int = 0) -> Learned:
    z = np.random.default_rng(seed).standard_normal((5, 9))
    return Learned(ObservedCall(z @ z.T, None, np.arange(5.0), np.ones(5)), share=0.9, seconds=float(seed))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))
    return tmp_path / "tuned"


def refuse(text: str) -> None:
    pytest.fail(text)


def test_what_is_saved_is_loaded_by_its_kind_alone(home: Path) -> None:
    folder.save(KIND, learned(), refuse)
    found = folder.load(KIND)
    assert found is not None
    assert np.array_equal(found.observed.gram, learned().observed.gram)
    for changed in ({"weights": "abd"}, {"steps": 6}, {"guidance": None}, {"size": (4, 8, 9)}):
        assert folder.load(KIND._replace(**changed)) is None
    assert f"Model, {KIND.text()}" in folder.describe()
    assert folder.clear() == 1
    assert "nothing is kept" in folder.describe()
    assert folder.load(KIND) is None


def test_the_least_recently_used_go_when_there_are_too_many(home: Path) -> None:
    import os

    for steps in range(3):
        folder.save(KIND._replace(steps=steps), learned(), refuse)
        os.utime(home / f"{KIND._replace(steps=steps).digest()}.safetensors", (steps, steps))
    size = next(home.iterdir()).stat().st_size
    folder.load(KIND._replace(steps=0))
    folder.save(KIND._replace(steps=9), learned(), refuse, most_bytes=2 * size + size // 2)
    assert [s for s in (0, 1, 2, 9) if folder.load(KIND._replace(steps=s))] == [0, 9]


def test_off_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCACHE_HOME", "off")
    folder.save(KIND, learned(), refuse)
    assert folder.load(KIND) is None
    assert folder.home() is None
    assert folder.describe() == "off (DCACHE_HOME=off)"
    assert folder.clear() == 0


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/dcache"),
        ("linux", {}, "~/.cache/dcache"),
        ("darwin", {}, "~/Library/Caches/dcache"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/dcache/Cache"),
    ],
    ids=["xdg", "linux", "mac", "windows"],
)
def test_the_platforms_folders(monkeypatch: Any, platform: str, variable: Any, expected: str) -> None:
    for name in ("DCACHE_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert folder.home() == Path(expected).expanduser()


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path / "file"))
    said: list[str] = []
    folder.save(KIND, learned(), said.append)
    assert "cannot be kept for later processes" in said[0]
    assert "DCACHE_HOME" in said[0]
    assert folder.load(KIND) is None


@pytest.mark.slow
def test_two_processes_write_and_read_the_same_file(home: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(list(home.iterdir())) == 1
    assert folder.load(KIND) is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_start_at_once_with_an_empty_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))
    starters = [subprocess.Popen([sys.executable, "-c", STARTER]) for _ in range(2)]
    assert [starter.wait() for starter in starters] == [0, 0]
    assert len(folder.files()) == 1
