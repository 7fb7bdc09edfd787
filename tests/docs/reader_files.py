"""Files that a page's reader has: prompts, numbers of a model, schedules, observations, folders of models."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from dcache.demo import data
from dcache.lm_kv.scoring.trained import FORMAT
from dcache.schedule import Plan, Schedule
from tests.importers import published

# Two folders of language models that commands read in the place of MODEL.
MODEL, MASKED_MODEL = "model", "masked-model"
TEXT = "The secret code of is and a the garden street window remember question answer : , . 0 1 2"


def shipped(name: str) -> Callable[[Path], Any]:
    """A copy of a file of dcache-demo: FOLDER/FILE."""
    folder, _, file = name.partition("/")
    return lambda path: shutil.copyfile(data.folder(folder) / file, path)


def text(content: str) -> Callable[[Path], Any]:
    """A text."""
    return lambda path: path.write_text(content, encoding="utf-8")


def number_of(content: Callable[[], Any]) -> Callable[[Path], Any]:
    """JSON."""
    return lambda path: path.write_text(json.dumps(content()), encoding="utf-8")


def trunk(path: Path) -> None:
    """A schedule of one site with reuse, as other engines run it: the second and every other one of 20."""
    row = tuple(t % 2 == 0 or t == 1 for t in range(20))
    plan = Plan({"*": {"trunk": row}}, codec="delta", predictor="reuse", model="PixArtTransformer2DModel")
    Schedule(20, {"transformer": plan}, method="interval").save(path)


def scorer(path: Path) -> None:
    """A trained scorer of random weights for the tiny language model."""
    tensors = {}
    for layer in range(2):
        tensors[f"{layer}.0.weight"], tensors[f"{layer}.1.weight"] = torch.randn(8, 64), torch.randn(2, 8)
    save_file(tensors, path, metadata={"format": FORMAT, "reads": "hidden"})


ROBOT = """
import torch
from diffusers import DDIMScheduler
from torch import nn

from dcache.policy import Sampled


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.see = nn.Linear(7, 256)
        self.blocks = nn.Sequential(*(nn.Linear(256, 256) for _ in range(100)))
        self.leave = nn.Linear(256, 2)

    def forward(self, sample, timestep, observation):
        seen = torch.cat([sample, observation[:, None].expand(-1, sample.shape[1], -1)], -1)
        return self.leave(self.blocks(self.see(seen)))


def make():
    torch.manual_seed(0)
    sampler = DDIMScheduler(100, clip_sample=False)
    return Sampled(Denoiser().eval(), sampler, (8, 2), 10, lambda seen: seen["state"])
"""


def observations(path: Path) -> None:
    """Four states of five numbers."""
    np.savez(path, state=np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32))


def language_model(path: Path) -> None:
    """A folder of a Llama of two layers, with a tokenizer of single words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *TEXT.split()]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, pad_token_id=0,
        max_position_embeddings=4096,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)


def masked_model(path: Path) -> None:
    """A folder of a BERT of one layer, with a tokenizer of single characters."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=30, **small)).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)


PROMPTS = text("a red circle\na blue square\na green star\n")
SCHEDULE = shipped("schedules/guided-3x.schedule.json")
PROFILE = shipped("image/demo.profile.safetensors")
COEFFICIENTS = shipped("image/coefficients.json")
# Page -> files that its reader has, by name.
FILES: dict[str, dict[str, Callable[[Path], Any]]] = {
    "README.md": {"prompts.txt": PROMPTS, "drawbench.txt": PROMPTS, "my.schedule.json": SCHEDULE},
    "docs/corrections.md": {"profile.safetensors": PROFILE},
    "docs/demo.md": {"my.schedule.json": shipped("schedules/plain-3x.schedule.json")},
    "docs/diffusion_lm/measure.md": {MASKED_MODEL: masked_model},
    "docs/eval.md": {"drawbench.txt": PROMPTS, "my.schedule.json": SCHEDULE},
    "docs/hub.md": {"flux-fast.schedule.json": SCHEDULE},
    "docs/import.md": {
        "ours_fast.json": number_of(lambda: published.ecad(random.Random(0), 20, 12)),
        "my.schedule.json": trunk,
        "request.json": number_of(lambda: published.request(20)),
    },
    "docs/lm_kv/measure.md": {MODEL: language_model},
    "docs/lm_kv/policies/trained_scorer.md": {"scorer.safetensors": scorer},
    **{
        f"docs/methods/{method}.md": {"my.profile.safetensors": PROFILE}
        for method in ("bac", "cachequant", "ertacache", "fitted", "profilingdit")
    },
    "docs/methods/magcache.md": {"my.ratios.json": COEFFICIENTS},
    "docs/methods/sencache.md": {"FILE.json": COEFFICIENTS},
    "docs/methods/smoothcache.md": {"my.tables.json": COEFFICIENTS},
    "docs/methods/teacache.md": {"my.coefficients.json": COEFFICIENTS},
    "docs/methods/yume.md": {"FILE.safetensors": PROFILE},
    "docs/moving.md": {"my_project": Path.mkdir},
    "docs/policy.md": {"robot.py": text(ROBOT), "seen.npz": observations},
    "docs/studio.md": {"my.schedule.json": SCHEDULE},
    "docs/tutorials/find-a-schedule.md": {"prompts.txt": PROMPTS},
    "docs/tutorials/measure.md": {"drawbench.txt": PROMPTS, "my.schedule.json": SCHEDULE},
}


def put(page: str, folder: Path) -> None:
    """Put the reader's files of a page into a folder."""
    for name, make in FILES.get(page, {}).items():
        make(folder / name)
