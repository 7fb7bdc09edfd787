"""LoRA adapters by peft: put on before or while caching is enabled, rescaled, fused, taken off again."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheError, methods
from tests.cover import with_slow
from tests.engine.coexistence_checks import ALWAYS, EVERY_2, anatomy, compares
from tests.pipelines import FLUX, PIXART, SD, WAN, Shape

# peft warns of any second adapter.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")

# diffusers' PixArt has no adapters of its own; it is for `test_a_model_that_peft_wrapped`.
LOADERS = [FLUX, SD, WAN]
# What a LoRA of these families usually goes on, a module that is itself a site (Flux: proj_out) included.
TARGETS = {
    "flux": ["to_q", "to_v", "proj_mlp", "proj_out"],
    "sd": ["to_q", "to_v", "net.2", "conv1"],
    "wan": ["to_q", "to_v", "net.2"],
}
SUBLAYERS = {
    "flux": ["attn", "mlp", "fused"],
    "sd": ["attn", "mlp"],
    "wan": ["attn", "mlp"],
}


def add(shape: Shape, pipe: Any, name: str, seed: int) -> None:
    """An adapter with weights that matter."""
    from peft import LoraConfig

    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=TARGETS[shape.name])
    shape.denoiser(pipe).add_adapter(config, name)


def both(shape: Shape) -> Callable[[Any], None]:
    def prepare(pipe: Any) -> None:
        add(shape, pipe, "one", 3)
        add(shape, pipe, "two", 4)
        shape.denoiser(pipe).set_adapters(["one", "two"], [0.7, -0.4])

    return prepare


@pytest.mark.parametrize("late", [False, True], ids=["before", "between runs"])
@pytest.mark.parametrize("shape", LOADERS, ids=str)
def test_two_adapters(shape: Shape, late: bool) -> None:
    bare = shape.run(shape.build())
    pipe = compares(shape, both(shape), late)
    assert not torch.equal(shape.run(pipe), bare)


# What happens to the adapters between two runs, in this order.
CHANGES: dict[str, Callable[[Shape, Any], object]] = {
    "nothing yet": lambda shape, pipe: None,
    "one added": lambda shape, pipe: add(shape, pipe, "one", 3),
    "another added": lambda shape, pipe: add(shape, pipe, "two", 4),
    "both in use": lambda shape, pipe: shape.denoiser(pipe).set_adapters(["one", "two"], [0.7, -0.4]),
    "other weights": lambda shape, pipe: shape.denoiser(pipe).set_adapters(["one", "two"], [0.1, 0.9]),
    "switched off": lambda shape, pipe: shape.denoiser(pipe).disable_adapters(),
    "switched on": lambda shape, pipe: shape.denoiser(pipe).enable_adapters(),
    "fused": lambda shape, pipe: shape.denoiser(pipe).fuse_lora(0.8),
    "unfused": lambda shape, pipe: shape.denoiser(pipe).unfuse_lora(),
    "one deleted": lambda shape, pipe: shape.denoiser(pipe).delete_adapters("one"),
    "unloaded": lambda shape, pipe: shape.denoiser(pipe).unload_lora(),
}


@pytest.mark.parametrize("sites", ["auto", pytest.param("sublayers", marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", with_slow(FLUX, slow=(SD, WAN)), ids=str)
def test_adapters_come_and_go_between_runs_while_caching_is_enabled(shape: Shape, sites: str) -> None:
    where = SUBLAYERS[shape.name] if sites == "sublayers" else sites
    method = methods.interval(interval=2, sites=where)
    twin, cached, computed = shape.build(), shape.build(), shape.build()
    dcache.enable(cached, method)
    dcache.enable(computed, methods.interval(interval=1, sites=where))
    seen: list[torch.Tensor] = []
    for name, change in CHANGES.items():
        for pipe in (twin, cached, computed):
            change(shape, pipe)
        plain = shape.run(twin)
        with dcache.enabled(twin, method):
            expected = shape.run(twin)
            counts = dcache.stats(twin)
        assert torch.equal(shape.run(computed), plain), name
        assert torch.equal(shape.run(cached), expected), name
        stats = dcache.stats(cached)
        assert stats.predicted == counts.predicted > 0, name
        assert (stats.computed, stats.bytes_now) == (counts.computed, 0), name
        assert not torch.equal(expected, plain), name
        seen.append(plain)
    # The changes are changes.
    assert not any(torch.equal(a, b) for a, b in pairwise(seen))
    for pipe in (cached, computed):
        dcache.disable(pipe)
        assert anatomy(shape, pipe) == anatomy(shape, twin)
        assert torch.equal(shape.run(pipe), plain)


def injected(pipe: Any, wrapped: bool) -> None:
    """PixArt's LoRA, as people add it: peft puts the layers in, or a whole model of its own around."""
    from peft import LoraConfig, get_peft_model, inject_adapter_in_model

    torch.manual_seed(3)
    config = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=["to_q", "to_v", "net.2"])
    put = get_peft_model if wrapped else lambda model, config: inject_adapter_in_model(config, model)
    pipe.transformer = put(pipe.transformer, config)
    pipe.transformer.eval()


