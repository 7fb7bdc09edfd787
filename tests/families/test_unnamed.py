"""Denoisers of diffusers that nobody prepared dcache for: found by structure, or said aloud.

Each is real and tiny. What happens to each by default is written down here: its trunk or its outermost
bracket is remembered, or the whole model, with a warning that says why. Where a loop cannot be followed by
its timesteps, that is refused with what to do instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from tests.pipelines import Call, generator

STEPS = 6
EVERY_2 = methods.interval(interval=2)
ALWAYS = methods.interval(interval=1)
UNORDERED = "the blocks of trunk are not called once each, in their order"
NO_LIST = "has no block list that dcache recognises"


def rand(seed: int, *size: int) -> torch.Tensor:
    """The same numbers for the same seed."""
    return torch.randn(*size, generator=generator(seed))


def text(*size: int) -> torch.Tensor:
    """Prompt embeddings."""
    return rand(1, 1, *(size or (5, 8)))


@dataclass(frozen=True)
class Unnamed:
    """One class of denoisers.

    Attributes:
        config: its configuration.
        size: of the latents.
        inputs: arguments of a call beside the latents and the timestep.
        site: what is remembered by default.
        depth: number of blocks or skips found; 0 where none are.
        told: the beginning of the warning, "" where there is none.
        latents, time: names of the two arguments.
        told_at: whether the warning comes when caching is "enabled" or when the model is first "called".
    """

    config: Call
    size: tuple[int, ...]
    inputs: Callable[[], Call]
    site: str = "trunk"
    depth: int = 3
    told: str = ""
    latents: str = "hidden_states"
    time: str = "timestep"
    told_at: str = "enabled"


TINY_UNET: Call = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
VIDEO_UNET: Call = {
    **TINY_UNET,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
}


def _lumina_rope() -> torch.Tensor:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    return get_2d_rotary_pos_embed_lumina(8, 8, 8)[:4, :4]


CLASSES: dict[str, Unnamed] = {
    "AllegroTransformer3DModel": Unnamed(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 3,
            "cross_attention_dim": 24,
            "sample_height": 8,
            "sample_width": 8,
            "sample_frames": 4,
            "caption_channels": 8,
        },
        (1, 4, 2, 4, 4),
        lambda: {"encoder_hidden_states": text()},
    ),
    "AudioLDM2UNet2DConditionModel": Unnamed(
        {
            **TINY_UNET,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            # Three attentions per resnet: to itself and to two encoders.
            "cross_attention_dim": ((None, 8, 12), (None, 8, 12)),
            "attention_head_dim": 4,
        },
        (1, 4, 8, 8),
        lambda: {"encoder_hidden_states": text(), "encoder_hidden_states_1": text(4, 12)},
        site="bracket:0",
        depth=4,
        latents="sample",
    ),
    # Every block is given another layer of the text encoder, joined to the text stream between the blocks.
    "BriaFiboTransformer2DModel": Unnamed(
        {
            "in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "axes_dims_rope": [0, 4, 4],
            "text_encoder_dim": 8,
        },
        (1, 16, 4),
        lambda: {
            "encoder_hidden_states": text(),
            "text_encoder_layers": [rand(i, 1, 5, 8) for i in range(4)],
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(5, 3),
        },
        depth=4,
    ),
    "BriaTransformer2DModel": Unnamed(
        {
            "in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 8,
            "axes_dims_rope": [0, 4, 4],
        },
        (1, 16, 4),
        lambda: {
            "encoder_hidden_states": text(),
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(5, 3),
        },
        depth=4,
    ),
    "ConsisIDTransformer3DModel": Unnamed(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 2,
            "text_embed_dim": 8,
            "num_layers": 3,
            "sample_width": 4,
            "sample_height": 4,
            "sample_frames": 4,
            "max_text_seq_length": 5,
        },
        (1, 1, 4, 4, 4),
        lambda: {"encoder_hidden_states": text()},
    ),
    "CosmosTransformer3DModel": Unnamed(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 3,
            "mlp_ratio": 2,
            "text_embed_dim": 8,
            "adaln_lora_dim": 4,
            "max_size": (4, 8, 8),
        },
        (1, 4, 2, 4, 4),
        lambda: {
            "encoder_hidden_states": text(),
            "fps": 16,
            "padding_mask": torch.zeros(1, 1, 32, 32),
        },
    ),
    "EasyAnimateTransformer3DModel": Unnamed(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "sample_width": 8,
            "sample_height": 8,
            "num_layers": 3,
            "mmdit_layers": 2,
            "time_embed_dim": 2,
            "text_embed_dim": 8,
        },
        (1, 4, 2, 4, 4),
        lambda: {"encoder_hidden_states": text()},
    ),
    "ErnieImageTransformer2DModel": Unnamed(
        {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_layers": 3,
            "ffn_hidden_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "text_in_dim": 8,
            "rope_axes_dim": (4, 2, 2),
        },
        (1, 4, 4, 4),
        lambda: {"text_bth": text(), "text_lens": torch.tensor([5])},
    ),
    "I2VGenXLUNet": Unnamed(
        VIDEO_UNET,
        (1, 4, 2, 8, 8),
        lambda: {
            "encoder_hidden_states": text(),
            "fps": torch.tensor([8]),
            "image_latents": rand(4, 1, 4, 2, 8, 8),
            "image_embeddings": rand(5, 1, 8),
        },
        site="bracket:0",
        depth=4,
        latents="sample",
    ),
    "Kandinsky3UNet": Unnamed(
        {
            "time_embedding_dim": 8,
            "groups": 2,
            "attention_head_dim": 4,
            "layers_per_block": 2,
            "block_out_channels": (8, 16),
            "cross_attention_dim": 8,
            "encoder_hid_dim": 8,
        },
        (1, 4, 8, 8),
        lambda: {"encoder_hidden_states": text(), "encoder_attention_mask": torch.ones(1, 5)},
        site="model",
        depth=0,
        told=NO_LIST,
        latents="sample",
    ),
    "Kandinsky5Transformer3DModel": Unnamed(
        {
            "in_visual_dim": 4,
            "in_text_dim": 8,
            "in_text_dim2": 8,
            "time_dim": 16,
            "out_visual_dim": 4,
            "model_dim": 16,
            "ff_dim": 32,
            "num_text_blocks": 1,
            "num_visual_blocks": 3,
            "axes_dims": (2, 2, 4),
        },
        (1, 1, 8, 8, 4),
        lambda: {
            "encoder_hidden_states": text(),
            "pooled_projections": rand(2, 1, 8),
            "visual_rope_pos": (torch.arange(1), torch.arange(4), torch.arange(4)),
            "text_rope_pos": torch.arange(5),
        },
    ),
    # Two lists, spatial and temporal, of which blocks are called in turn.
    "LatteTransformer3DModel": Unnamed(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "cross_attention_dim": 16,
            "sample_size": 8,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "attention_bias": True,
            "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "caption_channels": 8,
            "video_length": 2,
        },
        (1, 4, 2, 8, 8),
        lambda: {"encoder_hidden_states": text()},
        depth=4,
        told_at="called",
    ),
    "LuminaNextDiT2DModel": Unnamed(
        {
            "sample_size": 8,
            "hidden_size": 24,
            "num_layers": 3,
            "num_attention_heads": 3,
            "num_kv_heads": 3,
            "multiple_of": 16,
            "cross_attention_dim": 8,
        },
        (1, 4, 8, 8),
        lambda: {
            "encoder_hidden_states": text(),
            "encoder_mask": torch.ones(1, 5, dtype=torch.bool),
            "image_rotary_emb": _lumina_rope(),
            "cross_attention_kwargs": {},
        },
    ),
    "OmniGenTransformer2DModel": Unnamed(
        {
            "in_channels": 4,
            "hidden_size": 16,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 32,
            "num_layers": 3,
            "pad_token_id": 0,
            "vocab_size": 20,
            "time_step_dim": 8,
            "rope_scaling": {"long_factor": [1, 2], "short_factor": [1, 2]},
        },
        (1, 4, 8, 8),
        lambda: {
            "input_ids": torch.arange(5)[None],
            "input_img_latents": [rand(5, 1, 4, 8, 8)],
            "input_image_sizes": {},
            "attention_mask": torch.ones(1, 22),
            "position_ids": torch.arange(22)[None],
        },
    ),
    "PRXTransformer2DModel": Unnamed(
        {
            "in_channels": 4,
            "context_in_dim": 8,
            "hidden_size": 16,
            "mlp_ratio": 2.0,
            "num_heads": 2,
            "depth": 3,
            "axes_dim": [4, 4],
        },
        (1, 4, 8, 8),
        lambda: {"encoder_hidden_states": text()},
    ),
    "PriorTransformer": Unnamed(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 4,
            "num_layers": 3,
            "embedding_dim": 8,
            "num_embeddings": 5,
        },
        (1, 8),
        lambda: {"proj_embedding": rand(2, 1, 8), "encoder_hidden_states": text()},
    ),
    "SanaVideoTransformer3DModel": Unnamed(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 3,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 12,
            "cross_attention_dim": 24,
            "caption_channels": 8,
            "sample_size": 8,
        },
        (1, 4, 2, 4, 4),
        lambda: {"encoder_hidden_states": text()},
    ),
    "SkyReelsV2Transformer3DModel": Unnamed(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 8,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 3,
            "rope_max_seq_len": 32,
        },
        (1, 4, 2, 4, 4),
        lambda: {"encoder_hidden_states": text()},
    ),
    "StableCascadeUNet": Unnamed(
        {
            "in_channels": 4,
            "out_channels": 4,
            "timestep_ratio_embedding_dim": 8,
            "conditioning_dim": 16,
            "block_out_channels": (16, 16),
            "num_attention_heads": (2, 2),
            "down_num_layers_per_block": (1, 1),
            "up_num_layers_per_block": (1, 1),
            "clip_text_pooled_in_channels": 8,
            "clip_seq": 2,
            "dropout": (0.0, 0.0),
            "switch_level": (False,),
        },
        (1, 4, 8, 8),
        lambda: {"clip_text_pooled": rand(1, 1, 1, 8)},
        site="model",
        depth=0,
        told=NO_LIST,
        latents="sample",
        time="timestep_ratio",
    ),
    "T5FilmDecoder": Unnamed(
        {
            "input_dims": 8,
            "targets_length": 6,
            "d_model": 16,
            "num_layers": 3,
            "num_heads": 2,
            "d_kv": 8,
            "d_ff": 32,
            "dropout_rate": 0.0,
        },
        (1, 6, 8),
        lambda: {"encodings_and_masks": [(text(5, 16), torch.ones(1, 5))]},
        latents="decoder_input_tokens",
        time="decoder_noise_time",
    ),
    "UNet1DModel": Unnamed(
        {
            "sample_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (32, 32, 32),
            "norm_num_groups": 4,
            "extra_in_channels": 64,
        },
        (1, 4, 32),
        dict,
        site="model",
        depth=0,
        told=NO_LIST,
        latents="sample",
    ),
    "UNet3DConditionModel": Unnamed(
        VIDEO_UNET,
        (1, 4, 2, 8, 8),
        lambda: {"encoder_hidden_states": text()},
        site="bracket:0",
        depth=4,
        latents="sample",
    ),
    "UNetMotionModel": Unnamed(
        {
            **TINY_UNET,
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "cross_attention_dim": 8,
            "num_attention_heads": 2,
            "motion_num_attention_heads": 2,
            "motion_max_seq_length": 4,
        },
        (1, 4, 2, 8, 8),
        lambda: {"encoder_hidden_states": text().repeat(2, 1, 1)},
        site="bracket:0",
        depth=4,
        latents="sample",
    ),
}
# Their time goes by a name of their own, so a loop has to say where it stands.
UNTIMED = ("StableCascadeUNet", "T5FilmDecoder")
NAMES = list(CLASSES)


@pytest.fixture(autouse=True)
def own_warnings_only() -> Iterator[None]:
    """Some of diffusers' modules warn of themselves when they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def build(name: str) -> nn.Module:
    """The tiny model, its gates open: what is zero in a fresh model gets numbers."""
    import diffusers

    torch.manual_seed(0)
    model: nn.Module = getattr(diffusers, name)(**CLASSES[name].config)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if not parameter.any() or key.endswith("scale_shift_table"):
            parameter.copy_(rand(0, *parameter.shape) * 0.2)
    return model.eval()


