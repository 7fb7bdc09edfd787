"""One bound site: it decides once a call, remembers what is read, and predicts into memory of its own."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dcache import DcacheError, Method, methods
from dcache.cache.codec import Codec
from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.lowering.blocks import RunRegion
from dcache.engine.lowering.bracket import BracketRegion
from dcache.engine.lowering.module import ModuleRegion
from dcache.engine.lowering.whole_model import WholeRegion
from dcache.engine.region import Region, without_history
from dcache.engine.session import Session
from dcache.kernels.weighted_sum import weighted_sum
from dcache.predictors import Newton
from dcache.schedulers import StepContext
from dcache.sites.site import Site
from dcache.util.bytes import bytes_of
from tests.engine.tiny_models import Toy, integers, session_on, steps

LINE = methods.newton(order=1, interval=3, warmup=2, clock="step", last=False)


def full(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((1, 2, 4), value, dtype=dtype)


def region_of(session: Session) -> Region:
    (region,) = session.binding.regions
    assert isinstance(region, Region)
    return region


def computed(region: Region, branch: Branch, index: int, *leaves: Any, entry: float | None = None) -> Call:
    """Let a region remember these leaves in an evaluation, whose clock is its index."""
    call = Call(branch, index, float(index))
    region.decide(call)
    entries = [None if entry is None else full(entry), *[None] * (len(leaves) - 1)]
    region.remember(call, region.open(call, entries), leaves)
    return call


def test_every_kind_of_region_is_final_and_none_is_just_a_region() -> None:
    assert set(Region.__subclasses__()) == {RunRegion, BracketRegion, ModuleRegion, WholeRegion}
    assert all(getattr(kind, "__final__", False) for kind in Region.__subclasses__())
    with pytest.raises(TypeError, match="abstract"):
        Region(session_on(Toy(), LINE), Site("trunk", "trunk"), Codec("value"))  # type: ignore[abstract]


def test_a_part_that_follows_another_has_a_history_of_its_own() -> None:
    session = session_on(Toy(), LINE)
    leader = region_of(session)
    part = ModuleRegion(session, Site("call 2", "mlp", 0, 0), Codec("value"), leader)
    assert (leader.key, part.key) == ("trunk", "call 2 of trunk")


def test_a_site_is_decided_once_in_a_call() -> None:
    asked: list[int] = []

    def rule(context: StepContext) -> str | None:
        asked.append(context.index)
        return "always" if len(asked) % 2 else None

    region, branch = region_of(session_on(Toy(), Method("odd", rule=rule))), Branch("0", 1)
    first = computed(region, branch, 0, full(8.0))
    assert [region.decide(first) for _ in range(3)] == [False] * 3
    second = Call(branch, 1, 1.0)
    assert [region.decide(second) for _ in range(3)] == [True] * 3
    assert asked == [0, 1]


def test_a_part_does_as_its_leader_and_asks_no_rule() -> None:
    session, branch = session_on(Toy(), LINE), Branch("0", 2)
    leader = region_of(session)
    part = ModuleRegion(session, Site("call 2", "mlp", 0, 0), Codec("value"), leader)
    for index, predicts in enumerate([False, False, True, True, False]):
        call = Call(branch, index, float(index))
        assert part.decide(call) is predicts
        assert leader.decide(call) is predicts
        for region in (leader, part):
            if predicts:
                region.predict(call, ())
            else:
                region.remember(call, [None], [full(index)])
    assert (session.stats().computed, session.stats().predicted) == (3, 2)


def test_a_prediction_is_the_predictors_weighted_sum_of_the_anchors() -> None:
    region, branch = region_of(session_on(Toy(), LINE)), Branch("0", 2)
    # Changes of 7 and 14 on entries of 1 and 2; on an entry of 3 the line through them gives 3 + 21.
    for index in range(2):
        computed(region, branch, index, full(8.0 * (1 + index)), entry=1.0 + index)
    call = Call(branch, 2, 2.0)
    assert region.decide(call)
    (leaf,) = region.predict(call, [full(3.0)])
    assert integers([leaf]) == [24.0]
    history = branch.history("trunk")
    assert (history.run_length, history.predicted_at) == (1, 2.0)
    # What is handed out may be written over.
    leaf.zero_()
    assert integers([region.predict(call, [full(3.0)])[0]]) == [24.0]
    assert history.run_length == 2


def test_in_the_self_check_the_newest_anchor_is_predicted_and_nothing_counted() -> None:
    region, branch = region_of(session_on(Toy(), LINE)), Branch("0", 2)
    for index in range(2):
        computed(region, branch, index, full(8.0 * (1 + index)), entry=1.0 + index)
    # Whatever its clock says: a replay must give what was computed.
    check = Call(branch, 1, 5.0, checking=True)
    assert region.decide(check)
    assert integers([region.predict(check, [full(2.0)])[0]]) == [16.0]
    assert (branch.history("trunk").run_length, branch.history("trunk").predicted_at) == (0, 0.0)


def test_each_output_comes_back_in_its_own_dtype_and_what_is_no_tensor_is_not_stored() -> None:
    region, branch = region_of(session_on(Toy(), methods.interval(codec="value"))), Branch("0", 1)
    leaves = (full(1.0, torch.float64), "a flag", full(2.0, torch.bfloat16), None)
    computed(region, branch, 0, *leaves)
    call = Call(branch, 1, 1.0)
    assert region.decide(call)
    predicted = region.predict(call, ())
    assert [p if p is None else (p.dtype, float(p.flatten()[0])) for p in predicted] == [
        (torch.float64, 1.0), None, (torch.bfloat16, 2.0), None,
    ]  # fmt: skip


def test_what_nobody_reads_is_not_stored_nor_predicted() -> None:
    region, branch = region_of(session_on(Toy(), methods.interval(codec="delta"))), Branch("0", 1)
    region.live = (False, True)
    call = Call(branch, 0, 0.0)
    region.decide(call)
    opened = region.open(call, [full(1.0), full(2.0)])
    assert opened[0] is None
    region.remember(call, opened, [full(5.0), full(9.0)])
    history = branch.history("trunk")
    assert bytes_of(history.tensors()) == 8 * 4
    call = Call(branch, 1, 1.0)
    assert region.decide(call)
    first, second = region.predict(call, [full(3.0), full(4.0)])
    assert first is None
    assert integers([second]) == [4.0 + 7.0]
    (newest,) = history.leaves
    assert [region.stores(leaf, i) for i, leaf in enumerate(newest)] == [False, True]


def test_an_anchor_without_weight_takes_no_part() -> None:
    session = session_on(Toy(), LINE)
    region, branch = region_of(session), Branch("0", 2)
    for index in range(2):
        computed(region, branch, index, full(8.0 * (1 + index)), entry=1.0 + index)
    history = branch.history("trunk")
    weights, anchors, summed = region.terms(Call(branch, 2, 2.0), history)
    assert (weights, anchors, summed) == ([-1.0, 2.0], history.leaves, weighted_sum)
    # At an anchor's own clock the line is that anchor.
    for tau, (only,) in zip((0.0, 1.0), ([history.leaves[0]], [history.leaves[1]]), strict=True):
        weights, anchors, _ = region.terms(Call(branch, 2, tau), history)
        assert weights == [1.0]
        assert list(anchors) == [only]


@dataclass(frozen=True)
class Counted(Newton):
    """A line whose weights are counted."""

    def weights(self, taus: Any, steps: Any, tau: float) -> list[float]:
        WEIGHED.append(tau)
        return super().weights(taus, steps, tau)


WEIGHED: list[float] = []


@pytest.mark.parametrize("sites", [("trunk",), ("block",)])
def test_sites_that_share_their_anchors_share_the_weights(sites: tuple[str, ...]) -> None:
    WEIGHED.clear()
    toy = Toy()
    method = Method("counted", rule=LINE.rule, predictor=Counted(1), sites=sites, codec="value", clock="step")
    session = session_on(toy, method)
    assert session.several_sites is (sites == ("block",))
    assert integers(steps(toy, [1, 2, 3, 4])) == [16, 24, 32, 40]
    assert WEIGHED == [2.0, 3.0]


def test_once_the_run_is_over_a_region_holds_nothing() -> None:
    toy = Toy()
    session = session_on(toy, LINE)
    steps(toy, [1, 2, 3])
    region = region_of(session)
    assert region.has_history
    region.release()
    assert not region.has_history
    assert (region.history, region.decided_in, region.room_in) == (None, None, None)
    assert list(region.opened) == []


def test_a_prediction_from_nothing_is_an_error_that_names_the_site() -> None:
    region, branch = region_of(session_on(Toy(), LINE)), Branch("0", 2)
    call = Call(branch, 2, 2.0)
    assert not region.decide(call)
    with pytest.raises(DcacheError, match=r"trunk was to be predicted and nothing is remembered of it"):
        region.predict(call, [full(1.0)])
    assert "sites='model'" in str(without_history(region.site))
