"""Values as short texts."""

from pathlib import Path

import numpy as np
import pytest

from dcache.profile import FeatureTables, Profile
from dcache.util.text import LONGEST, first_sentence, short


def profile(last: float) -> Profile:
    ones = np.ones((40, 40))
    ones[39, 39] = last
    return Profile(40, {"trunk": {"0": {"delta": FeatureTables(ones, 1.0 - np.eye(40), np.ones(40))}}})


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), ("trunk", "'trunk'"), ([0, 2], "[0, 2]"), (Path("a/b.json"), "'a/b.json'"), (None, "None")],
)
def test_short_values_are_as_python_writes_them(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (list(range(100)), [*range(99), 0]),
        ("x" * 100, "x" * 99 + "y"),
        (Path("x" * 100), Path("x" * 101)),
        ({"attn:0": list(range(50))}, {"attn:0": [*range(49), 0]}),
        (profile(1.0), profile(2.0)),
        ([np.zeros(5000), 1], [np.eye(1, 5000, 4000)[0], 1]),
    ],
    ids=["list", "text", "path", "mapping", "profile", "arrays"],
)
def test_long_values_are_cut_and_still_told_apart(one, other):
    assert short(one) != short(other)
    assert len(short(one)) <= LONGEST + len("#12345678")
    assert "\n" not in short(one)


def test_equal_profiles_have_one_text():
    assert short(profile(1.0)) == short(profile(1.0)) == "Profile#" + short(profile(1.0))[-8:]


def test_of_anothers_error_the_first_sentence_is_taken() -> None:
    assert first_sentence(OSError("no such file. Try again.\nSee https://example.org")) == "no such file"
    assert first_sentence(ValueError("\n  a: b, c.\n")) == "a: b, c"
    assert first_sentence(RuntimeError()) == "RuntimeError"
    assert len(first_sentence(ValueError("x" * 1000))) == 200
