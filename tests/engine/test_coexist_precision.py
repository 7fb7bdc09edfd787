"""Weights that are stored in fewer bits than they compute in: layerwise casting, int8."""

import importlib.util
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import methods
from tests.cover import each_value
from tests.engine.coexistence_checks import EVERY_2, LATE, anatomy, compares, skippable
from tests.pipelines import FLUX, SHAPES, Shape

FP8 = torch.float8_e4m3fn
# torch's own int8 is on its way out; torchao, which is to replace it, is not always there.
DEPRECATED = (
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
)


def casting(shape: Shape, compute: torch.dtype) -> Callable[[Any], None]:
    """Linear and convolution weights rest as fp8 and compute as told; the rest of the model too."""

    def prepare(pipe: Any) -> None:
        model = shape.denoiser(pipe)
        model.to(compute)
        model.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=compute)

    return prepare


def as_dtype(shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    """The shape's embeddings in another dtype."""
    inputs = shape.inputs(1)
    return {
        k: v.to(dtype) for k, v in inputs.items() if isinstance(v, torch.Tensor) and v.is_floating_point()
    }


@pytest.mark.parametrize(
    *each_value(
        shape=SHAPES,
        compute={"float32": torch.float32, "bfloat16": torch.bfloat16},
        late=LATE,
    )
)
def test_layerwise_casting(shape: Shape, compute: torch.dtype, late: bool) -> None:
    pipe = compares(shape, casting(shape, compute), late, **as_dtype(shape, compute))
    stored = [p.dtype for block in skippable(shape, pipe) for p in block.parameters()]
    assert stored.count(FP8) > len(stored) / 2


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_a_skipped_block_casts_no_weights(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.hooks.layerwise_casting import LayerwiseCastingHook

    cast: Counter[nn.Module] = Counter()
    original = LayerwiseCastingHook.pre_forward

    def pre_forward(hook: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        cast[module] += 1
        return original(hook, module, *args, **kwargs)

    monkeypatch.setattr(LayerwiseCastingHook, "pre_forward", pre_forward)
    pipe = shape.build()
    casting(shape, torch.float32)(pipe)
    shape.run(pipe)
    inside = {m for block in skippable(shape, pipe) for m in block.modules()}
    plain = {m: n for m, n in cast.items() if m in inside}
    assert len(plain) >= 10
    dcache.enable(pipe, EVERY_2)
    shape.run(pipe)
    cast.clear()
    shape.run(pipe)
    # Steps 0, 2, 4, 6 of seven.
    assert {m: cast[m] for m in plain} == {m: n * 4 // 7 for m, n in plain.items()}


def to_int8(shape: Shape, by: str) -> Callable[[Any], None]:
    """The linears of the blocks become int8: new modules (torch), or new tensors in the old ones."""

    def prepare(pipe: Any) -> None:
        for block in skippable(shape, pipe):
            if by == "torch":
                torch.ao.quantization.quantize_dynamic(block, {nn.Linear}, dtype=torch.qint8, inplace=True)
            else:
                from torchao.quantization import Int8WeightOnlyConfig, quantize_

                quantize_(block, Int8WeightOnlyConfig())

    return prepare


@pytest.mark.filterwarnings(*DEPRECATED)
@pytest.mark.parametrize(*each_value(shape=SHAPES, by=("torch", "torchao"), late=LATE))
def test_int8(shape: Shape, by: str, late: bool) -> None:
    if by == "torchao" and importlib.util.find_spec("torchao") is None:
        pytest.skip(
            "torchao is no part of the dev extra: where it is installed, diffusers imports it at once"
        )
    bare = shape.run(shape.build())
    pipe = compares(shape, to_int8(shape, by), late)
    quantised = [m for b in skippable(shape, pipe) for m in b.modules() if "quantized" in type(m).__module__]
    weights = [type(p).__name__ for b in skippable(shape, pipe) for p in b.parameters()]
    assert quantised if by == "torch" else "Int8Tensor" in weights
    plain = shape.run(pipe)
    assert not torch.equal(plain, bare)


@pytest.mark.filterwarnings(*DEPRECATED)
def test_int8_sublayers_that_replace_the_sites_themselves() -> None:
    # A single block's `proj_out` is a site of its own, and a quantised one is another module.
    method = methods.interval(interval=2, sites=["attn", "mlp", "fused"])
    twin, pipe = FLUX.build(), FLUX.build()
    to_int8(FLUX, "torch")(twin)
    dcache.enable(twin, method)
    expected = FLUX.run(twin)
    dcache.enable(pipe, method)
    FLUX.run(pipe)
    to_int8(FLUX, "torch")(pipe)
    assert torch.equal(FLUX.run(pipe), expected)
    assert dcache.stats(pipe).predicted == dcache.stats(twin).predicted > 0
    dcache.disable(pipe)
    dcache.disable(twin)
    assert anatomy(FLUX, pipe) == anatomy(FLUX, twin)
