"""Train the classifier that tests/demo uses to read attributes from pictures, on drawn pictures only."""

import argparse
import sys
from pathlib import Path

import torch
from common import drawn, log, rate, to_tensor
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from dcache.demo.pictures import ATTRIBUTES

TESTS = Path(__file__).parents[2] / "tests" / "demo"
sys.path.append(str(TESTS))
from attribute_reader import WEIGHTS, AttributeReader  # noqa: E402  (it lives with the tests that need it)


def roughen(x: Tensor) -> Tensor:
    """Noise, a slight blur and a change of brightness, differing from picture to picture."""
    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = torch.lerp(x, blurred, torch.rand(len(x), 1, 1, 1) * 0.7)
    x = x * (0.95 + 0.1 * torch.rand(len(x), 1, 1, 1))
    return x + torch.rand(len(x), 1, 1, 1) * 0.05 * torch.randn_like(x)


def loss_of(reader: AttributeReader, x: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, summed over the attributes; x in [-1, 1], labels (N, 6)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = reader(roughen(x / 2 + 0.5))
    losses = [F.cross_entropy(*pair) for pair in zip(logits, labels.unbind(1), strict=True)]
    return torch.stack([loss.float() for loss in losses]).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1600)
    args = parser.parse_args()
    torch.manual_seed(0)
    captions, images = drawn(20480, seed=10, unseen=None)
    test_captions, test_images = drawn(2048, seed=11, unseen=None)
    labels, test_labels = (torch.tensor([c.labels for c in part]) for part in (captions, test_captions))

    reader = AttributeReader().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
            save_file({k: v.contiguous() for k, v in reader.state_dict().items()}, WEIGHTS)
            reader.train()


if __name__ == "__main__":
    main()
