"""Block contracts, glue and loops that no diffusers model has in just this form: right, or refused aloud."""

import threading
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from tests.engine.tiny_models import Double, Mix, Toy, integers, walk

# `Hidden` and its like, on purpose.
TIMES = [4, 3, 2, 1]
ALWAYS = methods.interval(interval=1)
EVERY_2 = methods.interval(interval=2)


@dataclass
class Streams:
    hidden: torch.Tensor
    context: torch.Tensor


class Pair(nn.Module):
    """Takes two streams and returns them as told; `form` names the container and the order."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.a, self.b = Mix(), Mix()

    def forward(self, hidden: torch.Tensor, context: torch.Tensor, scale: float = 1.0) -> Any:
        h, c = self.a(hidden) * scale + context.mean(1, keepdim=True), self.b(context)
        return {
            "tuple": (h, c),
            "swapped": (c, h),
            "list": [h, c],
            "dict": {"hidden": h, "context": c},
            "single": h,
            "one-tuple": (h,),
            "none": (None, h),
            "extra": (h, c, h.mean((1, 2))),
            "dataclass": Streams(h, c),
            "namespace": SimpleNamespace(hidden=h, context=c),
        }[self.form]


class PairModel(nn.Module):
    """Two streams through four `Pair`s, unpacked by form; context has as many tokens as told."""

    def __init__(self, form: str, tokens: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.tokens = tokens
        self.blocks = nn.ModuleList([Pair(form) for _ in range(4)])
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        h, c = x + timestep / 4, x[:, :1].expand(-1, self.tokens, -1) * 0.5
        extra: Any = 0.0
        for block in self.blocks:
            out = block(h, context=c)
            if self.form == "swapped":
                c, h = out
            elif self.form == "dict":
                h, c = out["hidden"], out["context"]
            elif self.form in {"dataclass", "namespace"}:
                h, c = out.hidden, out.context
            elif self.form == "single":
                h = out
            elif self.form == "one-tuple":
                h = out[0]
            elif self.form == "none":
                h = out[1]
            elif self.form == "extra":
                h, c, extra = out
            else:
                h, c = out
        return h + c.mean() + (extra.mean() if torch.is_tensor(extra) else extra)


def tensors(seed: int = 0, tokens: int = 2) -> torch.Tensor:
    return torch.randn(1, tokens, 4, generator=torch.Generator().manual_seed(seed))


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "form", ["tuple", "swapped", "list", "dict", "single", "one-tuple", "none", "dataclass", "namespace"]
)
@pytest.mark.parametrize("tokens", [3, 2])
@pytest.mark.parametrize("codec", ["value", "delta"])
def test_any_container_and_order_of_streams_is_learned_on_the_first_call(
    form: str, tokens: int, codec: str
) -> None:
    # tokens=2 gives both streams one shape: the contract is ambiguous and only the next block's arguments
    # tell it.
    model, x = PairModel(form, tokens), tensors()
    plain = walk(model, TIMES, x)
    dcache.enable(model, ALWAYS)
    assert same(walk(model, TIMES, x), plain)
    dcache.enable(model, methods.interval(interval=2, codec=codec))
    cached = walk(model, TIMES, x)
    assert dcache.stats(model).predicted == 2
    for i in (0, 2):
        assert torch.equal(cached[i], plain[i])
    for i in (1, 3):
        assert not torch.equal(cached[i], plain[i])
        assert (
            float((cached[i] - plain[i]).abs().max())
            < 0.5 * float((plain[i - 1] - plain[i]).abs().max()) + 0.5
        )
    dcache.enable(model, methods.interval(interval=2, codec=codec), lowering="replay")
    # The reference: every block adds its own delta, so it agrees with the run's only for one block or
    # `value`.
    if codec == "value":
        assert same(walk(model, TIMES, x), cached)


def test_an_output_that_continues_no_input_falls_back_to_the_whole_model() -> None:
    model, x = PairModel("extra"), tensors()
    dcache.enable(model, EVERY_2)
    with pytest.warns(DcacheWarning, match=r"an output of Pair continues none.*sites='model'"):
        outputs = walk(model, TIMES, x)
    assert dcache.stats(model).predicted == 2
    assert torch.equal(outputs[1], outputs[0])
    assert torch.equal(outputs[3], outputs[2])
    # Every run is like the first.
    assert same(walk(model, TIMES, x), outputs)


class Beside(nn.Module):
    """Doubles x, and returns something beside it that depends on the call."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        y = 2 * x
        if self.form == "object":
            return Held(y)
        return y, float(x.mean()) if self.form == "float" else int(x.mean())


