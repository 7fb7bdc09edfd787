"""Intervals that shrink over the run: by hand, and near the published list."""

from dcache.schedulers.shrinking import shrinking


def test_intervals_shrink_from_the_first_to_the_last():
    assert shrinking(12, 4, 4) == (0, 4, 8)
    assert shrinking(5, 1, 1) == (0, 1, 2, 3, 4)
    # 6 at 0, 6 - 4 * 6 / 12 = 4 at 6, then 2.67, whose whole part is 2, at 10.
    assert shrinking(12, 6, 2) == (0, 6, 10)
    assert shrinking(14, 6, 1, start=2) == (0, 1, 2, 8, 11, 13)
    assert shrinking(3, 9, 1, start=7) == (0, 1, 2)


def test_hunyuans_settings_come_near_its_published_list():
    published = [6, 18, 26, 32, 38, 42, 46, 48]
    found = [t for t in shrinking(50, 12, 2, start=6) if t >= 6]
    assert len(found) == len(published)
    assert max(abs(a - b) for a, b in zip(found, published, strict=True)) <= 2
