"""What `dcache demo` says to do next."""

from types import SimpleNamespace

import pytest

from dcache.cli.demo import next_steps
from dcache.eval.rows import Row


def method(label: str, computed: float, speedup: float | None, psnr: float | None) -> tuple[object, Row]:
    fidelity = None if psnr is None else [psnr]
    row = Row(label, "dcache", computed, 1, 1, 0, speedup, None, None, fidelity, None, None, None, None)
    return SimpleNamespace(contestant=SimpleNamespace(call=f', "{label}")')), row


@pytest.mark.parametrize(
    ("fastest", "advised"),
    [
        (method("coarse", 0.2, 4.0, 30.0), '"fine"'),
        (method("fast", 0.3, 3.0, 36.0), '"fast"'),
        (method("idle", 1.0, 2.5, 100.0), '"fine"'),
        (method("broken", 0.3, None, None), '"fine"'),
    ],
)
def test_the_fastest_is_advised_of_those_that_are_faithful_and_cache(
    fastest: tuple[object, Row], advised: str
) -> None:
    methods, rows = zip(method("fine", 0.5, 2.0, 40.0), fastest, strict=True)
    said = next_steps(SimpleNamespace(bench=SimpleNamespace(methods=methods, rows=rows)))
    assert f"dcache.enable(pipe, {advised})" in said
    assert "the fastest above 35 dB here" in said


def test_without_a_faithful_method_none_is_called_the_fastest() -> None:
    idle, row = method("idle", 1.0, 1.1, 100.0)
    assert "fastest" not in next_steps(SimpleNamespace(bench=SimpleNamespace(methods=[idle], rows=[row])))
