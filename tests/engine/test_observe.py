"""Observers: what they see of each call and in which order, what they cost, and that they are taken off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.engine.call import Call
from dcache.engine.observe import Observer, SiteOutput, is_observable, observe
from dcache.sites.blocks import SUBLAYERS
from tests.engine.tiny_models import Double, Mix, Toy, integers, session_on, steps, unet

EVERY_2 = methods.interval(interval=2, codec="delta")
ALWAYS = methods.interval(interval=1, codec="delta")
TIMES = [4, 3, 2, 1]
# h = t + 1 enters three blocks that double it; the trunk adds 7 h to it.
CHANGES = [35.0, 28.0, 21.0, 14.0]


class Log(Observer):
    """Notes everything in order; of tensors the number that they are filled with."""

    def __init__(self, name: str = "", log: list[Any] | None = None) -> None:
        self.name = name
        self.log: list[Any] = [] if log is None else log

    def note(self, *what: Any) -> None:
        self.log.append((self.name, *what) if self.name else what)

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        self.note("begin")
        output = denoise()
        self.note("end")
        return output

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.note("call", call.index)

    def on_output(self, call: Call, output: Any) -> None:
        self.note("output", call.index)

    def on_enter(self, site: str, call: Call) -> None:
        self.note("enter", site)

    def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
        self.note("compute", site)

    def on_leave(self, site: str, call: Call, computed: bool) -> None:
        self.note("leave", site, computed)


class Outputs(Observer):
    """Keeps what the sites give, as numbers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, list[float], list[float] | None, tuple[int, ...]]] = []

    def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
        changes = None if output.changes is None else integers(output.changes)
        self.seen.append((site, call.index, integers(output.values), changes, output.places))


def computed(index: int, *sites: str) -> list[tuple[Any, ...]]:
    """What is seen of a computed call, in order."""
    inside = [
        (what, site, *more) for site in sites for what, *more in (["enter"], ["compute"], ["leave", True])
    ]
    return [("begin",), ("call", index), *inside, ("output", index), ("end",)]


def predicted(index: int, *sites: str) -> list[tuple[Any, ...]]:
    """What is seen of a predicted one."""
    inside = [e for site in sites for e in (("enter", site), ("leave", site, False))]
    return [("begin",), ("call", index), *inside, ("output", index), ("end",)]


# The order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sites", "names"),
    [("trunk", ["trunk"]), ("block", ["block:0", "block:1", "block:2"]), ("model", ["model"])],
)
def test_a_call_is_seen_from_its_beginning_to_its_output_and_its_sites_between(
    sites: str, names: list[str]
) -> None:
    toy, log = Toy(), Log()
    session_on(toy, methods.interval(interval=2, sites=sites))
    with observe(toy, log):
        steps(toy, TIMES)
    whole = [computed(0, *names), predicted(1, *names), computed(2, *names), predicted(3, *names)]
    assert log.log == [event for call in whole for event in call]


def test_of_two_observers_each_event_is_told_to_the_first_first() -> None:
    log: list[Any] = []
    toy = Toy()
    session_on(toy, EVERY_2)
    with observe(toy, Log("a", log)), observe(toy, Log("b", log)):
        steps(toy, [4])
    inside = [event for event in log if event[1] not in {"begin", "end"}]
    order = [("call", 0), ("enter", "trunk"), ("compute", "trunk"), ("leave", "trunk", True), ("output", 0)]
    assert inside == [(name, *event) for event in order for name in "ab"]


def test_what_is_around_a_call_is_outermost_and_the_last_to_come_is_around_the_rest() -> None:
    log: list[Any] = []
    toy = Toy()
    session_on(toy, EVERY_2)
    with observe(toy, Log("a", log)), observe(toy, Log("b", log)):
        steps(toy, [4])
    assert [event for event in log if event[1] in {"begin", "end"}] == [
        ("b", "begin"), ("a", "begin"), ("a", "end"), ("b", "end"),
    ]  # fmt: skip
    assert log[:2] == [("b", "begin"), ("a", "begin")]
    assert log[-2:] == [("a", "end"), ("b", "end")]


def test_what_is_returned_around_a_call_is_the_denoisers_output() -> None:
    class Tenfold(Observer):
        def around_call(self, denoise: Callable[[], Any]) -> Any:
            return 10 * denoise()

    toy = Toy()
    session_on(toy, EVERY_2)
    with observe(toy, Tenfold()):
        assert integers(steps(toy, TIMES)) == [400, 390, 240, 230]
    # What is remembered is the trunk's own.
    assert integers(steps(toy, TIMES)) == [40, 39, 24, 23]


