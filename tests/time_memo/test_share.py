"""Shares from configs agree with an observed call of the same model."""

import pytest
import torch

import dcache
from dcache import DcacheError
from dcache.time_memo.share import share_of
from tests.families import FAMILIES
from tests.pipelines import SHAPES
from tests.time_memo.nets import net

EVERY = {**SHAPES, **FAMILIES}


@pytest.mark.parametrize(
    "name", ["flux", "sd3", "qwenimage", "dit", "wan", "sd", "hunyuan_video", "auraflow"]
)
def test_a_config_tells_what_a_call_shows(name: str) -> None:
    shape = EVERY[name]
    pipe = dcache.memo(shape.build())
    shape.run(pipe)
    observed = dcache.memo_report(pipe)
    denoiser = shape.denoiser(pipe)
    with torch.device("meta"):
        bare = type(denoiser).from_config(denoiser.config).eval()
    guessed = share_of(bare)
    assert guessed.modules == observed.modules
    assert guessed.share == observed.share


def test_a_forward_that_cannot_be_followed_is_refused_with_the_way_out() -> None:
    with pytest.raises(DcacheError, match=r"Run it once instead"):
        share_of(net())
