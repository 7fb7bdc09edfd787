"""Tiny bidirectional language models with random weights: installed families, and shapes of remote code."""

from types import SimpleNamespace
from typing import Any

import torch
import transformers as T
from torch import nn
from torch.nn import functional as F

VOCABULARY, MASK = 60, 59
BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
# name -> (auto class, more of the config). Masked models are bidirectional; causal classes are made so.
CAUSAL = T.AutoModelForCausalLM
MASKED = T.AutoModelForMaskedLM
SIZED = {"head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (CAUSAL, {}),
    "qwen2": (CAUSAL, {}),
    "qwen3": (CAUSAL, SIZED),
    "mistral": (CAUSAL, {}),
    "olmo2": (CAUSAL, {}),
    "gemma": (CAUSAL, SIZED),
    "gemma3_text": (CAUSAL, {**SIZED, "use_bidirectional_attention": True}),
    "phi3": (CAUSAL, {}),
    "smollm3": (CAUSAL, {}),
    "glm4": (CAUSAL, SIZED),
    "ernie4_5": (CAUSAL, {}),
    "starcoder2": (CAUSAL, {}),
    "granite": (CAUSAL, {}),
    # Two attention calls a layer.
    "diffllama": (CAUSAL, {}),
    "eurobert": (MASKED, {"mask_token_id": MASK}),
    "bert": (MASKED, {}),
    "modernbert": (MASKED, {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}),
}


def family(name: str, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """A model of an installed family; weights are wide enough for every token to matter."""
    auto, options = FAMILIES[name]
    config = T.AutoConfig.for_model(name, **{**BASE, **options, **more})
    config.is_causal = False
    config.mask_token_id = MASK
    torch.manual_seed(3)
    model = auto.from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    return model.to(dtype)


def llama(kv: int = 2, **more: Any) -> Any:
    """The tests' usual model: predictions of random weights that differ from token to token."""
    torch.manual_seed(3)
    options = {**BASE, "num_key_value_heads": kv, "initializer_range": 0.3, **more}
    extra: dict[str, Any] = {"is_causal": False, "mask_token_id": MASK}
    return T.LlamaForCausalLM(T.LlamaConfig(**{**extra, **options})).eval()


def prompts(rows: int = 4, length: int = 8) -> torch.Tensor:
    """Ids int64 `[rows, length]` without masks and pads."""
    return torch.randint(1, MASK - 1, (rows, length), generator=torch.Generator().manual_seed(1))


class BlockCausal(T.LlamaForCausalLM):
    """A model that makes a block-causal mask by itself, as LLaDA2 and SDAR may."""

    size = 8

    def forward(self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, **kw: Any):  # type: ignore[override]
        block = torch.arange(input_ids.shape[1]) // self.size
        mask = (block[:, None] >= block[None])[None, None].expand(len(input_ids), -1, -1, -1)
        return super().forward(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, **kw)


def block_causal() -> BlockCausal:
    """It with random weights."""
    torch.manual_seed(3)
    extra: dict[str, Any] = {"is_causal": False, "mask_token_id": MASK}
    return BlockCausal(T.LlamaConfig(**{**BASE, **extra, "initializer_range": 0.3})).eval()


def turned(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


def angles(positions: torch.Tensor, size: int) -> torch.Tensor:
    inverse = 1 / 10000 ** (torch.arange(0, size, 2).float() / size)
    half = positions[..., None].float() * inverse
    return torch.cat([half, half], -1)


class ImpliedRotary(nn.Module):
    """LLaDA's: queries and keys of positions 0, 1, ..., the queries the last of them."""

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angle = angles(torch.arange(k.shape[-2]), k.shape[-1])
        turn = angle[-q.shape[-2] :]
        return q * turn.cos() + turned(q) * turn.sin(), k * angle.cos() + turned(k) * angle.sin()


class LLaDABlock(nn.Module):
    def __init__(self, heads: int, kv: int, width: int) -> None:
        super().__init__()
        self.heads, self.kv, size = heads, kv, width // heads
        self.norm = nn.RMSNorm(width)
        self.q_proj, self.attn_out = nn.Linear(width, width), nn.Linear(width, width)
        self.k_proj, self.v_proj = nn.Linear(width, kv * size), nn.Linear(width, kv * size)
        self.ff = nn.Sequential(
            nn.RMSNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )
        self.rotary_emb = ImpliedRotary()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, K, _ = x.shape
        y = self.norm(x)
        q = self.q_proj(y).view(B, K, self.heads, -1).transpose(1, 2)
        k, v = (f(y).view(B, K, self.kv, -1).transpose(1, 2) for f in (self.k_proj, self.v_proj))
        q, k = self.rotary_emb(q, k)
        k, v = (t.repeat_interleave(self.heads // self.kv, 1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=False)
        x = x + self.attn_out(out.transpose(1, 2).reshape(B, K, -1))
        return x + self.ff(x)


class LLaDAShaped(nn.Module):
    """No position_ids, no cache class, no attention interface; heads are repeated before sdpa."""

    def __init__(self, kv: int = 4) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.wte = nn.Embedding(VOCABULARY, 64)
        self.blocks = nn.ModuleList(LLaDABlock(4, kv, 64) for _ in range(3))
        self.ff_out = nn.Linear(64, VOCABULARY)
        self.config = SimpleNamespace(vocab_size=VOCABULARY, mask_token_id=MASK, model_type="llada")
        self.eval()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: Any = None, past_key_values: Any = None
    ) -> Any:
        x = self.wte(input_ids)
        for block in self.blocks:
            x = block(x)
        return SimpleNamespace(logits=self.ff_out(x))


class DreamAttention(nn.Module):
    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer_idx = layer
        self.q_proj, self.o_proj = nn.Linear(64, 64), nn.Linear(64, 64)
        self.k_proj, self.v_proj = nn.Linear(64, 32), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor, mask: Any, cache: Any, angle: torch.Tensor) -> torch.Tensor:
        B, K, _ = x.shape
        q = self.q_proj(x).view(B, K, 4, 16).transpose(1, 2)
        k, v = (f(x).view(B, K, 2, 16).transpose(1, 2) for f in (self.k_proj, self.v_proj))
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        q, k = q * cos + turned(q) * sin, k * cos + turned(k) * sin
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx, {"sin": sin, "cos": cos})
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        mask = mask if isinstance(mask, torch.Tensor) else None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=False)
        return x + self.o_proj(out.transpose(1, 2).reshape(B, K, 64))


