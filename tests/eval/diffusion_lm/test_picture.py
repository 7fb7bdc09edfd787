"""The picture's states, by hand."""

from pathlib import Path

import numpy as np
import pytest

import dcache
from dcache.eval.diffusion_lm.entries import Order, parse
from dcache.eval.diffusion_lm.evaluation import Job
from dcache.eval.diffusion_lm.picture import (
    COMPUTED,
    MASKED,
    PARTLY,
    REUSED,
    picture_of,
    pictured,
    trace,
)
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import Batch, RowSubject
from tests.diffusion_lm import masked_models as models


@pytest.fixture(scope="module")
def subject() -> RowSubject:
    def batches(count: int, length: int) -> list[Batch]:
        return [Batch(models.prompts(count, 2), lambda ids: [1.0] * len(ids))]

    return RowSubject("small", models.llama(), batches, 4, 4, 0.0, "", "")


def test_states_of_dual_from_left_to_right(subject: RowSubject) -> None:
    job = Job("dual", Order(2, None), dcache.methods.dual(block=2))
    one = trace(subject, job, RowSettings(decoder="left").of(subject))
    c, r, m = COMPUTED, REUSED, MASKED
    assert one.states.tolist() == [[c] * 6, [r, r, c, c, m, m], [c] * 6, [r, r, r, r, c, c]]
    assert one.decoded.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert one.share == pytest.approx((6 + 2 + 6 + 2) / 24)


def test_the_uncached_loop_computes_everything(subject: RowSubject) -> None:
    one = trace(subject, Job("none", Order(4, None), None), RowSettings(decoder="left").of(subject))
    assert (one.states == COMPUTED).all()
    assert one.share == 1.0


def test_rows_of_a_drift_test_are_shown(subject: RowSubject) -> None:
    """With gamma 1 every test fails, so each step after the first two computes the rest from a layer on."""
    method = dcache.methods.elastic(gamma=1.0, window=1, when="now")
    one = trace(subject, Job("elastic", Order(4, 1), method), RowSettings().of(subject))
    assert (one.states[0] == COMPUTED).all()
    assert (one.states[2:] == PARTLY).any(1).all()
    assert one.share < 1


def test_a_picture_has_one_uncached_loop() -> None:
    entries = parse("dual:block=2;window:window=1;prefix:block=2")
    assert [job.label for job in pictured(entries, 4)] == [
        "none",
        "dual block=2",
        "prefix block=2",
        "window window=1",
    ]


def test_a_cell_has_the_colour_of_its_state(subject: RowSubject, tmp_path: Path) -> None:
    from matplotlib.image import imread

    shown = imread(
        picture_of(subject, parse("dual:block=2"), RowSettings().of(subject), tmp_path / "rows.png")
    )
    for colour in ((0x1D, 0x6F, 0xD1), (0xDB, 0xE6, 0xF4), (0xF6, 0xE7, 0xC8)):
        near = np.abs(np.asarray(shown)[..., :3] * 255 - np.array(colour)).max(-1) < 2
        assert near.sum() > 1000
