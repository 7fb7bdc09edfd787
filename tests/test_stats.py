"""Statistics as a table, and those of several denoisers together."""

import json

import pytest

from dcache.stats import Stats, merge, merge_ranks

ONE = Stats(
    10,
    4,
    6,
    {"warmup": 3, "interval": 1},
    bytes_held=2048,
    bytes_now=1024,
    seconds_compute=1.5,
    method="newton",
)
TWO = Stats(
    8, 2, 6, {"warmup": 1, "last": 1}, bytes_held=1, bytes_now=1, seconds_predict=0.25, method="newton"
)


def test_the_table_names_counts_reasons_and_bytes():
    text = str(ONE)
    for part in (
        "newton",
        "4 of 10 site events",
        "6 of 10",
        "interval 1, warmup 3",
        "2.0 KiB",
        "1.500 computing",
    ):
        assert part in text
    assert "nothing" not in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.00 GiB")],
)
def test_sizes(count, text):
    assert f"held              {text}\n" in str(Stats(bytes_held=count))


def test_a_run_without_predictions_says_why():
    assert "nothing ran yet" in str(Stats())
    text = str(Stats(3, 3, 0, {"warmup": 2, "gradients": 1, "odd": 5}))
    assert "nothing was predicted: 1 x gradients are being recorded (use torch.no_grad()); 5 x odd" in text
    assert "2 x inside the warm-up" in text
    assert Stats().why_nothing() == "no site of the denoiser was reached"


def test_merge_adds_and_keeps_the_parts():
    assert merge({"unet": ONE}) is ONE
    both = merge({"a": ONE, "b": TWO})
    assert (both.steps, both.computed, both.predicted) == (10, 6, 12)
    assert both.reasons == {"warmup": 4, "interval": 1, "last": 1}
    assert (both.bytes_held, both.bytes_now) == (2049, 1025)
    assert (both.seconds_compute, both.seconds_predict) == (1.5, 0.25)
    assert both.components == {"a": ONE, "b": TWO}
    assert merge({}) == Stats()


def test_the_computed_share_and_the_plain_values():
    stats = Stats(steps=4, computed=1, predicted=3, reasons={"warmup": 1}, method="interval(interval=4)")
    assert stats.computed_share == 0.25
    assert Stats().computed_share == 1.0
    both = merge({"a": stats, "b": Stats(steps=4, computed=4, reasons={"interval": 4})})
    plain = json.loads(json.dumps(both.to_dict()))
    assert (plain["computed"], plain["predicted"], plain["computed_share"]) == (5, 3, 0.625)
    assert plain["reasons"] == {"warmup": 1, "interval": 4}
    assert plain["components"]["a"]["computed_share"] == 0.25
    assert set(plain) == {*vars(stats), "computed_share"}


def test_ranks_are_counted_once_and_their_bytes_are_added() -> None:
    parts = [
        Stats(computed=3, predicted=4, bytes_held=10 + i, seconds_compute=1.0 + i, memo_bytes=5)
        for i in (0, 1)
    ]
    both = merge_ranks(parts)
    assert (both.computed, both.predicted, both.bytes_held, both.memo_bytes) == (3, 4, 21, 10)
    assert both.seconds_compute == 2.0
    assert both.ranks == tuple(parts)
    assert "ranks" in str(both)
    assert [part["bytes_held"] for part in both.to_dict()["ranks"]] == [10, 11]
