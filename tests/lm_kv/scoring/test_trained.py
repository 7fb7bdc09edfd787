"""Trained weights against products by hand; scores stay with their tokens."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from dcache import DcacheError
from dcache.lm_kv.scoring.observers import Observed
from dcache.lm_kv.scoring.trained import FORMAT, InputScores, load


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def written(path: Path, tensors: dict[str, torch.Tensor], **about: str) -> Path:
    save_file(tensors, path, metadata={"format": FORMAT, **about})
    return path


def test_linear_layers_with_an_activation_between_them(tmp_path):
    first, bias, second = random(6, 8), random(6), random(2, 6)
    tensors = {"3.0.weight": first, "3.0.bias": bias, "3.1.weight": second}
    inputs = random(2, 5, 8)
    for name in ("gelu", "relu", "silu"):
        weights = load(written(tmp_path / f"{name}.safetensors", tensors, activation=name))
        expected = getattr(F, name)(inputs @ first.T + bias) @ second.T
        torch.testing.assert_close(weights(3, inputs), expected)
    assert (weights.reads, load(tmp_path / "silu.safetensors")) == ("hidden", weights)


def test_what_does_not_fit_is_refused(tmp_path):
    weights = load(written(tmp_path / "one.safetensors", {"0.0.weight": random(2, 8)}))
    with pytest.raises(DcacheError, match="has no weights for layer 1"):
        weights(1, random(1, 1, 8))
    with pytest.raises(DcacheError, match=r"has 0\.0\.weight for 8 numbers, and hidden of this model give 7"):
        weights(0, random(1, 1, 7))


@pytest.mark.parametrize(
    "about",
    [{"format": "another"}, {"reads": "logits"}, {"activation": "sine"}],
    ids=str,
)
def test_another_file_is_no_scorer(tmp_path, about):
    path = written(tmp_path / "other.safetensors", {"0.0.weight": random(2, 8)}, **about)
    with pytest.raises(DcacheError, match="is not a scorer: expected the metadata format="):
        load(path)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DcacheError, match="cannot read the scorer"):
        load(tmp_path / "nothing.safetensors")


def observed(hidden: torch.Tensor, valid: torch.Tensor, start: torch.Tensor) -> Observed:
    positions = start[:, None] + (valid.long().cumsum(1) - 1).clamp_min(0)
    columns = int(positions.max()) + 1
    return Observed(random(1), valid, positions, lambda: random(1), hidden=hidden, columns=columns)


def test_scores_lie_at_the_places_of_true_tokens():
    observer = InputScores(lambda layer, inputs: inputs[..., :2])
    hidden = torch.arange(16.0).view(2, 4, 2)
    # Pads in front of true tokens and behind them.
    valid = torch.tensor([[False, True, True, False], [True, True, True, True]])
    state = observer.observe({}, observed(hidden, valid, torch.zeros(2, dtype=torch.long)))
    assert state["trained"][0].tolist() == [[2, 4, 0, 0], [3, 5, 0, 0]]
    assert state["trained"][1].tolist() == [[8, 10, 12, 14], [9, 11, 13, 15]]
    new = observed(100 + hidden[:, :1], torch.ones(2, 1, dtype=torch.bool), torch.tensor([2, 4]))
    state = observer.observe(state, new)
    assert state["trained"][0, 0].tolist() == [2, 4, 100, 0, 0]
    assert state["trained"][1, 0].tolist() == [8, 10, 12, 14, 108]
    assert observer.crop(state, torch.tensor([2, 3]))["trained"].shape == (2, 2, 3)


def test_inputs_and_scores_of_another_shape_are_refused():
    valid, start = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    with pytest.raises(DcacheError, match="reads the inputs of attention row by row"):
        InputScores(lambda layer, inputs: inputs).observe({}, observed(random(1, 3, 2), valid, start))
    with pytest.raises(DcacheError, match=r"a scorer must give \[rows, tokens, KV heads\], got \(1, 4\)"):
        InputScores(lambda layer, inputs: inputs[..., 0]).observe({}, observed(random(1, 4, 2), valid, start))
