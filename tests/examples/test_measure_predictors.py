"""The script that compares predictors: in a world whose answers are known, resumable, its page and plot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcache import predictors
from dcache.errors import DcacheError
from dcache.profile import FeatureTables, Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.gram import combination
from dcache.schedulers.planners.pairs import clock_values
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results
from tests import scripts

T = 12
SIGMAS = tuple(np.linspace(0.98, 0.0, T + 1))


@pytest.fixture(scope="module")
def script() -> Any:
    return scripts.load("examples/measure_predictors.py")


def features(seed: int, bend: float = 0.0) -> np.ndarray:
    """Along a line on log-SNR, (T, pictures, ...), with a bend."""
    rng = np.random.default_rng(seed)
    run = Profile(T, {"trunk": {"0": {"delta": nothing()}}}, sigmas=SIGMAS)
    clock = clock_values(run)[1][:, None, None, None, None] / 20
    return 0.5 + 0.1 * rng.random((1, 2, 4, 4, 3)) * (clock + bend * clock**2)


def nothing() -> FeatureTables:
    return FeatureTables(np.eye(T), np.zeros((T, T)), np.ones(T))


class World(Renderer):
    """Pictures are the mean of a run's features."""

    def __init__(self, z: np.ndarray) -> None:
        self.results = Results()
        self.z, self.reference, self.rendered = z, z.mean(axis=0), 0

    def pictures(self, method: Any) -> Any:
        assert isinstance(method, Schedule)
        self.rendered += 1
        (plan,) = method.components.values()
        anchors = [t for t, computed in enumerate(plan.rows["*"]["trunk"]) if computed]
        clock = (
            range(T)
            if plan.clock == "step"
            else clock_values(Profile(T, {"trunk": {"0": {"delta": nothing()}}}, sigmas=SIGMAS))[1]
        )
        predictor = predictors.make(plan.predictor, plan.parameters).at("trunk")
        mixed = [combination(predictor, anchors, [float(c) for c in clock], t) for t in range(T)]
        return np.mean([np.tensordot(w, self.z, 1) for w in mixed], axis=0)


def profile(z: np.ndarray) -> Profile:
    flat = z.reshape(T, -1)
    apart = np.abs(flat[:, None] - flat[None]).mean(axis=2)
    seen = FeatureTables(flat @ flat.T / flat.shape[1], apart, np.abs(flat).mean(axis=1))
    return Profile(T, {"trunk": {"0": {"delta": seen}}}, sigmas=SIGMAS)


def test_the_predictor_whose_world_it_is_wins(script: Any) -> None:
    z = features(0)
    row = script.one(profile(z), (0, 1, 4, 8), *(World(features(i)) for i in (0, 1, 2)))
    found = row["psnr"]
    assert sorted([*found, "chosen"]) == sorted(script.NAMES)
    assert script.chosen(profile(z), row, World(features(1))) in ("newton 1", "share of newton 1")
    # A line on log-SNR: the line on that clock is exact, that on the step clock is not; nobody fitted worse.
    assert found["newton 1"] == found["share of newton 1"] == 100.0
    assert row["shares"]["newton 1"] == 1.0
    assert found["reuse"] < found["taylor 1"] < 90
    assert min(found["fitted 2"], found["share of fitted"], found["pictures"]) > found["taylor 1"] + 5


def test_slopes_fitted_on_pictures_win_where_the_curve_bends(script: Any) -> None:
    z = features(0, bend=1.0)
    found = script.one(profile(z), (0, 3, 6, 9), *(World(features(i, 1.0)) for i in (0, 1, 2)))["psnr"]
    fixed = max(found[name] for name in script.FIXED)
    assert found["pictures"] > fixed + 3


def test_places_are_as_many_as_even_ones(script: Any) -> None:
    seen = profile(features(3, 0.5))
    even, planned = (script.places(seen, kind) for kind in ("even", "planned"))
    assert even == (0, 3, 6, 9)
    assert len(planned) == 4
    assert planned != even
    assert script.places(seen, "by hand") == (0, 1, 4, 7, 10)


