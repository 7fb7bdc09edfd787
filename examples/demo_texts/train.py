"""Train a demo text model, some minutes on one core: python train.py mirror|acrostic [--steps N]."""

import argparse
import math
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from dcache.demo.data import folder
from dcache.demo.texts import acrostic, mirror

RATE, WARMUP = 3e-3, 50
# (steps, rows, floor of the rate's cosine) of each task.
RECIPES = {"mirror": (2000, 96, 0.05), "acrostic": (3000, 48, 0.03)}
# A mirror model stops when this many checks in all were right.
GOOD_CHECKS, RIGHT = 3, 0.999


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, task, generator: torch.Generator) -> torch.Tensor:
    """Cross entropy of the masked tokens; each row masks a share of its answer that is drawn first."""
    share = torch.rand(len(ids), 1, generator=generator).clamp(0.05, 1)
    masked = torch.rand(ids.shape, generator=generator) < share
    masked[:, : task.PROMPT] = False
    logits = model(torch.where(masked, task.MASK, ids)).logits
    return F.cross_entropy(logits[masked], ids[masked])


@torch.no_grad()
def second_half(model: LlamaForCausalLM, generator: torch.Generator) -> float:
    """Share of the second half's digits that are right where the first half is given."""
    ids = mirror.texts(200, generator)
    hidden = ids.clone()
    hidden[:, 1 + mirror.HALF :] = mirror.MASK
    digits = model(hidden).logits[:, 1 + mirror.HALF :, : mirror.DIGITS].argmax(-1)
    return (digits == ids[:, 1 + mirror.HALF :]).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=folder("texts"))
    args = parser.parse_args()
    task = {"mirror": mirror, "acrostic": acrostic}[args.task]
    steps, rows, floor = RECIPES[args.task]
    steps = args.steps or steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, generator = LlamaForCausalLM(task.config()), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    start, good = time.process_time(), 0
    for step in range(steps):
        decay = max(floor, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / WARMUP) * decay
        loss = loss_of(model, task.texts(rows, generator), task, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            right = second_half(model, generator) if task is mirror else 0.0
            print(step + 1, f"loss {loss.item():.3f}, second half {right:.4f},", end=" ")
            print(f"{time.process_time() - start:.0f} CPU seconds", flush=True)
            good += right >= RIGHT
            if good >= GOOD_CHECKS:
                break
    model.half().save_pretrained(args.out / args.task)


if __name__ == "__main__":
    main()
