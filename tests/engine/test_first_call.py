"""First calls: those that write into their arguments, and those whose sites cannot be predicted."""

from __future__ import annotations

import gc
import random
import weakref
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.engine.selfcheck import never_left
from tests.engine.tiny_models import Toy, ToyPipe, integers, session_on, steps, walk

TIMES = [4, 3, 2, 1]
quiet = pytest.mark.filterwarnings("ignore:.*:dcache.DcacheWarning")
EVERY_2 = methods.interval(interval=2, codec="value")
METHODS = {
    "interval": EVERY_2,
    "model": methods.interval(interval=2, sites="model", codec="value"),
    "newton": methods.newton(interval=2, warmup=1, codec="value"),
    "fbcache": methods.fbcache(threshold=0.0),
    "dbcache": methods.dbcache(front=1, back=1, warmup=0, threshold=0.0),
    "easycache": methods.easycache(warmup=0, threshold=0.0),
}


class Cache:
    """What each block appends in write calls, one list for each block."""

    def __init__(self, blocks: int = 3) -> None:
        self.mode = "read"
        self.kept: list[list[float]] = [[] for _ in range(blocks)]

    @property
    def lengths(self) -> list[int]:
        return [len(entries) for entries in self.kept]


class Block(nn.Module):
    """x -> 2 x; in write calls it appends what it was given."""

    def forward(self, x: torch.Tensor, entries: list[float], mode: str) -> torch.Tensor:
        if mode == "write":
            entries.append(float(x.flatten()[0]))
        return x * 2 + sum(entries)


class Writer(Toy):
    """h = x + timestep through three blocks; each adds the sum of what was written into its list."""

    returns_sample = True

    def __init__(self) -> None:
        super().__init__([Block() for _ in range(3)])

    def forward(self, x: torch.Tensor, timestep: Any, cache: Cache, return_dict: bool = True) -> Any:
        x = x + timestep
        for block, entries in zip(self.blocks, cache.kept, strict=True):
            x = block(x, entries, cache.mode)
        if cache.mode == "write" and not self.returns_sample:
            return None, cache
        return x


def write(model: nn.Module, cache: Cache, times: int = 1) -> None:
    """Calls made for what they write."""
    cache.mode = "write"
    with torch.no_grad():
        for _ in range(times):
            model(torch.ones(1, 2, 4), 0, cache=cache)
    cache.mode = "read"


def chunks(model: nn.Module, count: int = 3) -> tuple[list[float], list[list[float]]]:
    """Chunks of four evaluations, a write behind each, as in causal video; every output and all entries."""
    cache, outputs = Cache(), []
    for _ in range(count):
        outputs += integers(walk(model, TIMES, cache=cache))
        write(model, cache)
    return outputs, cache.kept


# Calls that write -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("returns_sample", [True, False])
def test_a_call_that_appends_appends_once_whatever_the_method(name: str, returns_sample: bool) -> None:
    model = Writer()
    model.returns_sample = returns_sample
    plain = Cache()
    write(model, plain, 4)
    # 1, 2 + 1 = 3, 6 + 3 = 9 in the first call.
    assert [entries[0] for entries in plain.kept] == [1.0, 3.0, 9.0]
    dcache.enable(model, METHODS[name])
    for _ in range(2):
        cache = Cache()
        write(model, cache, 4)
        assert cache.lengths == [4, 4, 4]
        assert cache.kept == plain.kept


@pytest.mark.parametrize("returns_sample", [True, False])
def test_between_evaluations_writes_are_computed_and_the_rest_is_predicted(returns_sample: bool) -> None:
    model = Writer()
    model.returns_sample = returns_sample
    outputs, entries = chunks(model)
    dcache.enable(model, EVERY_2)
    # Every second evaluation repeats the one before it.
    expected = [outputs[i - i % 2] for i in range(12)]
    for _ in range(2):
        assert chunks(model) == (expected, entries)
        stats = dcache.stats(model)
        assert (stats.steps, stats.computed, stats.predicted) == (4, 2, 2)
        assert stats.reasons == {"warmup": 1, "interval": 1, "writes": 1}
        assert dcache.trace(model).components[""].rows == {"*": {"trunk": (True, False, True, False)}}


