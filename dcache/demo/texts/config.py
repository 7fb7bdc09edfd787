"""What both small language models share: the config and the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcache.demo.data import folder

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


def load(name: str) -> Any:
    """A trained model by its task's name, float32, on the CPU."""
    import torch
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(folder("texts") / name, dtype=torch.float32)
    return model.eval()
