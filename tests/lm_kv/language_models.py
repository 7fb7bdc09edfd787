"""Tiny language models of real classes, with random weights, and a padded batch for them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as T

from dcache import lm_kv

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
GROUPED = {**BASE, "num_key_value_heads": 2}
SIZED = {**GROUPED, "head_dim": 16}
FOUR = {**SIZED, "num_hidden_layers": 4}
SLIDING = {"sliding_window": 16}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
PLAIN: dict[str, Any] = {"vocab_size": 97, "eos_token_id": None, "pad_token_id": 0}


def rope(kind: str, **more: float) -> dict[str, Any]:
    return {**GROUPED, "rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **more}}


LLAMA3 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256
)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=512)
OPT = {**PLAIN, "hidden_size": 64, "num_hidden_layers": 3, "ffn_dim": 96, "num_attention_heads": 4}

# The fast lane's: plain, norms of heads, soft cap, attention sinks, chunked and NoPE layers, learned
# positions with fused projections, linear attention, partial rotation.
FAST: dict[str, Callable[[], Any]] = {
    "llama": lambda: T.LlamaConfig(**GROUPED),
    "qwen3": lambda: T.Qwen3Config(**SIZED),
    "gemma2": lambda: T.Gemma2Config(
        **SIZED, **SLIDING, query_pre_attn_scalar=16, attn_logit_softcapping=5.0
    ),
    "gpt_oss": lambda: T.GptOssConfig(**SIZED, **SLIDING, num_local_experts=4, num_experts_per_tok=2),
    "llama4": lambda: T.Llama4TextConfig(**FOUR, num_local_experts=2, attention_chunk_size=16),
    "gpt2": lambda: T.GPT2Config(**PLAIN, n_embd=64, n_layer=3, n_head=4, bos_token_id=1),
    "qwen3_next": lambda: T.Qwen3NextConfig(**FOUR, **LINEAR, **EXPERTS, shared_expert_intermediate_size=32),
    "phi": lambda: T.PhiConfig(**GROUPED),
}
SLOW: dict[str, Callable[[], Any]] = {
    "llama_mha": lambda: T.LlamaConfig(**BASE),
    "llama3_rope": lambda: T.LlamaConfig(**LLAMA3),
    "yarn": lambda: T.LlamaConfig(**YARN),
    "qwen2": lambda: T.Qwen2Config(**GROUPED),
    "qwen2_sw": lambda: T.Qwen2Config(**GROUPED, **SLIDING, use_sliding_window=True, max_window_layers=2),
    "qwen3_moe": lambda: T.Qwen3MoeConfig(**SIZED, **EXPERTS),
    "mistral": lambda: T.MistralConfig(**GROUPED, sliding_window=None),
    "mixtral": lambda: T.MixtralConfig(**GROUPED, num_local_experts=2),
    "gemma3": lambda: T.Gemma3TextConfig(
        **SIZED, **SLIDING, sliding_window_pattern=2, query_pre_attn_scalar=16
    ),
    "gemma4": lambda: T.Gemma4TextConfig(**SIZED, **SLIDING),
    "phi3": lambda: T.Phi3Config(**GROUPED),
    "gpt_neox": lambda: T.GPTNeoXConfig(**BASE),
    "opt": lambda: T.OPTConfig(**OPT, word_embed_proj_dim=64),
    "cohere2": lambda: T.Cohere2Config(**GROUPED, **SLIDING, sliding_window_pattern=2),
    "glm4": lambda: T.Glm4Config(**SIZED),
    "qwen3_5": lambda: T.Qwen3_5TextConfig(**FOUR, **LINEAR),
    "smollm3": lambda: T.SmolLM3Config(**{**GROUPED, "num_hidden_layers": 4}),
    "olmo2": lambda: T.Olmo2Config(**GROUPED),
    "starcoder2": lambda: T.Starcoder2Config(**GROUPED, sliding_window=None),
    "stablelm": lambda: T.StableLmConfig(**GROUPED),
    "lfm2": lambda: T.Lfm2Config(
        **{**GROUPED, "num_hidden_layers": 4},
        layer_types=["conv", "full_attention", "conv", "full_attention"],
    ),
    "granite": lambda: T.GraniteConfig(**GROUPED),
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "falcon": (
        lambda: T.FalconConfig(**PLAIN, hidden_size=64, num_hidden_layers=3, num_attention_heads=4),
        "does not call its attention through transformers' attention interface",
    ),
    "mistral_sw": (lambda: T.MistralConfig(**GROUPED, **SLIDING), "has no layer with full attention"),
    "falcon_h1": (
        lambda: T.FalconH1Config(
            **GROUPED, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16, mamba_n_groups=1
        ),
        "has no layer with full attention",
    ),
    "deepseek_v3": (
        lambda: T.DeepseekV3Config(
            **BASE, num_key_value_heads=4, kv_lora_rank=16, q_lora_rank=16, qk_nope_head_dim=16,
            qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
            topk_group=1, moe_intermediate_size=32, first_k_dense_replace=3,
        ),
        "has latent attention",
    ),
}  # fmt: skip
# SDPA has neither the soft cap of one nor the attention sinks of the other.
EAGER = ("gemma2", "gpt_oss")


def language_model(config: Any, attention: str = "sdpa") -> Any:
    """A model of this config; weights so large that evicting a token moves the logits by whole units."""
    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            elif "sinks" in name:
                parameter.normal_(0, 1.0)
    return model.requires_grad_(False)


def family(name: str) -> Any:
    """The tiny model of a family."""
    return language_model({**FAST, **SLOW}[name](), "eager" if name in EAGER else "sdpa")


def llama(layers: int = 3, attention: str = "sdpa", **changed: Any) -> Any:
    """The usual one."""
    return language_model(T.LlamaConfig(**{**GROUPED, "num_hidden_layers": layers, **changed}), attention)


def batch(pads: int = 13, length: int = 40) -> dict[str, torch.Tensor]:
    """Two rows, the first one with pads in front."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 97, (2, length), generator=generator)
    mask = torch.ones_like(ids)
    ids[0, :pads] = mask[0, :pads] = 0
    return {"input_ids": ids, "attention_mask": mask}


