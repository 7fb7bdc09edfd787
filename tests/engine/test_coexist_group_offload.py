"""diffusers' group offloading: hooks inside `forward` bring the weights, so a skipped block brings none.

A CPU is the device and the store at once here. Where that would hide a block that computes without its
weights, they are kept on disk, and what is left of them in memory is NaN.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks import group_offloading as go

import dcache
from dcache import DcacheWarning, methods
from tests.cover import all_pairs, each_value
from tests.engine.coexistence_checks import EVERY_2, LATE, compares, skippable
from tests.pipelines import FLUX, SD, SHAPES, Shape

CPU = torch.device("cpu")
LEVELS = ("block", "leaf")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that come from a file lie in memory as others do: on some CPUs that decides the last bit."""
    load = go.safetensors.torch.load_file

    def copied(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        return {name: weight.clone() for name, weight in load(*args, **kwargs).items()}

    monkeypatch.setattr(go.safetensors.torch, "load_file", copied)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[torch.nn.Module]:
    """How often the weights of a module were brought."""
    counts: Counter[torch.nn.Module] = Counter()
    original = go.ModuleGroup.onload_

    def onload(group: Any) -> None:
        counts.update(group.modules or [group.onload_leader])
        original(group)

    monkeypatch.setattr(go.ModuleGroup, "onload_", onload)
    return counts


def offload(shape: Shape, level: str, disk: Path | None = None, size: int = 1) -> Callable[[Any], None]:
    """As users do it, every call with a place of its own on the disk."""
    made: list[Any] = []

    def prepare(pipe: Any) -> None:
        made.append(pipe)
        shape.denoiser(pipe).enable_group_offload(
            CPU,
            CPU,
            offload_type=f"{level}_level",
            num_blocks_per_group=size if level == "block" else None,
            offload_to_disk_path=None if disk is None else str(disk / str(len(made))),
        )

    return prepare


@pytest.mark.parametrize(*each_value(shape=SHAPES, level=LEVELS, late=LATE))
def test_group_offloading(shape: Shape, level: str, late: bool, tmp_path: Path) -> None:
    pipe = compares(shape, offload(shape, level, tmp_path), late)
    # The disk has the weights, the memory has not.
    assert all(p.isnan().all() for block in skippable(shape, pipe)[:1] for p in block.parameters())


@pytest.mark.parametrize(*all_pairs(shape=SHAPES, level=LEVELS, disk={"memory": False, "disk": True}))
def test_a_skipped_block_does_not_fetch_its_weights(
    shape: Shape, level: str, disk: bool, tmp_path: Path, fetched: Counter[torch.nn.Module]
) -> None:
    pipe = shape.build()
    offload(shape, level, tmp_path if disk else None)(pipe)
    shape.run(pipe)
    plain = dict(fetched)
    dcache.enable(pipe, EVERY_2)
    shape.run(pipe)
    fetched.clear()
    shape.run(pipe)
    inside = {m for block in skippable(shape, pipe) for m in block.modules()}
    if shape is SD and level == "block":
        # Not in a list of blocks: its weights are the model's own and come with them.
        inside.remove(pipe.unet.mid_block)
    assert inside.intersection(plain)
    for module, times in plain.items():
        if module in inside:
            # Steps 0, 2, 4, 6 of seven.
            assert fetched[module] == times * 4 // 7
        elif shape.depth:
            assert fetched[module] == times


class Where:
    """Where a group offloads to: equal to the CPU while its weights are there."""

    def __init__(self, offloaded: bool) -> None:
        self.offloaded = offloaded

    def __eq__(self, other: object) -> bool:
        return self.offloaded

    def __hash__(self) -> int:
        return 0


class Backend:
    """Streams for a machine without any: what is told to happen aside happens at once."""

    class Stream:
        def synchronize(self) -> None:
            pass

    def __init__(self, device: Any) -> None:
        pass

    def stream(self, stream: Any) -> Any:
        return nullcontext()

    def current_stream(self) -> Any:
        return self.Stream()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """What diffusers' prefetching needs of a device; the hooks and their order are its own."""
    onload, offload = go.ModuleGroup.onload_, go.ModuleGroup.offload_

    def onload_(group: Any) -> None:
        onload(group)
        group.offload_device = Where(False)

    def offload_(group: Any) -> None:
        group.offload_device = CPU
        offload(group)
        group.offload_device = Where(True)

    monkeypatch.setattr(go.ModuleGroup, "onload_", onload_)
    monkeypatch.setattr(go.ModuleGroup, "offload_", offload_)
    monkeypatch.setattr(go, "TorchDeviceBackend", Backend)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)


