"""The animated picture of the README runs on counted FLOPs."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
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


@pytest.mark.filterwarnings("default::dcache.DcacheWarning")
def test_the_race_ends_with_the_uncached_picture_on_the_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, out = load("examples/race.py"), tmp_path / "race.gif"
    monkeypatch.setenv("DCACHE_HOME", "off")
    monkeypatch.setattr("sys.argv", ["race.py", "--steps", "6", "--speedup", "1.5", "--out", str(out)])
    script.main()
    with Image.open(out) as race:
        assert race.n_frames > 6
        race.seek(race.n_frames - 1)
        last = race.convert("RGB")
    call = call_options() | {"num_inference_steps": 6}
    plain = load_pipeline()(script.CAPTION, **call, generator=torch.Generator().manual_seed(3)).images[0]
    side = plain.width * script.ZOOM
    left = last.crop((script.EDGE, 2 * script.EDGE + 4, script.EDGE + side, 2 * script.EDGE + 4 + side))
    shown = left.resize(plain.size, Image.Resampling.NEAREST)
    # A GIF has 64 colours.
    difference = [abs(a - b) for a, b in zip(shown.tobytes(), plain.tobytes(), strict=True)]
    assert sum(difference) / len(difference) < 8
