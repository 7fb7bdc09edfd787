"""Progress of long commands: lines where nobody watches, a bar on a terminal."""

import io
import sys
from threading import Event

import pytest

from dcache.cli import progress
from dcache.cli.progress import rounds, shares, stages
from dcache.eval.progress import Planned
from tests.cli.heartbeats import without_heartbeats


class Terminal(io.StringIO):
    """Something that says it is a terminal and keeps what is written."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only where a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_a_round_is_a_line_and_a_long_one_names_who_is_at_work(clock: list[float], capsys) -> None:
    with rounds(2, 1) as tell:
        for turn, label, seconds in ((0, "a", 1), (0, "b", 20), (1, "a", 5), (1, "b", 5)):
            tell(turn, label)
            clock[0] += seconds
    assert without_heartbeats(capsys.readouterr().err) == [
        "loading the model; then 2 x 2 calls",
        "warm-up (0 s)",
        "round 1 of 1 (21 s)",
    ]
    with rounds(2, 1) as tell:
        for turn, label, seconds in ((0, "a", 11), (0, "b", 1), (1, "a", 1), (1, "b", 1)):
            tell(turn, label)
            clock[0] += seconds
    assert without_heartbeats(capsys.readouterr().err)[1:] == [
        "warm-up (0 s)",
        "warm-up: b (11 s)",
        "round 1 of 1 (12 s)",
    ]


def test_shares_are_told_now_and_then_and_when_done(clock: list[float], capsys) -> None:
    with shares(0, 1) as tell:
        for done, seconds in enumerate((4, 4, 4, 1)):
            tell("newton 4", done, 3)
            clock[0] += seconds
    assert without_heartbeats(capsys.readouterr().err) == [
        "newton 4: 0 of 3 (0 s)",
        "newton 4: 3 of 3 (12 s)",
    ]


def test_a_terminal_shows_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with rounds(2, 1) as tell:
        for turn, label in ((0, "a"), (0, "b"), (1, "a"), (1, "b")):
            tell(turn, label)
    shown = sys.stderr.getvalue()
    assert "loading the model:   0%" in shown
    assert "round 1 of 1: b:  75%" in shown
    assert "3/4" in shown
    assert "\n" not in shown.rstrip("\n")


def test_a_bar_begins_anew_with_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with shares(0, 1) as tell:
        tell("pictures", 6, 6)
        tell("psnr", 1, 8)
    shown = sys.stderr.getvalue()
    assert "pictures: 100%" in shown
    assert "psnr:  12%" in shown
    assert "1/8" in shown


class Lines(io.StringIO):
    """Keeps what is written; `still` is set once a line says that the work goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.still = Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if text.startswith("still"):
            self.still.set()
        return written


def test_a_long_call_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands for the display; the thread that looks at it beats fast.

    Another thread writes: capsys would lose what is written while it is read.
    """
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_BEATS", 0.001)
    monkeypatch.setattr(sys, "stderr", Lines())
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with stages() as log:
        log("rendering")
        assert not sys.stderr.still.is_set()
        now[0] += 9.0
        assert sys.stderr.still.wait(60)
    shown = sys.stderr.getvalue()
    assert "still at it: rendering (9 s)" in shown
    assert shown.count("still") == 1
    assert progress.SECONDS_BETWEEN_LINES + 2.0 <= 10.0


def test_stages_of_calls_say_how_much_is_left(clock: list[float], capsys) -> None:
    with stages() as log:
        plan = Planned(log.counted, 10)
        plan.begin("timing", 4)
        for _ in range(3):
            clock[0] += 4
            plan.step()
        # The stage needed fewer calls than planned: the next begins where it was planned to end.
        plan.begin("places", 6)
        clock[0] += 10
        plan.step()
    lines = without_heartbeats(capsys.readouterr().err)
    assert lines == [
        "loading the model",
        "timing (0 s)",
        "timing: 3 of at most 10 calls (12 s, about 28 s left)",
        "places (12 s)",
        "places: 5 of at most 10 calls (22 s, about 22 s left)",
    ]


def test_a_terminal_shows_one_bar_over_all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with stages() as log:
        plan = Planned(log.counted, 10)
        plan.begin("timing", 4)
        plan.step()
        plan.begin("places", 6)
        plan.step()
    shown = sys.stderr.getvalue()
    assert "places:  50%" in shown
    assert "5/10" in shown
    # tqdm's time left.
    assert "<" in shown
