"""Guesses have the widths of a config, and only arguments that the model takes."""

import inspect

import torch
from diffusers import HiDreamImageTransformer2DModel, PixArtTransformer2DModel

from dcache.time_memo.guesses import guesses


def test_latents_come_in_every_usual_layout() -> None:
    with torch.device("meta"):
        model = PixArtTransformer2DModel(in_channels=6, num_layers=1, caption_channels=20)
    given = list(guesses(model))
    assert {guess["hidden_states"].ndim for guess in given} == {3, 4, 5}
    taken = set(inspect.signature(type(model).forward).parameters)
    for guess in given:
        assert set(guess) <= taken
        assert 6 in guess["hidden_states"].shape
        assert guess["encoder_hidden_states"].shape[-1] == 20
        # Only what a model may read has data.
        assert guess["hidden_states"].is_meta
        assert not guess["timestep"].is_meta
        assert not guess["encoder_attention_mask"].is_meta


def test_a_class_with_arguments_of_its_own_gets_them() -> None:
    with torch.device("meta"):
        model = HiDreamImageTransformer2DModel(
            num_layers=1, num_single_layers=1, caption_channels=[10, 12], llama_layers=[0, 3],
            text_emb_dim=14, patch_size=2,
            num_attention_heads=1, attention_head_dim=8, in_channels=4, axes_dims_rope=(4, 2, 2),
        )  # fmt: skip
    for guess in guesses(model):
        assert guess["encoder_hidden_states_t5"].shape[-1] == 10
        assert guess["encoder_hidden_states_llama3"].shape == (4, 1, 8, 12)
        assert guess["pooled_embeds"].shape == (1, 14)
