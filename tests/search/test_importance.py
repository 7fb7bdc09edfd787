"""The importance of one evaluation is what it does to the pictures, by hand."""

import numpy as np
import pytest

import dcache
from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.search.importance import BROKEN, importance
from dcache.search.observe import observe
from dcache.search.rendering.render import Renderer
from tests.pipelines import PIXART, STEPS
from tests.search.pipeline_subjects import Shaped, shaped


@pytest.fixture(scope="module")
def seen() -> tuple[Shaped, Profile]:
    """A small pipeline, observed."""
    subject = shaped(PIXART)
    return subject, observe(subject, ["1", "2"], sites=("trunk", "mlp:0"), timing=False)


def test_it_is_the_mean_squared_error_of_the_pictures(seen: tuple[Shaped, Profile]) -> None:
    subject, profile = seen
    told: list[str] = []
    found = importance(subject, profile, ["1", "2"], seed=3, batch_size=1, progress=told.append)
    assert found.important == ("trunk",)
    assert found.importance.shape == (1, STEPS)
    assert np.isnan(found.importance[0, 0])
    plain = np.concatenate([subject([p], [3 + i]) for i, p in enumerate(("1", "2"))]).clip(0, 1)
    for t in (1, 4, STEPS - 1):
        with dcache.enabled(subject.pipe, Schedule.of_steps(set(range(STEPS)) - {t}, STEPS)):
            there = np.concatenate([subject([p], [3 + i]) for i, p in enumerate(("1", "2"))]).clip(0, 1)
        expected = ((there.astype(np.float64) - plain.astype(np.float64)) ** 2).mean()
        assert found.importance[0, t] == pytest.approx(expected)
        assert expected > 0
    assert told[1].startswith(f"importance: {STEPS - 1} runs of 2 pictures, at most about ")
    assert told[-1] == f"importance of trunk: evaluation {STEPS - 1} of {STEPS - 1}"
    both = importance(subject, found, ["1"], sites=("mlp:0",))
    assert both.important == ("trunk", "mlp:0")
    np.testing.assert_array_equal(both.importance[0], found.importance[0])
    assert (both.importance[1, 1:] > 0).all()


def test_broken_pictures_are_as_far_off_as_can_be(
    seen: tuple[Shaped, Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, profile = seen
    monkeypatch.setattr(Renderer, "pictures", lambda self, _: self.reference * np.nan)
    found = importance(subject, profile, ["1"])
    assert found.importance[0, 1:].tolist() == [BROKEN] * (STEPS - 1)


def test_what_was_not_observed_is_refused(seen: tuple[Shaped, Profile]) -> None:
    subject, profile = seen
    with pytest.raises(DcacheError, match=r"which has trunk, mlp:0; got \['block:1'\]"):
        importance(subject, profile, ["1"], sites=("trunk", "block:1"))
    with pytest.raises(DcacheError, match=r"at least one prompt for each of 1 process"):
        importance(subject, profile, [])