def walk(model: nn.Module, name: str, told: bool = False, steps: int = STEPS) -> torch.Tensor:
    """A hand-written loop; `told` says to dcache where it stands."""
    case = CLASSES[name]
    x, inputs = rand(9, *case.size), case.inputs()
    with torch.no_grad():
        for i in range(steps):
            if told:
                dcache.step(model, i, timestep=1000 * (1 - i / steps), steps=steps)
            time = torch.tensor([1000 * (1 - i / steps)])
            output = model(**{case.latents: x, case.time: time}, **inputs)
            output = output if isinstance(output, torch.Tensor) else output[0]
            # Some return a variance beside it.
            x = x - 0.15 * output.narrow(1, 0, x.shape[1])
    return x


def told_at(name: str, moment: str) -> Any:
    """Expects this class's warning where it belongs, and none elsewhere: warnings are errors here."""
    case = CLASSES[name]
    if case.told and case.told_at == moment:
        return pytest.warns(DcacheWarning, match=f"{name}.*{case.told}.*sites='model'")
    return nullcontext()


def cached(name: str, method: Any, twice: bool = False, **options: Any) -> tuple[nn.Module, torch.Tensor]:
    """The enabled model after a run (or two), and what came out."""
    model = build(name)
    with told_at(name, "enabled"):
        dcache.enable(model, method, **options)
    with told_at(name, "called"):
        output = walk(model, name, told=name in UNTIMED)
    if twice:
        output = walk(model, name, told=name in UNTIMED)
    return model, output


