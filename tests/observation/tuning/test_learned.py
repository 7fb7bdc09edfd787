"""Files of what was learned: they come back as they were, and what is not one is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcache.observation.tuning.kind import Kind
from dcache.observation.tuning.learned import Learned, Refined, kind_in
from dcache.schedulers.planners.tuned import Halves, ObservedCall

KIND = Kind("Model", "abc", ("auto",), "DDIM", 4, "table", None, (4, 8, 8))
RNG = np.random.default_rng(0)


def square() -> np.ndarray:
    return RNG.standard_normal((4, 4))


@pytest.mark.parametrize("halves", [None, Halves(square(), square(), square())], ids=["alone", "halves"])
def test_it_comes_back_as_it_was(tmp_path: Path, halves: Halves | None) -> None:
    observed = ObservedCall(square(), "step", np.arange(4.0), np.ones(4), halves, True, 3.5)
    saved = Learned(observed, first=2, share=0.8, counted=True, seconds=1.5)
    saved.save(tmp_path / "x.safetensors", KIND)
    found = Learned.load(tmp_path / "x.safetensors", KIND)
    assert found is not None
    assert (found.first, found.share, found.counted, found.seconds) == (2, 0.8, True, 1.5)
    assert (found.observed.clock, found.observed.guided, found.observed.guidance) == ("step", True, 3.5)
    assert np.array_equal(found.observed.gram, observed.gram)
    assert (found.observed.halves is None) == (halves is None)
    if halves is not None and found.observed.halves is not None:
        assert np.array_equal(found.observed.halves.cross, halves.cross)
    assert kind_in(tmp_path / "x.safetensors") == KIND


def test_what_is_no_such_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert Learned.load(path, KIND) is None
    path.write_bytes(b"not a file of tensors")
    assert Learned.load(path, KIND) is None
    assert kind_in(path) is None
    broken = ObservedCall(square() * np.nan, None, np.arange(4.0), np.ones(4))
    Learned(broken).save(path, KIND)
    assert Learned.load(path, KIND) is None
    Learned(ObservedCall(square(), None, np.arange(4.0), np.ones(3))).save(path, KIND)
    assert Learned.load(path, KIND) is None
    Learned(ObservedCall(square(), None, np.arange(4.0), np.ones(4))).save(path, KIND)
    assert Learned.load(path, KIND._replace(steps=5)) is None
    assert Learned.load(path, KIND) is not None


LINE = Refined((0, 2), "newton", {"order": 1}, "logsnr", 8, 41.5)


def test_refined_plans_come_back_as_they_were(tmp_path: Path) -> None:
    path, observed = tmp_path / "x.safetensors", ObservedCall(square(), None, np.arange(4.0), np.ones(4))
    weights = {"*": {"1": {"0": 1.0}, "3": {"0": -0.5, "2": 1.5}}}
    fitted = Refined((0, 2), "fitted", {"weights": weights}, "step", 8, 44.5)
    Learned(observed, refined={2: fitted, 3: LINE}).save(path, KIND)
    found = Learned.load(path, KIND)
    assert found is not None
    assert found.refined == {2: fitted, 3: LINE}


@pytest.mark.parametrize(
    "change",
    [
        {"computed": ()},
        {"computed": (1, 2)},
        {"computed": (0, 4)},
        {"computed": (0, 2, 1)},
        {"predictor": "nobody's"},
        {"parameters": {"order": "one"}},
        {"clock": "moon"},
        {"predictor": "fitted", "parameters": {"weights": {"*": {"1": {"0": 1.0}}}}},
    ],
    ids=["none", "not the first", "beyond", "unordered", "predictor", "parameters", "clock", "tabulated"],
)
def test_a_file_with_a_refined_plan_that_no_run_can_follow_is_none(tmp_path: Path, change: Any) -> None:
    path, observed = tmp_path / "x.safetensors", ObservedCall(square(), None, np.arange(4.0), np.ones(4))
    Learned(observed, refined={2: LINE._replace(**change)}).save(path, KIND)
    assert Learned.load(path, KIND) is None