def test_an_observer_is_called_around_a_call_that_is_passed_through_and_sees_nothing_of_it() -> None:
    toy, log = Toy(), Log()
    session_on(toy, EVERY_2)
    with observe(toy, log), pytest.warns(DcacheWarning, match="gradients are being recorded"):
        toy(torch.ones(1, 2, 4, requires_grad=True), 4)
    assert log.log == [("begin",), ("end",)]


def test_a_site_is_left_once_its_anchor_is_stored() -> None:
    anchors: list[tuple[str, list[int]]] = []

    class Looks(Observer):
        def on_enter(self, site: str, call: Call) -> None:
            anchors.append(("enter", list(call.branch.history(site).steps)))

        def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
            anchors.append(("compute", list(call.branch.history(site).steps)))

        def on_leave(self, site: str, call: Call, computed: bool) -> None:
            anchors.append(("leave", list(call.branch.history(site).steps)))

    toy = Toy()
    session_on(toy, methods.newton(order=1, interval=1, clock="step"))
    with observe(toy, Looks()):
        steps(toy, TIMES[:2])
    assert anchors == [
        ("enter", []), ("compute", []), ("leave", [0]), ("enter", [0]), ("compute", [0]), ("leave", [0, 1]),
    ]  # fmt: skip


def test_one_that_wants_no_outputs_is_shown_none() -> None:
    class Deaf(Log):
        sees_outputs = False

    toy, log = Toy(), Deaf()
    session_on(toy, EVERY_2)
    with observe(toy, log):
        steps(toy, TIMES[:1])
    assert log.log == [event for event in computed(0, "trunk") if event[0] != "compute"]


# What is shown --------------------------------------------------------------------------------------


def test_under_delta_the_changes_are_output_minus_input() -> None:
    toy, outputs = Toy(), Outputs()
    session_on(toy, ALWAYS)
    with observe(toy, outputs):
        steps(toy, TIMES)
    values = [8.0 * (t + 1) for t in TIMES]
    assert outputs.seen == [("trunk", i, [values[i]], [CHANGES[i]], (0,)) for i in range(4)]


def test_under_value_there_are_none() -> None:
    toy, outputs = Toy(), Outputs()
    session_on(toy, methods.interval(interval=1, codec="value"))
    with observe(toy, outputs):
        steps(toy, TIMES)
    assert outputs.seen == [("trunk", i, [8.0 * (t + 1)], None, (0,)) for i, t in enumerate(TIMES)]


def test_a_change_is_no_narrower_than_it_is_computed() -> None:
    # 129 and 1032 have eight binary digits, which bfloat16 holds; their difference has ten.
    toy, outputs = Toy().to(torch.bfloat16), Outputs()
    session_on(toy, ALWAYS)
    with observe(toy, outputs):
        steps(toy, [128.0, 128.0], x=torch.ones(1, 2, 4, dtype=torch.bfloat16))
    assert [changes for _, _, _, changes, _ in outputs.seen] == [[903.0], [903.0]]


