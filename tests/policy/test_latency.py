"""Percentiles of a chunk's latency, by nearest rank."""

from dcache.policy.latency import Counts, percentile


def test_percentiles_are_values_that_were_measured() -> None:
    times = [float(i) for i in range(1, 101)]
    assert [percentile(times, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([], 0.5) == 0.0


def test_counts_become_stats_and_print_in_milliseconds() -> None:
    counts = Counts()
    assert [counts.add(seconds, 0.025) for seconds in (0.01, 0.03, 0.02)] == [False, True, False]
    stats = counts.stats(None)
    assert (stats.chunks, stats.late, stats.p50, stats.p99, stats.longest) == (3, 1, 0.02, 0.03, 0.03)
    assert "p50 20.0, p95 30.0, p99 30.0, max 30.0" in str(stats)
