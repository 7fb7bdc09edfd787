"""Shares from configs agree with an observed call of the same model."""

import pytest
import torch

import dcache
from dcache import DcacheError
from dcache.time_memo.share import share_of
from tests.cover import with_slow
from tests.families import FAMILIES
from tests.pipelines import SHAPES
from tests.time_memo.nets import net

EVERY = {**SHAPES, **FAMILIES}


# These read lengths and places from masks and ids, or take arguments of their own.
PARTICULAR = ("mochi", "lumina", "lumina2", "hidream", "cogview4", "hunyuan_video15", "svd", "wan_vace")


@pytest.mark.parametrize(
    "name",
    with_slow(
        *("flux", "sd3", "qwenimage", "dit", "wan", "sd", "hunyuan_video", "auraflow", "z_image"),
        slow=PARTICULAR,
    ),
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


def test_a_packed_sequence_of_three_modalities_is_followed() -> None:
    from diffusers import MiniMaxH3Transformer3DModel

    width, steps = 24, 16
    with torch.device("meta"):
        model = MiniMaxH3Transformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            hidden_size=width,
            num_layers=2,
            num_refiner_layers=1,
            ffn_dim=32,
            in_channels=4,
            audio_in_channels=4,
            text_dim=16,
            freq_dim=16,
            time_embed_hidden_dim=steps,
            time_embed_dim=steps,
            rope_freq_dim=2,
        )
    report = share_of(model.eval())
    # What the prototype on the published size took: the timestep's own modules and each block's scales.
    timed = ("time_embedder", "adaln_proj", "norm_out.linear")
    named = {n: p.numel() for n, p in model.named_parameters() if any(part in n for part in timed)}
    assert report.depends_on == ("timestep",)
    assert report.timed_parameters == sum(named.values()) > 0


def test_text_is_followed_where_it_is_asked_for() -> None:
    shape = FAMILIES["mochi"]
    with torch.device("meta"):
        denoiser = shape.denoiser(shape.build())
        bare = type(denoiser).from_config(denoiser.config).eval()
    assert share_of(bare, text=True).share > share_of(bare).share > 0


def test_a_forward_that_cannot_be_followed_is_refused_with_the_way_out() -> None:
    with pytest.raises(DcacheError, match=r"Run it once instead"):
        share_of(net())
