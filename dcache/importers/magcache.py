"""MagCache (Ma et al. 2025): a list of the ratios of magnitudes of a run.

Lists from calibration start with the second evaluation; those in configurations with a 1 for the first. If
the model is called once for each guidance branch, the ratios of the two branches alternate.
"""

from __future__ import annotations

from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import Imported, Options
from dcache.importers.numbers import needed, numbers_of

TAKES = ("steps", "interleaved")
NAMES = ("mag_ratios", "ratios")


def fits(content: Any) -> bool:
    """Whether the content is a list of positive numbers that is named so."""
    ratios = numbers_of(content, *NAMES) if isinstance(content, dict) else None
    return ratios is not None and min(ratios) > 0


def convert(content: Any, options: Options) -> Imported:
    """Convert a list of ratios to coefficients.

    Args:
        content: content of the file.
        options: `interleaved` if the ratios of two branches alternate (their mean is used); `steps` resamples
            by the nearest ratio.

    Raises:
        DcacheError: the content is no list of positive numbers, or it is not clear whether branches
            alternate.
    """
    ratios = needed(numbers_of(content, *NAMES), "MagCache")
    if min(ratios) <= 0:
        raise DcacheError(f"ratios of magnitudes are above 0, got {min(ratios)}")
    notes = []
    pairs = options.interleaved
    if pairs is None and ratios[:2] == [1.0, 1.0]:
        raise DcacheError(
            "the list starts with two 1: give --interleaved if the ratios of two guidance branches "
            "alternate, or else --no-interleaved"
        )
    begins = ratios[: 2 if pairs else 1]
    if pairs:
        if len(ratios) % 2:
            raise DcacheError(f"--interleaved needs an even number of ratios, got {len(ratios)}")
        ratios = [(a + b) / 2 for a, b in zip(ratios[::2], ratios[1::2], strict=True)]
        notes.append("the mean of the two branches is used")
    if set(begins) == {1.0}:
        notes.append("the list starts with 1, so it starts with the first evaluation")
    else:
        ratios = [1.0, *ratios]
        notes.append(
            "the list does not start with 1, so it starts with the second evaluation: a 1 was prepended"
        )
    if options.steps is not None and options.steps != len(ratios):
        notes.append(f"resampled from {len(ratios)} evaluations to {options.steps}, by the nearest ratio")
        ratios = nearest(ratios, options.steps)
    if len(ratios) < 2:
        raise DcacheError("expected the ratios of at least two evaluations")
    return Imported("magcache", coefficients={"magcache": {"ratios": ratios}}, notes=tuple(notes))


def nearest(values: list[float], count: int) -> list[float]:
    """Resample a list to `count` evenly spaced places, ends included, by the nearest entry."""
    if count == 1:
        return values[-1:]
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
