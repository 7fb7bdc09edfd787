"""A binding: intercepts go on and come off, what changed since is noticed, what blocks do is learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.engine.bind import bind
from dcache.engine.binding import Binding
from dcache.engine.lowering.blocks import BlockCall
from dcache.engine.session import Session
from dcache.intercept.module_call import ModuleIntercept, compiled_inside, intercepts_of
from dcache.predictors.corrections import Correction, Corrections
from dcache.sites.blocks import SUBLAYERS
from tests.engine.tiny_models import Double, ThreeSublayers, Toy, integers, session_on, steps

EVERY_2 = methods.interval(interval=2, codec="value")
TIMES = [4, 3, 2, 1]


def made(toy: nn.Module, *sites: str) -> tuple[Session, Binding]:
    """A binding beside the session's own, which is taken off."""
    session = session_on(toy, EVERY_2)
    session.binding.remove()
    return session, bind(session, sites)


# On and off ------------------------------------------------------------------------------------------


def test_intercepts_go_on_and_come_off() -> None:
    toy = Toy()
    _, binding = made(toy, "block")
    assert [intercepts_of(block) for block in toy.blocks] == [[], [], []]
    binding.install()
    assert [intercepts_of(block) for block in toy.blocks] == [[intercept] for intercept in binding.intercepts]
    binding.remove()
    assert [intercepts_of(block) for block in toy.blocks] == [[], [], []]
    assert all("_compiled_call_impl" not in vars(block) for block in toy.blocks)


def test_what_was_displaced_is_put_back_and_the_rest_left_alone() -> None:
    toy = Toy()
    _, binding = made(toy, "block")
    binding.install()
    toy.blocks[1]._compiled_call_impl = None
    beside = ModuleIntercept(toy.blocks[0])
    beside.install()
    binding.reinstall()
    assert intercepts_of(toy.blocks[0]) == [beside, binding.intercepts[0]]
    assert intercepts_of(toy.blocks[1]) == [binding.intercepts[1]]


def test_once_cleared_it_refers_to_nothing_of_the_model() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2, lowering="replay")
    binding = session.binding
    parts = list(binding.storing())
    assert all(part.leader is not None for part in parts)
    binding.remove()
    binding.clear()
    assert (binding.intercepts, binding.regions, binding.names) == ([], [], [])
    assert (binding.whole, binding.guidance) == (None, None)
    assert all(part.leader is None for part in parts)


def test_everything_that_remembers_is_named_and_groups_are_never_summed_with_others() -> None:
    toy = Toy()
    _, binding = made(toy, "block")
    assert list(binding.storing()) == binding.summable() == binding.regions
    replayed = session_on(Toy(), EVERY_2, lowering="replay").binding
    assert [region.site.name for region in replayed.storing()] == ["block:0", "block:1", "block:2"]
    assert replayed.summable() == []
    session = session_on(Toy(), replace(EVERY_2, sites=("guidance", "trunk"), uncond_from="drop"))
    assert [region.site.name for region in session.binding.storing()] == ["trunk"]


def test_the_regions_of_a_modules_further_calls_remember_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ff = Double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.ff(x) + self.ff(x + 1)

    monkeypatch.setitem(SUBLAYERS, "tests.Twice", {"mlp": ("ff",)})
    toy = Toy([Twice()])
    session = session_on(toy, EVERY_2.with_sites(("mlp",)))
    assert [region.key for region in session.binding.storing()] == ["mlp:0"]
    steps(toy, [4])
    assert [region.key for region in session.binding.storing()] == ["mlp:0", "call 2 of mlp:0"]


# What changed since ----------------------------------------------------------------------------------


def test_a_bound_module_that_was_replaced_is_noticed_and_no_other() -> None:
    toy = Toy()
    _, binding = made(toy, "block:1")
    binding.install()
    toy.blocks[0] = Double()
    assert not binding.moved()
    # The list of blocks is another.
    assert binding.stale()
    toy.blocks[1] = Double()
    assert binding.moved()
    assert binding.stale()


def test_a_block_that_was_added_makes_it_stale() -> None:
    toy = Toy()
    _, binding = made(toy, "trunk")
    binding.install()
    assert not binding.stale()
    toy.blocks.append(Double())
    assert not binding.moved()
    assert binding.stale()


def test_a_sublayer_that_was_replaced_is_noticed_inside_its_block() -> None:
    toy = Toy([ThreeSublayers() for _ in range(2)])
    _, binding = made(toy, "mlp:1")
    binding.install()
    toy.blocks[1].attn1 = Double()
    assert not binding.moved()
    toy.blocks[1].ff = Double()
    assert binding.moved()
    assert binding.stale()


def test_a_site_inside_a_compiled_module_is_refused_and_a_compiled_site_is_not() -> None:
    toy = Toy([ThreeSublayers() for _ in range(2)])
    session, blocks = made(toy, "block")
    toy.blocks[1].compile(backend="eager")
    blocks.refuse_enclosed()
    sublayers = bind(session, ["attn:0"])
    sublayers.refuse_enclosed()
    with pytest.raises(DcacheError, match=r"sites \['attn:1'\] lie inside it \(Attention\).*compile=True"):
        bind(session, ["attn:1"])
    torch.compiler.reset()


def test_a_block_that_torch_compile_wrapped_is_named() -> None:
    toy = Toy([ThreeSublayers() for _ in range(2)])
    toy.blocks[1] = torch.compile(toy.blocks[1], backend="eager")
    session, blocks = made(toy, "block")
    blocks.refuse_enclosed()
    with pytest.raises(
        DcacheError, match=r"ThreeSublayers is compiled by torch\.compile\(block\), and the sites"
    ):
        bind(session, ["attn:1"])
    torch.compiler.reset()