@pytest.mark.parametrize("late", [False, True], ids=["before", "between runs"])
def test_layers_that_peft_puts_in(late: bool) -> None:
    bare = PIXART.run(PIXART.build())
    pipe = compares(PIXART, lambda pipe: injected(pipe, wrapped=False), late)
    assert not torch.equal(PIXART.run(pipe), bare)


def test_a_model_that_peft_wraps_and_unwraps_between_runs() -> None:
    pipe, twin, other = PIXART.build(), PIXART.build(), PIXART.build()
    dcache.enable(pipe, EVERY_2)
    bare = PIXART.run(pipe)
    injected(twin, wrapped=False)
    plain = PIXART.run(twin)
    dcache.enable(twin, EVERY_2)
    expected = PIXART.run(twin)
    original = pipe.transformer
    injected(pipe, wrapped=True)
    for _ in range(2):
        assert torch.equal(PIXART.run(pipe), expected)
        assert (dcache.stats(pipe).computed, dcache.stats(pipe).predicted) == (4, 3)
    with dcache.enabled(pipe, ALWAYS):
        assert torch.equal(PIXART.run(pipe), plain)
    pipe.transformer = pipe.transformer.unload()
    assert pipe.transformer is original
    assert torch.equal(PIXART.run(pipe), bare)
    assert (dcache.stats(pipe).computed, dcache.stats(pipe).predicted) == (4, 3)
    dcache.disable(pipe)
    PIXART.run(other)
    injected(other, wrapped=True)
    other.transformer = other.transformer.unload()
    assert anatomy(PIXART, pipe) == anatomy(PIXART, other)


def test_a_wrapped_model_that_lacks_the_sites_leaves_the_old_one_as_it_was() -> None:
    pipe = PIXART.build()
    original = pipe.transformer
    dcache.enable(pipe, EVERY_2.with_sites(("run:1-2",)))
    cached = PIXART.run(pipe)
    injected(pipe, wrapped=True)
    blocks = original.transformer_blocks
    original.transformer_blocks = blocks[:1]
    with pytest.raises(DcacheError, match=r"'run:1-2' is out of range: PeftModel"):
        PIXART.run(pipe)
    original.transformer_blocks = blocks
    pipe.transformer = pipe.transformer.unload()
    assert torch.equal(PIXART.run(pipe), cached)
    assert dcache.stats(pipe).predicted == 3


def test_a_model_that_peft_wrapped_before_is_found_in_its_first_run() -> None:
    pipe, twin = PIXART.build(), PIXART.build()
    for each in (pipe, twin):
        injected(each, wrapped=True)
    plain = PIXART.run(twin)
    dcache.enable(pipe, ALWAYS)
    assert torch.equal(PIXART.run(pipe), plain)
    dcache.enable(pipe, EVERY_2)
    first = PIXART.run(pipe)
    assert torch.equal(PIXART.run(pipe), first)
    assert not torch.equal(first, plain)
    # Its arguments have no names, so every run's first evaluation goes by (see dcache.identity.detect).
    assert (dcache.stats(pipe).computed, dcache.stats(pipe).predicted) == (3, 3)
    dcache.disable(pipe)
    assert anatomy(PIXART, pipe) == anatomy(PIXART, twin)


def test_weights_that_change_in_mid_run_take_part_from_the_next_computed_step_on() -> None:
    def call(pipe: Any) -> torch.Tensor:
        def ramp(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            p.transformer.set_adapters(["one"], [0.2 * i])
            return tensors

        return FLUX.run(pipe, callback_on_step_end=ramp)

    pipe, twin = FLUX.build(), FLUX.build()
    for each in (pipe, twin):
        add(FLUX, each, "one", 3)
    plain, still = call(twin), FLUX.run(twin)
    assert not torch.equal(plain, still)
    dcache.enable(pipe, ALWAYS)
    assert torch.equal(call(pipe), plain)
    dcache.enable(pipe, EVERY_2)
    cached = call(pipe)
    assert dcache.stats(pipe).predicted == 3
    assert (cached - plain).norm() < (cached - still).norm()


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("sites", ["auto", "sublayers"])
@pytest.mark.parametrize("shape", LOADERS, ids=str)
def test_an_adapter_loaded_in_mid_run_does_not_meet_placeholders(shape: Shape, sites: str) -> None:
    # Where a site's own module is replaced (Flux: a single block's `proj_out`), what feeds it is hollow.
    def call(pipe: Any) -> torch.Tensor:
        def load(p: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if i == 2:
                add(shape, p, "one", 3)
            return tensors

        return shape.run(pipe, callback_on_step_end=load)

    where = SUBLAYERS[shape.name] if sites == "sublayers" else sites
    plain = call(shape.build())
    pipe = shape.build()
    dcache.enable(pipe, methods.interval(interval=1, sites=where))
    assert torch.equal(call(pipe), plain)
    pipe = shape.build()
    dcache.enable(pipe, methods.interval(interval=2, sites=where))
    cached = call(pipe)
    assert dcache.stats(pipe).predicted > 0
    assert (cached - plain).norm() < 0.5 * plain.norm()
