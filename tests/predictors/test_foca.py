"""FoCa's forecast is its published recursion, unfolded."""

import pytest

from dcache.predictors import Foca, Hermite, Linear, Newton, Reuse, Taylor


def foca_entries(full, steps):
    """The published recursion on the line y = t: entries, computed where `full` says so."""
    entries, anchors = [], []
    for t in range(steps):
        if t in full:
            entries.append(float(t))
            anchors.append(float(t))
        else:
            f, before = entries[-1], entries[-2]
            entries.append(2 * f - before + 0.5 * ((anchors[-1] - anchors[-2]) - (f - before)))
    return entries


def test_foca_unfolds_the_published_recursion():
    full, line = (0, 1, 4, 8), [float(t) for t in range(12)]
    expected = foca_entries(full, 12)
    entries = []
    for t in range(12):
        taus = [s for s in full if s <= t][-2:]
        if t in full:
            entries.append(line[t])
            continue
        weights = Foca().weights(taus, taus, t)
        held = [line[s] for s in taus] + [entries[taus[-1] - 1]]
        entries.append(sum(w * z for w, z in zip(weights, held, strict=True)))
    assert entries == pytest.approx(expected)
    errors = {t: entries[t] - t for t in (2, 3, 5, 6, 7, 9, 10, 11)}
    assert errors == {2: 0, 3: 0, 5: 1, 6: 2.5, 7: 4.25, 9: -0.625, 10: 0.5625, 11: 2.65625}


def test_focas_weights_sum_to_one_and_are_those_of_its_anchor_there():
    for k in (1, 2, 5):
        assert sum(Foca().weights([3.0, 7.0], [3, 7], 7.0 + k)) == pytest.approx(1)
    assert Foca().weights([3.0, 7.0], [3, 7], 7.0) == [0.0, 1.0, 0.0]
    assert Foca().forecasts
    assert not any(p.forecasts for p in (Reuse(), Newton(), Taylor(), Linear(), Hermite()))