class DreamShaped(nn.Module):
    """A cache whose `update` is called, position_ids, a mask "full" or 4-D; logits are shifted."""

    def __init__(self, model_type: str = "dream") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(VOCABULARY, 64)
        self.layers = nn.ModuleList(DreamAttention(i) for i in range(3))
        self.lm_head = nn.Linear(64, VOCABULARY)
        self.config = SimpleNamespace(vocab_size=VOCABULARY, mask_token_id=MASK, model_type=model_type)
        self.eval()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: Any = "full",
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: Any = None,
    ) -> Any:
        x = self.embed(input_ids)
        if position_ids is None:
            position_ids = torch.arange(x.shape[1])[None]
        for layer in self.layers:
            x = layer(x, attention_mask, past_key_values, angles(position_ids, 16))
        return SimpleNamespace(logits=self.lm_head(x))


class LLaDA2Attention(nn.Module):
    """Fused projections, norms of each head, a quarter of it turned, transformers' attention interface."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.num_key_value_groups = config, layer, 2
        self.query_key_value, self.dense = nn.Linear(64, 128), nn.Linear(64, 64)
        self.query_layernorm, self.key_layernorm = nn.RMSNorm(16), nn.RMSNorm(16)
        self.scaling, self.is_causal = 0.25, False

    def forward(self, hidden_states, attention_mask, past_key_value, position_embeddings):
        B, K, _ = hidden_states.shape
        heads = self.query_key_value(hidden_states).view(B, K, 8, 16).transpose(1, 2)
        q, k, v = heads.split([4, 2, 2], 1)
        cos, sin = (part[:, None] for part in position_embeddings)
        q, k = (
            torch.cat([x[..., :4] * cos + turned(x[..., :4]) * sin, x[..., 4:]], -1)
            for x in (self.query_layernorm(q), self.key_layernorm(k))
        )
        if past_key_value is not None:
            k, v = past_key_value.update(k, v, self.layer_idx, {"sin": sin, "cos": cos})
        attend = T.modeling_utils.ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        out, weights = attend(self, q, k, v, attention_mask, dropout=0.0, scaling=self.scaling)
        return self.dense(out.reshape(B, K, 64)), weights, past_key_value


class LLaDA2Experts(nn.Module):
    """Each token goes to the likelier of two experts, and to one that is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 2)
        self.experts = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
        self.shared_experts = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chances = self.gate(x).softmax(-1)
        best = chances.argmax(-1, keepdim=True)
        chosen = sum(
            expert(x) * chances[..., i : i + 1] * (best == i) for i, expert in enumerate(self.experts)
        )
        return chosen + self.shared_experts(x)


class LLaDA2Layer(nn.Module):
    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(64), nn.RMSNorm(64)
        self.attention = LLaDA2Attention(config, layer)
        self.mlp = LLaDA2Experts()

    def forward(self, hidden_states, attention_mask=None, past_key_value=None, position_embeddings=None):
        out, *_ = self.attention(
            self.input_layernorm(hidden_states), attention_mask, past_key_value, position_embeddings
        )
        hidden_states = hidden_states + out
        return (hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)),)


class LLaDA2Shaped(nn.Module):
    """A mask of ones is none, any zero in it makes attention causal, and 4-D masks pass, as in LLaDA2.

    Args:
        size: where given, a block-causal mask of such blocks is made in place of none.
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.size = size
        options = {"vocab_size": VOCABULARY, "mask_token_id": MASK, "pad_token_id": 0}
        self.config = T.PretrainedConfig(attn_implementation="sdpa", **options)
        self.word_embeddings = nn.Embedding(VOCABULARY, 64)
        self.layers = nn.ModuleList(LLaDA2Layer(self.config, i) for i in range(3))
        self.norm, self.lm_head = nn.RMSNorm(64), nn.Linear(64, VOCABULARY)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, **_):
        K = input_ids.shape[1]
        if position_ids is None:
            position_ids = torch.arange(K)[None]
        if attention_mask is not None and attention_mask.ndim == 2:
            causal = torch.ones(K, K).tril().bool() & (attention_mask[:, None, None] != 0)
            attention_mask = None if bool((attention_mask != 0).all()) else causal
        if attention_mask is None and self.size:
            block = torch.arange(K) // self.size
            attention_mask = (block[:, None] >= block)[None, None]
        angle = angles(position_ids, 4)
        x = self.word_embeddings(input_ids)
        for layer in self.layers:
            (x,) = layer(
                x,
                attention_mask=attention_mask,
                past_key_value=past_key_values,
                position_embeddings=(angle.cos(), angle.sin()),
            )
        return SimpleNamespace(logits=self.lm_head(self.norm(x)))
