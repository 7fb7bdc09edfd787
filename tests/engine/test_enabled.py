"""What is enabled on an object: looked up once, taken off, put back as it was."""

from dataclasses import dataclass

import pytest
import torch

import dcache
from dcache import DcacheError, methods
from dcache.engine import enabled
from dcache.engine.config import SessionConfig
from dcache.engine.enabled import Enabled, connect, replace
from dcache.engine.pipeline import watch_of
from tests.engine.tiny_models import Toy, ToyPipe, flux_pipe, flux_run, walk

EVERY_2 = methods.interval(interval=2)


def test_nothing_is_enabled_on_a_plain_pipeline_and_removing_it_is_no_error() -> None:
    pipe = flux_pipe()
    before = set(vars(pipe))
    now = Enabled.on(pipe)
    assert (now.intercept, dict(now.sessions), now.detecting, now.trace()) == (None, {}, False, None)
    now.remove()
    now.restorer()()
    assert set(vars(pipe)) == before
    with pytest.raises(DcacheError, match="expected a diffusers pipeline or a torch module, got int"):
        Enabled.on(3)


def test_the_target_is_looked_up_once_in_a_whole_enable(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = dcache.enable(flux_pipe(), EVERY_2)
    looked: list[object] = []

    def counting(target: object) -> object:
        looked.append(target)
        return watch_of(target)

    monkeypatch.setattr(enabled, "watch_of", counting)
    dcache.enable(pipe, "interval", interval=3)
    assert looked == [pipe]


def test_a_restorer_brings_method_and_counts_back() -> None:
    pipe = dcache.enable(flux_pipe(), EVERY_2)
    flux_run(pipe)
    now = Enabled.on(pipe)
    counted, trace = now.stats(), now.trace()
    restore = now.restorer()
    now.remove()
    assert Enabled.on(pipe).sessions == {}
    restore()
    again = Enabled.on(pipe)
    assert list(again.sessions) == ["transformer"]
    assert again.sessions["transformer"] is not now.sessions["transformer"]
    assert again.stats() == counted
    assert again.trace() == trace


def test_where_one_of_two_denoisers_fails_both_are_as_before() -> None:
    pipe = dcache.enable(ToyPipe(Toy(), Toy()), EVERY_2)
    output, before = pipe(), Enabled.on(pipe)

    def configure(name: str) -> SessionConfig:
        if name == "denoiser_1":
            raise DcacheError("no configuration")
        return SessionConfig(methods.interval(interval=3), name)

    with pytest.raises(DcacheError, match="no configuration"):
        replace(before, {"denoiser": pipe.denoiser, "denoiser_1": pipe.denoiser_1}, configure)
    now = Enabled.on(pipe)
    assert {name: s.method for name, s in now.sessions.items()} == {
        name: s.method for name, s in before.sessions.items()
    }
    assert pipe() == output


def test_connecting_sessions_watches_a_pipeline_and_leaves_a_module_alone() -> None:
    toy = Toy()
    connect(toy, [])
    assert watch_of(toy) is None
    dcache.enable(toy, EVERY_2)
    now = Enabled.on(toy)
    assert (now.intercept, list(now.sessions)) == (None, [""])
    with torch.no_grad():
        for i in range(4):
            dcache.step(toy, i)
            walk(toy, [float(i)])
    assert (now.stats().computed, now.stats().predicted) == (2, 2)


@dataclass
class Bundle:
    """A pipeline that compares by content, and so has no hash."""

    model: torch.nn.Module
    scheduler: object = None


def test_a_pipeline_without_a_hash_is_enabled_and_disabled() -> None:
    bundle = Bundle(Toy(), flux_pipe().scheduler)
    dcache.enable(bundle, EVERY_2)
    walk(bundle.model, (900, 700, 500, 300))
    assert dcache.stats(bundle).predicted > 0
    dcache.disable(bundle)
    with pytest.raises(DcacheError, match=r"call dcache\.enable first"):
        dcache.stats(bundle)