def rows(script: Any) -> list[dict[str, Any]]:
    found = []
    for i, (guidance, model) in enumerate([(3.0, "PixArt"), (3.0, "Wan"), (1.0, "UNet")]):
        psnr = {name: 30.0 + k + i for k, name in enumerate(script.NAMES)}
        found.append({"model": model, "guidance": guidance, "steps": 20, "places": "even", "anchors": [0, 4]})
        found[-1] |= {"psnr": psnr, "shares": {"fitted": 0.5, "newton 1": 1.0}}
    found[1]["psnr"]["reuse"] = 60.0
    return found


def test_the_page_and_the_plot(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    page = tmp_path / "predictors.md"
    page.write_text("before <!-- measured -->\nold\n<!-- /measured --> after\n")
    (tmp_path / "predictors.json").write_text(json.dumps({"rows": rows(script)}))
    monkeypatch.setattr("sys.argv", ["measure_predictors.py", "--draw-only", "--docs", str(tmp_path)])
    assert script.main() == 0
    text = page.read_text()
    assert text.startswith("before <!-- measured -->\n| predictor |")
    assert text.endswith("<!-- /measured --> after\n")
    assert "old" not in text
    # Of two rows with guidance: one dB worse, and 60 against 32.
    assert "| reuse | +13.5 (-1.0 to +28.0) | -1.0 (-1.0 to -1.0) |" in text
    assert "| Wan | 3 | 20 | even: 0 4 | **60.0** | 32.0 |" in text
    assert "| UNet | none | 20 | even: 0 4 | 32.0 |" in text
    assert (tmp_path / "pictures" / "predictors.png").read_bytes().startswith(b"\x89PNG")
    page.write_text("no place")
    assert script.main() == 1


def test_it_goes_on_where_it_was(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "predictors.json"
    z = features(0)
    asked: list[Any] = []
    monkeypatch.setattr(script, "subject_of", lambda *what: (asked.append(what), ["a"] * 6, ["b"]))
    monkeypatch.setattr(script, "observe", lambda *_, **__: profile(z))
    monkeypatch.setattr(script, "Renderer", lambda *_: World(z))
    monkeypatch.setattr(
        script, "one", lambda *_: {name: rows(script)[0][name] for name in ("anchors", "psnr", "shares")}
    )
    monkeypatch.setattr(script, "chosen", lambda *_: "linear")
    script.measure(kept, ["UNet"], minutes=0.0)
    assert not asked
    everything = script.measure(kept, ["UNet"], minutes=1.0)
    assert asked == [("UNet", 3.0, 20), ("UNet", 1.0, 20)]
    assert [row["psnr"]["chosen"] for row in everything["rows"]] == [35.0] * 4
    # A row that was begun is finished, its figures stay.
    del everything["rows"][1]["chosen"]
    kept.write_text(json.dumps(everything))
    script.measure(kept, ["UNet"], minutes=1.0)
    asked.pop()
    assert script.measure(kept, ["UNet"], minutes=1.0)["rows"] == json.loads(kept.read_text())["rows"]
    assert len(asked) == 2


def test_what_the_docs_show_was_measured(script: Any) -> None:
    found = json.loads((script.DOCS / "predictors.json").read_text(encoding="utf-8"))
    page = (script.DOCS / "predictors.md").read_text(encoding="utf-8")
    assert {row["model"] for row in found["rows"]} == set(script.MODELS)
    assert "\n".join(script.lines(found)) in page
    assert "\n".join(script.summary(found)) in page


def test_a_page_without_a_place_is_refused(script: Any, tmp_path: Path) -> None:
    (tmp_path / "predictors.md").write_text("no place")
    with pytest.raises(DcacheError, match="no place for measured figures"):
        script.write_docs({"rows": rows(script)}, tmp_path)
