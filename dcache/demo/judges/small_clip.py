"""`clip-shapes`: CLIP's ResNet and text transformer in the size of the demo's judge.

Files and embeddings are those of open_clip. It is not used, because it needs torchvision, whose wheel on
package indexes does not load beside a CPU build of torch.
Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, WIDTH, EMBEDDING = 64, 16, 128
TOKENS, VOCABULARY, TEXT_WIDTH, TEXT_HEADS, TEXT_LAYERS = 16, 35, 96, 3, 2
PADDING, END = 0, 1
# Channels of a residual block's output, over those of its middle; width of an attention head of the pooling.
EXPANSION, HEAD_WIDTH = 4, 32


class Bottleneck(nn.Module):
    """A residual block of CLIP's ResNet: strides are average pools, also on the shortcut."""

    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        outputs = middle * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = nn.Conv2d(middle, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = nn.Conv2d(middle, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, outputs, H / stride, W / stride) of (N, inputs, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(F.avg_pool2d(y, self.stride)))
        return F.relu(y + self.downsample(F.avg_pool2d(x, self.stride)))


class AttentionPool(nn.Module):
    """One attention of the mean feature to all features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty((SIDE // 32) ** 2 + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, EMBEDDING)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (N, EMBEDDING) of features (N, width, H, W)."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        q, k, v = (
            part.unflatten(2, (-1, HEAD_WIDTH)).transpose(1, 2)
            for part in (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x))
        )
        pooled: Tensor = self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))
        return pooled


class PictureTower(nn.Module):
    """CLIP's ResNet with one block a stage.

    Attributes:
        preprocess_cfg: what `preprocess` does, as open_clip says it.
    """

    def __init__(self) -> None:
        super().__init__()
        stem = ((3, WIDTH // 2, 2), (WIDTH // 2, WIDTH // 2, 1), (WIDTH // 2, WIDTH, 1))
        for i, (inputs, outputs, stride) in enumerate(stem, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(outputs))
        inputs = WIDTH
        for i in range(4):
            self.add_module(
                f"layer{i + 1}", nn.Sequential(Bottleneck(inputs, WIDTH << i, 1 if i == 0 else 2))
            )
            inputs = EXPANSION * WIDTH << i
        self.attnpool = AttentionPool(inputs)
        self.preprocess_cfg = {"size": SIDE, "mean": 0.5, "std": 0.5, "interpolation": "bicubic"}

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (N, EMBEDDING) of preprocessed pictures (N, 3, SIDE, SIDE)."""
        part = self.get_submodule
        for i in (1, 2, 3):
            x = F.relu(part(f"bn{i}")(part(f"conv{i}")(x)))
        x = F.avg_pool2d(x, 2)
        for i in (1, 2, 3, 4):
            x = part(f"layer{i}")(x)
        embeddings: Tensor = self.attnpool(x)
        return embeddings


class TextBlock(nn.Module):
    """A transformer block with layer norms in front and causal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(TEXT_WIDTH), nn.LayerNorm(TEXT_WIDTH)
        self.attn = nn.MultiheadAttention(TEXT_WIDTH, TEXT_HEADS, batch_first=True)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(TEXT_WIDTH, 4 * TEXT_WIDTH), "c_proj": nn.Linear(4 * TEXT_WIDTH, TEXT_WIDTH)}
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (N, L, TEXT_WIDTH) from such; `mask` (L, L) is true where attention is barred."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = F.gelu(self.mlp["c_fc"](self.ln_2(x)))
        out: Tensor = x + self.mlp["c_proj"](y)
        return out


class SmallCLIP(nn.Module):
    """Embeddings of pictures and captions, with the methods of an `open_clip.CLIP`.

    Attributes:
        visual: the network of pictures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.visual = PictureTower()
        self.token_embedding = nn.Embedding(VOCABULARY, TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.empty(TOKENS, TEXT_WIDTH))
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.Sequential(*(TextBlock() for _ in range(TEXT_LAYERS)))}
        )
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.empty(TEXT_WIDTH, EMBEDDING))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_image(self, pictures: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings (N, EMBEDDING) of preprocessed pictures (N, 3, SIDE, SIDE); `normalize`: length 1."""
        embeddings: Tensor = self.visual(pictures)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def encode_text(self, ids: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings (N, EMBEDDING) of token ids (N, TOKENS); `normalize`: length 1."""
        mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool, device=ids.device).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding
        for block in self.transformer["resblocks"].children():
            x = block(x, mask)
        ends = (ids == END).int().argmax(-1)
        embeddings: Tensor = (
            self.ln_final(x)[torch.arange(len(ids), device=ids.device), ends] @ self.text_projection
        )
        return F.normalize(embeddings, dim=-1) if normalize else embeddings


def preprocess(picture: Image) -> Tensor:
    """The float32 tensor (3, SIDE, SIDE) in [-1, 1] of a PIL picture: shorter side to SIDE, centre crop."""
    from PIL.Image import Resampling

    width, height = picture.size
    short = min(width, height)
    if short != SIDE:
        picture = picture.resize((SIDE * width // short, SIDE * height // short), Resampling.BICUBIC)
    left, top = (round((length - SIDE) / 2) for length in picture.size)
    pixels = np.array(picture.crop((left, top, left + SIDE, top + SIDE)).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)


def load_tokenizer(file: Path) -> Callable[[Sequence[str]], Tensor]:
    """A function from N texts to token ids, int64 (N, TOKENS): cut, ended, padded; unknown words are 2."""
    from tokenizers import Tokenizer

    words: Any = Tokenizer.from_file(str(file))
    words.enable_truncation(TOKENS)
    words.enable_padding(length=TOKENS, pad_id=PADDING, pad_token="<pad>")
    return lambda texts: torch.tensor([encoding.ids for encoding in words.encode_batch(list(texts))])
