"""What all bindings share: arguments that the model takes."""

import torch

from dcache.diffusion_lm.bind.plain import PlainBinding


class Takes(torch.nn.Module):
    def forward(self, input_ids):
        return input_ids


class TakesAny(torch.nn.Module):
    def forward(self, input_ids, **kwargs):
        return input_ids


def test_positions_are_left_out_where_the_model_takes_none():
    arguments = {"input_ids": 1, "position_ids": 2, "other": 3}
    assert PlainBinding(Takes()).fitting(arguments) == {"input_ids": 1, "other": 3}
    assert PlainBinding(TakesAny()).fitting(arguments) == arguments