@pytest.mark.parametrize("returns_sample", [True, False])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_write_in_mid_run_leaves_the_branch_as_it_was_in_the_first_run_too(
    at: int, returns_sample: bool
) -> None:
    model = Writer()
    model.returns_sample = returns_sample
    session = session_on(model, methods.interval(interval=4, codec="value"))
    for run in range(2):
        cache, outputs = Cache(), []
        for i, t in enumerate(TIMES):
            if i == at:
                cache.mode = "write"
                with torch.no_grad():
                    model(torch.ones(1, 2, 4), t, cache=cache)
                cache.mode = "read"
            outputs += integers(walk(model, [t], cache=cache))
        assert cache.lengths == [1, 1, 1]
        # 8 h for h = 5; behind the write (at 0) the blocks add h, 3 h and 9 h: 2 (2 (2 h + h) + 3 h) + 9 h.
        assert outputs == [40.0 if at else 135.0] * 4
        # A loop does not say that it ended: a write in front of the next one belongs to the last.
        before = at == 0 and run > 0
        assert session.stats().reasons == {"warmup": 1} | ({} if before else {"writes": 1})
        assert list(session.state.record.events) == ["0"]


def test_a_write_call_that_is_seen_late_is_noticed_by_its_mode() -> None:
    model, cache = Writer(), Cache()
    session = session_on(model, methods.interval(interval=8, codec="value"))
    walk(model, TIMES[:3], cache=cache)
    write(model, cache)
    assert cache.lengths == [1, 1, 1]
    assert session.stats().predicted == 2


class ExtractPipe(ToyPipe):
    """The first evaluation writes what the others read, as with reference images."""

    def __call__(self, *_: Any, **__: Any) -> list[float]:
        self.cache, outputs = Cache(), []
        self.scheduler.set_timesteps(6)
        self.begin()
        for i, t in enumerate(self.scheduler.timesteps):
            self.cache.mode = "read" if i else "write"
            outputs += walk(self.denoiser, [t], cache=self.cache)
            self.scheduler.step(outputs[-1], t, outputs[-1])
        self.end()
        return integers(outputs)


def test_keys_extracted_in_the_first_evaluation_are_an_evaluation_of_the_samplers_run() -> None:
    pipe = dcache.enable(ExtractPipe(Writer()), EVERY_2)
    # At t = 6, h = 7 goes through 2 x + x three times; at 5, 3 and 1 through 2 x + 7, 2 x + 21, 2 x + 63.
    expected = [189.0, 181.0, 181.0, 165.0, 165.0, 149.0]
    for _ in range(2):
        assert pipe() == expected
        assert pipe.cache.kept == [[7.0], [21.0], [63.0]]
        stats = dcache.stats(pipe)
        assert (stats.steps, stats.computed, stats.predicted) == (6, 3, 2)
        assert stats.reasons == {"writes": 1, "no_history": 1, "interval": 2}
    schedule = dcache.trace(pipe)
    assert next(iter(schedule.components.values())).rows["*"]["trunk"] == (
        True,
        True,
        False,
        True,
        False,
        True,
    )
    dcache.enable(pipe, schedule)
    assert pipe() == expected


class ChunkPipe(ToyPipe):
    """Two chunks, each a run of the sampler with a write behind its last step, as AnyFlow FAR."""

    def __call__(self, *_: Any, **__: Any) -> list[float]:
        self.cache, outputs = Cache(), []
        self.begin()
        for _ in range(2):
            self.scheduler.set_timesteps(4)
            for t in self.scheduler.timesteps:
                outputs += walk(self.denoiser, [t], cache=self.cache)
                self.scheduler.step(outputs[-1], t, outputs[-1])
            write(self.denoiser, self.cache)
        self.end()
        return integers(outputs)


