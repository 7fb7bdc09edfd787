"""Muon (Jordan et al. 2024) in float32: the momentum of each matrix is made orthogonal before it is applied.

torch's own works in bfloat16, which CPUs without the matrix units for it are slow at.
"""

import torch

MOMENTUM, DECAY, TERMS, RMS = 0.95, 0.02, (3.4445, -4.7750, 2.0315), 0.2


class Muon(torch.optim.Optimizer):
    """For matrices alone; a step's size is like AdamW's of the same learning rate (Liu et al. 2025)."""

    def __init__(self, matrices, lr=1e-3):
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            stacks = {}
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - MOMENTUM)
                update = matrix.grad.lerp(momentum, MOMENTUM)
                # Torch's attention has the matrices of queries, keys and values in one.
                parts = 3 if matrix.shape[0] == 3 * matrix.shape[1] else 1
                for part, change in zip(matrix.chunk(parts), update.chunk(parts), strict=True):
                    tall = part.shape[0] > part.shape[1]
                    wide, turned = (part.T, change.T) if tall else (part, change)
                    stacks.setdefault(wide.shape, []).append((wide, turned))
            for shape, members in stacks.items():
                changes = orthogonal(torch.stack([change for _, change in members]))
                for (wide, _), change in zip(members, changes, strict=True):
                    wide.mul_(1 - group["lr"] * DECAY)
                    wide.add_(change, alpha=-group["lr"] * RMS * max(shape) ** 0.5)


def orthogonal(matrices):
    """Five Newton-Schulz iterations `[matrices, rows, columns]`: singular values near 1."""
    a, b, c = TERMS
    X = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X