class Shapes(nn.Module):
    """An output of the input's shape, and one that continues no input."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x.mean((1, 2)) + 100


class ShapesModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Shapes()])
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        y, more = self.blocks[0](x + timestep)
        return y + more


def test_an_output_that_continues_no_input_is_its_own_change() -> None:
    model, outputs = ShapesModel(), Outputs()
    session_on(model, ALWAYS)
    with observe(model, outputs):
        steps(model, [4, 3])
    # h = t + 1: 2 h and 100 + h; the first is h more than its input.
    assert outputs.seen == [
        ("trunk", 0, [10.0, 105.0], [5.0, 105.0], (0, 1)),
        ("trunk", 1, [8.0, 104.0], [4.0, 104.0], (0, 1)),
    ]


class TwoStreams(nn.Module):
    """Text and picture through two blocks; nothing behind the last one reads the text."""

    class Block(nn.Module):
        def forward(self, text: torch.Tensor, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return text * 3, picture * 2 + text.mean()

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.Block() for _ in range(2)])
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        text, picture = torch.ones(1, 3, 4), x + timestep
        for block in self.blocks:
            text, picture = block(text, picture)
        return picture


@pytest.mark.parametrize("codec", ["value", "delta"])
def test_once_a_stream_is_known_to_be_dead_it_is_shown_no_more_and_the_others_keep_their_places(
    codec: str,
) -> None:
    model, outputs = TwoStreams(), Outputs()
    session_on(model, methods.interval(interval=1, codec=codec))
    with observe(model, outputs):
        steps(model, [4, 3])
    # Text 1, 3, 9; picture h, 2 h + 1, 4 h + 2 + 3, with h = 5 and 4.
    first = ("trunk", 0, [9.0, 25.0], [8.0, 20.0] if codec == "delta" else None, (0, 1))
    second = ("trunk", 1, [21.0], [17.0] if codec == "delta" else None, (1,))
    assert outputs.seen == [first, second]


def test_each_of_a_modules_calls_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class TwiceBlock(nn.Module):
        """One feed-forward for two streams."""

        def __init__(self) -> None:
            super().__init__()
            self.ff = Double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.ff(x) + self.ff(x + 1)

    monkeypatch.setitem(SUBLAYERS, "tests.TwiceBlock", {"mlp": ("ff",)})
    toy, outputs, log = Toy([TwiceBlock()]), Outputs(), Log()
    session_on(toy, methods.interval(interval=2, sites="mlp"))
    with observe(toy, outputs), observe(toy, log):
        steps(toy, [4, 3])
    # h = 5: 2 h and 2 (h + 1).
    assert outputs.seen == [("mlp:0", 0, [10.0], None, (0,)), ("mlp:0", 0, [12.0], None, (0,))]
    assert log.log == [*computed(0, "mlp:0", "mlp:0"), *predicted(1, "mlp:0", "mlp:0")]


def test_a_unets_bracket_is_entered_once_and_shows_what_its_sink_is_given() -> None:
    model, log = unet(), Log()
    shown: list[tuple[Any, ...]] = []

    class Shown(Observer):
        def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
            shown.append((output.changes, output.places, [tuple(v.shape) for v in output.values]))

    session = session_on(model, methods.deepcache(interval=2))
    (site,) = [site.name for site in session.binding.sites]
    skip = session.binding.structure.skips[0]
    joined: list[tuple[int, ...]] = []
    skip.sink.register_forward_pre_hook(lambda _, args: joined.append(tuple(args[0].shape)))
    text = torch.randn(1, 5, 16)
    with observe(model, log), observe(model, Shown()):
        steps(model, [400.0, 300.0], x=torch.randn(1, 4, 8, 8), encoder_hidden_states=text)
    assert log.log == [*computed(0, site), *predicted(1, site)]
    batch, channels, *size = joined[0]
    # The inner part alone: the skip behind it stays fresh.
    assert shown == [(None, (0,), [(batch, channels - skip.channels, *size)])]


def test_under_the_reference_lowering_every_part_is_seen_under_its_sites_name() -> None:
    toy, outputs = Toy(), Outputs()
    session_on(toy, methods.interval(interval=2, sites="run:1-2", codec="delta"), lowering="replay")
    with observe(toy, outputs):
        steps(toy, [4, 3])
    # h = 5 enters block 0: blocks 1 and 2 make 20 of 10 and 40 of 20.
    assert outputs.seen == [
        ("run:1-2", 0, [20.0], [10.0], (0,)), ("run:1-2", 0, [40.0], [20.0], (0,)),
    ]  # fmt: skip


def test_nothing_is_seen_of_the_replays_by_which_the_engine_checks_itself() -> None:
    log = Log()

    class Noting(TwoStreams):
        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            log.note("forward")
            return super().forward(x, timestep)

    model = Noting()
    session_on(model, ALWAYS)
    with observe(model, log):
        steps(model, [4])
        begin, call, *inside, end = computed(0, "trunk")
        # The replay, and one with each of the streams left out: all behind the output that they check.
        assert log.log == [begin, call, ("forward",), *inside, *[("forward",)] * 3, end]
        log.log.clear()
        steps(model, [3], first=1)
    begin, call, *rest = computed(1, "trunk")
    assert log.log == [begin, call, ("forward",), *rest]


def test_nothing_is_seen_of_calls_that_the_budget_repeats_either() -> None:
    toy, log = Toy(), Log()
    method = methods.newton(order=1, interval=3, warmup=2, clock="step")
    session_on(toy, method, max_cache_bytes=8 * 4 - 1)
    with observe(toy, log), pytest.warns(DcacheWarning, match="lowered"):
        steps(toy, [4])
    assert [event for event in log.log if event[0] in {"call", "output"}] == [("call", 0), ("output", 0)]


# What it costs --------------------------------------------------------------------------------------


class Stingy(Log):
    stores = False


def test_one_that_needs_no_memory_leaves_nothing_stored_but_the_first_call_that_is_checked() -> None:
    toy = Toy()
    session = session_on(toy, methods.newton(order=1, interval=1, clock="step"))
    log = Stingy()
    with observe(toy, log):
        assert integers(steps(toy, TIMES)) == [40, 32, 24, 16]
        assert session.state.branches["0"].history("trunk").steps == [0]
        assert dcache.stats(toy).bytes_now == 8 * 4
    # It sees no less.
    assert log.log == [event for i in range(4) for event in computed(i, "trunk")]
    # The next run checks nothing, for its calls look like those before.
    with observe(toy, Stingy()):
        steps(toy, TIMES)
        assert session.state.branches["0"].history("trunk").steps == []
        assert dcache.stats(toy).bytes_now == 0
    assert dcache.stats(toy).computed == 4


@pytest.mark.parametrize("others", [[Observer], [Stingy, Observer], [Observer, Stingy]])
def test_all_have_to_do_with_memory_for_anything_to_be_stored(others: list[type[Observer]]) -> None:
    toy = Toy()
    session = session_on(toy, methods.newton(order=1, interval=1, clock="step"))
    steps(toy, TIMES[:1])
    observers = [observe(toy, kind()) for kind in others]
    for each in observers:
        each.__enter__()
    steps(toy, TIMES[1:], first=1)
    kept = [2, 3] if Stingy not in others else [0]
    assert session.state.branches["0"].history("trunk").steps == kept
    for each in reversed(observers):
        each.__exit__(None, None, None)


# Coming and going -----------------------------------------------------------------------------------


def test_outside_of_the_block_nothing_is_seen() -> None:
    toy, log = Toy(), Log()
    session = session_on(toy, EVERY_2)
    steps(toy, TIMES[:1])
    with observe(toy, log):
        steps(toy, TIMES[1:2], first=1)
    steps(toy, TIMES[2:], first=2)
    assert log.log == predicted(1, "trunk")
    assert session.observers == []


def test_an_observer_is_taken_off_when_its_run_breaks_down() -> None:
    toy, log = Toy(), Log()
    session = session_on(toy, EVERY_2)
    with observe(toy, log):
        steps(toy, TIMES[:2])
    hook = toy.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    log.log.clear()
    with pytest.raises(ZeroDivisionError), observe(toy, log):
        steps(toy, TIMES[2:], first=2)
    hook.remove()
    # Neither is the site left nor is there an output.
    assert log.log == [("begin",), ("call", 2), ("enter", "trunk")]
    assert session.observers == []
    log.log.clear()
    assert integers(steps(toy, TIMES)) == [40, 39, 24, 23]
    assert log.log == []


def test_of_two_that_are_equal_each_is_taken_off_once() -> None:
    toy, log = Toy(), Log()
    session = session_on(toy, EVERY_2)
    with observe(toy, log):
        with observe(toy, log):
            assert session.observers == [log, log]
        assert session.observers == [log]


def test_a_module_without_caching_has_nothing_to_observe() -> None:
    toy = Toy()
    assert not is_observable(toy)
    with (
        pytest.raises(DcacheError, match=r"caching is not enabled on this Toy.*enable a method first"),
        observe(toy, Log()),
    ):
        pytest.fail("there is nothing to observe")
    dcache.enable(toy, EVERY_2)
    assert is_observable(toy)
    assert not is_observable(toy.blocks[0])
    dcache.disable(toy)
    assert not is_observable(toy)


def test_a_module_that_is_replaced_in_mid_run_is_seen_like_the_one_before() -> None:
    toy, outputs = Toy(), Outputs()
    session_on(toy, ALWAYS)
    with observe(toy, outputs):
        steps(toy, TIMES[:2])
        # As a LoRA layer is.
        toy.blocks[1] = Double(3.0)
        steps(toy, TIMES[2:], first=2)
    # 2 * 3 * 2 - 1 times h behind the change.
    assert [changes for _, _, _, changes, _ in outputs.seen] == [[35.0], [28.0], [33.0], [22.0]]
    assert [index for _, index, *_ in outputs.seen] == [0, 1, 2, 3]


def test_where_the_sites_are_given_up_the_model_is_seen_in_their_place_from_that_call_on() -> None:
    class Aside(Toy):
        """What the last block leaves beside its output decides the answer."""

        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            self.blocks[-1].runs = 0
            return super().forward(x, timestep) + self.blocks[-1].runs

    toy, log = Aside(), Log()
    session_on(toy, EVERY_2)
    with observe(toy, log), pytest.warns(DcacheWarning, match="the whole model is remembered"):
        steps(toy, TIMES[:3])
    sites = [event[1:] for event in log.log if event[0] in {"enter", "leave"}]
    assert sites == [
        ("trunk",), ("trunk", True), ("model",), ("model", True),
        ("model",), ("model", False),
        ("model",), ("model", True),
    ]  # fmt: skip


def test_what_is_shown_is_the_models_own_and_what_is_remembered_is_not() -> None:
    toy = Toy([Mix()])

    class Same(Observer):
        def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
            shown.append(output.values[0].data_ptr())

    shown: list[int] = []
    session = session_on(toy, methods.interval(interval=2, codec="value"))
    with observe(toy, Same()):
        (output,) = steps(toy, [4])
    assert shown == [output.data_ptr()]
    (leaves,) = session.state.branches["0"].history("trunk").leaves
    assert [leaf.data_ptr() for leaf in leaves if isinstance(leaf, torch.Tensor)] != shown