class Held:
    """Opaque on purpose."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class ReadsBeside(Toy):
    """Two blocks, each of which doubles and adds what came beside it."""

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x = x + timestep
        for block in self.blocks:
            out = block(x)
            x = out.x if isinstance(out, Held) else out[0] + out[1]
        return x


@pytest.mark.parametrize("sites", ["block", "block:1", "trunk"])
@pytest.mark.parametrize("form", ["object", "float"])
def test_a_block_that_returns_what_cannot_be_predicted_gives_way_to_the_whole_model(
    form: str, sites: str
) -> None:
    model = ReadsBeside([Beside(form), Beside(form)])
    plain = integers(walk(model, TIMES))
    # By value the whole model repeats evaluations 0 and 2.
    expected = [plain[0], plain[0], plain[2], plain[2]]
    dcache.enable(model, methods.interval(interval=2, sites=sites, codec="value"))
    with pytest.warns(DcacheWarning, match=r"returns a (float|Held).*sites='model'"):
        assert integers(walk(model, TIMES)) == expected
    # Nothing of the first run is in the second one.
    other = [t + 3 for t in TIMES]
    cached = integers(walk(model, other))
    dcache.disable(model)
    plain = integers(walk(model, other))
    assert cached == [plain[0], plain[0], plain[2], plain[2]]


def test_a_block_whose_integer_changes_gives_way_to_the_whole_model_once_it_does() -> None:
    model = ReadsBeside([Beside("int"), Beside("int")])
    plain = integers(walk(model, TIMES))
    dcache.enable(model, methods.interval(interval=2, sites="trunk", codec="value"))
    with pytest.warns(DcacheWarning, match=r"trunk returns something beside its tensors that changes"):
        cached = integers(walk(model, TIMES))
    # The second evaluation is computed and shows it; the whole model's first anchor is the third one's.
    assert cached == [plain[0], plain[1], plain[2], plain[2]]
    assert integers(walk(model, TIMES)) == [plain[0], plain[0], plain[2], plain[2]]


class Sized(Toy):
    """Blocks that return the number of tokens beside the sample, as those of window attention do."""

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x = x + timestep
        for block in self.blocks:
            x, size = block(x)
            assert size == x.shape[1]
        return x


class WithSize(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return 2 * x, x.shape[1]


@pytest.mark.parametrize("sites", ["block", "trunk"])
def test_a_block_whose_integer_is_a_size_is_predicted_once_a_second_call_shows_it(sites: str) -> None:
    model = Sized([WithSize(), WithSize()])
    plain = integers(walk(model, [6, 5, 4, 3, 2, 1]))
    dcache.enable(model, methods.interval(interval=3, sites=sites, codec="value"))
    for _ in range(2):
        cached = integers(walk(model, [6, 5, 4, 3, 2, 1]))
        assert cached == [plain[0], plain[1], plain[1], plain[1], plain[4], plain[4]]
        assert dcache.stats(model).reasons["number"] == (1 if sites == "trunk" else 2)
    trace = dcache.trace(model)
    dcache.enable(model, trace)
    assert integers(walk(model, [6, 5, 4, 3, 2, 1])) == cached


class Counting(Toy):
    """The number of its call beside the sample."""

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.counts = counts

    def forward(self, x: torch.Tensor, timestep: Any) -> Any:
        return super().forward(x, timestep), int(timestep) if self.counts else 7


@pytest.mark.parametrize("counts", [False, True])
def test_a_model_whose_number_changes_says_that_predictions_repeat_the_last_one(counts: bool) -> None:
    model = dcache.enable(Counting(counts), methods.interval(interval=2, sites="model", codec="value"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        numbers = [number for _, number in walk(model, TIMES)]
    assert numbers == ([TIMES[0], TIMES[0], TIMES[2], TIMES[2]] if counts else [7] * 4)
    texts = [str(warning.message) for warning in caught]
    assert any("a number beside its tensors that changes" in text for text in texts) is counts


@pytest.mark.filterwarnings("ignore:nothing was predicted:dcache.DcacheWarning")
@pytest.mark.parametrize("codec", ["value", "delta"])
def test_a_model_that_returns_an_opaque_object_is_refused(codec: str) -> None:
    model = Toy([Beside("object")])
    dcache.enable(model, methods.interval(interval=2, sites="model", codec=codec))
    with pytest.raises(DcacheError, match=r"dataclass of tensors; Toy returns a Held, which dcache cannot"):
        walk(model, TIMES)
    dcache.disable(model)
    assert isinstance(walk(model, TIMES)[0], Held)


class InPlace(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


class ViewOut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * 2, x * 9], dim=1)[:, : x.shape[1]]


@pytest.mark.parametrize("block", [InPlace, ViewOut])
@pytest.mark.parametrize("codec", ["value", "delta"])
def test_blocks_that_write_their_input_or_return_views_give_the_same_integers(block: Any, codec: str) -> None:
    toy = Toy([block() for _ in range(3)])
    dcache.enable(toy, methods.interval(interval=2, codec=codec))
    assert integers(walk(toy, TIMES)) == ([40, 40, 24, 24] if codec == "value" else [40, 39, 24, 23])
    # A view keeps its whole storage alive: what is held must be our own copy, of 1 x 2 x 4 floats.
    assert dcache.stats(toy).bytes_held == 8 * 4


class GlueModel(Toy):
    """Something happens between the blocks, or to their outputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x = x + timestep
        order = [2, 0, 1] if self.kind == "reordered" else [0, 1, 2]
        if self.kind == "twice":
            order = [0, 1, 1, 2]
        if self.kind == "last skipped":
            order = [0, 1]
        for n, i in enumerate(order):
            x = self.blocks[i](x)
            if self.kind == "added" and n < 2:
                x = x + 1
            elif (self.kind == "in place" and n < 2) or self.kind == "in place after the last":
                x += 1
            elif self.kind == "scaled" and n < 2:
                x = x * 3
        return x


