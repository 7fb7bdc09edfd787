"""Results are dropped oldest first, by number and by bytes."""

from dcache.eval.studio.kept import Kept


def test_the_oldest_goes_where_there_are_too_many() -> None:
    kept: Kept[str] = Kept(2, 100, len)
    for number, value in enumerate(("aa", "b", "cc")):
        kept.put(number, value)
    assert kept.keys() == [1, 2]
    assert (kept.get(0), kept.get(1)) == (None, "b")


def test_bytes_are_bounded_and_the_newest_stays() -> None:
    kept: Kept[str] = Kept(9, 5, len)
    for value in ("aa", "bb", "c"):
        kept.put(value, value)
    assert kept.bytes() == 5
    kept.put("dd", "dd")
    assert kept.values() == ["bb", "c", "dd"]
    kept.put("x" * 9, "x" * 9)
    assert kept.values() == ["x" * 9]


def test_what_is_put_again_is_the_newest() -> None:
    kept: Kept[str] = Kept(2, 100, len)
    for key, value in (("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")):
        kept.put(key, value)
    assert kept.values() == ["3", "4"]


def test_what_is_dropped_is_gone() -> None:
    kept: Kept[str] = Kept(2, 100, len)
    kept.put("a", "1")
    kept.drop("a")
    kept.drop("b")
    assert kept.values() == []
