"""Slopes fitted on final pictures: exact in a linear world, and a real pipeline comes closer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import dcache
from dcache.errors import DcacheError
from dcache.eval.subject import load
from dcache.predictors.fitted import Fitted
from dcache.schedule import Plan, Schedule
from dcache.search.fitting.closed_loop import fit, straight, with_slopes
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results

STEPS, ANCHORS = 8, (0, 2, 5)
CAPTIONS = [
    "a large striped red circle at the top left on a blue background",
    "a small plain green star at the right on a white background",
    "a large dotted white heart at the bottom on a purple background",
]


def schedule(
    anchors: tuple[int, ...] = ANCHORS, steps: int = STEPS, sites: tuple[str, ...] = ("trunk",)
) -> Schedule:
    row = tuple(t in anchors for t in range(steps))
    return Schedule(steps, {"transformer": Plan({"*": dict.fromkeys(sites, row)}, "delta", clock="step")})


class Curve(Renderer):
    """A world in which the picture is the sum of all features, which run along a curve."""

    def __init__(self, seed: int, worse: Callable[[], float] = lambda: 0.0) -> None:
        rng = np.random.default_rng(seed)
        t = np.arange(STEPS)[:, None, None, None, None]
        # What is predicted bends: a line overshoots by a third everywhere.
        self.features = 0.5 + 0.02 * rng.standard_normal((1, 2, 4, 4, 3)) * (1 - np.exp(-t / 3))
        self.features = self.features + rng.random((1, 2, 4, 4, 3)) * 0.01
        self.reference = self.features.mean(axis=0)
        self.rendered = 0
        self.results = Results()
        self.worse = worse

    def pictures(self, method: Any) -> Any:
        self.rendered += 1
        (plan,) = method.components.values()
        fitted = Fitted.from_parameters(**plan.parameters).at("trunk")
        row, made = plan.rows["*"]["trunk"], []
        for t in range(STEPS):
            before = [t] if row[t] else [a for a in ANCHORS if a < t][-2:]
            weights = [1.0] if row[t] else fitted.weights([float(a) for a in before], before, float(t))
            made.append(sum(w * self.features[a] for w, a in zip(weights, before, strict=True)))
        return np.mean(made, axis=0) + self.worse()


def test_what_is_linear_is_solved_in_one_step() -> None:
    fitting, checking = Curve(0), Curve(1)
    found = fit(schedule(), fitting, checking, iterations=1)
    assert found.before == checking.quality(with_slopes(schedule(), straight(schedule())))
    # All features of a picture lie on one line here, so the sum can be met.
    assert found.after > found.before + 20
    assert checking.quality(found.schedule) == pytest.approx(found.after)
    # One run as it is, one for each of the slopes at 3, 4, 6 and 7; the start and three dampings are checked.
    assert (found.rendered, sorted(found.slopes)) == (1 + 4 + 1 + 3, [3, 4, 6, 7])


def test_a_step_that_does_not_help_elsewhere_is_not_taken() -> None:
    checked = iter(range(100))
    other = Curve(1, worse=lambda: 0.1 * next(checked))
    found = fit(schedule(), Curve(0), other, iterations=3)
    assert found.after == found.before
    assert found.slopes == straight(schedule())


def test_the_line_followed_all_the_way_is_newton_on_the_step_clock() -> None:
    subject = load("demo", steps=STEPS, device="cpu")
    line = with_slopes(schedule(), straight(schedule(), share=1.0))
    newton = Schedule(
        STEPS,
        {
            "transformer": Plan(
                schedule().components["transformer"].rows, "delta", "newton", {"order": 1}, "step"
            )
        },
    )
    outputs = []
    for one in (line, newton):
        with dcache.enabled(subject.pipe, one):
            outputs.append(torch.from_numpy(subject(CAPTIONS[:1], [0])))
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=0)


def test_real_pictures_come_closer_and_the_file_keeps_it(tmp_path: Any) -> None:
    subject = load("demo", steps=6, device="cpu")
    fitting, checking = Renderer(subject, CAPTIONS[:2], seed=10), Renderer(subject, CAPTIONS[2:], seed=20)
    found = fit(schedule((0, 1, 3), 6), fitting, checking, iterations=1)
    assert found.after > found.before
    path = found.schedule.save(tmp_path / "fitted.json")
    assert checking.quality(Schedule.load(path)) == pytest.approx(found.after)


def test_the_halves_of_a_guided_batch_are_fitted_apart() -> None:
    subject = load("demo", steps=6, device="cpu", guidance=3.0)
    at, start = schedule((0, 1, 3), 6), straight(schedule((0, 1, 3), 6), share=1.0)
    fitting, checking = Renderer(subject, CAPTIONS[:2], seed=10), Renderer(subject, CAPTIONS[2:], seed=20)
    found = fit(at, fitting, checking, start, iterations=1, apart=dict.fromkeys(start, 0.0))
    assert found.after > found.before == checking.quality(with_slopes(at, start, dict.fromkeys(start, 0.0)))
    assert found.apart is not None
    assert set(found.apart) == set(found.slopes) == {2, 4, 5}
    assert any(found.apart.values())
    # A run as it is and one for each of six slopes; the start and three dampings are checked.
    assert found.rendered == 1 + 6 + 1 + 3
    assert checking.quality(with_slopes(at, found.slopes, found.apart)) == pytest.approx(found.after)


def test_a_move_to_where_nothing_is_known_is_not_taken() -> None:
    fitting = Curve(0)
    fitting.reference = fitting.reference + np.nan
    found = fit(schedule(), fitting, Curve(1), iterations=1)
    assert (found.slopes, found.after) == (straight(schedule()), found.before)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: schedule((0,)), "nothing to fit"),
        (lambda: schedule(tuple(range(STEPS))), "nothing to fit"),
        (
            lambda: Schedule(
                3, {"": Plan({"*": {"attn:0": (True, True, False), "mlp:0": (True, False, True)}})}
            ),
            "2 different rows",
        ),
    ],
)
def test_schedules_without_slopes_are_refused(made: Callable[[], Schedule], expected: str) -> None:
    with pytest.raises(DcacheError, match=expected):
        fit(made(), Curve(0), Curve(1))


def test_a_renderer_needs_prompts_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = load("demo", steps=2, device="cpu")
    with pytest.raises(DcacheError, match="at least one prompt to render"):
        Renderer(subject, [])
    monkeypatch.setattr(subject.pipe.vae, "decode", lambda z, **_: (torch.full((1, 3, 64, 64), torch.nan),))
    with pytest.raises(DcacheError, match="contain NaN"):
        Renderer(subject, CAPTIONS[:1])


def test_batches_do_not_change_which_noise_a_picture_starts_from() -> None:
    subject = load("demo", steps=2, device="cpu")
    whole, parts = (Renderer(subject, CAPTIONS, seed=3, batch_size=n) for n in (8, 1))
    np.testing.assert_allclose(whole.reference, parts.reference, atol=1e-4)
    assert whole.psnr(whole.reference) == [100.0] * 3