# h = t + 1. added between: 2(2(2h+1)+1) = 8h + 6: 46, 38, 30, 22. delta: h + (7h + 6 of the anchor).
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("added", [46, 45, 30, 29]), ("scaled", [360, 359, 216, 215])],
)
def test_what_is_added_between_blocks_is_part_of_the_run(kind: str, expected: list[int]) -> None:
    # With a run of the blocks passing through, the glue still runs on what passes; the last block's answer
    # replaces it.
    toy = GlueModel(kind)
    dcache.enable(toy, methods.interval(interval=2, codec="delta"))
    assert integers(walk(toy, TIMES)) == expected


def test_in_place_glue_between_blocks_would_write_into_the_entry_so_the_self_check_gives_the_run_up() -> None:
    toy = GlueModel("in place")
    dcache.enable(toy, methods.interval(interval=2, codec="delta"))
    with pytest.warns(DcacheWarning, match=r"differs from the computed output.*whole model"):
        assert integers(walk(toy, TIMES)) == [46, 46, 30, 30]
    dcache.enable(toy, methods.interval(interval=2, codec="value"))
    assert integers(walk(toy, TIMES)) == [46, 46, 30, 30]


def test_an_output_that_is_written_in_place_afterwards_leaves_the_anchor_alone() -> None:
    # 8h + 7 (the += after each block: 2(2(2h+1)+1)+1). value: the anchor's answer, then + 1 by the glue.
    toy = GlueModel("in place after the last")
    dcache.enable(toy, methods.interval(interval=2, codec="value"))
    assert integers(walk(toy, TIMES)) == [47, 47, 31, 31]


