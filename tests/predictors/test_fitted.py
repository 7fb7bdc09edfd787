"""The fitted predictor: its table is used where the anchors are those it was fitted with, and checked."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import dcache
from dcache.errors import DcacheError
from dcache.method import Method
from dcache.predictors import make
from dcache.predictors.fitted import Fitted
from dcache.schedule import Plan, Schedule
from tests.pipelines import PIXART

TABLE = {"*": {2: {0: -0.5, 1: 1.5}, 3: {1: 1.0}}, "attn:1": {2: {0: 0.25, 1: 0.75}}}


def test_each_site_has_its_rows_and_the_star_is_for_the_others() -> None:
    fitted = Fitted(TABLE)
    assert fitted.order == 1
    assert fitted.at("trunk").weights([0.0, 1.0], [0, 1], 2.0) == [-0.5, 1.5]
    assert fitted.at("attn:1").weights([0.0, 1.0], [0, 1], 2.0) == [0.25, 0.75]
    assert fitted.at("trunk").weights([0.0, 1.0], [0, 1], 3.0) == [0.0, 1.0]


@pytest.mark.parametrize("steps", [[0, 2], [1], [0, 1, 2]])
def test_a_row_of_other_anchors_is_not_used(steps: list[int]) -> None:
    taus = [float(step) for step in steps]
    assert Fitted(TABLE).at("trunk").weights(taus, steps, 4.0) == [0.0] * (len(steps) - 1) + [1.0]
    assert Fitted({"*": {3: {0: -0.5, 1: 1.5}}}).weights(taus, steps, 3.0) == [0.0] * (len(steps) - 1) + [1.0]


def test_it_survives_json_and_a_schedule_file(tmp_path: Path) -> None:
    fitted = Fitted(TABLE)
    again = make("fitted", json.loads(json.dumps(fitted.parameters())))
    assert again == fitted
    plan = Plan({"*": {"trunk": (True, True, False)}}, "delta", "fitted", fitted.parameters(), "step")
    path = Schedule(3, {"": plan}).save(tmp_path / "fitted.json")
    assert make("fitted", Schedule.load(path).components[""].parameters) == fitted
    with pytest.raises(DcacheError, match="fitted for 3 evaluations"):
        Schedule.load(path).stretch(6)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"*": {2: {0: 0.5, 1: 0.4}}}, "must sum to one, got 0.9"),
        ({"*": {2: {0: math.nan, 1: 1.0}}}, "must be numbers between"),
        ({"*": {2: {0: -200.0, 1: 201.0}}}, "must be numbers between"),
        ({"*": {2: {2: 1.0}}}, "anchors before it"),
        ({"*": {2: {}}}, "anchors before it"),
        ({"*": {"x": {0: 1.0}}}, "must be {site: {evaluation"),
        ({"*": [1.0]}, "must be {site: {evaluation"),
        ([], "must be {site: {evaluation"),
    ],
)
def test_a_table_that_is_none_is_refused(weights: Any, expected: str) -> None:
    with pytest.raises(DcacheError, match=expected):
        Fitted(weights)
    with pytest.raises(DcacheError, match=expected):
        make("fitted", {"weights": weights})


def test_it_needs_the_clock_of_evaluations() -> None:
    with pytest.raises(DcacheError, match="clock must be 'step', got None"):
        Method("x", rule=dcache.methods.interval().rule, predictor=Fitted(TABLE))


def test_a_table_of_newtons_weights_gives_newtons_pictures() -> None:
    """On the step clock, with anchors 0, 1 and 4 of six evaluations."""
    pipe, steps, anchors = PIXART.build(), 6, [0, 1, 4]
    rows = {t: [a for a in anchors if a < t][-2:] for t in (2, 3, 5)}
    table = {t: {a: -(t - b) / (b - a), b: 1 + (t - b) / (b - a)} for t, (a, b) in rows.items()}
    outputs = []
    for predictor, parameters in (("newton", {"order": 1}), ("fitted", Fitted({"*": table}).parameters())):
        computed = tuple(t in anchors for t in range(steps))
        plan = Plan({"*": {"trunk": computed}}, None, predictor, parameters, "step")
        with dcache.enabled(pipe, Schedule(steps, {"transformer": plan})):
            outputs.append(PIXART.run(pipe, num_inference_steps=steps))
    torch.testing.assert_close(outputs[0], outputs[1])
