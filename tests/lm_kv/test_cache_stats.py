import json

import pytest

from dcache import DcacheError
from dcache.lm_kv.cache_stats import CacheReport, CacheStats

STATS = CacheStats(
    method="snapkv", budget="0.25 of each row's tokens", allocation="heads", seen=(27, 40), kept=(6.0, 10.0),
    bytes_held=25600, bytes_full=102400, peak_bytes=204800, evictions=1,
)  # fmt: skip


def test_it_prints_as_a_table():
    assert str(STATS).splitlines() == [
        "method         snapkv",
        "budget         0.25 of each row's tokens, heads",
        "tokens seen    27, 40",
        "kept per head  6.0, 10.0",
        "held           25 KiB, 25.0% of 100 KiB",
        "peak           200 KiB",
        "evictions      1",
    ]


def test_an_empty_one_says_what_to_do():
    assert str(CacheStats()).endswith("nothing ran yet: call the model first")


def test_it_is_plain_values():
    values = STATS.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["bytes_held"] == 25600


def test_a_report_has_a_line_for_each_layer_and_a_picture(tmp_path):
    report = CacheReport(STATS, {0: (6.0, 10.5), 2: (8.0, 8.0)})
    assert [line.split() for line in str(report).splitlines()[-2:]] == [
        ["0", "6.0", "10.5"],
        ["2", "8.0", "8.0"],
    ]
    path = report.plot(tmp_path / "kept.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_nothing_stored_is_no_picture(tmp_path):
    with pytest.raises(DcacheError, match="holds nothing yet"):
        CacheReport(CacheStats(), {}).plot(tmp_path / "kept.png")
