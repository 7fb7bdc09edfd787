"""Features held for a run: tables by their definition, sketches with the error that is stated."""

import numpy as np
import pytest
import torch

from dcache.errors import DcacheError
from dcache.observation.features import FEWEST, FeatureBuffer, Key, room, sketch_error
from tests.search.pipeline_subjects import assert_tables, tables_of

KEY, OTHER = Key("trunk", "0", "delta"), Key("attn:0", "0", "value")


def features(steps: int, size: int) -> torch.Tensor:
    """A walk, as features of a run are: neighbours are alike, and the mean is not zero."""
    return torch.randn(steps, size).cumsum(0) * 0.3 + torch.randn(size) + 0.5


def filled(z: torch.Tensor, cap: int, seed: int = 0) -> FeatureBuffer:
    held = FeatureBuffer({KEY: z.shape[1]}, len(z), cap)
    held.begin(seed)
    for t, vector in enumerate(z):
        held.put(KEY, t, [vector])
    return held


def test_whole_features_give_the_tables_of_their_definition() -> None:
    z = features(5, 40_001)
    held = filled(z, 4 * z.numel())
    assert held.numbers is None
    assert_tables(held.tables(KEY), tables_of([[[row] for row in z]]), rel=1e-12)


def test_a_feature_may_come_in_pieces_of_any_shape_and_dtype() -> None:
    held = FeatureBuffer({KEY: 30, OTHER: 4}, 2, 10_000)
    pieces = [[torch.randn(2, 10).bfloat16(), torch.randn(10)] for _ in range(2)]
    for t, (first, second) in enumerate(pieces):
        held.put(KEY, t, [first])
        held.put(OTHER, t, [torch.ones(2, 2) * t])
        held.put(KEY, t, [second])
    assert_tables(held.tables(KEY), tables_of([pieces]))
    assert held.tables(OTHER).distance[0, 1] == 1.0


@pytest.mark.parametrize(
    ("sizes", "steps", "cap"),
    [((5000, 100, 20_000), 7, 50_000), ((900, 900), 3, 20_000), ((100, 1_000_000), 10, 100_000)],
)
def test_as_many_numbers_as_fit(sizes: tuple[int, ...], steps: int, cap: int) -> None:
    named = {Key(f"block:{i}", "0", "value"): size for i, size in enumerate(sizes)}

    def needed(numbers: int) -> int:
        return 4 * steps * sum(min(size, numbers) for size in sizes)

    numbers = room(named, steps, cap)
    if needed(max(sizes)) <= cap:
        assert numbers is None
    else:
        assert numbers is not None
        assert needed(numbers) <= cap < needed(numbers + 1)


def test_a_cap_that_is_too_small_says_what_would_do() -> None:
    sizes = {KEY: 1000, OTHER: 10}
    least = 4 * 6 * (FEWEST + 10)
    assert room(sizes, 6, least) == FEWEST
    with pytest.raises(DcacheError, match=rf"{least - 1} bytes leaves 63 numbers .* to {least} bytes"):
        room(sizes, 6, least - 1)


def test_a_sketch_is_right_on_average_and_errs_as_stated() -> None:
    z = features(3, 3000)
    exact = tables_of([[[row] for row in z]])
    lengths = np.sqrt(np.diag(exact.gram))
    numbers = 200
    found = [filled(z, 4 * 3 * numbers, seed).tables(KEY) for seed in range(400)]
    grams = np.stack([one.gram for one in found])
    stated = sketch_error(numbers)
    assert stated == pytest.approx(np.sqrt(2 / 100))
    errors = (grams - exact.gram) / np.outer(lengths, lengths)
    # The stated error is that of an inner product of a vector with itself, the largest there is.
    assert np.abs(errors.mean(axis=0)).max() < 4 * stated / np.sqrt(400)
    spread = errors.std(axis=0)
    assert spread.max() < 1.15 * stated
    assert np.diag(spread).min() > 0.85 * stated
    # Differences go through the same sketch: they err relative to their own length, not to the vectors'.
    squared = np.stack([one.squared[0, 1] for one in found])
    assert squared.std() / exact.squared[0, 1] == pytest.approx(stated, rel=0.15)
    for name in ("distance", "size"):
        values = np.stack([getattr(one, name) for one in found])
        true = getattr(exact, name)
        off = np.abs(values.mean(axis=0) - true).max()
        assert off < 4 * values.std(axis=0).max() / np.sqrt(400)
        assert values.std(axis=0).max() < 0.1 * true.max()


def test_another_run_has_another_sketch_and_the_same_seed_the_same() -> None:
    z = features(3, 1000)
    one, again, other = (filled(z, 4 * 3 * 100, seed).tables(KEY).gram for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("cap", [100_000, 4 * 4 * 100])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(cap: int, bad: float) -> None:
    z = features(4, 500)
    z[2, 17] = bad
    held = filled(z, cap)
    with pytest.raises(
        DcacheError, match=r"delta of 'trunk' on branch '0' is NaN or infinite in evaluation 2"
    ):
        held.tables(KEY)


def test_evaluations_without_a_call_count_as_the_nearest() -> None:
    held = FeatureBuffer({KEY: 3}, 6, 10_000)
    for t in (1, 2, 5):
        held.put(KEY, t, [torch.full((3,), float(t))])
    assert held.tables(KEY).size.tolist() == [1, 1, 2, 2, 5, 5]
    held.begin(1)
    with pytest.raises(DcacheError, match="was not computed in this run"):
        held.tables(KEY)


def test_features_of_changing_size_are_refused() -> None:
    held = FeatureBuffer({KEY: 6}, 3, 10_000)
    held.put(KEY, 0, [torch.ones(6)])
    with pytest.raises(DcacheError, match=r"delta of 'trunk' .* another size in evaluation 1"):
        held.put(KEY, 1, [torch.ones(7)])
    held.begin(0)
    held.put(KEY, 0, [torch.ones(5)])
    with pytest.raises(DcacheError, match="another size in evaluation 0"):
        held.tables(KEY)
    with pytest.raises(DcacheError, match="another size in evaluation 3"):
        held.put(KEY, 3, [torch.ones(6)])