@pytest.mark.parametrize("returns_sample", [True, False])
def test_a_write_behind_the_last_step_is_no_evaluation_of_a_table(returns_sample: bool) -> None:
    model = Writer()
    model.returns_sample = returns_sample
    pipe = ChunkPipe(model)
    plain = pipe()
    entries = pipe.cache.kept
    dcache.enable(pipe, EVERY_2)
    expected = [plain[i - i % 2] for i in range(8)]
    for _ in range(2):
        assert (pipe(), pipe.cache.kept) == (expected, entries)
        assert dcache.stats(pipe).reasons == {"warmup": 1, "interval": 1, "after_last": 1}
    dcache.enable(pipe, dcache.trace(pipe))
    for _ in range(2):
        assert (pipe(), pipe.cache.kept) == (expected, entries)


class ReferencePipe(ToyPipe):
    """Reference images are written before the sampler is set, as in GLM-Image."""

    def __call__(self, *_: Any, images: int = 2, **__: Any) -> list[float]:
        self.cache, outputs = Cache(), []
        self.begin()
        write(self.denoiser, self.cache, images)
        self.scheduler.set_timesteps(4)
        for t in self.scheduler.timesteps:
            outputs += walk(self.denoiser, [t], cache=self.cache)
            self.scheduler.step(outputs[-1], t, outputs[-1])
        self.end()
        return integers(outputs)


@pytest.mark.parametrize("images", [1, 2, 10])
@pytest.mark.parametrize("name", ["interval", "model", "fbcache"])
def test_writes_before_the_run_are_counted_to_it(images: int, name: str) -> None:
    pipe = ReferencePipe(Writer())
    plain = pipe(images=images)
    lengths = [images] * 3
    assert pipe.cache.lengths == lengths
    dcache.enable(pipe, METHODS[name])
    for _ in range(2):
        outputs = pipe(images=images)
        assert pipe.cache.lengths == lengths
        assert outputs == (plain if name == "fbcache" else [plain[0], plain[0], plain[2], plain[2]])
        stats = dcache.stats(pipe)
        assert stats.steps == 4
        assert stats.reasons["writes"] == images
    assert "writes into its arguments" in str(stats.why_nothing())


def test_where_every_evaluation_writes_nothing_is_predicted_and_that_is_said() -> None:
    class Logs(Writer):
        def forward(self, x: torch.Tensor, timestep: Any, log: list[float]) -> Any:
            log.append(float(timestep))
            return x * 2

    class LogPipe(ToyPipe):
        def __call__(self, *_: Any, **__: Any) -> list[float]:
            self.log: list[float] = []
            self.scheduler.set_timesteps(4)
            self.begin()
            for t in self.scheduler.timesteps:
                y = walk(self.denoiser, [t], log=self.log)[0]
                self.scheduler.step(y, t, y)
            self.end()
            return self.log

    pipe = dcache.enable(LogPipe(Logs()), methods.interval(interval=2, sites="model", codec="value"))
    with pytest.warns(
        DcacheWarning, match="nothing was predicted in this run of Logs: 4 x the call writes into"
    ):
        assert pipe() == [4.0, 3.0, 2.0, 1.0]
    assert pipe() == [4.0, 3.0, 2.0, 1.0]
    assert dcache.stats(pipe).steps == 4


def test_arguments_with_too_many_parts_to_watch_are_computed_always_and_said_once() -> None:
    class Takes(Toy):
        def forward(self, x: torch.Tensor, timestep: Any, parts: Any) -> Any:
            return super().forward(x, timestep)

    model, parts = Takes(), [object() for _ in range(10_001)]
    session_on(model, EVERY_2)
    with pytest.warns(DcacheWarning, match="Takes: its arguments have too many parts") as said:
        assert integers(walk(model, TIMES, parts=parts)) == [40, 32, 24, 16]
    assert len(said) == 1
    assert integers(walk(model, TIMES, parts=parts)) == [40, 32, 24, 16]


