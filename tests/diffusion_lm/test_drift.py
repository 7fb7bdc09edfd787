"""Elastic-Cache's test: attention rows by hand, the layers of a model, and when a refresh begins."""

import pytest
import torch

import dcache
from dcache import diffusion_lm
from dcache.diffusion_lm.drift import attention_rows
from tests.diffusion_lm import masked_models as models


def test_attention_rows_are_the_mean_of_softmaxes():
    query, keys = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8)
    mask = torch.ones(2, 1, 3, 5, dtype=torch.bool)
    mask[:, :, :, 0] = False
    rows = attention_rows(query, keys, mask, 0.5)
    wanted = torch.zeros(2, 3, 5)
    for head in range(4):
        logits = query[:, head] @ keys[:, head // 2].transpose(1, 2) * 0.5
        logits[..., 0] = -torch.inf
        wanted += logits.softmax(-1) / 4
    assert torch.allclose(rows, wanted, atol=1e-6)
    additive = torch.zeros(2, 1, 3, 5).masked_fill(~mask, -torch.inf)
    assert torch.equal(attention_rows(query, keys, additive, 0.5), rows)


def plainly_called():
    """Its layers take masks and angles by position."""
    return models.DreamShaped("other")


@pytest.mark.parametrize("build", [models.llama, plainly_called], ids=["by name", "by position"])
@pytest.mark.parametrize("when", ["now", "next"])
def test_a_threshold_of_one_refreshes_from_the_second_layer(when, build):
    """No attention row stays bit for bit: every test fails in the first layer, where it may."""
    model, ids = build(), models.prompts(1)
    rows = []
    with dcache.enabled(model, dcache.methods.elastic(gamma=1.0, window=4, when=when)):
        diffusion_lm.generate(
            model, ids, max_new_tokens=8, block=8, callback=lambda _, __, mask: rows.append(int(mask.sum()))
        )
        stats = dcache.stats(model)
    fewest = sum(rows)
    # Of three layers two are computed whole, in every step but the first (and, with "next", the second).
    refreshed = rows[1:] if when == "now" else rows[2:]
    assert stats.refreshes["drift"] == len(refreshed)
    assert stats.rows == pytest.approx(fewest + sum((16 - count) * 2 / 3 for count in refreshed))
