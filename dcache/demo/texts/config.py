"""The config that both small language models share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaConfig


def text_config(mask: int, **given: Any) -> LlamaConfig:
    """A bidirectional Llama of three layers and four query heads, without tied embeddings and special tokens.

    Args:
        mask: id of the mask token.
        **given: further fields, which win.
    """
    from transformers import LlamaConfig

    shared = {
        "is_causal": False,
        "mask_token_id": mask,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return LlamaConfig(**{**shared, **given})
