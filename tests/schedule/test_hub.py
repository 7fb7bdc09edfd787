"""Schedules go to the hub and come back, with a card; against a stand-in on the loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

import dcache
from dcache import DcacheError
from dcache.schedule import Plan, Schedule
from dcache.schedule.hub import CARD, FILE, PICTURE, card
from tests.hub_server import serving, use
from tests.pipelines import PIXART, STEPS

ROW = tuple(t in {0, 1, 4} for t in range(STEPS))
SCHEDULE = Schedule(
    STEPS,
    {"": Plan({"*": {"trunk": ROW}}, model="PixArtTransformer2DModel")},
    method="planned",
    guidance=3.0,
    measured={"psnr": 41.23456, "machine": "a | b"},
)


def test_a_schedule_goes_up_with_its_card_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as hub:
        use(hub, tmp_path, monkeypatch)
        address = SCHEDULE.push_to_hub("me/fast", base_model="org/model", token="t")
        assert address == f"{hub.url}/me/fast"
        assert set(hub.files["me/fast"]) == {FILE, PICTURE, CARD}
        hub.files["me/fast"]["setup.py"] = b"raise SystemExit"
        again = Schedule.from_hub("me/fast")
        assert again == SCHEDULE
        # Nothing but the schedule's files is downloaded.
        assert not [line for line in hub.asked if "setup.py" in line or "README" in line]
        pipe = dcache.enable(PIXART.build(), "hub:me/fast")
        PIXART.run(pipe)
        assert dcache.stats(pipe).computed == 3
    # Without a network the copy in the cache serves.
    use(None, tmp_path, monkeypatch)
    assert Schedule.from_hub("me/fast") == SCHEDULE


def test_offline_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(None, tmp_path, monkeypatch)
    with pytest.raises(DcacheError, match=r"hub cannot be reached for me/fast.*path of a file"):
        dcache.enable(PIXART.build(), "hub:me/fast")
    with pytest.raises(DcacheError, match="hub cannot be reached"):
        SCHEDULE.push_to_hub("me/fast", token="t")


def test_what_is_not_there_or_no_schedule_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as hub:
        use(hub, tmp_path, monkeypatch)
        with pytest.raises(DcacheError, match="no repository me/none"):
            Schedule.from_hub("me/none")
        hub.files["me/other"] = {"model.bin": b"1"}
        with pytest.raises(DcacheError, match="no schedule of dcache"):
            Schedule.from_hub("me/other")
        hub.files["me/bad"] = {FILE: b"{}"}
        with pytest.raises(DcacheError, match="this is no schedule"):
            Schedule.from_hub("me/bad")
    with pytest.raises(DcacheError, match=r"base_model, private and token, got publc"):
        SCHEDULE.push_to_hub("me/fast", publc=True)
    with pytest.raises(DcacheError, match="unknown option"):
        dcache.enable(PIXART.build(), "hub:me/fast", interval=3)


def test_the_card_has_the_figures() -> None:
    text = card(SCHEDULE, "me/fast", "org/model")
    for part in (
        'base_model: "org/model"',
        'dcache.enable(pipe, "hub:me/fast")',
        "| computed | 3 of 7 site events |",
        "| guidance | 3 |",
        "| psnr | 41.23 |",
        "| machine | a / b |",
        "trunk  ##..#..",
        f"]({PICTURE})",
    ):
        assert part in text
    assert "base_model" not in card(SCHEDULE, "me/fast")