@pytest.mark.parametrize("kind", ["reordered", "twice", "last skipped"])
def test_blocks_called_twice_out_of_order_or_not_at_all_are_noticed(kind: str) -> None:
    toy = GlueModel(kind)
    plain = integers(walk(toy, TIMES))
    dcache.enable(toy, methods.interval(interval=2, codec="value"))
    if kind == "last skipped":
        with pytest.raises(DcacheError, match=r"last block never called.*sites='model'"):
            walk(toy, TIMES)
        return
    with pytest.warns(DcacheWarning, match=r"not called once each, in their order.*whole model"):
        outputs = integers(walk(toy, TIMES))
    assert outputs == [plain[0], plain[0], plain[2], plain[2]]
    assert integers(walk(toy, TIMES)) == outputs


def test_a_last_block_that_stops_being_called_in_mid_run_is_an_error_not_a_wrong_picture() -> None:
    toy = GlueModel("plain")
    dcache.enable(toy, methods.interval(interval=2))
    walk(toy, TIMES[:2])
    toy.kind = "last skipped"
    with pytest.raises(DcacheError, match="last block never called"):
        walk(toy, TIMES[2:])


class Pops(Toy):
    def forward(
        self, x: torch.Tensor, timestep: Any, extra: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        scale = more.pop("options").pop("scale")
        return super().forward(x, timestep) * scale + extra.pop("shift")


def test_a_forward_that_pops_from_its_arguments_can_be_replayed() -> None:
    toy = Pops()
    dcache.enable(toy, methods.interval(interval=2, codec="delta"))
    with torch.no_grad():
        seen = [toy(torch.ones(1, 2, 4), t, extra={"shift": 5}, options={"scale": 2}) for t in TIMES]
    assert integers(seen) == [85, 83, 53, 51]
    assert dcache.stats(toy).predicted == 2


class Flat(nn.Module):
    """No block list at all."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Double(), Double()
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        return self.two(self.one(x + timestep))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core = Toy()
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        return self.core(x, timestep) + timestep


def test_a_model_without_blocks_is_remembered_whole_and_says_so() -> None:
    flat = Flat()
    with pytest.warns(DcacheWarning, match=r"Flat has no block list.*sites='model'"):
        dcache.enable(flat, "interval", interval=2)
    assert integers(walk(flat, TIMES)) == [20, 20, 12, 12]


def test_a_nested_list_is_the_trunk_where_there_is_no_other() -> None:
    nested = Nested()
    dcache.enable(nested, methods.interval(interval=2, codec="delta"))
    assert integers(walk(nested, TIMES)) == [44, 39 + 3, 26, 23 + 1]


class Hidden(Toy):
    """What the blocks hand on beside their output decides the answer: the trunk cannot be predicted here."""

    def __init__(self) -> None:
        super().__init__([Leaves() for _ in range(3)])

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x = x + timestep
        side = torch.zeros_like(x)
        for block in self.blocks:
            block.side = torch.zeros_like(x)
            x = block(x)
            side = side + block.side
        return x + side


class Leaves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.side = x
        return x * 2


def test_a_trunk_that_the_self_check_rejects_falls_back_aloud_and_stays_right() -> None:
    toy = Hidden()
    plain = integers(walk(toy, TIMES))
    dcache.enable(toy, methods.interval(interval=2, codec="delta"))
    with pytest.warns(
        DcacheWarning, match=r"a replay with every site predicted.*the whole model is remembered"
    ):
        outputs = integers(walk(toy, TIMES))
    assert outputs == [plain[0], plain[0], plain[2], plain[2]]
    assert integers(walk(toy, TIMES)) == outputs
    assert dcache.stats(toy).predicted == 2
    dcache.enable(toy, methods.fbcache())
    with pytest.raises(DcacheError, match=r"looks inside Hidden.*sites='model'"):
        walk(toy, TIMES)
    assert integers(walk(toy, TIMES)) == plain


@pytest.mark.parametrize(
    "method",
    [
        methods.delta_dit(interval=2, boundary=1),
        dcache.Schedule.of_steps([0, 2], 4),
        methods.dbcache(front=1),
    ],
    ids=["delta_dit", "schedule", "dbcache"],
)
def test_a_rule_that_knows_its_sites_cannot_fall_back_and_says_so(method: Any) -> None:
    toy = Hidden()
    plain = integers(walk(toy, TIMES))
    dcache.enable(toy, method)
    with pytest.raises(
        DcacheError, match=r"looks inside Hidden, and that does not work there: .*sites='model'"
    ):
        walk(toy, TIMES)
    assert integers(walk(toy, TIMES)) == plain


def test_a_changes_codec_falls_back_to_values() -> None:
    # The whole model's output has another shape than its input, so that there is no change to remember.
    class Wide(Hidden):
        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            return torch.cat([super().forward(x, timestep)] * 2, dim=-1)

    toy = dcache.enable(Wide(), methods.interval(interval=2, codec="delta:float16"))
    with pytest.warns(DcacheWarning, match="the whole model is remembered"):
        walk(toy, TIMES)
    assert dcache.trace(toy).components[""].codec == "value:float16"


# modes --------------------------------------------------------------------------------------------


def test_training_mode_without_gradients_is_cached() -> None:
    toy = Toy().train()
    dcache.enable(toy, EVERY_2)
    assert integers(walk(toy, TIMES)) == [40, 39, 24, 23]
    toy.eval()
    assert integers(walk(toy, TIMES)) == [40, 39, 24, 23]


class Dropped(Double):
    """x -> 2x, of which dropout is a part."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(super().forward(x))


@pytest.mark.parametrize(
    ("p", "training", "active"), [(0.5, True, True), (0.0, True, False), (0.5, False, False)]
)
def test_active_dropout_is_said_once(p: float, training: bool, active: bool) -> None:
    toy = Toy([Dropped(p) for _ in range(3)]).train(training)
    dcache.enable(toy, EVERY_2)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            walk(toy, TIMES)
    said = [str(warning.message) for warning in seen]
    text = (
        "Toy is in training mode with active dropout (blocks.0.dropout; 3 in all): computed calls differ at "
        "random, and predictions repeat it. Call .eval() on it."
    )
    assert said == [text] * active
    assert dcache.stats(toy).predicted == 2


def test_recorded_gradients_pass_through_and_arrive() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    x = torch.ones(1, 2, 4, requires_grad=True)
    with pytest.warns(DcacheWarning, match=r"gradients are being recorded.*no_grad"):
        toy(x, 4).sum().backward()
    assert integers([x.grad]) == [8]
    assert dcache.stats(toy).reasons == {"gradients": 1}
    # Neither parameters nor inputs ask for gradients: recording is on, but there is nothing to record.
    x = torch.ones(1, 2, 4)
    assert integers([toy(x, t) for t in TIMES]) == [40, 39, 24, 23]


@pytest.mark.parametrize("modes", [("inference", "no_grad"), ("no_grad", "inference")])
def test_inference_mode_and_no_grad_may_alternate_even_within_a_run(modes: tuple[str, str]) -> None:
    torch.manual_seed(0)
    model = Toy([Mix() for _ in range(3)])
    dcache.enable(model, methods.newton(interval=2, order=1, warmup=1, last=False))
    context = {"inference": torch.inference_mode, "no_grad": torch.no_grad}
    reference = walk(model, [8, 7, 6, 5, 4, 3, 2, 1])
    outputs = []
    for i, t in enumerate([8, 7, 6, 5, 4, 3, 2, 1]):
        with context[modes[i % 2 if i < 4 else (i + 1) % 2]]():
            outputs.append(model(torch.ones(1, 2, 4), t))
    assert same(reference, [o.clone() for o in outputs])


def test_autocast_keeps_dtypes_and_values_close() -> None:
    torch.manual_seed(0)
    model = Toy([Mix() for _ in range(3)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = walk(model, TIMES)
        dcache.enable(model, EVERY_2)
        cached = walk(model, TIMES)
    assert [c.dtype for c in cached] == [p.dtype for p in plain]
    assert torch.equal(cached[0], plain[0])
    assert torch.equal(cached[2], plain[2])
    assert dcache.stats(model).predicted == 2


# loops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [float, int, torch.tensor, lambda t: torch.full((1,), float(t))])
def test_timesteps_may_be_numbers_or_tensors(kind: Any) -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    assert integers(walk(toy, [kind(t) for t in TIMES])) == [40, 39, 24, 23]


@pytest.mark.parametrize("call", ["position", "keyword"])
def test_a_timestep_per_token_asks_for_dcache_step_and_works_with_it(call: str) -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    per_token = torch.tensor([[[0.0], [3.0]]])
    arguments = ((torch.ones(1, 2, 4), per_token), {})
    if call == "keyword":
        arguments = ((torch.ones(1, 2, 4),), {"timestep": per_token})
    with pytest.raises(DcacheError, match=r"dcache\.step\(module, index=i"), torch.no_grad():
        toy(*arguments[0], **arguments[1])
    with torch.no_grad():
        for i in range(4):
            dcache.step(toy, i)
            toy(*arguments[0], **arguments[1])
    assert (dcache.stats(toy).computed, dcache.stats(toy).predicted) == (2, 2)


def test_a_second_order_loop_asks_for_dcache_step_and_works_with_it() -> None:
    # Heun evaluates at 4, 3, 3, 2, 2, 1, 1: equal values could be branches as well.
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    values = [4, 3, 3, 2, 2, 1, 1]
    with pytest.raises(DcacheError, match=r"second-order.*dcache\.step"):
        walk(toy, values)
    dcache.enable(toy, EVERY_2)
    outputs = []
    with torch.no_grad():
        for i, t in enumerate(values):
            dcache.step(toy, i, timestep=t)
            outputs.append(toy(torch.ones(1, 2, 4), t))
    # Interval 2 over evaluations: 4, 3, 2, 1 are computed at places 0, 2, 4, 6; between them h + 7 x the
    # anchor's h.
    assert integers(outputs) == [40, 4 + 35, 32, 3 + 28, 24, 2 + 21, 16]
    assert dcache.stats(toy).steps == 7


@pytest.mark.parametrize("told", [False, True])
def test_three_branches_keep_apart(told: bool) -> None:
    toy = Toy()
    dcache.enable(toy, methods.interval(interval=2, codec="value"))
    inputs = {"a": 1.0, "b": 2.0, "c": 3.0}
    seen = []
    with torch.no_grad():
        for i, t in enumerate(TIMES):
            row = []
            for name, value in inputs.items():
                if told:
                    dcache.step(toy, i, branch=name)
                row.append(toy(torch.full((1, 2, 4), value), t))
            seen.append(integers(row))
    assert seen == [[40, 48, 56], [40, 48, 56], [24, 32, 40], [24, 32, 40]]
    stats = dcache.stats(toy)
    assert (stats.steps, stats.computed, stats.predicted) == (4, 6, 6)


def test_more_calls_per_timestep_than_branches_believed_in_is_an_error() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    with pytest.raises(DcacheError, match=r"dcache\.step"):
        walk(toy, [4] * 12)


def test_a_new_run_begins_when_the_timestep_turns_back() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    first = integers(walk(toy, TIMES))
    assert integers(walk(toy, TIMES)) == first
    assert dcache.stats(toy).steps == 4


def test_a_new_run_begins_with_step_0_again() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    for _ in range(2):
        outputs = []
        with torch.no_grad():
            for i, t in enumerate(TIMES):
                dcache.step(toy, i, steps=4)
                outputs.append(toy(torch.ones(1, 2, 4), t))
        assert integers(outputs) == [40, 39, 24, 23]
        assert dcache.stats(toy).steps == 4


def test_a_run_of_one_evaluation_twice_with_step_is_two_runs() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    dcache.step(toy, 0, branch="cond")
    assert integers(walk(toy, [4])) == [40]
    dcache.step(toy, 0, branch="cond")
    with pytest.warns(
        DcacheWarning, match="nothing was predicted in this run of Toy: 1 x inside the warm-up"
    ):
        assert integers(walk(toy, [3])) == [32]
    assert dcache.stats(toy).steps == 1


def test_an_exception_in_mid_run_leaves_nothing_for_the_next_run() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    walk(toy, [3])
    handle = toy.blocks[1].register_forward_pre_hook(_stop)
    with pytest.raises(ZeroDivisionError):
        walk(toy, [2.5, 2.0, 1.5])
    handle.remove()
    assert integers(walk(toy, TIMES)) == [40, 39, 24, 23]


def _stop(*_: Any) -> None:
    raise ZeroDivisionError


def test_two_modules_in_two_threads_do_not_meet() -> None:
    torch.manual_seed(0)
    models = [Toy([Mix() for _ in range(3)]) for _ in range(2)]
    times = [t / 20 for t in range(40, 0, -1)]
    for model in models:
        dcache.enable(model, methods.newton(interval=3))
    alone = [walk(model, times) for model in models]
    together: dict[int, list[torch.Tensor]] = {}
    meet = threading.Barrier(2)

    def work(i: int) -> None:
        meet.wait()
        together[i] = walk(models[i], times)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(together[0], alone[0])
    assert same(together[1], alone[1])


def test_a_shape_that_changes_in_mid_run_starts_that_branch_afresh() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    with torch.no_grad():
        outputs = [toy(torch.ones(1, n, 4), t) for n, t in zip([2, 2, 3, 3], TIMES, strict=True)]
    assert integers(outputs) == [40, 39, 24, 23]
    walk(toy, TIMES[:1])
    with torch.no_grad():
        assert integers([toy(torch.ones(1, 5, 4), 3)]) == [32]
    assert dcache.stats(toy).reasons == {"warmup": 1, "shape": 1}


def test_a_fall_back_with_two_branches_leaves_a_trace_that_replays_the_same_bits() -> None:
    # The first branch saw the trunk before it was given up, the second never did.
    toy = Hidden()
    dcache.enable(toy, methods.interval(interval=2))
    a, b = torch.ones(1, 2, 4), torch.full((1, 2, 4), 2.0)
    with torch.no_grad(), pytest.warns(DcacheWarning, match="the whole model is remembered"):
        first = [toy(x, t) for t in TIMES for x in (a, b)]
    schedule = dcache.trace(toy)
    dcache.disable(toy)
    dcache.enable(toy, schedule)
    with torch.no_grad():
        assert same([toy(x, t) for t in TIMES for x in (a, b)], first)
    assert dcache.stats(toy).predicted > 0


def test_a_block_added_between_runs_belongs_to_the_trunk_of_the_next() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    assert integers(walk(toy, TIMES)) == [40, 39, 24, 23]
    toy.blocks.append(Double())
    assert integers(walk(toy, TIMES)) == [80, 4 + 75, 48, 2 + 45]
    del toy.blocks[0]
    assert integers(walk(toy, TIMES)) == [40, 39, 24, 23]
    assert toy.blocks[0].runs > 0