class Reusing(nn.Module):
    """Gives the last output again in the evaluations of this set."""

    def __init__(self, model: nn.Module, reused: set[int]) -> None:
        super().__init__()
        self.model, self.reused, self.index, self.last = model, reused, 0, None

    def forward(self, **inputs: Any) -> Any:
        """As the model's."""
        if self.index not in self.reused:
            self.last = self.model(**inputs)
        self.index += 1
        return self.last


def count_calls(modules: list[nn.Module]) -> dict[nn.Module, int]:
    """Counts how often each of these really runs."""
    counts = dict.fromkeys(modules, 0)

    def note(module: nn.Module, args: Any, output: Any) -> None:
        counts[module] += 1

    for module in counts:
        module.register_forward_hook(note)
    return counts


@pytest.mark.parametrize("name", NAMES)
def test_computing_everything_is_bit_identical(name: str) -> None:
    plain = walk(build(name), name)
    assert bool(torch.isfinite(plain).all())
    for twice in (False, True):
        model, output = cached(name, ALWAYS, twice)
        assert torch.equal(output, plain)
        assert dcache.stats(model).predicted == 0
    dcache.disable(model)
    assert torch.equal(walk(model, name), plain)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_remembered_by_default(name: str) -> None:
    case = CLASSES[name]
    model, output = cached(name, EVERY_2)
    stats, trace = dcache.stats(model), dcache.trace(model)
    (plan,) = trace.components.values()
    # Where a fall back is noticed in the first evaluation, the whole model remembers that one too.
    assert list(plan.sites) == [case.site]
    assert (stats.steps, stats.predicted) == (STEPS, STEPS // 2)
    plain = walk(build(name), name)
    assert not torch.equal(output, plain)
    if case.site == "model":
        # What came out last is used again; written out by hand.
        assert torch.equal(output, walk(Reusing(build(name), {1, 3, 5}), name))
    else:
        # Wrong pictures are far from right ones; these differ little from evaluation to evaluation.
        assert float((output - plain).abs().mean() / plain.abs().mean()) < 0.1


@pytest.mark.parametrize("name", [n for n, case in CLASSES.items() if case.site != "model"])
def test_a_predicted_evaluation_runs_nothing_of_the_site(name: str) -> None:
    from dcache.sites.discovery import discover

    case, model = CLASSES[name], build(name)
    found = discover(model)
    assert len(found.blocks if case.site == "trunk" else found.skips) == case.depth
    inside = list(found.blocks)
    if case.site != "trunk":
        # Of the block with the sink the last stage only runs, be it made of two lists or of four.
        lists = [part for part in model.up_blocks[-1].children() if isinstance(part, nn.ModuleList)]
        inside = [*found.skips[0].inside, *(part[0] for part in lists if len(part) > 1)]
    counts = count_calls(inside)
    dcache.enable(model, EVERY_2)
    walk(model, name, told=name in UNTIMED)
    # OmniGen sets up a table in its first call, which is therefore made once more.
    assert set(counts.values()) == {STEPS // 2 + (name == "OmniGenTransformer2DModel")}


@pytest.mark.parametrize("name", [n for n, case in CLASSES.items() if case.site != "model"])
def test_the_slow_reference_gives_the_same_bits(name: str) -> None:
    method = methods.interval(interval=2, codec="value")
    assert torch.equal(cached(name, method)[1], cached(name, method, lowering="replay")[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_replays_the_same_bits(name: str, tmp_path: Path) -> None:
    model, output = cached(name, EVERY_2)
    path = dcache.trace(model).save(tmp_path / "run.json")
    again = build(name)
    dcache.enable(again, str(path), strict=True)
    # Such a schedule names its site, so nothing is tried that has to be given up.
    assert torch.equal(walk(again, name, told=name in UNTIMED), output)


@pytest.mark.parametrize("name", UNTIMED)
def test_a_loop_that_cannot_be_followed_is_refused_with_what_to_do(name: str) -> None:
    model = build(name)
    with told_at(name, "enabled"):
        dcache.enable(model, EVERY_2)
    with pytest.raises(DcacheError, match=r"no timestep argument.*dcache\.step"):
        walk(model, name)


def test_most_of_them_are_named_nowhere_in_dcache() -> None:
    from dcache.sites.discovery import discover

    root = Path(dcache.__file__).parent
    lines = "\n".join(path.read_text(encoding="utf-8") for path in root.rglob("*.py"))
    free = []
    for name in NAMES:
        kinds = {type(block).__name__ for block in discover(build(name)).blocks}
        if not any(kind in lines for kind in {name, *kinds}):
            free.append(name)
    assert len(free) >= 7, free
