"""Image transformers with two streams, text and image.

Flux from an image (starts late in the schedule) and with a ControlNet; Flux2, Chroma and AuraFlow, whose
streams are joined in the middle, text first; HiDream, image first, with experts in its blocks; SD3, whose
last block drops the text and which may skip a layer for guidance; QwenImage and CogView4, sequential under
cache contexts.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tests.pipelines import FLOW_EULER, Call, Shape, _embeds, _flux_inputs, _flux_true_cfg, _ready, flux_model


def batched(scale: float = 3.0) -> Call:
    """Guidance on."""
    return {"guidance_scale": scale}


def off() -> Call:
    """Guidance off."""
    return {"guidance_scale": 1.0}


def calm(weight: torch.Tensor) -> None:
    """Let a model of random weights depend on the time less: real ones change little from step to step."""
    weight.data.mul_(0.1)


@contextmanager
def quietly() -> Iterator[None]:
    """Some models of diffusers still import a part from the place that diffusers deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)
        yield


def picture(seed: int, size: int = 64) -> torch.Tensor:
    """A picture of noise."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def vae(levels: int) -> nn.Module:
    """A tiny autoencoder that makes a picture 2 ** (levels - 1) times smaller."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    kind = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    sizes = {"latent_channels": 16, "norm_num_groups": 1, "block_out_channels": (4,) * levels}
    model: Any = AutoencoderKL(**kind, **sizes, layers_per_block=1)
    model.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    return _ready(model, 0)


# Flux from an image, and with a ControlNet ----------------------------------------------------------


def _flux_img2img(model: nn.Module, sampler: Any) -> Any:
    from diffusers import FluxImg2ImgPipeline

    return FluxImg2ImgPipeline(sampler, vae(4), None, None, None, None, model)


def _img2img_inputs(seed: int) -> Call:
    # Of nine noise levels the last seven are run; their number counts, not that of the steps.
    sigmas = torch.linspace(1, 1 / 9, 9).tolist()
    return {**_flux_inputs(seed), "image": picture(seed), "strength": 0.75, "sigmas": sigmas}


def flux_controlnet(model: nn.Module) -> nn.Module:
    """A ControlNet for a Flux; its projections are not zero, so that it matters."""
    from diffusers import FluxControlNetModel

    torch.manual_seed(1)
    size = {"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2}
    with quietly():
        control: Any = FluxControlNetModel.from_transformer(model, **size)
    for name, parameter in control.named_parameters():
        if name.startswith(("controlnet_blocks", "controlnet_single_blocks")):
            nn.init.normal_(parameter, std=0.3)
    return _ready(control, 1)


def _flux_control(model: nn.Module, sampler: Any) -> Any:
    from diffusers import FluxControlNetPipeline

    return FluxControlNetPipeline(sampler, vae(4), None, None, None, None, model, flux_controlnet(model))


# Flux2 ----------------------------------------------------------------------------------------------


def flux2_model(seed: int = 0) -> nn.Module:
    """Two double and two single blocks."""
    from diffusers import Flux2Transformer2DModel

    torch.manual_seed(seed)
    model = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
    )
    calm(model.time_guidance_embed.timestep_embedder.linear_1.weight)
    return _ready(model, seed)


def _flux2(model: nn.Module, sampler: Any) -> Any:
    from diffusers import Flux2Pipeline

    return Flux2Pipeline(sampler, None, None, None, model)


def _flux2_inputs(seed: int) -> Call:
    return {"prompt_embeds": _embeds(seed, 5, 12), "height": 64, "width": 64}


# SD3 ------------------------------------------------------------------------------------------------


