"""Rows by layer: what layers left out keeps what it had, by hand and against the model."""

import pytest
import torch
from torch import nn

import dcache
from dcache import diffusion_lm
from dcache.diffusion_lm.layer_rows import LayerRows
from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.passes import Pass, current, running
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.step import Plan, Step
from dcache.diffusion_lm.store import KVStore
from dcache.diffusion_lm.taps import LayerTaps
from tests.diffusion_lm import masked_models as models

T = 6


class Layer(nn.Module):
    """Adds ten times the sum of all values; a row's value is its input, its second channel 1."""

    def forward(self, x):
        rows = torch.cat([x, torch.ones_like(x)], -1)[:, None]
        _, values, _ = current().attention(rows, rows, rows, None, 1.0)
        return x + 10 * values[:, 0, :, :1].sum(1, keepdim=True)


class Chain(nn.Module):
    """The first layer computes all rows of a forward, so it is one without work."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Identity(), Layer()])


def plan(turn, rows, required, region):
    ids = torch.zeros(1, T, dtype=torch.long)
    step = Step(turn, turn, ids, region, required, region, 2, T, 2, torch.tensor([turn]))
    real = torch.ones(1, T, dtype=torch.bool)
    return Plan(step, rows, required, real, real[:, 0])


def at(*columns):
    mask = torch.zeros(1, T, dtype=torch.bool)
    mask[0, list(columns)] = True
    return mask


def test_a_layer_computes_the_rows_whose_values_turned_most():
    """Six rows of 1 add 60 to each. Then 2 and 5 change, and one of the four free rows may be computed."""
    chain = Chain()
    LayerTaps(chain)
    observer, store, masks = LayerRows(2, share=0.25, response=8), KVStore(), Masks()

    def forward(turn, x, rows, required):
        observer.begin(plan(turn, rows, required, at(2, 3, 4, 5)))
        selection = Selection(rows)
        with running(Pass(selection, store, masks, observer)):
            out = chain.layers[1](chain.layers[0](selection.take(x)))
        observer.finish(out, selection)
        return out[0, :, 0].tolist()

    x = torch.ones(1, T, 1)
    assert forward(0, x, at(*range(T)), at(*range(T))) == [61] * T
    x[0, 2], x[0, 5] = 2, 5
    # Row 5 turned further than row 2. Values of all rows are fresh: 1, 1, 2, 1, 1, 5. The others: x + 60.
    assert forward(1, x, at(2, 3, 4, 5), at()) == [62, 61, 61, 5 + 110]
    assert observer.extra == -3 / 2
    # Row 2 is required, row 3 changed: both are computed, of values 1, 1, 2, 4, 1, 5; row 5 keeps its 110.
    x[0, 3] = 4
    assert forward(2, x, at(2, 3, 4, 5), at(2)) == [2 + 140, 4 + 140, 61, 5 + 110]
    assert observer.extra == -2 / 2
    # The prompt's rows pass too when they are due, and are computed.
    assert forward(3, x, at(*range(T)), at())[:2] == [141, 141]
    # At the response's interval everything is.
    x[0, 4] = 2
    assert forward(8, x, at(2, 3, 4, 5), at()) == [2 + 150, 4 + 150, 2 + 150, 5 + 150]
    assert (observer.extra, observer.reason) == (0, "interval")


@pytest.mark.parametrize(
    "build", [models.llama, models.DreamShaped, models.LLaDAShaped], ids=lambda f: f.__name__
)
def test_every_row_in_every_layer_is_the_uncached_run(build):
    model, ids = build(), models.prompts(2)
    plain = diffusion_lm.generate(model, ids, max_new_tokens=8)
    for options in ({"prompt": 1, "response": 1}, {"prompt": 1, "response": 99, "share": 1}):
        with dcache.enabled(model, dcache.methods.dllm_cache(**options)):
            out = diffusion_lm.generate(model, ids, max_new_tokens=8)
            assert dcache.stats(model).share == 1
        assert torch.equal(out, plain)


def test_rows_are_those_of_the_closed_form():
    """Answers of 16 behind 8: all 24 rows, then 16 in a layer and 4 with the one decoded last in two."""
    model, ids = models.llama(), models.prompts(1)
    with dcache.enabled(model, dcache.methods.dllm_cache(prompt=10, response=8)):
        diffusion_lm.generate(model, ids, max_new_tokens=16, block=16)
        stats = dcache.stats(model)
    # At step 8 all of the answer; at step 10 the prompt's 8 rows with what else there is.
    assert stats.rows == pytest.approx(24 + 16 + 8 + 14 * (16 + 5 + 5) / 3)
    assert stats.refreshes == {"start": 1, "interval": 1}
