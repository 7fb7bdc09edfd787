"""Denoisers of diffusion policies, of the structure that published classes have, and loops that drive them.

| class           | structure of                                                                    |
|-----------------|---------------------------------------------------------------------------------|
| `UNet1d`        | `ConditionalUnet1D` of Diffusion Policy and lerobot: lists of lists of modules  |
| `Decoder`       | `TransformerForDiffusion`: torch's decoder layers on time and observation       |
| `Encoder`       | the same without a memory: torch's encoder layers on joined tokens              |
| `JointDiT`      | X-VLA's `SoftPromptedTransformer`: `qkv`, joined tokens, no gates               |
| `AdaDiT`        | lerobot's multi-task DiT: `nn.MultiheadAttention` under adaLN gates             |
| `CrossDiT`      | RDT: `qkv`, then cross-attention with `q` and `kv`, then an MLP                 |
| `AlternateDiT`  | GR00T's `DiT`: one attention a block, in turns on the observation and on itself |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

WIDTH, HORIZON, ACTIONS, OBSERVED = 16, 8, 2, 5


class Embedding(nn.Module):
    """Of the timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, WIDTH), nn.Mish(), nn.Linear(WIDTH, WIDTH))

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        return self.net(timestep.reshape(-1, 1).float() / 100)


class Residual1d(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.out_channels = out
        self.conv1, self.conv2 = nn.Conv1d(into, out, 3, padding=1), nn.Conv1d(out, out, 3, padding=1)
        self.cond_encoder = nn.Linear(2 * WIDTH, out)
        self.residual_conv = nn.Conv1d(into, out, 1) if into != out else nn.Identity()

    def forward(self, x: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        y = functional.mish(self.conv1(x)) + self.cond_encoder(cond)[..., None]
        return functional.mish(self.conv2(y)) + self.residual_conv(x)


class UNet1d(nn.Module):
    """Three levels; as in the published class, the skip of the outermost is never read."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 16)) -> None:
        super().__init__()
        self.time, self.see = Embedding(), nn.Linear(OBSERVED, WIDTH)
        pairs = list(zip((ACTIONS, *widths), widths, strict=False))
        self.down_modules = nn.ModuleList(
            nn.ModuleList(
                [
                    Residual1d(a, b),
                    Residual1d(b, b),
                    nn.Conv1d(b, b, 3, 2, 1) if i < len(pairs) - 1 else nn.Identity(),
                ]
            )
            for i, (a, b) in enumerate(pairs)
        )
        self.mid_modules = nn.ModuleList(Residual1d(widths[-1], widths[-1]) for _ in range(2))
        self.up_modules = nn.ModuleList(
            nn.ModuleList([Residual1d(2 * b, a), Residual1d(a, a), nn.ConvTranspose1d(a, a, 4, 2, 1)])
            for a, b in reversed(pairs[1:])
        )
        self.final_conv = nn.Conv1d(widths[0], ACTIONS, 1)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, global_cond: torch.Tensor) -> torch.Tensor:
        y, cond = x.mT, torch.cat([self.time(timestep).expand(len(x), -1), self.see(global_cond)], -1)
        skips = []
        for first, second, down in self.down_modules:
            y = second(first(y, cond), cond)
            skips.append(y)
            y = down(y)
        for module in self.mid_modules:
            y = module(y, cond)
        for first, second, up in self.up_modules:
            y = up(second(first(torch.cat((y, skips.pop()), 1), cond), cond))
        return self.final_conv(y).mT


class Tokens(nn.Module):
    """Embeds actions, timestep and observation."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(ACTIONS, WIDTH), nn.Linear(WIDTH, ACTIONS)
        self.time, self.see = Embedding(), nn.Linear(OBSERVED, WIDTH)

    def memory(self, timestep: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        time = self.time(timestep).expand(len(cond), -1)
        return torch.stack([time, self.see(cond)], 1)


class Decoder(Tokens):
    """Cond encoder as `nn.TransformerEncoder`, or an MLP where it has no layers; the mask is causal."""

    def __init__(self, norm_first: bool = True, cond_layers: int = 0, layers: int = 3) -> None:
        super().__init__()
        kind = {"batch_first": True, "norm_first": norm_first, "activation": "gelu", "dropout": 0.1}
        self.encoder: nn.Module = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.Mish(), nn.Linear(4 * WIDTH, WIDTH)
        )
        if cond_layers:
            self.encoder = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(WIDTH, 2, 32, **kind), cond_layers, enable_nested_tensor=False
            )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, 2, 32, **kind), layers)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(HORIZON))

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        memory = self.encoder(self.memory(timestep, cond))
        return self.leave(self.decoder(tgt=self.enter(sample), memory=memory, tgt_mask=self.mask))


