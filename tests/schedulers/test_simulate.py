"""A rule walked without a model: what it is given in each evaluation, and what is computed then."""

from dcache.schedulers import ChangeAbove, Every, Listed, StepContext, any_of
from dcache.schedulers.simulate import simulate
from dcache.sites.site import Site

TRUNK = Site("trunk", "trunk", 0, 3)


def test_the_first_evaluation_is_computed_whatever_the_rule_says() -> None:
    assert simulate(lambda context: None, 5, TRUNK) == (0,)
    assert simulate(Listed((2, 4)), 6, TRUNK) == (0, 2, 4)
    assert simulate(lambda context: None, 0, TRUNK) == ()


def test_predictions_are_counted_since_the_last_compute() -> None:
    assert simulate(Every(3), 8, TRUNK) == (0, 3, 6)
    lengths = []

    def rule(context: StepContext) -> str | None:
        lengths.append(context.run_length)
        return "listed" if context.index in (1, 4) else None

    assert simulate(rule, 7, TRUNK) == (0, 1, 4)
    assert lengths == [0, 0, 0, 1, 2, 0, 1]


def test_a_change_is_that_of_the_evaluation_and_without_any_everything_has_changed() -> None:
    assert simulate(ChangeAbove(0.5), 6, TRUNK, [9.0, 0.1, 0.4, 0.5, 0.1, 0.6]) == (0, 3, 5)
    assert simulate(ChangeAbove(0.5), 4, TRUNK) == (0, 1, 2, 3)


def test_a_rule_is_told_the_run_the_site_and_the_depth() -> None:
    seen = []

    def rule(context: StepContext) -> str | None:
        seen.append((context.index, context.count, context.site, context.depth, context.time()))
        return None

    simulate(rule, 2, Site("block:1", "block", 1, 1), depth=28)
    block = Site("block:1", "block", 1, 1)
    assert seen == [(0, 2, block, 28, None), (1, 2, block, 28, None)]


def test_what_a_rule_notes_it_finds_again_and_another_walk_does_not() -> None:
    def third(context: StepContext) -> str | None:
        context.memory["asked"] = context.memory.get("asked", 0) + 1
        return "listed" if context.memory["asked"] % 3 == 0 else None

    assert simulate(third, 7, TRUNK) == (0, 2, 5)
    assert simulate(third, 7, TRUNK) == (0, 2, 5)


def test_a_rule_is_not_asked_for_its_probe_behind_a_guard_that_computes() -> None:
    # Evaluation 2 is guarded; its change would be an error to read.
    def above(context: StepContext) -> str | None:
        assert context.index != 2
        return ChangeAbove(0.5)(context)

    assert simulate(any_of(Listed((2,)), above), 4, TRUNK, [1.0, 0.0, 0.0, 0.0]) == (0, 2)
