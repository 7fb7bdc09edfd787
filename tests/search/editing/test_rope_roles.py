"""Positions left out of one block: nothing changes where they turned nothing, something where they did."""

from __future__ import annotations

import pytest
import torch

from dcache.errors import DcacheError
from dcache.search.editing.rope_roles import rope_errors
from tests.pipelines import SHAPES


def test_positions_that_turn_nothing_leave_no_bit_changed() -> None:
    shape = SHAPES["flux"]
    pipe = shape.build()

    def render() -> torch.Tensor:
        return shape.run(pipe, num_inference_steps=2)

    errors = rope_errors(pipe, render, "kv:0,3")
    assert list(errors) == [0, 3]
    assert min(errors.values()) > 0

    def nothing(_module: object, _args: object, output: tuple[torch.Tensor, torch.Tensor]) -> object:
        return torch.ones_like(output[0]), torch.zeros_like(output[1])

    handle = pipe.transformer.pos_embed.register_forward_hook(nothing)
    assert rope_errors(pipe, render, "kv:0,3") == {0: 0.0, 3: 0.0}
    handle.remove()


def test_a_model_without_rotary_positions_is_refused() -> None:
    shape = SHAPES["pixart"]
    pipe = shape.build()
    with pytest.raises(DcacheError, match="is given none"):
        rope_errors(pipe, lambda: shape.run(pipe, num_inference_steps=1), "kv:0")


def test_a_denoiser_that_the_pipeline_does_not_have_is_refused_before_anything_is_rendered() -> None:
    with pytest.raises(DcacheError, match="which has 'transformer'; got 'unet'"):
        rope_errors(SHAPES["flux"].build(), lambda: pytest.fail("rendered"), component="unet")