class Adding(Toy):
    """(x + timestep) * 8; each call writes into what `hold` made of the model."""

    def __init__(self, into: str) -> None:
        super().__init__()
        self.into = into
        self.register_buffer("sums", torch.zeros(1))
        self.keys: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, timestep: Any, given: Any = None) -> torch.Tensor:
        value = x.flatten()[:1]
        if self.into == "buffer":
            self.sums += value
        elif self.into == "list":
            self.keys.append(value.clone())
        elif self.into == "attribute":
            self.last = value.clone()
        elif self.into == "array":
            given += float(value)
        elif self.into == "data":
            given.data.copy_(given + value)
        elif self.into == "function":
            given(value.clone())
        return super().forward(x, timestep)

    def run(self) -> list[float]:
        """Four evaluations; what was written by them."""
        entries: list[torch.Tensor] = []
        given = {"array": np.zeros(1), "data": torch.zeros(1), "function": entries.append}.get(self.into)
        walk(self, TIMES, given=given)
        return {
            "buffer": self.sums.tolist(),
            "list": [float(key) for key in self.keys],
            "array": None if given is None else list(np.ravel(given)) if self.into == "array" else None,
            "data": given.tolist() if self.into == "data" else None,  # type: ignore[union-attr]
            "function": [float(entry) for entry in entries],
        }[self.into]  # type: ignore[return-value]


@quiet
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("into", ["buffer", "list", "array", "data", "function"])
def test_a_write_that_leaves_little_trace_is_made_in_every_call(into: str, name: str) -> None:
    # Ones are written in each of the four calls.
    right = [1.0] * 4 if into in ("list", "function") else [4.0]
    model = Adding(into)
    assert model.run() == right
    model = Adding(into)
    dcache.enable(model, METHODS[name])
    assert model.run() == right
    assert dcache.stats(model).predicted == 0


@pytest.mark.parametrize(
    ("into", "says"),
    [("buffer", "writes into the model itself"), ("function", "one of its arguments is a function")],
)
def test_why_nothing_is_predicted_is_said(into: str, says: str) -> None:
    model = dcache.enable(Adding(into), EVERY_2)
    with pytest.warns(DcacheWarning, match=rf"Adding: .*{says}.*always computed"):
        model.run()


def test_a_call_that_sets_tensors_anew_on_the_model_is_predicted() -> None:
    model = dcache.enable(Adding("attribute"), EVERY_2)
    walk(model, TIMES)
    assert dcache.stats(model).predicted == 2
    # Those of the first call: nothing that the check did is left.
    assert float(model.last) == 1.0


def test_a_first_call_that_fails_keeps_nothing_of_its_arguments() -> None:
    class Fails(Writer):
        def forward(self, x: torch.Tensor, timestep: Any, cache: Cache) -> Any:
            for block in self.blocks:
                x = block(x, [], "read")
            raise ZeroDivisionError

    model, cache = Fails(), Cache()
    session_on(model, EVERY_2)
    with pytest.raises(ZeroDivisionError) as error:
        walk(model, [4.0], cache=cache)
    alive = weakref.ref(cache)
    del cache, error
    gc.collect()
    assert alive() is None


# Sites that cannot be predicted ---------------------------------------------------------------------


