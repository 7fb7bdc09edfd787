"""L7, over every family and every preset with its own defaults: it predicts, or it says why not."""

import inspect
import warnings
from typing import Any

import pytest

import dcache
from dcache import DcacheError, DcacheWarning, methods
from tests.laws.product import EVERY, seen
from tests.pipelines import SHAPES, STEPS, Shape

EVALUATIONS = 2 * STEPS
# What some presets need to be told; everything else is as published.
GIVEN: dict[str, dict[str, Any]] = {
    "bac": {"table": {"attn:0": [0, 3], "mlp:0": [0, 5]}},
    "cachequant": {"profile": seen(EVALUATIONS)},
    "ertacache": {"profile": seen(EVALUATIONS), "timesteps": False},
    "fitted": {"profile": seen(EVALUATIONS)},
    "magcache": {"ratios": [1.0] * STEPS},
    "profilingdit": {"background": [1, 2]},
    "sencache": {"sensitivities": (0.5, 1.0, 1.0)},
    "teacache": {"coefficients": (1.0, 0.0)},
    "yume": {"blocks": [1, 2]},
    "smoothcache": {"table": {"attn": [1, 0] * STEPS}},
}
PAIRS = [
    pytest.param(shape, name, id=f"{shape}-{name}", marks=() if shape.name in SHAPES else pytest.mark.slow)
    for shape in EVERY.values()
    for name in methods.available()
]


@pytest.mark.parametrize(("shape", "name"), PAIRS)
def test_a_preset_predicts_or_says_why_not(shape: Shape, name: str) -> None:
    method = methods.make(name, **GIVEN.get(name, {}))
    pipe = shape.build()
    refusal = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DcacheWarning)
        try:
            dcache.enable(pipe, method)
            shape.run(pipe, num_inference_steps=EVALUATIONS)
        except DcacheError as error:
            refusal = str(error)
    if refusal:
        # It names what came and what is there instead.
        assert len(refusal) > 40
        return
    said = [w for w in caught if issubclass(w.category, DcacheWarning)]
    stats = dcache.stats(pipe)
    # Flux image-to-image is given its sigmas, so their number is its own.
    assert stats.steps >= (STEPS if shape.name == "flux_img2img" else EVALUATIONS)
    assert stats.predicted > 0 or said


@pytest.mark.parametrize(
    ("shape", "guidance"),
    [pytest.param(s, mode, id=f"{s}-{mode}") for s in EVERY.values() for mode in s.alone],
)
def test_guidance_that_cannot_be_learned_is_said(shape: Shape, guidance: str) -> None:
    pipe = dcache.enable(shape.build(), methods.fastercache(guidance_below=1001.0, attn_below=1001.0))
    with pytest.warns(DcacheWarning, match="site 'guidance' is never predicted: "):
        shape.run(pipe, guidance)
    assert all(
        "guidance" not in rows or all(rows["guidance"])
        for plan in dcache.trace(pipe).components.values()
        for rows in plan.rows.values()
    )


@pytest.mark.parametrize("name", sorted(methods.available()))
def test_what_is_told_of_a_preset_fits_what_it_does(name: str) -> None:
    told = methods.available()[name]
    required = {"ratios", "coefficients", "table", "profile", "sensitivities"} & set(
        inspect.signature(getattr(methods, name)).parameters
    )
    assert bool(told.needs) == bool(required) == (name in GIVEN)
    assert told.summary.endswith(".")
    assert told.paper
    assert told.sites
    assert told.families
    for shape in SHAPES.values():
        fits = {
            "any": True,
            "transformer": shape.depth > 0,
            "unet": shape.skips > 0,
            "cross-attention": shape.name != "flux",
            "guidance": True,
            "sublayers": bool(shape.sublayers),
            "block-causal": False,
        }
        if any(not fits[family] for family in told.families[:1]):
            # On a model without what it is for it is refused, or finds other things to do and says so.
            method = methods.make(name, **GIVEN.get(name, {}))
            if name != "tgate":
                with pytest.raises(DcacheError):
                    dcache.enable(shape.build(), method)
