"""Train the recall model of dcache.demo, some minutes on one core: python tools/train_recall.py [SEED]."""

import sys

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from dcache.demo.recall import task

# (context, pairs, rows): the next stage begins when the running accuracy passes .96.
STAGES = [(16, 8, 64), (32, 12, 48), (64, 16, 32), (128, 24, 16), (240, 32, 8)]
STEPS, WARMUP, RATE = 3000, 50, 1e-3


def accuracy_and_loss(model: LlamaForCausalLM, ids: torch.Tensor, context: int) -> tuple[float, torch.Tensor]:
    """Share of right values, and the cross entropy of all values."""
    logits = model(ids, use_cache=False).logits[:, context + 1 : -1 : 2]
    values = ids[:, context + 2 :: 2]
    loss = F.cross_entropy(logits.flatten(0, 1), values.flatten())
    return (logits.argmax(-1) == values).float().mean().item(), loss


def main() -> None:
    """Train, then save."""
    torch.set_num_threads(1)
    torch.manual_seed(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    model = LlamaForCausalLM(task.recall_config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    stage, running = 0, 0.0
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARMUP) * (1 - step / STEPS)
        context, pairs, rows = STAGES[stage]
        accuracy, loss = accuracy_and_loss(model, task.recall_batch(context, pairs, rows), context)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = 0.95 * running + 0.05 * accuracy
        if step % 100 == 0:
            print(step, stage, f"{running:.3f}", flush=True)
        if running > 0.96:
            stage, running = stage + 1, 0.0
            if stage == len(STAGES):
                break
    with torch.no_grad():
        held_out = task.recall_batch(240, 32, 64, torch.Generator().manual_seed(123))
        print(f"step {step}, held out {accuracy_and_loss(model.eval(), held_out, 240)[0]:.3f}")
    model.save_pretrained(task.model_path())


if __name__ == "__main__":
    main()
