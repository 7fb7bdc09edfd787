"""The frame of a profile's tables where none is asked for: the one that the engine remembers by default."""

from typing import Any

import numpy as np
import pytest

from dcache import methods
from dcache.profile import FeatureTables, Profile
from dcache.schedulers import planners
from dcache.search.observe import observe
from dcache.sites.discovery import discover
from tests.families.single import HUNYUAN_DIT, hunyuan_model
from tests.pipelines import PIXART, SD
from tests.search.pipeline_subjects import Shaped, shaped

VALUE = FeatureTables(np.ones((2, 2)), np.zeros((2, 2)), np.ones(2))
DELTA = VALUE.scaled(2.0)


def frame_of(site: str, **frames: FeatureTables) -> str:
    """The frame that a profile takes by default."""
    chosen = Profile(2, {site: {"0": frames}}).tables(site)
    return "delta" if chosen.size[0] == DELTA.size[0] else "value"


@pytest.mark.parametrize("site", ["trunk", "run:1-2", "block:0", "bracket:0"])
def test_a_run_of_blocks_has_its_delta(site: str) -> None:
    assert frame_of(site, value=VALUE, delta=DELTA) == "delta"


def test_a_bracket_of_a_unet_is_observed_without_delta_and_has_its_value() -> None:
    assert frame_of("bracket:0", value=VALUE) == "value"


@pytest.mark.parametrize("site", ["model", "attn:0", "cross_attn:1", "mlp.context:2", "fused:0"])
def test_model_and_sublayers_have_their_value_though_a_delta_was_observed(site: str) -> None:
    assert frame_of(site, value=VALUE, delta=DELTA) == "value"


@pytest.fixture(scope="module")
def hunyuan() -> tuple[Shaped, Profile]:
    """Six blocks with long skips from 0 to 5 and from 1 to 4: `bracket:0` is the run of blocks 1 to 4."""
    subject = Shaped(HUNYUAN_DIT.build(model=hunyuan_model(num_layers=6)), shape=HUNYUAN_DIT)
    return subject, observe(subject, ["1"], sites=["bracket:0", "run:1-4", "model"], timing=False)


def engine_frame(pipe: Any, shape: Any, site: str) -> str:
    """What the engine remembers at a site where a method names no codec."""
    (found,) = discover(shape.denoiser(pipe)).select([site])
    return methods.interval(interval=2).codec_for(found).frame


def test_a_bracket_of_a_block_list_has_the_frame_that_the_engine_remembers(hunyuan: Any) -> None:
    subject, profile = hunyuan
    assert engine_frame(subject.pipe, HUNYUAN_DIT, "bracket:0") == "delta"
    np.testing.assert_array_equal(profile.tables("bracket:0").gram, profile.tables("bracket:0", "delta").gram)
    assert not np.allclose(profile.tables("bracket:0").gram, profile.tables("bracket:0", "value").gram)
    np.testing.assert_array_equal(profile.tables("bracket:0").gram, profile.tables("run:1-4").gram)


def test_a_plan_for_a_bracket_of_a_block_list_is_that_of_its_run(hunyuan: Any) -> None:
    profile = hunyuan[1]
    plans = []
    for site in ("bracket:0", "run:1-4"):
        (plan,) = planners.make("pairs", profile, computes=3, site=site).components.values()
        plans.append((list(plan.rows["*"].values()), plan.parameters))
    assert plans[0] == plans[1]


@pytest.mark.parametrize(("shape", "site"), [(SD, "bracket:0"), (PIXART, "trunk"), (PIXART, "attn:0")])
def test_other_sites_have_the_frame_that_the_engine_remembers(shape: Any, site: str) -> None:
    subject = shaped(shape)
    profile = observe(subject, ["1"], sites=[site], timing=False)
    frame = engine_frame(subject.pipe, shape, site)
    assert frame == ("delta" if site == "trunk" else "value")
    np.testing.assert_array_equal(profile.tables(site).gram, profile.tables(site, frame).gram)