class Hidden(Toy):
    """What the last block leaves beside its output decides the answer, so its sites cannot be predicted."""

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        self.blocks[-1].runs = 0
        return super().forward(x, timestep) + self.blocks[-1].runs


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("warmup", [1, 2])
@pytest.mark.parametrize("limit", [None, "1MB"])
def test_the_first_run_is_like_the_others_where_the_whole_model_takes_over(
    branches: int, warmup: int, limit: str | None
) -> None:
    def run() -> list[float]:
        outputs = []
        for i, t in enumerate(TIMES):
            for b in range(branches):
                outputs += steps(model, [t], first=i, branch=str(b), x=torch.full((1, 2, 4), b + 1.0))
        return integers(outputs)

    model = Hidden()
    # 8 (x + t) + 1.
    plain = {(i, b): 8.0 * (b + 1 + t) + 1 for i, t in enumerate(TIMES) for b in range(branches)}
    method = methods.interval(interval=2, warmup=warmup, codec="value")
    session = session_on(model, method, max_cache_bytes=limit)
    # Computed: 0, 2 with a warm-up of one; 0, 1, 3 with one of two.
    newest = [0, 0, 2, 2] if warmup == 1 else [0, 1, 1, 3]
    expected = [plain[newest[i], b] for i in range(4) for b in range(branches)]
    with pytest.warns(DcacheWarning, match="the whole model is remembered"):
        assert run() == expected
    reasons, rows = session.stats().reasons, session.state.record.rows(4)
    assert reasons == {"warmup": warmup * branches, "interval": branches}
    assert list(rows["0"]) == ["model"]
    assert run() == expected
    assert (session.stats().reasons, session.state.record.rows(4)) == (reasons, rows)


class Calls(Toy):
    """Calls its blocks in this order."""

    order = (0, 1, 2)

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x = x + timestep
        for i in self.order:
            x = self.blocks[i](x)
        return x


@pytest.mark.parametrize("order", [(0, 1, 2, 2), (0, 0, 1, 2)], ids=["last", "first"])
def test_a_block_that_is_called_twice_is_said_to_be(order: tuple[int, ...]) -> None:
    model = Calls()
    model.order = order
    session_on(model, EVERY_2)
    with pytest.warns(DcacheWarning, match=r"Calls: the blocks of trunk are not called once each"):
        # 16 h.
        assert integers(walk(model, TIMES)) == [80, 80, 48, 48]


def test_a_last_block_that_is_called_twice_from_some_evaluation_on_is_an_error_that_says_so() -> None:
    model = Calls()
    session_on(model, EVERY_2)
    walk(model, TIMES[:2])
    model.order = (0, 1, 2, 2)
    with pytest.raises(
        DcacheError, match=r"Calls: the last block of a run was called more often than its first.*'model'"
    ):
        walk(model, TIMES[2:])


def test_the_error_says_which_end_of_the_run_is_wrong() -> None:
    assert "its last block never called" in str(never_left(Toy(), 1))
    assert "its last block never called" not in str(never_left(Toy(), -1))


