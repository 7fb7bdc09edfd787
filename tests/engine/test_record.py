"""The log of one run: what it counts, and what it becomes."""

from dcache.engine.record import Record


def test_events_are_counted_by_reason() -> None:
    record = Record()
    for index, reason in enumerate(["warmup", None, None, "interval", None]):
        record.event("cond", "trunk", index, reason)
    record.event("uncond", "trunk", 0, "warmup")
    assert (record.computed, record.predicted) == (3, 3)
    assert record.reasons == {"warmup": 2, "interval": 1}


def test_rows_say_for_each_branch_and_site_which_evaluations_were_computed() -> None:
    record = Record()
    record.event("cond", "attn:0", 0, "warmup")
    record.event("cond", "attn:0", 1, None)
    record.event("cond", "mlp:0", 1, None)
    record.event("uncond", "attn:0", 2, None)
    # What was not seen counts as computed, and every branch has a row for every site.
    assert record.rows(4) == {
        "cond": {"attn:0": [True, False, True, True], "mlp:0": [True, False, True, True]},
        "uncond": {"attn:0": [True, True, False, True], "mlp:0": [True, True, True, True]},
    }


def test_an_evaluation_that_is_done_again_is_counted_once() -> None:
    record = Record()
    record.event("0", "trunk", 0, "warmup")
    counts = record.counts()
    record.event("0", "trunk", 1, "interval")
    record.event("0", "trunk", 2, None)
    record.recount(counts)
    assert (record.computed, record.predicted, record.reasons) == (1, 0, {"warmup": 1})
    record.event("0", "trunk", 1, "shape")
    assert (record.computed, record.reasons) == (2, {"warmup": 1, "shape": 1})
    # What was noted is not changed by what is counted later.
    assert counts == (1, 0, {"warmup": 1})


def test_a_call_that_was_none_is_taken_out_with_its_rows() -> None:
    record = Record()
    record.event("cond", "attn:0", 0, "warmup")
    counts = record.counts()
    for branch in ("cond", "uncond"):
        record.event(branch, "attn:0", 1, "shape")
        record.event(branch, "mlp:0", 1, None)
    record.withdraw("uncond", 1, None)
    record.withdraw("cond", 1, counts)
    record.withdraw("never seen", 1, None)
    assert record.events == {"cond": {"attn:0": {0: True}}}
    assert record.counts() == counts == (1, 0, {"warmup": 1})


def test_seconds_go_to_calls_that_predicted_something_or_to_those_that_did_not() -> None:
    record = Record()
    record.call(2.0, predicted=False)
    record.call(0.25, predicted=True)
    record.call(0.5, predicted=True)
    assert (record.seconds_compute, record.seconds_predict) == (2.0, 0.75)


def test_while_a_run_goes_on_bytes_are_those_of_now_and_after_it_the_most() -> None:
    record = Record()
    for now in (10, 40, 20):
        record.peak(now)
    record.event("0", "trunk", 0, "warmup")
    under_way = record.stats(1, 20, True, 0.5, "newton()")
    over = record.stats(1, 0, False, 0.5, "newton()")
    assert (under_way.bytes_held, under_way.bytes_now) == (20, 20)
    assert (over.bytes_held, over.bytes_now) == (40, 0)
    assert (over.steps, over.computed, over.method, over.seconds_inside) == (1, 1, "newton()", 0.5)
    # The statistics are a copy.
    record.event("0", "trunk", 1, "warmup")
    assert over.reasons == {"warmup": 1}


def test_what_happened_before_is_counted_with_the_rest() -> None:
    earlier, record = Record(), Record()
    earlier.event("0", "trunk", 0, "no_history")
    earlier.call(2.0, predicted=False)
    for index, reason in enumerate(["no_history", None]):
        record.event("0", "trunk", index, reason)
    record.event("1", "trunk", 1, "interval")
    record.call(3.0, predicted=False)
    record.precede(earlier, 1)
    assert record.events == {"0": {"trunk": {0: True, 1: True, 2: False}}, "1": {"trunk": {2: True}}}
    assert record.rows(3)["0"] == {"trunk": [True, True, False]}
    assert record.counts() == (3, 1, {"no_history": 2, "interval": 1})
    assert record.seconds_compute == 5.0
    # What was noted of the other run is its own.
    assert earlier.events == {"0": {"trunk": {0: True}}}