def prefetch(shape: Shape, level: str, disk: Path | None = None) -> Callable[[Any], None]:
    """`offload` with `use_stream=True`, which diffusers itself refuses on a CPU."""
    made: list[Any] = []

    def prepare(pipe: Any) -> None:
        made.append(pipe)
        config = go.GroupOffloadingConfig(
            CPU,
            CPU,
            go.GroupOffloadingType(f"{level}_level"),
            non_blocking=False,
            record_stream=False,
            low_cpu_mem_usage=True,
            num_blocks_per_group=1,
            offload_to_disk_path=None if disk is None else str(disk / str(len(made))),
            stream=Backend.Stream(),
            exclude_kwargs=getattr(shape.denoiser(pipe), "_skip_keys", None),
        )
        go._apply_group_offloading(shape.denoiser(pipe), config)

    return prepare


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize(*each_value(shape=SHAPES, level=LEVELS, late=LATE))
def test_prefetching_survives_steps_that_skip_blocks(
    shape: Shape, level: str, late: bool, tmp_path: Path
) -> None:
    # The order is traced in the first call, which computes everything; later calls leave some of it out.
    pipe = compares(shape, prefetch(shape, level, tmp_path), late)
    hooks = [m._diffusers_hook for m in shape.denoiser(pipe).modules() if hasattr(m, "_diffusers_hook")]
    groups = [hook.group for h in hooks if (hook := h.get_hook("group_offloading")) is not None]
    assert any(not group.onload_self for group in groups)


@pytest.mark.usefixtures("streams")
def test_prefetching_brings_no_more_than_the_first_of_the_skipped_blocks(
    tmp_path: Path, fetched: Counter[torch.nn.Module]
) -> None:
    pipe = FLUX.build()
    prefetch(FLUX, "block", tmp_path)(pipe)
    dcache.enable(pipe, EVERY_2)
    FLUX.run(pipe)
    fetched.clear()
    FLUX.run(pipe)
    # Who runs before a block prefetches it, here the model itself, and cannot know that it will be skipped.
    assert [fetched[block] for block in FLUX.blocks(pipe)] == [7, 4, 4, 4]


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("sites", ["run:1-2", "block:0", "sublayers"])
@pytest.mark.parametrize("level", ["block", "leaf"])
def test_prefetching_around_a_gap_in_the_middle(level: str, sites: str, tmp_path: Path) -> None:
    pipe = FLUX.build()
    method = methods.interval(interval=2, sites=sites)
    dcache.enable(pipe, method)
    expected = FLUX.run(pipe)
    prefetch(FLUX, level, tmp_path)(pipe)
    for _ in range(2):
        assert torch.equal(FLUX.run(pipe), expected)
        assert dcache.stats(pipe).predicted > 0


@pytest.mark.parametrize(
    "method", [methods.fbcache(threshold=0.5, max_run=2), EVERY_2.with_sites(("block",))]
)
@pytest.mark.parametrize("size", [2, 3])
def test_blocks_that_are_offloaded_in_groups(size: int, method: Any, tmp_path: Path) -> None:
    pipe = FLUX.build()
    dcache.enable(pipe, method)
    expected = FLUX.run(pipe)
    offload(FLUX, "block", tmp_path, size)(pipe)
    for _ in range(2):
        assert torch.equal(FLUX.run(pipe), expected)
        assert dcache.stats(pipe).predicted > 0


@pytest.mark.parametrize(("shape", "sites"), [(FLUX, "run:1-2"), (SD, "auto")], ids=str)
def test_a_group_whose_first_block_is_skipped_without_the_others_is_noticed(
    shape: Shape, sites: str, tmp_path: Path
) -> None:
    # The first one brings the weights for all.
    twin, pipe = shape.build(), shape.build()
    dcache.enable(twin, EVERY_2.with_sites(("model",)))
    expected = shape.run(twin)
    offload(shape, "block", tmp_path, 2)(pipe)
    dcache.enable(pipe, EVERY_2.with_sites((sites,)))
    with pytest.warns(DcacheWarning, match="a replay with every site predicted .* whole model is remembered"):
        first = shape.run(pipe)
    assert first.isfinite().all()
    assert torch.equal(shape.run(pipe), expected)
    assert dcache.stats(pipe).predicted == 3


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize(*each_value(level=LEVELS, stream={"waits": False, "stream": True}))
def test_a_lora_loaded_under_group_offloading(level: str, stream: bool) -> None:
    # diffusers takes its hooks off and puts them on again around the new layers. Not on the disk: it reads
    # the old files there, with dcache and without.
    def load(pipe: Any) -> None:
        g = torch.Generator().manual_seed(5)
        where = "transformer.transformer_blocks.1.attn.to_q"
        weights = {"lora_A": torch.randn(2, 16, generator=g), "lora_B": torch.randn(16, 2, generator=g)}
        pipe.load_lora_weights({f"{where}.{k}.weight": v for k, v in weights.items()}, adapter_name="one")

    def state(pipe: Any) -> None:
        put(pipe)
        load(pipe)

    put = prefetch(FLUX, level) if stream else offload(FLUX, level)
    bare = FLUX.run(FLUX.build())
    for late in (False, True):
        pipe = compares(FLUX, state, late)
        assert not torch.equal(FLUX.run(pipe), bare)
    pipe = FLUX.build()
    put(pipe)
    dcache.enable(pipe, EVERY_2)
    FLUX.run(pipe)
    load(pipe)
    cached = FLUX.run(pipe)
    assert dcache.stats(pipe).predicted == 3
    pipe.unload_lora_weights()
    assert torch.equal(FLUX.run(pipe), FLUX.run(dcache.enable(FLUX.build(), EVERY_2)))
    assert not torch.equal(FLUX.run(pipe), cached)
