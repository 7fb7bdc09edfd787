"""Tables: what they say is what the features do."""

import numpy as np
import pytest

from dcache.profile import FeatureTables
from tests.profile.full_profile import STEPS, tables


def test_what_the_tables_say_is_what_the_features_do() -> None:
    made, z = tables(0)
    for a in range(STEPS):
        for t in range(STEPS):
            assert made.squared[a, t] == pytest.approx(((z[a] - z[t]) ** 2).mean(), abs=1e-12)
            assert made.relative[a, t] == pytest.approx(np.abs(z[a] - z[t]).mean() / np.abs(z[t]).mean())
            cosine = z[a] @ z[t] / np.linalg.norm(z[a]) / np.linalg.norm(z[t])
            assert made.cosine[a, t] == pytest.approx(cosine)
    nothing = FeatureTables(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros(2))
    assert np.isfinite(nothing.relative).all()
    assert np.isfinite(nothing.cosine).all()


def test_two_tables_add_up_and_scale_number_by_number() -> None:
    one, other = tables(1)[0], tables(2)[0]
    both = (one + other).scaled(0.5)
    for name in ("gram", "distance", "size"):
        expected = (getattr(one, name) + getattr(other, name)) / 2
        np.testing.assert_allclose(getattr(both, name), expected)
    # Relative errors and cosines do not change with the scale of the features' tables.
    np.testing.assert_allclose(one.scaled(3.0).relative, one.relative)
    np.testing.assert_allclose(one.scaled(3.0).cosine, one.cosine)


def test_by_hand() -> None:
    # Two evaluations of two numbers: (1, 3) and (2, -1).
    made = FeatureTables(
        np.array([[5.0, -0.5], [-0.5, 2.5]]), np.array([[0.0, 2.5], [2.5, 0.0]]), np.array([2.0, 1.5])
    )
    # ((1 - 2)^2 + (3 + 1)^2) / 2
    np.testing.assert_allclose(made.squared, [[0.0, 8.5], [8.5, 0.0]])
    # At the second evaluation, of what the first left: 2.5 / 1.5; the other way round 2.5 / 2.
    np.testing.assert_allclose(made.relative, [[0.0, 2.5 / 1.5], [1.25, 0.0]])
    np.testing.assert_allclose(made.cosine[0, 1], -0.5 / np.sqrt(5.0 * 2.5))


def test_a_sketchs_error_makes_no_square_negative() -> None:
    # Of a sketch the Gram matrix may claim that two evaluations are closer than they can be.
    made = FeatureTables(np.array([[1.0, 1.2], [1.2, 1.0]]), np.zeros((2, 2)), np.ones(2))
    np.testing.assert_array_equal(made.squared, np.zeros((2, 2)))
