"""How figures and findings are written."""

import pytest

from dcache.eval.formatting import busy, number, share, size


@pytest.mark.parametrize(
    ("count", "text"), [(None, "-"), (1024, "1 KiB"), (3 * 2**19, "1.5 MiB"), (5 * 2**30, "5.0 GiB")]
)
def test_bytes_for_people(count: int | None, text: str) -> None:
    assert size(count) == text


def test_what_is_unknown_is_a_dash() -> None:
    assert [share(0.351), share(None), number(1.25, 1), number(None, 1)] == ["35 %", "-", "1.2", "-"]


@pytest.mark.parametrize(("longer", "much"), [(0.26, "26% longer"), (29.96, "31.0 times as long")])
def test_a_busy_machine_makes_figures_doubtful(longer: float, much: str) -> None:
    (note,) = busy(longer, "seconds")
    assert note == f"the machine was busy: equal calls took up to {much}, so trust the seconds less"


def test_a_calm_machine_is_not_worth_a_word() -> None:
    assert busy(0.25, "seconds") == []
