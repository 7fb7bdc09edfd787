"""What is kept of an observed run: samples whose tables are those of the features themselves."""

import numpy as np
import pytest
import torch

from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.observe import SiteOutput
from dcache.errors import DcacheError
from dcache.identity.run import Run
from dcache.observation.tuning.watch import COORDINATES, Watch

STEPS = 5


def watched(z: dict[str, torch.Tensor], paired: bool = False, steps: range = range(STEPS)) -> Watch:
    """A watch on a run whose branches have the features z[branch], (T, ...)."""
    run = Run(count=STEPS)
    watch = Watch(run, counts=False)
    watch.keeps = run  # type: ignore[attr-defined]
    for t in steps:
        for name, features in z.items():
            branch = Branch(name, 2, None)
            branch.paired = paired
            call = Call(branch, t, float(t) ** 2, run=run)
            watch.on_compute("trunk", call, SiteOutput([features[t]], [features[t]], (0,)))
    return watch


def gram(z: torch.Tensor) -> np.ndarray:
    flat = z.flatten(1).double().numpy()
    return flat @ flat.T / flat.shape[1]


def test_small_features_are_kept_whole_and_branches_averaged() -> None:
    z = {"u": torch.randn(STEPS, 1, 6, 4), "c": torch.randn(STEPS, 1, 6, 4)}
    watch = watched(z)
    first, features = watch.features(STEPS)
    tables, halves = watch.grams(features)
    assert first == 0
    assert halves is None
    assert tables == pytest.approx((gram(z["u"]) + gram(z["c"])) / 2)
    assert watch.taus == {t: t**2 for t in range(STEPS)}


def test_halves_of_a_batch_have_three_tables() -> None:
    z = torch.randn(STEPS, 4, 3, 2)
    watch = watched({"0": z}, paired=True)
    tables, halves = watch.grams(watch.features(STEPS)[1])
    u, c = z.double().chunk(2, 1)
    assert halves is not None
    assert tables == pytest.approx((gram(u) + gram(c)) / 2)
    assert halves.mean == pytest.approx(gram((u + c) / 2))
    assert halves.difference == pytest.approx(gram(c - u))
    assert halves.cross == pytest.approx((gram(c) - gram(u) + _skew(u, c)) / 2)


def _skew(u: torch.Tensor, c: torch.Tensor) -> np.ndarray:
    """Mean of u_t c_s - c_t u_s."""
    a, b = (x.flatten(1).double().numpy() for x in (u, c))
    return (a @ b.T - b @ a.T) / a.shape[1]


def test_large_features_are_sampled_at_the_same_coordinates_in_every_evaluation() -> None:
    line = torch.randn(1, 300, 60)
    z = torch.stack([line * (1.0 + t) for t in range(STEPS)])
    watch = watched({"0": z})
    features = watch.features(STEPS)[1]["0"]
    assert features.shape == (STEPS, COORDINATES)
    # Of one direction, so every sample of it is, too.
    assert features == pytest.approx(features[:1] * np.arange(1, STEPS + 1)[:, None], rel=1e-6)
    again = watched({"0": z}).features(STEPS)[1]["0"]
    assert np.array_equal(features, again)


def test_a_denoiser_of_a_part_of_the_run_begins_later() -> None:
    z = torch.randn(STEPS, 1, 8)
    first, features = watched({"0": z}, steps=range(2, 5)).features(STEPS)
    assert first == 2
    assert features["0"].shape == (3, 8)


@pytest.mark.parametrize(
    ("steps", "why"), [(range(0), "no site"), (range(1), "are no series"), (range(0, 5, 2), "are no series")]
)
def test_what_is_no_series_is_refused(steps: range, why: str) -> None:
    with pytest.raises(DcacheError, match=why):
        watched({"0": torch.randn(STEPS, 1, 8)}, steps=steps).features(STEPS)


def test_features_that_are_not_finite_are_refused() -> None:
    z = torch.randn(STEPS, 1, 8)
    z[2, 0, 3] = torch.nan
    with pytest.raises(DcacheError, match="NaN or infinity"):
        watched({"0": z}).features(STEPS)


def test_another_run_is_not_looked_at() -> None:
    watch = watched({"0": torch.randn(STEPS, 1, 8)})
    call = Call(Branch("0", 2, None), 0, 0.0, run=Run(count=STEPS))
    watch.on_compute("other", call, SiteOutput([torch.ones(1)], None, (0,)))
    assert list(watch.rows) == ["trunk"]