class Encoder(Tokens):
    """Joined tokens in torch's encoder layers: one function of C++ each, where `batch_first`."""

    def __init__(self, batch_first: bool = True, layers: int = 3) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 32, batch_first=batch_first, norm_first=True, activation="gelu", dropout=0.0
        )
        self.batch_first = batch_first
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([self.memory(timestep, cond), self.enter(sample)], 1)
        tokens = (
            self.encoder(tokens) if self.batch_first else self.encoder(tokens.transpose(0, 1)).transpose(0, 1)
        )
        return self.leave(tokens[:, 2:])


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.proj = (nn.Linear(WIDTH, n * WIDTH) for n in (1, 2, 1))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        q = self.q(x).unflatten(-1, (2, -1)).transpose(1, 2)
        k, v = self.kv(c).unflatten(-1, (2, 2, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Of `JointDiT`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = SelfAttention(), Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class JointDiT(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock() for _ in range(3))

    def forward(
        self, vlm_features: torch.Tensor, action_with_noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        x = torch.cat([self.enter(action_with_noise), self.memory(t, vlm_features)], 1)
        for block in self.blocks:
            x = block(x)
        return self.leave(x[:, :HORIZON])


class AdaBlock(nn.Module):
    """Of `AdaDiT`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, elementwise_affine=False) for _ in range(2))
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        a, b, g, c, d, h = self.adaLN_modulation(features)[:, None].chunk(6, -1)
        y = self.norm1(x) * (1 + b) + a
        x = x + g * self.attn(y, y, y)[0]
        return x + h * self.mlp(self.norm2(x) * (1 + d) + c)


class AdaDiT(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(AdaBlock() for _ in range(3))

    def forward(
        self, x: torch.Tensor, timestep: torch.Tensor, conditioning_vec: torch.Tensor
    ) -> torch.Tensor:
        features = self.memory(timestep, conditioning_vec).sum(1)
        x = self.enter(x)
        for block in self.transformer_blocks:
            x = block(x, features)
        return self.leave(x)


class RDTBlock(nn.Module):
    """Of `CrossDiT`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attn, self.cross_attn, self.ffn = SelfAttention(), CrossAttention(), Mlp()

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.cross_attn(self.norm2(x), c)
        return x + self.ffn(self.norm3(x))


class CrossDiT(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RDTBlock() for _ in range(3))

    def forward(self, x: torch.Tensor, t: torch.Tensor, lang_c: torch.Tensor) -> torch.Tensor:
        memory, x = self.memory(t, lang_c), self.enter(x)
        for block in self.blocks:
            x = block(x, memory)
        return self.leave(x)


class ToAttention(nn.Module):
    """Keys and values are of the same width from either source."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        c = x if context is None else context
        return self.to_out(functional.scaled_dot_product_attention(self.to_q(x), self.to_k(c), self.to_v(c)))


class BasicTransformerBlock(nn.Module):
    """Of `AlternateDiT`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn1, self.ff = ToAttention(), Mlp()

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor:
        x = hidden_states + self.attn1(self.norm1(hidden_states), encoder_hidden_states)
        return x + self.ff(self.norm3(x))


class AlternateDiT(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(BasicTransformerBlock() for _ in range(4))

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        memory, x = self.memory(timestep, encoder_hidden_states), self.enter(hidden_states)
        for i, block in enumerate(self.transformer_blocks):
            x = block(x, None if i % 2 else memory)
        return self.leave(x)


# Name -> how it is made, and the names of its sites beside blocks.
TRANSFORMERS: dict[str, tuple[Any, list[str]]] = {
    "decoder": (Decoder, [f"{kind}:{i}" for i in range(3) for kind in ("attn", "cross_attn", "mlp")]),
    "decoder, norms behind": (
        lambda: Decoder(norm_first=False, cond_layers=3),
        [f"{kind}:{i}" for i in range(3) for kind in ("attn", "cross_attn", "mlp")],
    ),
    "encoder": (Encoder, []),
    "encoder, sequence first": (
        lambda: Encoder(batch_first=False),
        [f"{kind}:{i}" for i in range(3) for kind in ("attn", "mlp")],
    ),
    "joint": (JointDiT, [f"{kind}:{i}" for i in range(3) for kind in ("attn", "mlp")]),
    "ada": (AdaDiT, [f"{kind}:{i}" for i in range(3) for kind in ("attn", "mlp")]),
    "cross": (CrossDiT, [f"{kind}:{i}" for i in range(3) for kind in ("attn", "cross_attn", "mlp")]),
    "alternate": (
        AlternateDiT,
        ["cross_attn:0", "mlp:0", "attn:1", "mlp:1", "cross_attn:2", "mlp:2", "attn:3", "mlp:3"],
    ),
}


def made(make: Any) -> Any:
    torch.manual_seed(0)
    return make().eval()


def observation(seed: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, OBSERVED, generator=torch.Generator().manual_seed(seed))


def noise(seed: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, HORIZON, ACTIONS, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def euler(
    net: Any, cond: torch.Tensor, times: Iterable[float] = range(10, 0, -1), seed: int = 0
) -> torch.Tensor:
    """A flow's hand-written loop."""
    x = noise(seed, len(cond))
    for t in times:
        time = torch.full((len(x),), float(t))
        if isinstance(net, JointDiT):
            out = net(vlm_features=cond, action_with_noise=x, t=time)
        else:
            out = net(x, time, cond)
        x = x - 0.1 * out
    return x
