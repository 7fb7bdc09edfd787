"""A schedule as something to look at: what is alike stands together, and the PNG shows it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcache.errors import DcacheError
from dcache.eval.schedules import COMPUTED, PREDICTED, draw_schedule, heading, panels
from dcache.schedule import Plan, Schedule

EVEN, ODD = (True, False, True), (True, True, False)


def names(rows: dict[str, tuple[bool, ...]]) -> list[str]:
    (panel,) = panels(Schedule(3, {"": Plan({"*": rows})}))
    return [strip.name for strip in panel.strips]


def test_sites_alike_share_a_strip_wherever_they_stand() -> None:
    rows = {f"{kind}:{i}": EVEN if kind == "attn" else ODD for i in range(12) for kind in ("attn", "mlp")}
    assert names(rows) == ["attn:0-11", "mlp:0-11"]


def test_depths_that_follow_one_another_are_a_range() -> None:
    rows = dict.fromkeys(["attn:2", "attn:0", "guidance", "attn:1", "attn:7", "mlp:3"], EVEN)
    assert names(rows) == ["attn:0-2, attn:7, guidance, mlp:3"]
    assert names({"run:3-9": EVEN, "run:10-12": EVEN}) == ["run:3-9, run:10-12"]


def test_a_name_that_would_be_long_says_how_many_sites_it_is() -> None:
    rows = dict.fromkeys([f"block:{i}" for i in range(0, 40, 2)], EVEN)
    assert names(rows) == ["block:0 and more (20 sites)"]


def test_branches_alike_share_a_panel() -> None:
    rows = {"a": {"trunk": EVEN}, "b": {"trunk": ODD}, "c": {"trunk": EVEN}}
    found = panels(
        Schedule(3, {"unet": Plan(rows, predictor="taylor", parameters={"order": 2}, model="UNet")})
    )
    assert [panel.branch for panel in found] == ["branches a, c", "branch b"]
    assert {(panel.denoiser, panel.predictor) for panel in found} == {("unet UNet", "taylor(order=2)")}
    assert found[0].strips[0].share == pytest.approx(2 / 3)


def test_the_heading_says_what_is_known() -> None:
    assert heading(Schedule.of_steps([0], 3)) == "listed: 3 evaluations"
    full = Schedule(3, {"": Plan({"*": {"trunk": EVEN}})}, "pab", "Euler", (64, 32), 3.0)
    assert heading(full) == "pab: 3 evaluations, Euler, guidance 3, 64x32"


def test_the_picture_shows_what_is_computed(tmp_path: Path) -> None:
    path = draw_schedule(tmp_path / "picture.png", Schedule.of_steps([0, 3], 4))
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    count = {
        colour: int((pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=1).sum())
        for colour in (COMPUTED, PREDICTED)
    }
    # Two cells of four are computed, and the key has one of each.
    assert count[COMPUTED] == pytest.approx(count[PREDICTED], rel=0.01)
    assert count[COMPUTED] > 5000


def test_a_large_schedule_is_drawn(tmp_path: Path) -> None:
    rows = {f"block:{i}": tuple((i * j) % 7 < 3 for j in range(150)) for i in range(1, 41)}
    with Image.open(draw_schedule(tmp_path / "large.png", Schedule(150, {"": Plan({"*": rows})}))) as image:
        assert image.height < 2000


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DcacheError, match="cannot write"):
        draw_schedule(tmp_path / "nowhere" / "picture.png", Schedule.of_steps([0], 2))