class Stateful(Toy):
    """A toy whose output depends on what each call changes: in the model, its generators or its argument."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.calls, self.table, self.array = kind, 0, {"calls": 0}, np.zeros(1)
        self.generator, self.noises = torch.Generator(), iter(range(9)) if kind == "its iterator" else None

    def forward(self, x: torch.Tensor, timestep: Any, given: Any = None) -> torch.Tensor:
        return super().forward(x, timestep) + self.change(given)

    def change(self, given: Any) -> float:
        self.calls += self.kind == "counter"
        self.table["calls"] += self.kind == "dict"
        self.array += self.kind == "array"
        value = self.calls + self.table["calls"] + float(self.array[0])
        match self.kind:
            case "generator":
                value += float(torch.rand(1, generator=self.generator))
            case "torch":
                value += float(torch.rand(1))
            case "numpy":
                value += np.random.rand()
            case "python":
                value += random.random()
            case "generator argument":
                value += float(torch.rand(1, generator=given))
            case "iterator argument":
                value += next(given)
            case "its iterator":
                value += next(self.noises)
        return value

    def walk(self) -> list[float]:
        """The outputs of a loop."""
        seeds: list[Any] = [torch.manual_seed, np.random.seed, random.seed]
        for seed in seeds:
            seed(0)
        given: Any = torch.Generator() if self.kind == "generator argument" else None
        given = iter(range(9)) if self.kind == "iterator argument" else given
        with torch.no_grad():
            return [float(self(torch.ones(1, 2), torch.tensor(float(t)), given)[0, 0]) for t in TIMES]


KINDS = ("counter", "dict", "array", "generator", "torch", "numpy", "python")


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_is_checked_leaves_the_model_and_its_generators_as_without_the_check(kind: str) -> None:
    plain = Stateful(kind).walk()
    model = dcache.enable(Stateful(kind), methods.interval(interval=1))
    # No warning: the replay finds what the call found, and agrees.
    assert model.walk() == plain
    assert list(dcache.trace(model).components[""].sites) == ["trunk"]


@pytest.mark.filterwarnings("ignore:.*:dcache.DcacheWarning")
@pytest.mark.parametrize("kind", ["generator argument", "iterator argument", "its iterator"])
def test_what_cannot_be_put_back_is_not_called_again(kind: str) -> None:
    plain = Stateful(kind).walk()
    assert dcache.enable(Stateful(kind), methods.interval(interval=1)).walk() == plain


def test_a_model_that_holds_an_iterator_is_remembered_as_a_whole_and_that_is_said() -> None:
    model = dcache.enable(Stateful("its iterator"), EVERY_2)
    with pytest.warns(DcacheWarning, match="it holds an iterator.*whole model is remembered"):
        model.walk()
    assert dcache.stats(model).predicted == 2


def test_a_loop_of_calls_that_write_is_counted_and_said_once_though_nothing_tells_its_run() -> None:
    plain, cache = Cache(), Cache()
    write(Writer(), plain, 20)
    model = dcache.enable(Writer(), EVERY_2)
    with pytest.warns(DcacheWarning) as warned:
        write(model, cache, 20)
    assert ["nothing is predicted in Writer" in str(w.message) for w in warned] == [True]
    assert cache.kept == plain.kept
    assert (dcache.stats(model).reasons, dcache.stats(model).predicted) == ({"writes": 20}, 0)


class Opaque:
    """Holds a tensor in a way that is not taken apart."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Extracting(Toy):
    """8 (x + timestep); without a cache it makes one of what the blocks gave, and returns it as well."""

    def forward(self, x: torch.Tensor, timestep: Any, cache: Opaque | None = None) -> Any:
        x, seen = x + timestep, []
        for block in self.blocks:
            x = block(x)
            seen.append(float(x.flatten()[0]))
        return (x, Opaque(torch.tensor(seen))) if cache is None else x


@pytest.mark.parametrize("name", METHODS)
def test_a_call_that_returns_a_cache_is_computed_and_those_without_are_predicted(name: str) -> None:
    model = dcache.enable(Extracting(), METHODS[name])
    caches = []

    def run() -> list[float]:
        each: list[torch.Tensor] = []
        cache = None
        for i, t in enumerate(TIMES):
            dcache.step(model, i)
            with torch.no_grad():
                output = model(torch.full((1, 2, 4), 5.0 - t), t, cache)
            if cache is None:
                output, cache = output
                caches.append(cache.tensor.tolist())
            each.append(output)
        return integers(each)

    # Of dbcache the replay calls what the cache is made of, so it makes an equal one.
    withdrawn = name != "dbcache"
    said = pytest.warns(DcacheWarning, match="a call of it returns a Opaque.*always computed")
    with said if withdrawn else nullcontext():
        first = run()
    assert run() == first
    # 5 - timestep + timestep, doubled once, twice and three times.
    assert caches == [[10, 20, 40]] * 2
    assert first == [40, 40, 40, 40]
    assert dcache.stats(model).reasons.get("writes", 0) == withdrawn
    if name == "interval":
        assert (dcache.stats(model).computed, dcache.stats(model).predicted) == (2, 1)
