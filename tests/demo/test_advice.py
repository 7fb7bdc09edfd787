"""What `dcache demo` says to do next."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from dcache.cli import main
from dcache.cli.demo import next_steps
from dcache.demo.pipeline import GUIDANCE, STEPS, coefficients, schedules
from dcache.demo.shipped import shipped_schedules
from dcache.errors import DcacheError
from dcache.eval.rows import Row
from dcache.eval.specs import parse


def method(
    label: str, computed: float, speedup: float | None, psnr: float | None, portable: bool = True
) -> tuple[object, Row]:
    fidelity = None if psnr is None else [psnr]
    row = Row(label, "dcache", computed, 1, 1, 0, speedup, None, None, fidelity, None, None, None, None)
    return SimpleNamespace(contestant=SimpleNamespace(call=f', "{label}")', portable=portable)), row


@pytest.mark.parametrize(
    ("fastest", "advised"),
    [
        (method("coarse", 0.2, 4.0, 30.0), '"fine"'),
        (method("fast", 0.3, 3.0, 36.0), '"fast"'),
        (method("idle", 1.0, 2.5, 100.0), '"fine"'),
        (method("broken", 0.3, None, None), '"fine"'),
        (method("of the demo's model", 0.2, 5.0, 50.0, portable=False), '"fine"'),
    ],
)
def test_the_fastest_is_advised_of_those_that_are_faithful_and_cache(
    fastest: tuple[object, Row], advised: str
) -> None:
    methods, rows = zip(method("fine", 0.5, 2.0, 40.0), fastest, strict=True)
    said = next_steps(SimpleNamespace(bench=SimpleNamespace(methods=methods, rows=rows)))
    assert f"dcache.enable(pipe, {advised})" in said
    assert "the fastest preset above 35 dB here" in said


def test_without_a_faithful_method_none_is_called_the_fastest() -> None:
    idle, row = method("idle", 1.0, 1.1, 100.0)
    assert "fastest" not in next_steps(SimpleNamespace(bench=SimpleNamespace(methods=[idle], rows=[row])))


def test_schedules_and_measurements_of_one_model_are_not_for_others() -> None:
    shipped = shipped_schedules(schedules(), STEPS, GUIDANCE)
    assert [entry.portable for entry in shipped] == [False] * len(shipped) != []
    default, taylor, tea = parse("default;taylorseer;teacache:threshold=0.1", coefficients())
    assert (default.portable, taylor.portable, tea.portable) == (True, True, False)


def test_the_bar_counts_the_shipped_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    @contextmanager
    def rounds(count: int, _repeats: int) -> Iterator[None]:
        counted.append(count)
        raise DcacheError("seen")
        yield

    monkeypatch.setattr("dcache.cli.demo.rounds", rounds)
    assert main(["demo"]) == 2
    # The uncached pipeline, nine presets, three calibrated schedules.
    assert counted == [13]
