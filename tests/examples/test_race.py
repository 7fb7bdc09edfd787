"""The animated picture: both sides end with the pictures of their calls."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from dcache.demo.pipeline import call_options, load_pipeline
from tests.scripts import load


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


def test_a_predicted_evaluation_takes_what_it_still_computes() -> None:
    # Four evaluations of 100; the cached call has 230, of which two predicted ones share 30.
    ends = load("examples/race.py").ends_of([True, False, True, False], 400, 230)
    assert ends == pytest.approx([1.0, 1.15, 2.15, 2.3])
    assert load("examples/race.py").ends_of([True, True], 200, 200) == [1.0, 2.0]
