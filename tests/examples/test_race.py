"""The animated picture of the README runs on counted FLOPs."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

import dcache
from dcache.demo.pipeline import call_options, load_pipeline
from tests.scripts import load


def test_the_clock_counts_the_steps_and_not_the_previews() -> None:
    race, pipe = load("examples/race.py"), load_pipeline()
    call = call_options() | {"num_inference_steps": 4}
    shown, plain = race.previews(pipe, call)
    assert [image.size for image in shown] == [shown[0].size] * 4
    # The first one has the text encoder's too; all evaluations of the plain model are alike.
    each = {later - earlier for earlier, later in pairwise(plain)}
    assert len(each) == 1
    assert plain[0] > min(each)
    with dcache.enabled(pipe, "interval", interval=2, warmup=1, sites="model"):
        _, cached = race.previews(pipe, call)
        (rows,) = dcache.trace(pipe).components["transformer"].rows.values()
        (computed,) = rows.values()
    steps = [later - earlier for earlier, later in pairwise(cached)]
    assert [flops > 0 for flops in steps] == list(computed[1:])
    assert set(steps) == {0, *each}


@pytest.mark.filterwarnings("ignore::dcache.DcacheWarning")
def test_it_writes_an_animation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "deep" / "race.gif"
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["race.py", "--steps", "6", "--speedup", "2", "--out", str(out)])
    load("examples/race.py").main()
    with Image.open(out) as animation:
        assert animation.n_frames > 6
