"""From a router to a schedule: its rows, and the weights of the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcache.cli import main
from dcache.eval.subject import load
from dcache.schedule import Schedule
from dcache.search.rendering.render import Renderer
from dcache.search.route import image_weights, scheduled
from dcache.search.routing.router import Router, sublayers_of


def test_the_rows_are_those_of_the_largest_weights() -> None:
    subject = load("demo", guidance=3.0, device="cpu", steps=3)
    sites = tuple(s.name for s in sublayers_of(subject.pipe.transformer))
    logits = torch.full((3, len(sites)), -1.0)
    logits[1, sites.index("mlp:3")] = 1.0
    schedule = scheduled(subject, Router(logits, sites), (len(sites) + 1) / (3 * len(sites)))  # type: ignore[arg-type]
    rows = schedule.components["transformer"].rows["*"]
    assert rows["mlp:3"] == (True, True, False)
    assert rows["attn:0"] == (True, False, False)
    assert schedule.method == "harmonica"
    assert schedule.components["transformer"].codec == "value"


@pytest.mark.slow
def test_the_weights_of_the_loss_have_a_mean_of_one() -> None:
    subject = load("demo", guidance=3.0, device="cpu", steps=3)
    weights = image_weights(Renderer(subject, ["a red circle"]), 3)
    assert weights[0] == 0.0
    assert min(weights[1:]) > 0
    assert sum(weights[1:]) == pytest.approx(2.0)


@pytest.mark.slow
def test_the_command_writes_a_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "router.schedule.json"
    line = f"calibrate demo --method harmonica --steps 4 --speedup 1.2 --iterations 1 --repeats 1 --out {out}"
    assert main([*line.split(), "--prompts", "demo-train:3"]) == 0
    assert "PSNR on other prompts" in capsys.readouterr().out
    schedule = Schedule.load(out)
    assert schedule.method == "harmonica"
    rows = next(iter(schedule.components.values())).rows["*"]
    assert all(row[0] for row in rows.values())
    assert not all(all(row) for row in rows.values())