# Compiling -------------------------------------------------------------------------------------------


def test_what_encloses_another_site_is_not_compiled_and_what_is_beside_it_is() -> None:
    toy = Toy([ThreeSublayers() for _ in range(3)])
    options = {"compile": {"backend": "eager"}}
    session = session_on(toy, EVERY_2.with_sites(("mlp:0", "mlp:1")), **options)
    first, second, third = toy.blocks
    compiled = {name for name, m in toy.named_modules() if intercepts_of(m) and _is_compiled(m)}
    # The first two blocks have sites inside them, which are compiled by themselves.
    assert compiled == {"blocks.0.ff", "blocks.1.ff", "blocks.2"}
    # Each block makes h + 6 h of h, 2 h by its MLP: 5, 35, 245. Then 4 + 16 + 10, and 30 + 120 + 70.
    assert integers(steps(toy, [4, 3])) == [7 * 245, 7 * 220]
    dcache.disable(toy)
    assert not any(intercepts_of(m) for m in (first, second, third, second.ff))
    assert compiled_inside(first) is None
    assert session.removed
    torch.compiler.reset()


def _is_compiled(module: nn.Module) -> bool:
    return getattr(intercepts_of(module)[-1].inner, "__func__", None) is not nn.Module._call_impl


# What blocks do --------------------------------------------------------------------------------------


class Order(Toy):
    """Calls its blocks in the order that it is told."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x = x + timestep
        for i in self.order:
            x = self.blocks[i](x)
        return x


@pytest.mark.parametrize(
    ("order", "sites", "problem"),
    [
        ([0, 1, 2], "trunk", None),
        # Blocks in the middle that are left out do no harm.
        ([0, 2], "block:0", None),
        ([0, 1, 1, 2], "trunk", "not called once each, in their order"),
        ([1, 0, 2], "trunk", "not called once each, in their order"),
        ([2, 0, 1], "trunk", "not called once each, in their order"),
    ],
)
def test_blocks_are_to_be_called_once_each_in_their_order(
    order: list[int], sites: str, problem: str | None
) -> None:
    toy = Order(order)
    session_on(toy, EVERY_2.with_sites((sites,)))
    if problem is None:
        steps(toy, [4])
    else:
        with pytest.warns(DcacheWarning, match=rf"Order: the blocks of {sites} are {problem}"):
            steps(toy, [4])


@pytest.mark.parametrize("order", [[0, 0, 1, 2], [0, 1, 2, 2]])
def test_a_run_whose_end_is_called_twice_is_given_up_for_the_model(order: list[int]) -> None:
    toy = Order(order)
    session_on(toy, EVERY_2)
    with pytest.warns(DcacheWarning, match=r"trunk are not called once each, .*sites='model'"):
        # (1 + 4) doubled by four blocks, then remembered.
        assert [float(y.flatten()[0]) for y in steps(toy, [4, 3])] == [80.0, 80.0]


def test_a_run_that_is_left_and_not_entered_is_an_error() -> None:
    toy = Order([1, 2])
    session_on(toy, EVERY_2)
    with pytest.raises(DcacheError, match="or sites='model'"):
        steps(toy, [4])


def test_a_block_that_is_not_called_is_named() -> None:
    toy = Order([0, 2])
    session_on(toy, EVERY_2)
    with pytest.warns(DcacheWarning, match="block Double of trunk was not called"):
        steps(toy, [4])


def test_how_blocks_pass_their_inputs_on_is_learned_for_all_but_the_last() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    calls = [c for c in session.binding.intercepts if isinstance(c, BlockCall)]
    assert [call.passing for call in calls] == [None] * 3
    steps(toy, [4])
    assert [call.passing is not None for call in calls] == [True, True, False]
    x = torch.ones(2)
    first = calls[0].passing
    assert first is not None
    assert first((x,), {}) is x


def test_a_block_whose_output_continues_no_input_cannot_be_passed_through() -> None:
    class Pools(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1, keepdim=True)

    toy = Toy([Pools(), Double()])
    session_on(toy, EVERY_2)
    with pytest.warns(
        DcacheWarning, match="an output of Pools continues none of its inputs.* through in trunk"
    ):
        steps(toy, [4])


def test_changes_need_an_output_of_an_inputs_shape() -> None:
    class Pools(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1, keepdim=True)

    toy = Toy([Double(), Pools()])
    session_on(toy, methods.interval(codec="delta"))
    with pytest.warns(DcacheWarning, match="codec 'delta' at trunk needs an output of an input's shape"):
        steps(toy, [4])
    fine = session_on(Toy([Double(), Pools()]), EVERY_2)
    steps(fine.module, [4])
    assert [site.name for site in fine.binding.sites] == ["trunk"]


def test_what_was_seen_in_one_call_is_not_taken_for_the_next() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    steps(toy, TIMES)
    # Another shape is observed again: each block once.
    steps(toy, TIMES, x=torch.ones(1, 5, 4))
    (region,) = session.binding.regions
    assert [site.name for site in session.binding.sites] == ["trunk"]
    assert region.order == list(toy.blocks)  # type: ignore[union-attr]
    session.binding.observe()
    assert region.order == []  # type: ignore[union-attr]


@pytest.mark.parametrize("channels", [4, 3])
def test_corrections_must_have_the_channels_of_what_is_remembered(channels: int) -> None:
    row = Correction(torch.full((channels,), 2.0), torch.zeros(channels), 0)
    method = replace(EVERY_2, corrections=Corrections({"trunk": {1: row}}, {"trunk": -1}))
    toy = Toy()
    session_on(toy, method)
    if channels == 4:
        assert integers(steps(toy, [4, 3])) == [40, 80]
    else:
        with pytest.raises(DcacheError, match="3 channels"):
            steps(toy, [4])
