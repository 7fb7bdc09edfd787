"""Where the picture's tokens lie in joint attention, from values told apart before they are joined."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dcache.search.observing.attention_tokens import PictureTokens


class Joint(nn.Module):
    """Projects picture and text apart and joins their values."""

    def __init__(self, picture_first: bool) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(4, 4), nn.Linear(4, 4)
        self.to_v, self.add_v_proj = nn.Linear(4, 4), nn.Linear(4, 4)
        self.picture_first = picture_first

    def forward(self, picture: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        parts = [self.to_v(picture), self.add_v_proj(text)]
        joined = torch.cat(parts if self.picture_first else parts[::-1], 1)
        # Two heads of two channels, as torch's function has them.
        return joined.unflatten(-1, (2, 2)).transpose(1, 2)


def seen(attention: nn.Module, *args: torch.Tensor) -> PictureTokens:
    tokens = PictureTokens()
    hooks = tokens.hooks(attention)
    tokens.see(attention(*args))
    for hook in hooks:
        hook.remove()
    return tokens


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("texts", [2, 3, 5])
def test_the_pictures_part_is_at_the_end_where_its_values_are(first: bool, texts: int) -> None:
    tokens = seen(Joint(first), torch.randn(1, 3, 4), torch.randn(1, texts, 4))
    assert tokens.first is first
    masses = torch.arange(8.0)[None]
    assert tokens.of_picture(masses, 3).tolist() == [[0, 1, 2] if first else [5, 6, 7]]
    # Cross-attention and attention of the picture alone are left as they are.
    assert tokens.of_picture(masses, 8) is masses


def test_without_a_text_or_with_an_equal_one_nothing_is_learned() -> None:
    x = torch.randn(1, 3, 4)
    assert seen(Joint(True), x, torch.randn(1, 0, 4)).first is None
    same = Joint(True)
    same.add_v_proj = same.to_v
    assert seen(same, x, x.clone()).first is None
    unknown = PictureTokens()
    masses = torch.zeros(1, 5)
    assert unknown.of_picture(masses, 3) is masses
