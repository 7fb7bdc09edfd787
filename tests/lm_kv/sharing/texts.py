"""Texts of several rows that begin alike, and the questions of the recall model."""

from functools import cache
from typing import Any

import torch

from dcache import lm_kv
from dcache.demo.recall.task import model_path, recall_batch

CONTEXT, PAIRS, TEXTS = 240, 32, 24
PREFIX, SUFFIX, PADS = 20, 6, 3


def ids(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


def batches(rows: int = 3) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A prefix `[1, 20]`, rows that go on behind it, and the same texts with their pads in front.

    The first row's suffix has three pads.
    """
    prefix, suffix = ids(1, PREFIX), ids(rows, SUFFIX, 2)
    mask = torch.ones(rows, PREFIX + SUFFIX, dtype=torch.long)
    suffix[0, :PADS] = mask[0, PREFIX : PREFIX + PADS] = 0
    behind = torch.cat([prefix.expand(rows, -1), suffix], 1)
    plain, order = behind.clone(), torch.ones_like(mask)
    plain[0] = torch.cat([torch.zeros(PADS, dtype=torch.long), prefix[0], suffix[0, PADS:]])
    order[0, :PADS] = 0
    return (
        prefix,
        {"input_ids": behind, "attention_mask": mask},
        {"input_ids": plain, "attention_mask": order},
    )


@torch.no_grad()
def read(model: Any, text: torch.Tensor, policy: Any = "keydiff", **options: Any) -> lm_kv.KVCache:
    """A cache that has read a text, all of it by default."""
    filled = lm_kv.KVCache(model, policy, **({"budget": 1.0} | options))
    model(text, past_key_values=filled)
    return filled


@cache
def recall_model() -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(model_path()).eval()


def questions(texts: int = TEXTS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contexts `[texts, 241]`, keys that are asked for and their values, both `[texts, 32]`."""
    batch = recall_batch(CONTEXT, PAIRS, texts, torch.Generator().manual_seed(7))
    asked = batch[:, CONTEXT + 1 :]
    return batch[:, : CONTEXT + 1], asked[:, 0::2], asked[:, 1::2]
