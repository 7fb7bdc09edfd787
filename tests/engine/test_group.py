"""The reference lowering's region: one decision for several followers, counted where it is taken."""

from typing import Any

import torch

import dcache
from dcache import methods
from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.group import GroupRegion
from dcache.engine.session import Session
from dcache.schedulers import StepContext
from tests.engine.tiny_models import Toy, integers, session_on, steps

TRUNK = methods.interval(interval=3, sites="trunk", codec="value")


def group_of(session: Session) -> GroupRegion:
    (region,) = session.binding.regions
    assert isinstance(region, GroupRegion)
    return region


def session() -> Session:
    return session_on(Toy(), TRUNK, lowering="replay")


def test_its_parts_are_its_followers_in_their_order() -> None:
    group = group_of(session())
    assert [part.site.name for part in group.parts()] == ["block:0", "block:1", "block:2"]
    # Of a part's history the name says whose it is: two groups may share a block's name.
    assert [part.key for part in group.parts()] == [f"block:{i} of trunk" for i in range(3)]


def test_the_rule_is_asked_once_for_all_and_counts_predictions_of_the_group() -> None:
    asked: list[tuple[str, int, int]] = []

    def rule(context: StepContext) -> str | None:
        asked.append((context.site.name, context.index, context.run_length))
        return "interval" if context.run_length == 2 else None

    toy = Toy()
    made = dcache.Method("often", rule=rule, sites=("trunk",), codec="value")
    session_on(toy, made, lowering="replay")
    # 8 (t + 1), computed at 0, 3 and 6.
    assert integers(steps(toy, [4, 5, 6, 7, 8, 9, 10])) == [40, 40, 40, 64, 64, 64, 88]
    # Predictions since the newest anchor: none of the followers' own counts.
    assert asked == [("trunk", i, n) for i, n in enumerate([0, 0, 1, 2, 0, 1, 2])]
    stats = dcache.stats(toy)
    assert (stats.computed, stats.predicted) == (3, 4)


def decided(group: GroupRegion, session: Any, call: Call) -> bool:
    session.call = call
    return group.decide(call)


def test_it_has_a_history_once_every_follower_has() -> None:
    its = session()
    group, branch = group_of(its), Branch("0", 1)
    assert not group.has_history
    its.call = Call(branch, 0, 0.0)
    for i, follower in enumerate(group.followers):
        assert not group.has_history
        branch.history(follower.key).push(0, 0.0, (torch.zeros(1),))
        assert group.has_history is (i == 2)


def test_it_decides_once_in_a_call_and_again_in_the_next() -> None:
    its = session()
    group, branch = group_of(its), Branch("0", 1)
    first = Call(branch, 1, 1.0)
    assert not decided(group, its, first)
    for follower in group.followers:
        branch.history(follower.key).push(1, 1.0, (torch.zeros(1),))
    # The same call: settled, whatever is remembered by now.
    assert not decided(group, its, first)
    assert decided(group, its, Call(branch, 2, 2.0))
    assert group.history is not None
    assert group.history.run_length == 1
    # A replay by the self-check predicts and counts nothing.
    assert decided(group, its, Call(branch, 2, 2.0, checking=True))
    assert group.history.run_length == 1


def test_what_was_counted_of_half_a_batch_is_forgotten_with_the_whole_one() -> None:
    its = session()
    group, branch = group_of(its), Branch("0", 1)
    for follower in group.followers:
        branch.history(follower.key).push(0, 0.0, (torch.zeros(1),))
    assert decided(group, its, Call(branch, 1, 1.0, half=(4, slice(0, 2))))
    assert group.history is not None
    assert group.history.half
    assert decided(group, its, Call(branch, 2, 2.0, half=(4, slice(0, 2))))
    assert group.history.run_length == 2
    assert decided(group, its, Call(branch, 3, 3.0))
    assert not group.history.half
    assert group.history.run_length == 1


def test_once_the_run_is_over_neither_it_nor_its_followers_hold_anything() -> None:
    toy = Toy()
    its = session_on(toy, TRUNK, lowering="replay")
    steps(toy, [4, 3])
    group = group_of(its)
    assert all(part.history is not None for part in group.parts())
    group.release()
    assert group.history is None
    assert group.decided_in is None
    assert all(part.history is None for part in group.parts())
