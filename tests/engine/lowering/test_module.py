"""A sublayer as a site: repeated calls of one module, and placeholders for what is not read."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from dcache import Method
from dcache.cache.codec import Codec
from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.lowering.module import ModuleCall, ModuleRegion, PlaceholderCall
from dcache.engine.session import Session
from dcache.schedulers import Listed
from dcache.sites.blocks import FUSED, SUBLAYERS, Fused, key_of
from dcache.sites.site import Site
from tests.engine.tiny_models import Double, OutOfSight, Toy, integers, session_on, steps, walk

TIMES = [4, 3, 2, 1]


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Again, Flags):
        monkeypatch.setitem(SUBLAYERS, key_of(kind), {"mlp": ("ff",)})
    monkeypatch.setitem(FUSED, "tests.Meets", Fused("proj_out", ("widen",)))


class Again(nn.Module):
    """x + 2 x + 2 (10 x), by two calls of one module; by more where `calls` says so."""

    def __init__(self, calls: int = 2) -> None:
        super().__init__()
        self.ff, self.calls = Double(), calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + sum(self.ff(x * 10**i) for i in range(self.calls))


class Flagged(Double):
    """Returns a constant and another dtype beside the double."""

    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return y, "a flag", y.to(torch.float64) * 10


class Flags(nn.Module):
    """x + 2 x + 20 x."""

    def __init__(self) -> None:
        super().__init__()
        self.ff = Flagged()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, flag, z = self.ff(x)
        assert flag == "a flag"
        assert z.dtype == torch.float64
        return x + y + z.float()


class Widen(nn.Module):
    """Twice the columns in double precision, with a constant and a nested tensor of integers."""

    runs = OutOfSight()

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> Any:
        self.runs += 1
        return {"wide": torch.cat([x, x], -1).double(), "rest": ("a flag", torch.arange(x.shape[0]))}


class ProjOut(nn.Module):
    runs = OutOfSight()

    def __init__(self) -> None:
        super().__init__()

    def forward(self, wide: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return wide[..., :4].float() * 3


class Meets(nn.Module):
    """x + 3 x, by a module that only feeds the exit."""

    fed = OutOfSight()

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.proj_out = Widen(), ProjOut()
        self.fed = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.fed = self.widen(x)
        return x + self.proj_out(self.fed["wide"])


def on(model: nn.Module, kind: str, *computed: int) -> Session:
    """Compute these evaluations of every sublayer of a kind."""
    return session_on(model, Method("mine", rule=Listed(computed), sites=(kind,), codec="value"))


def region_on(model: nn.Module) -> ModuleRegion:
    (region,) = on(model, "mlp", 0).binding.regions
    assert isinstance(region, ModuleRegion)
    return region


# Repeated calls -------------------------------------------------------------------------------------


def test_the_calls_of_one_evaluation_each_have_a_region_and_the_next_evaluation_the_same() -> None:
    region, branch = region_on(Toy([Again()])), Branch("0", 1)
    call = Call(branch, 0, 0.0)
    first, second, third = (region.next_of(call) for _ in range(3))
    assert first is region
    assert (second.site.name, third.site.name) == ("call 2", "call 3")
    assert (second.key, third.key) == ("call 2 of mlp:0", "call 3 of mlp:0")
    assert (second.leader, third.leader) == (region, region)
    assert list(region.parts()) == [first, second, third]
    call = Call(branch, 1, 1.0)
    assert [region.next_of(call) for _ in range(2)] == [first, second]
    assert region.served == (call, 1)
    call = Call(branch, 2, 2.0)
    assert [region.next_of(call) for _ in range(3)] == [first, second, third]


def test_each_call_is_predicted_from_what_it_was_itself() -> None:
    model = Toy([Again()])
    on(model, "mlp", 0, 2)
    # 22 h of the first and the third h, and the h of each.
    assert integers(steps(model, TIMES)) == [5 + 110, 4 + 110, 3 + 66, 2 + 66]
    assert model.blocks[0].ff.runs == 4


def test_the_calls_of_one_module_are_one_site() -> None:
    model = Toy([Again(), Again()])
    session = on(model, "mlp", 0)
    steps(model, TIMES)
    assert [len(list(region.parts())) for region in session.binding.regions] == [2, 2]
    stats = session.stats()
    # Two sites in four evaluations, however often they are called in each.
    assert (stats.computed, stats.predicted) == (2, 6)
    (branch,) = session.state.branches.values()
    assert sorted(branch.histories) == ["call 2 of mlp:0", "call 2 of mlp:1", "mlp:0", "mlp:1"]


def test_at_the_end_of_a_run_the_further_calls_hold_nothing_either() -> None:
    model = Toy([Again(3)])
    region = region_on(model)
    steps(model, TIMES[:2])
    assert [part.has_history for part in region.parts()] == [True] * 3
    region.release()
    assert [part.has_history for part in region.parts()] == [False] * 3
    assert region.served is None


class Turns(nn.Module):
    """x + 2 (10 x) + 2 x, by two calls of one module whose order or number changes at some evaluations."""

    def __init__(self, form: str, at: int) -> None:
        super().__init__()
        self.ff, self.form, self.at, self.evaluation = Double(), form, at, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed = int(x.mean()) == self.at
        if changed and self.form == "first alone":
            return x + self.ff(x)
        if changed and self.form == "order":
            y = self.ff(x)
            return x + self.ff(x * 10) + y
        y = self.ff(x * 10)
        if changed and self.form == "once more":
            return x + y + self.ff(x) + self.ff(x)
        return x + y + self.ff(x[:, :1] if changed and self.form == "size" else x)


@pytest.mark.parametrize("form", ["first alone", "order", "once more", "size"])
@pytest.mark.parametrize("evaluation", [1, 2])
def test_no_call_is_given_what_is_remembered_of_another(
    monkeypatch: pytest.MonkeyPatch, form: str, evaluation: int
) -> None:
    monkeypatch.setitem(SUBLAYERS, "tests.Turns", {"mlp": ("ff",)})
    # Evaluations 0 and 2 are computed; the change is in a predicted or in a computed one.
    model = Toy([Turns(form, TIMES[evaluation] + 1)])
    plain = integers(walk(model, TIMES))
    on(model, "mlp", 0, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cached = integers(steps(model, TIMES))
    assert any("is called in another order or size" in str(warning.message) for warning in caught)
    # h + 2 (10 h) + 2 h; in evaluation 1 the last two terms are those of evaluation 0, where h is 5.
    assert plain[0] == 23 * 5
    if evaluation == 1:
        known = {"once more": 4 + 100 + 8 + 8, "size": 4 + 100 + 8}.get(form, plain[1])
        # Behind it the whole model is cached.
        assert cached == [plain[0], known, plain[2], plain[2]]
    else:
        assert cached == [plain[0], 4 + 22 * 5, plain[2], plain[3]]


# One module -----------------------------------------------------------------------------------------


def test_what_is_no_tensor_comes_back_and_each_tensor_in_its_dtype() -> None:
    model = Toy([Flags()])
    session = on(model, "mlp", 0, 2)
    assert integers(steps(model, TIMES)) == [5 + 110, 4 + 110, 3 + 66, 2 + 66]
    (history,) = [h for b in session.state.branches.values() for h in b.histories.values()]
    assert history.form.constants == {1: "a flag"}
    assert model.blocks[0].ff.runs == 2


def test_a_change_is_added_to_the_modules_first_tensor() -> None:
    session = on(Toy([Again()]), "mlp", 0)
    module, branch = Double(), Branch("0", 1)
    region = ModuleRegion(session, Site("attn:0", "attn"), Codec("delta"))
    intercept = ModuleCall(module, region)
    found = []
    for index, entry in enumerate([5.0, 4.0]):
        session.call = Call(branch, index, float(index), observing=not index)
        found.append(intercept(torch.full((1, 2, 4), entry)))
    # 5 becomes 10.
    assert integers(found) == [10, 4 + 5]
    assert module.runs == 1


def test_outside_of_a_call_a_module_is_as_it_was() -> None:
    model = Toy([Again(), Meets()])
    on(model, "mlp", 0)
    steps(model, TIMES[:1])
    x = torch.full((1, 2, 4), 6.0)
    assert integers([model.blocks[0].ff(x), model.blocks[1](x)]) == [12, 24]


# Placeholders ---------------------------------------------------------------------------------------


def shapes(fed: Any) -> list[Any]:
    """What a `Widen` returned: shapes, dtypes and devices, and the constant."""
    flag, numbers = fed["rest"]
    return [flag, *((t.shape, t.dtype, t.device.type) for t in (fed["wide"], numbers))]


def test_what_only_feeds_the_exit_is_not_run_and_a_placeholder_has_its_shape() -> None:
    model = Toy([Meets()])
    on(model, "fused", 0, 2)
    block = model.blocks[0]
    assert integers(steps(model, TIMES[:1])) == [5 + 15]
    true = ["a flag", ((1, 2, 8), torch.float64, "cpu"), ((1,), torch.int64, "cpu")]
    assert shapes(block.fed) == true
    given = block.fed["wide"]
    assert integers(steps(model, TIMES[1:2], first=1)) == [4 + 15]
    assert shapes(block.fed) == true
    assert block.fed["wide"] is not given
    assert integers(steps(model, TIMES[2:], first=2)) == [3 + 9, 2 + 9]
    assert (block.widen.runs, block.proj_out.runs) == (2, 2)


def test_calls_of_another_signature_have_placeholders_of_their_own() -> None:
    model = Toy([Meets()])
    session = on(model, "fused", 0)
    inputs = {"one": torch.ones(1, 2, 4), "three": torch.ones(3, 2, 4)}
    for index, time in enumerate(TIMES[:2]):
        for name, x in inputs.items():
            outputs = steps(model, [time], first=index, branch=name, x=x)
            assert integers(outputs) == [20 if index == 0 else 19]
            wide, numbers = model.blocks[0].fed["wide"], model.blocks[0].fed["rest"][1]
            assert (wide.shape, numbers.shape) == ((len(x), 2, 8), (len(x),))
    (hollow,) = [i for i in session.binding.intercepts if isinstance(i, PlaceholderCall)]
    assert len(hollow.shapes) == 2
    assert model.blocks[0].widen.runs == 2


def test_a_replay_that_checks_finds_no_computed_value_in_freed_memory() -> None:
    model = Toy([Meets()])
    on(model, "fused", 0)
    steps(model, TIMES[:1])
    # What the block met last was the replay's.
    assert bool(model.blocks[0].fed["wide"].isnan().all())
