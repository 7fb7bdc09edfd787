"""The pipeline's parts before training: word tokenizer, tiny UMT5 encoder, Wan's transformer at 128 wide."""

from pathlib import Path

import torch
from clips_data import Average, muon_and_adam, word_tokenizer
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from dcache.demo.video import clips

TEXT_LENGTH = 16
TEXT_WIDTH = 64
HEADS, HEAD_WIDTH, DEPTH = 4, 32, 8
SHIFT = 3.0


def make_tokenizer() -> T5Tokenizer:
    """One token per word of the world; any other word becomes <unk>."""
    return word_tokenizer((caption.text for caption in clips.all_captions()), TEXT_LENGTH)


class Denoiser(nn.Module):
    """The two modules that learn together: text encoder and transformer."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=vocab_size,
                d_model=TEXT_WIDTH,
                d_kv=32,
                num_heads=2,
                d_ff=2 * TEXT_WIDTH,
                num_layers=2,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
            )
        )
        # T5 does not scale its scores; attention that begins with contents would be saturated from the start.
        for block in self.text_encoder.encoder.block:
            nn.init.zeros_(block.layer[0].SelfAttention.q.weight)
        width = HEADS * HEAD_WIDTH
        self.transformer = WanTransformer3DModel(
            num_attention_heads=HEADS,
            attention_head_dim=HEAD_WIDTH,
            num_layers=DEPTH,
            ffn_dim=4 * width,
            text_dim=TEXT_WIDTH,
            freq_dim=128,
            in_channels=24,
            out_channels=24,
            patch_size=(3, 1, 1),
            rope_max_seq_len=64,
        )
        for block in self.transformer.blocks:
            table = torch.zeros(1, 6, width)
            table[:, [2, 5]] = 1.0
            block.scale_shift_table.data.copy_(table)
            for linear in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.transformer.proj_out.weight)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The velocity, shaped like x (N, 24, 9, 4, 4); t (N,) in [0, 1], ids and mask (N, 16)."""
        # Wan reads the padding too: its pipeline fills it with zeros and masks nothing.
        text = self.text_encoder(ids, attention_mask=mask)[0] * mask[..., None]
        out: Tensor = self.transformer(x, t * 1000, text, return_dict=False)[0]
        return out

    def optimizers(self, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
        """Muon for the blocks' matrices, in two halves for two threads; AdamW for everything else."""
        inner = [n for n, p in self.named_parameters() if "transformer.blocks." in n and p.ndim == 2]
        return muon_and_adam(self, inner, muon_rate, adam_rate)


def make_pipeline(vae_path: Path, average: Average) -> WanPipeline:
    """Assemble the averaged weights into a pipeline that samples the flow with UniPC, as Wan's own does."""
    denoiser = average.module
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"expected the average of a Denoiser, not of a {type(denoiser).__name__}")
    return WanPipeline(
        tokenizer=make_tokenizer(),
        text_encoder=denoiser.text_encoder,
        vae=AutoencoderKLWan.from_pretrained(vae_path),
        transformer=denoiser.transformer,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        ),
    )
