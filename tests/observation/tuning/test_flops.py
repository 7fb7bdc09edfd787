"""Operations: as many as torch's own counter has, and as formulas say; nothing else changes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dcache.observation.tuning.flops import FlopCount, OtherModules


class Mixed(nn.Module):
    """Convolutions, matrix products of all spellings, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=4)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.linear = nn.Linear(4, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.up(self.grouped(self.conv(x)))
        h = self.linear(h.flatten(2).transpose(1, 2))
        q, k, v = h.chunk(3, -1)
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        h = h @ h.transpose(1, 2)
        h = torch.bmm(h, h)
        return torch.baddbmm(h, h, h) + torch.matmul(h[0], h[0]) + torch.addmm(h[0], h[0], h[0])


def test_as_many_as_torch_counts() -> None:
    from dcache.eval.call_cost import counting

    model, x = Mixed(), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        plain = model(x)
        with counting() as theirs:
            model(x)
        with FlopCount() as ours:
            counted = model(x)
    assert torch.equal(counted, plain)
    assert ours.total == theirs.get_total_flops() > 0


def test_a_linear_layer_in_closed_form() -> None:
    with FlopCount() as counter:
        nn.Linear(7, 5)(torch.randn(3, 11, 7))
    assert counter.total == 2 * 3 * 11 * 7 * 5


def test_other_modules_count_once_whether_called_whole_or_in_part() -> None:
    encoder = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    others = OtherModules([encoder])
    x = torch.randn(2, 4)
    encoder(x)
    assert others.take() == 2 * (2 * 2 * 4 * 4)
    encoder[1](x)
    assert others.take() == 2 * 2 * 4 * 4
    F.linear(x, x)
    assert others.take() == 0
    others.remove()
    encoder(x)
    assert others.take() == 0
    assert not encoder._forward_hooks
    assert not encoder[0]._forward_pre_hooks


def test_a_call_that_fails_leaves_the_counter() -> None:
    layer = nn.Linear(4, 4)
    others = OtherModules([layer])
    with pytest.raises(RuntimeError):
        layer(torch.randn(2, 3))
    F.linear(torch.randn(2, 4), torch.randn(4, 4))
    assert others.take() == 0
