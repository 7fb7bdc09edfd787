"""The laws with a quantised denoiser: torchao's int8 weights and activations (CacheQuant's other half)."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import dcache
from dcache import methods
from dcache.search.corrections import fit_corrections
from tests.pipelines import PIXART
from tests.search.pipeline_subjects import shaped

torchao = pytest.importorskip("torchao.quantization", reason="needs torchao")


@pytest.fixture
def pipe() -> Any:
    quantised = PIXART.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchao.quantize_(
            quantised.transformer.transformer_blocks, torchao.Int8DynamicActivationInt8WeightConfig()
        )
    return quantised


def test_all_computed_is_the_quantised_pipeline_and_disabled_it_is_as_it_was(pipe: Any) -> None:
    plain = PIXART.run(pipe)
    with dcache.enabled(pipe, "interval", interval=1):
        assert torch.equal(PIXART.run(pipe), plain)
    assert torch.equal(PIXART.run(pipe), plain)
    assert not torch.equal(PIXART.run(PIXART.build()), plain)


@pytest.mark.parametrize(
    "method", [methods.newton(interval=2), methods.interval(interval=2, sites="sublayers")]
)
def test_a_replay_is_its_run_and_guidance_modes_keep_apart(pipe: Any, method: dcache.Method) -> None:
    with dcache.enabled(pipe, method):
        once, trace = PIXART.run(pipe), dcache.trace(pipe)
        PIXART.run(pipe, "off")
        assert torch.equal(PIXART.run(pipe), once)
        assert dcache.stats(pipe).predicted > 0
    with dcache.enabled(pipe, trace):
        assert torch.equal(PIXART.run(pipe), once)


@pytest.mark.filterwarnings("ignore:corrected predictions of trunk:dcache.errors.DcacheWarning")
def test_corrections_are_fitted_to_full_precision(pipe: Any) -> None:
    with dcache.enabled(pipe, "interval", interval=3):
        PIXART.run(pipe)
        schedule = dcache.trace(pipe)
    subject = shaped(PIXART)
    subject.pipe, reference = pipe, PIXART.build()
    alone, _ = fit_corrections(subject, schedule, ["1", "2"], batch_size=2)
    jointly, quality = fit_corrections(subject, schedule, ["1", "2"], batch_size=2, reference=reference)
    assert alone.digest() != jointly.digest()
    assert quality["trunk"].before < quality["trunk"].after <= 1.0
