"""Figures of a memo."""

from dcache.time_memo.report import MemoReport, merged


def test_several_denoisers_are_summed_under_their_names() -> None:
    one = MemoReport({"a": ("timestep",)}, 10, 4, 16, 8, 2, 1, observed=True)
    two = MemoReport({"a": ("pooled", "timestep")}, 30, 6, 24, 0, 3, 1, dropped={"b": "differs"})
    both = merged({"x": one, "y": two})
    assert both.modules == {"x.a": ("timestep",), "y.a": ("pooled", "timestep")}
    assert both.share == 10 / 40
    assert (both.weight_bytes, both.bytes_away, both.table_bytes, both.entries) == (40, 8, 5, 2)
    assert both.dropped == {"y.b": "differs"}
    assert both.depends_on == ("pooled", "timestep")
    assert both.observed
    assert merged({"": one}) is one