def alone(inputs: dict[str, torch.Tensor], pads: int = 13) -> dict[str, torch.Tensor]:
    """The first row by itself, without its pads."""
    return {name: tensor[:1, pads:] for name, tensor in inputs.items()}


def generate(model: Any, inputs: dict[str, torch.Tensor], cache: Any, tokens: int = 12, **more: Any) -> Any:
    """Greedy: new ids `[B, tokens]` and logits `[B, tokens, vocabulary]`."""
    out = model.generate(
        **inputs,
        past_key_values=cache,
        max_new_tokens=tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **more,
    )
    return out.sequences[:, -tokens:], torch.stack(out.logits, 1)


def check_a_padded_row_is_as_alone(
    model: Any, inputs: dict[str, torch.Tensor], policy: Any, **more: Any
) -> tuple[torch.Tensor, list[lm_kv.KVCache]]:
    """The first row of `batch()` gives the logits that it gives without its pads and the other row.

    Args:
        model: in float64 where numbers are rounded: a sum in another order may move a float32 number across
            the middle between two levels.
        inputs: what `batch` gave.
        policy: of the caches.
        **more: other options of the caches.

    Returns:
        Logits of both rows, their cache and that of the row by itself.
    """
    caches = [lm_kv.KVCache(model, policy, **more) for _ in range(2)]
    _, both = generate(model, inputs, caches[0])
    _, single = generate(model, alone(inputs), caches[1])
    torch.testing.assert_close(both[:1], single, atol=1.5e-5, rtol=0)
    return both, caches


def prefilled(model: Any, policy: Any, inputs: dict[str, torch.Tensor], **more: Any) -> Any:
    """A cache that has seen the batch; positions count true tokens."""
    cache = lm_kv.KVCache(model, policy, **more)
    prefill(model, inputs, cache)
    return cache


@torch.no_grad()
def prefill(model: Any, inputs: dict[str, torch.Tensor], cache: Any) -> torch.Tensor:
    """Logits of the last token, `[B, vocabulary]`."""
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    return model(**inputs, position_ids=positions, past_key_values=cache).logits[:, -1]


def copies(cache: lm_kv.KVCache, model: Any, path: Path) -> list[lm_kv.KVCache]:
    """A fork, one that was saved and loaded, and one whose rows were exchanged twice."""
    twice = cache.fork()
    for _ in range(2):
        twice.reorder_cache(torch.tensor([1, 0]))
    return [cache.fork(), lm_kv.KVCache.load(cache.save(path), model), twice]


def check_they_go_on_alike(model: Any, caches: Sequence[lm_kv.KVCache], steps: int, atol: float) -> None:
    """After a prompt of `batch()`, all caches give the logits of the first one in further steps."""
    for step in range(steps):
        new = {"input_ids": torch.tensor([[5 + step], [6]]), "attention_mask": torch.ones(2, 41 + step)}
        new["position_ids"] = torch.tensor([[27], [40]]) + step
        first, *others = (model(**new, past_key_values=cache).logits for cache in caches)
        for logits in others:
            torch.testing.assert_close(logits, first, atol=atol, rtol=0)
