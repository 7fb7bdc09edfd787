"""MagCache (Ma et al. 2025): the ratios of magnitudes of a run, as a list.

The calibration's lists begin with the second evaluation, those in configurations with a 1 for the first.
Where the model is called once for each guidance branch the ratios of the two alternate.
"""

from __future__ import annotations

from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import Imported, Options
from dcache.importers.numbers import needed, numbers_of

TAKES = ("steps", "interleaved")
NAMES = ("mag_ratios", "ratios")


def fits(content: Any) -> bool:
    """Whether it is such a file."""
    found = numbers_of(content, *NAMES)
    return found is not None and min(found) > 0


def convert(content: Any, options: Options) -> Imported:
    """The content of a coefficients file.

    Args:
        content: the file's.
        options: `interleaved` where the ratios of two branches alternate (their mean is taken); `steps` to
            resample, by the nearest.

    Raises:
        DcacheError: it is no list of positive numbers, or it cannot be told whether branches alternate.
    """
    ratios = needed(numbers_of(content, *NAMES), "MagCache")
    if min(ratios) <= 0:
        raise DcacheError(f"ratios of magnitudes are above 0, got {min(ratios)}")
    notes = []
    pairs = options.interleaved
    if pairs is None and ratios[:2] == [1.0, 1.0]:
        raise DcacheError(
            "the list begins with two 1: say --interleaved if the ratios of two guidance branches alternate, "
            "else --no-interleaved"
        )
    begins = ratios[: 2 if pairs else 1]
    if pairs:
        if len(ratios) % 2:
            raise DcacheError(f"{len(ratios)} ratios cannot alternate between two branches")
        ratios = [(a + b) / 2 for a, b in zip(ratios[::2], ratios[1::2], strict=True)]
        notes.append("the mean of the two branches was taken")
    if set(begins) == {1.0}:
        notes.append("the list begins with 1, so with the first evaluation")
    else:
        ratios = [1.0, *ratios]
        notes.append("the list does not begin with 1, so with the second evaluation: a 1 was put before it")
    if options.steps is not None and options.steps != len(ratios):
        notes.append(f"resampled from {len(ratios)} evaluations to {options.steps}, by the nearest")
        ratios = nearest(ratios, options.steps)
    if len(ratios) < 2:
        raise DcacheError("expected the ratios of at least two evaluations")
    return Imported("magcache", coefficients={"magcache": {"ratios": ratios}}, notes=tuple(notes))


def nearest(values: list[float], count: int) -> list[float]:
    """The list at `count` places spread evenly over it, ends included, each the nearest entry's."""
    if count == 1:
        return values[-1:]
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
