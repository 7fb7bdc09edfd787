import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from dcache.eval.metrics import distribution
from dcache.eval.metrics.base import Sample
from dcache.eval.metrics.distribution import POOLED, fid, frechet, inception_score, kid

PROMPTS = np.zeros(0, np.int64)


def gaussians(count, mean, scale, seed):
    return np.random.default_rng(seed).normal(mean, scale, (count, 6)).astype(np.float32)


def whitened(rows, mean, scale):
    """Move rows so that their mean and covariance are exactly `mean` and `scale` squared."""
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    root = np.linalg.cholesky(np.cov(centred, rowvar=False))
    return centred @ np.linalg.inv(root).T * scale + mean


def test_the_frechet_distance_of_two_gaussians_has_its_closed_form():
    first = whitened(gaussians(200, 0, 1, 0), mean=1.0, scale=np.array([1, 2, 3, 1, 1, 1.0]))
    second = whitened(gaussians(300, 0, 1, 1), mean=3.0, scale=np.array([2, 2, 1, 1, 1, 1.0]))

    # 6 (3 - 1)^2 of the means, (2 - 1)^2 + (1 - 3)^2 of the standard deviations.
    assert frechet(first, second, "d").value == pytest.approx(29.0, rel=1e-9)


def test_fid_is_that_of_torch_fidelity():
    first, second = gaussians(400, 0, 1, 0), gaussians(500, 0.5, 1.5, 1)
    stats = [fid_features_to_statistics(torch.from_numpy(rows).double()) for rows in (first, second)]
    its = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]

    assert frechet(first, second, "d").value == pytest.approx(its, rel=1e-9)


def test_fewer_pictures_than_features_cost_fewer_dimensions_and_no_accuracy(monkeypatch):
    random = np.random.default_rng(0)
    mixing = random.normal(size=(60, 60))
    first, second = random.normal(size=(12, 60)) @ mixing, random.normal(1, 1, (14, 60)) @ mixing
    quick = frechet(first, second, "d").value
    monkeypatch.setattr(distribution, "_rotated", lambda rows, against: (rows, against))

    assert quick == pytest.approx(frechet(first, second, "d").value, rel=1e-6)


def test_too_few_pictures_for_the_features_are_told_and_enough_are_not():
    few, enough = gaussians(5, 0, 1, 0), gaussians(6, 0, 1, 1)

    (told,) = frechet(few, enough, "FID").warnings
    assert "FID of 5 pictures" in told
    assert "at least 6" in told
    assert not frechet(enough, enough, "FID").warnings


def test_one_picture_has_no_distance():
    score = frechet(gaussians(1, 0, 1, 0), gaussians(9, 0, 1, 1), "FID")

    assert score.value is None
    assert "at least two pictures" in score.why_not


def inception_rows(count, seed, classes=5):
    random = np.random.default_rng(seed)
    pooled = random.normal(seed, 1, (count, POOLED))
    return np.concatenate([pooled, random.normal(0, 2, (count, classes))], axis=1).astype(np.float32)


def test_fid_of_inception_rows_looks_at_the_pooled_features_alone():
    first, second = inception_rows(20, 0), inception_rows(20, 1)
    sample = Sample(first, second, PROMPTS)

    assert fid(sample).value == pytest.approx(frechet(first[:, :POOLED], second[:, :POOLED], "d").value)
    assert "2048 on both sides" in fid(sample).warnings[0]


def test_kid_of_a_small_set_is_the_unbiased_estimate_over_all_pictures():
    first, second = inception_rows(30, 0), inception_rows(30, 1)
    pooled = [torch.from_numpy(rows[:, :POOLED]).double() for rows in (first, second)]
    its = kid_features_to_metric(*pooled, kid_subsets=1, kid_subset_size=30, verbose=False)
    score = kid(Sample(first, second, PROMPTS))

    assert score.value == pytest.approx(its["kernel_inception_distance_mean"], rel=1e-9)
    assert score.std is None


def test_kid_over_random_subsets_is_repeatable_and_leaves_the_global_generator_alone(monkeypatch):
    monkeypatch.setattr(distribution, "SUBSET_SIZE", 20)
    sample = Sample(inception_rows(40, 0), inception_rows(40, 1), PROMPTS)
    first = kid(sample)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    second = kid(sample)
    pooled = [torch.from_numpy(rows[:, :POOLED]).double() for rows in (sample.rows, sample.against)]
    its = kid_features_to_metric(*pooled, kid_subsets=100, kid_subset_size=20, verbose=False)

    assert (first.value, first.std) == (second.value, second.std)
    assert torch.equal(torch.get_rng_state(), before)
    # Other subsets than torch-fidelity's: as close as their spread allows.
    assert first.value == pytest.approx(its["kernel_inception_distance_mean"], abs=first.std)
    assert first.std == pytest.approx(its["kernel_inception_distance_std"], rel=0.5)


def test_the_inception_score_is_that_of_torch_fidelity_over_splits_of_its_own():
    rows = inception_rows(400, 0)
    its = isc_features_to_metric(torch.from_numpy(rows[:, POOLED:]))
    score = inception_score(Sample(rows, None, PROMPTS))

    assert score.value == pytest.approx(its["inception_score_mean"], abs=2 * score.std)
    assert "400 pictures" in score.warnings[0]


def test_the_inception_score_of_sure_and_varied_classes_is_their_number():
    classes = 5
    logits = 100 * np.eye(classes)[np.arange(500) % classes]
    rows = np.concatenate([np.zeros((500, POOLED)), logits], axis=1)

    # Random splits hold the classes not quite evenly, so a little less.
    assert inception_score(Sample(rows, None, PROMPTS)).value == pytest.approx(classes, rel=0.06)


def test_the_inception_score_of_a_few_pictures_is_refused():
    score = inception_score(Sample(inception_rows(19, 0), None, PROMPTS))

    assert score.value is None
    assert "19 pictures are too few" in score.why_not
