"""The pipeline's parts before training: word tokenizer, tiny T5 encoder, narrow and deep transformer."""

from pathlib import Path

import torch
from common import Average, muon_and_adam, word_tokenizer
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
)
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from dcache.demo import pictures

TEXT_LENGTH = 16
TEXT_WIDTH = 128
HEADS, HEAD_WIDTH, DEPTH = 5, 32, 12


def make_tokenizer() -> T5Tokenizer:
    """One token per word of the world; any other word becomes <unk>."""
    return word_tokenizer((caption.text for caption in pictures.all_captions()), TEXT_LENGTH)


class Denoiser(nn.Module):
    """The two modules that learn together: text encoder and transformer."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=vocab_size,
                d_model=TEXT_WIDTH,
                d_kv=32,
                num_heads=4,
                d_ff=2 * TEXT_WIDTH,
                num_layers=2,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
            )
        )
        # The first layer begins by looking at neighbours alone: relative positions in buckets 1 and 2 come
        # just before, 17 and 18 just after. T5 does not scale its scores: attention that begins with contents
        # is saturated and never learns positions, without which no colour belongs to its noun.
        attention = self.text_encoder.encoder.block[0].layer[0].SelfAttention
        nn.init.zeros_(attention.q.weight)
        for head, bucket in enumerate((1, 17, 2, 18)):
            attention.relative_attention_bias.weight.data[bucket, head] += 5.0
        self.transformer = PixArtTransformer2DModel(
            num_attention_heads=HEADS,
            attention_head_dim=HEAD_WIDTH,
            num_layers=DEPTH,
            cross_attention_dim=HEADS * HEAD_WIDTH,
            caption_channels=TEXT_WIDTH,
            in_channels=4,
            out_channels=4,
            sample_size=16,
            patch_size=2,
        )
        for block in self.transformer.transformer_blocks:
            table = torch.zeros(6, HEADS * HEAD_WIDTH)
            table[[2, 5]] = 1.0
            block.scale_shift_table.data.copy_(table)
            for linear in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.transformer.proj_out.weight)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The velocity, shaped like the latents x (N, 4, 16, 16); t (N,) in [0, 1], ids and mask (N, 16)."""
        text = self.text_encoder(ids, attention_mask=mask)[0]
        sizes = {"resolution": None, "aspect_ratio": None}
        out: Tensor = self.transformer(
            x,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=t * 1000,
            added_cond_kwargs=sizes,
            return_dict=False,
        )[0]
        return out

    def optimizers(self, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
        """Muon for the blocks' matrices, in two halves for two threads; AdamW for everything else."""
        inner = [
            n
            for n, p in self.named_parameters()
            if ".transformer_blocks." in n and n.endswith("weight") and p.ndim == 2
        ]
        return muon_and_adam(self, inner, muon_rate, adam_rate)


def make_pipeline(vae_path: Path, average: Average) -> PixArtAlphaPipeline:
    """Assemble the averaged weights into a pipeline that samples the flow with DPM-Solver++."""
    denoiser = average.module
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"expected the average of a Denoiser, not of a {type(denoiser).__name__}")
    return PixArtAlphaPipeline(
        tokenizer=make_tokenizer(),
        text_encoder=denoiser.text_encoder,
        vae=AutoencoderKL.from_pretrained(vae_path),
        transformer=denoiser.transformer,
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=2
        ),
    )
