"""Train `frechet-shapes`, which reads attributes from pictures and gives a Frechet distance its features."""

import argparse

import torch
from common import classification_loss, drawn, log, rate, roughen, save_half, to_tensor
from torch import Tensor

from dcache.demo.judges import frechet_shapes_weights
from dcache.demo.judges.frechet_shapes import FrechetShapes
from dcache.demo.pictures import ATTRIBUTES


def loss_of(reader: FrechetShapes, x: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, summed over the attributes; x in [-1, 1], labels (N, 6)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = reader.logits(roughen(x / 2 + 0.5))
    return classification_loss(logits, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1600)
    args = parser.parse_args()
    torch.manual_seed(0)
    captions, images = drawn(20480, seed=10, unseen=None)
    test_captions, test_images = drawn(2048, seed=11, unseen=None)
    labels, test_labels = (torch.tensor([c.labels for c in part]) for part in (captions, test_captions))

    reader = FrechetShapes().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3, weight_decay=0.05, fused=True)
    for step in range(args.steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * rate(step, args.steps, warmup=50)
        rows = torch.randint(len(images), (128,))
        loss = loss_of(reader, to_tensor(images[rows.numpy()]), labels[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 200 == 0:
            right = torch.from_numpy(reader.eval().read(test_images)) == test_labels
            each = dict(
                zip(ATTRIBUTES, right.float().mean(0).mul(100).round(decimals=2).tolist(), strict=True)
            )
            whole = right.all(1).float().mean().item()
            log(f"reader {step + 1}/{args.steps} loss {loss.item():.3f} all right {whole:.2%}, {each}")
            save_half(reader, frechet_shapes_weights())
            reader.train()


if __name__ == "__main__":
    main()
