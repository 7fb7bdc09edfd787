"""`RowStats`: shares, JSON values and the printed table."""

import json

from dcache.diffusion_lm import RowStats


def test_shares_and_the_table():
    stats = RowStats("dual()", "sdpa calls", forwards=4, rows=30, possible=120, tokens=10, bytes_held=2048)
    stats.refreshed("start")
    stats.refreshed("block")
    stats.refreshed("block")
    assert (stats.share, stats.tokens_per_forward) == (0.25, 2.5)
    text = str(stats)
    assert "rows              30 of 120, 25.0%" in text
    assert "all rows because  block 2, start 1" in text
    assert "tokens            10, 2.50 a forward" in text
    values = json.loads(json.dumps(stats.to_dict()))
    assert values["share"] == 0.25
    assert values["refreshes"] == {"start": 1, "block": 2}


def test_before_the_first_run():
    assert RowStats().share == 1
    assert RowStats().tokens_per_forward == 0
    assert str(RowStats()).endswith("nothing ran yet: call the model first")
