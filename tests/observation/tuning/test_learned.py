"""Files of what was learned: they come back as they were, and what is not one is none."""

from pathlib import Path

import numpy as np
import pytest

from dcache.observation.tuning.kind import Kind
from dcache.observation.tuning.learned import Learned, kind_in
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