def sd3_model(seed: int = 0) -> nn.Module:
    """Seven blocks, the first with the second attention of SD3.5."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(seed)
    model = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=7,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return _ready(model, seed)


def _sd3(model: nn.Module, sampler: Any) -> Any:
    from diffusers import StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(model, sampler, None, None, None, None, None, None, None)


def _sd3_inputs(seed: int) -> Call:
    return {
        "prompt_embeds": _embeds(seed, 5, 12),
        "negative_prompt_embeds": _embeds(seed + 1, 5, 12),
        "pooled_prompt_embeds": _embeds(seed + 2, 8),
        "negative_pooled_prompt_embeds": _embeds(seed + 3, 8),
        "height": 64,
        "width": 64,
    }


def skipping(*layers: int) -> Call:
    """Skip-layer guidance: from the second evaluation to the fifth another branch runs without these."""
    span = {"skip_layer_guidance_start": 0.01, "skip_layer_guidance_stop": 0.7}
    return {**batched(), "skip_guidance_layers": list(layers), **span}


# AuraFlow -------------------------------------------------------------------------------------------


def auraflow_model(seed: int = 0) -> nn.Module:
    """Two joint and two single blocks."""
    from diffusers import AuraFlowTransformer2DModel

    torch.manual_seed(seed)
    model = AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=64,
    )
    calm(model.time_step_proj.linear_1.weight)
    return _ready(model, seed)


def _auraflow(model: nn.Module, sampler: Any) -> Any:
    from diffusers import AuraFlowPipeline

    return AuraFlowPipeline(None, None, None, model, sampler)


def _auraflow_inputs(seed: int) -> Call:
    return {
        "prompt_embeds": _embeds(seed, 5, 12),
        "prompt_attention_mask": torch.ones(1, 5),
        "negative_prompt_embeds": _embeds(seed + 1, 5, 12),
        "negative_prompt_attention_mask": torch.ones(1, 5),
        "height": 64,
        "width": 64,
    }


# Chroma ---------------------------------------------------------------------------------------------


def chroma_model(seed: int = 0) -> nn.Module:
    """Two double and two single blocks; an approximator of as many layers, which is not of the trunk."""
    from diffusers import ChromaTransformer2DModel

    torch.manual_seed(seed)
    with quietly():
        model = ChromaTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            axes_dims_rope=(2, 2, 4),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=6,
        )
    calm(model.distilled_guidance_layer.in_proj.weight[:, :2])
    return _ready(model, seed)


def _chroma(model: nn.Module, sampler: Any) -> Any:
    from diffusers import ChromaPipeline

    return ChromaPipeline(sampler, None, None, None, model)


def _chroma_inputs(seed: int) -> Call:
    # Twelve tokens of text: the modulation of a double block has that shape too.
    return {
        "prompt_embeds": _embeds(seed, 12, 12),
        "prompt_attention_mask": torch.ones(1, 12),
        "negative_prompt_embeds": _embeds(seed + 1, 12, 12),
        "negative_prompt_attention_mask": torch.ones(1, 12),
        "height": 64,
        "width": 64,
    }


# HiDream --------------------------------------------------------------------------------------------


def hidream_model(seed: int = 0) -> nn.Module:
    """Two double and two single blocks with four experts each, every block with text of its own."""
    from diffusers import HiDreamImageTransformer2DModel

    torch.manual_seed(seed)
    model = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[12, 10],
        text_emb_dim=8,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=[0, 1, 1, 2],
    )
    return _ready(model, seed)


def _hidream(model: nn.Module, sampler: Any) -> Any:
    from diffusers import HiDreamImagePipeline

    pipe = HiDreamImagePipeline(sampler, None, None, None, None, None, None, None, None, None, model)
    # It scales every picture to this area.
    pipe.default_sample_size = 8
    return pipe


def _hidream_inputs(seed: int) -> Call:
    return {
        "prompt_embeds_t5": _embeds(seed, 5, 12),
        "negative_prompt_embeds_t5": _embeds(seed + 1, 5, 12),
        "prompt_embeds_llama3": _embeds(seed + 2, 3, 4, 10).transpose(0, 1),
        "negative_prompt_embeds_llama3": _embeds(seed + 3, 3, 4, 10).transpose(0, 1),
        "pooled_prompt_embeds": _embeds(seed + 4, 8),
        "negative_pooled_prompt_embeds": _embeds(seed + 5, 8),
        "height": 64,
        "width": 64,
    }


# QwenImage ------------------------------------------------------------------------------------------


def qwen_model(seed: int = 0) -> nn.Module:
    """Three blocks."""
    from diffusers import QwenImageTransformer2DModel

    torch.manual_seed(seed)
    model = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(4, 2, 2),
    )
    return _ready(model, seed)


def _qwen(model: nn.Module, sampler: Any) -> Any:
    from diffusers import QwenImagePipeline

    return QwenImagePipeline(sampler, None, None, None, model)


def _qwen_inputs(seed: int) -> Call:
    return {
        "prompt_embeds": _embeds(seed, 5, 12),
        "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.int64),
        "height": 64,
        "width": 64,
    }


def _qwen_true_cfg() -> Call:
    # Shorter than the prompt, as real ones are.
    mask = torch.ones(1, 4, dtype=torch.int64)
    return {
        "true_cfg_scale": 3.0,
        "negative_prompt_embeds": _embeds(8, 4, 12),
        "negative_prompt_embeds_mask": mask,
    }


# CogView4 -------------------------------------------------------------------------------------------


def cogview4_model(seed: int = 0) -> nn.Module:
    """Three blocks."""
    from diffusers import CogView4Transformer2DModel

    torch.manual_seed(seed)
    model = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=12,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=8,
        sample_size=8,
        rope_axes_dim=(8, 8),
    )
    return _ready(model, seed)


def _cogview4(model: nn.Module, sampler: Any) -> Any:
    from diffusers import CogView4Pipeline

    return CogView4Pipeline(None, None, None, model, sampler)


def _cogview4_inputs(seed: int) -> Call:
    # As many tokens of text as of image.
    return {
        "prompt_embeds": _embeds(seed, 16, 12),
        "negative_prompt_embeds": _embeds(seed + 1, 16, 12),
        "height": 64,
        "width": 64,
    }


FLOW = {"flow_euler": FLOW_EULER}

FLUX_IMG2IMG = Shape(
    "flux_img2img",
    flux_model,
    _flux_img2img,
    _img2img_inputs,
    FLOW,
    {"off": dict, "sequential": _flux_true_cfg},
    depth=4,
)
FLUX_CONTROLNET = Shape(
    "flux_controlnet",
    flux_model,
    _flux_control,
    lambda seed: {**_flux_inputs(seed), "control_image": picture(seed)},
    FLOW,
    {"off": dict},
    depth=4,
)
FLUX2 = Shape("flux2", flux2_model, _flux2, _flux2_inputs, FLOW, {"off": dict}, depth=4)
SD3 = Shape(
    "sd3",
    sd3_model,
    _sd3,
    _sd3_inputs,
    FLOW,
    {"batched": batched, "off": off, "skip_layer": lambda: skipping(3)},
    depth=7,
)
AURAFLOW = Shape(
    "auraflow",
    auraflow_model,
    _auraflow,
    _auraflow_inputs,
    FLOW,
    {"batched": batched, "off": off},
    depth=4,
    lists=("joint_transformer_blocks", "single_transformer_blocks"),
)
CHROMA = Shape(
    "chroma", chroma_model, _chroma, _chroma_inputs, FLOW, {"sequential": batched, "off": off}, depth=4
)
HIDREAM = Shape(
    "hidream",
    hidream_model,
    _hidream,
    _hidream_inputs,
    FLOW,
    {"batched": batched, "off": off},
    depth=4,
    alone=("batched",),
    lists=("double_stream_blocks", "single_stream_blocks"),
)
QWEN = Shape(
    "qwenimage",
    qwen_model,
    _qwen,
    _qwen_inputs,
    FLOW,
    {"sequential": _qwen_true_cfg, "off": lambda: {"true_cfg_scale": 1.0}},
    depth=3,
    alone=("sequential",),
)
COGVIEW4 = Shape(
    "cogview4",
    cogview4_model,
    _cogview4,
    _cogview4_inputs,
    FLOW,
    {"sequential": batched, "off": off},
    depth=3,
)

MMDIT: tuple[Shape, ...] = (
    FLUX_IMG2IMG,
    FLUX_CONTROLNET,
    FLUX2,
    SD3,
    AURAFLOW,
    CHROMA,
    HIDREAM,
    QWEN,
    COGVIEW4,
)
