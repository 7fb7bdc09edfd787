from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import GROUPED, batch, llama, prefilled
from tests.lm_kv.policies.common import check_a_part_is_read

POLICY = lm_kv.rekv(page=4, sinks=4, window=4)
IMAGE = 90


def test_all_tokens_are_kept_and_a_part_is_read():
    check_a_part_is_read(lm_kv.rekv(page=4, sinks=0, window=4, every=2))


def run(model: Any, cache: Any, text: torch.Tensor, ends: list[int], frames: int) -> list[torch.Tensor]:
    """Logits of each piece of a text `[1, T]`; the first is a prompt, `frames` more are frames."""
    logits = []
    for piece, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if 0 < piece <= frames:
            cache.mark(torch.ones(1, end - start, dtype=torch.bool))
        positions = torch.arange(start, end)[None]
        logits.append(model(text[:, start:end], position_ids=positions, past_key_values=cache).logits)
    return logits


def states(model: Any, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries `[T, 4, 16]` and keys `[T, 2, 16]` of the first layer, before rotation."""
    layer = model.model.layers[0]
    hidden = layer.input_layernorm(model.model.embed_tokens(text))[0]
    return layer.self_attn.q_proj(hidden).unflatten(-1, (4, 16)), layer.self_attn.k_proj(hidden).unflatten(
        -1, (2, 16)
    )


@torch.no_grad()
def test_frames_read_what_is_near_and_a_question_what_is_like_it():
    model = llama(1)
    text = batch(length=36)["input_ids"][1:]
    # A prompt, seven frames, a question of three tokens, and a decoded one.
    logits = run(model, lm_kv.KVCache(model, POLICY, budget=16), text, [*range(4, 33, 4), 35, 36], 7)
    queries, keys = states(model, text)
    asked = queries[32:35].mean(0)

    def like(frame: slice) -> float:
        mean = keys[frame].mean(0).repeat_interleave(2, 0)
        return float(F.cosine_similarity(asked.flatten(), mean.flatten(), dim=0))

    visible = torch.ones(36, 36, dtype=torch.bool).tril()
    for start in range(20, 32, 4):
        # What came before is more than sixteen tokens: the first four, the newest four and itself.
        visible[start : start + 4, 4 : start - 4] = False
    # Of sixteen tokens four are the first ones and four the newest: two frames of the other six.
    best = sorted(range(4, 28, 4), key=lambda start: -like(slice(start, start + 4)))[:2]
    visible[32:35, 4:28] = False
    for start in best:
        visible[32:35, start : start + 4] = True
    # The token behind it sees the first four, the newest five, and of seven left one frame, or two with the
    # last one, of three tokens.
    pages = {start: slice(start, min(start + 4, 31)) for start in range(4, 32, 4)}
    visible[35, 4:31], left = False, 7
    for start in sorted(pages, key=lambda start: -like(pages[start])):
        left -= pages[start].stop - start
        if left < 0:
            break
        visible[35, pages[start]] = True
    eager = llama(1, attention="eager")
    mask = torch.zeros(1, 1, 36, 36).masked_fill(~visible, float("-inf"))
    expected = eager(text, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(torch.cat(logits, 1), expected, atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_padded_row_asks_what_it_asks_alone():
    model, inputs = llama().double(), batch()
    alone = {name: tensor[:1, 13:] for name, tensor in inputs.items()}
    both, single = (prefilled(model, replace(POLICY, sinks=2), part, budget=0.5) for part in (inputs, alone))
    ids, mask = torch.tensor([[0, 7, 8], [6, 7, 8]]), torch.ones(2, 43, dtype=torch.long)
    mask[0, :13] = mask[0, 40] = 0
    new = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": torch.tensor([[27, 27, 28], [40, 41, 42]]),
    }
    logits = model(**new, past_key_values=both).logits
    expected = model(ids[:1, 1:], position_ids=torch.tensor([[27, 28]]), past_key_values=single).logits
    torch.testing.assert_close(logits[:1, 1:], expected, atol=1e-9, rtol=0)


def test_frames_of_a_vision_language_model_are_streamed():
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28,
        patch_size=14, projection_dim=32,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**GROUPED),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).eval()
    frames = torch.randn(6, 3, 28, 28)
    prompt, frame = torch.tensor([[5, 6, 7, 8]]), torch.full((1, 4), IMAGE)
    question = torch.tensor([[9, 10, 11]])

    @torch.no_grad()
    def answer(cache: Any, mark: bool) -> torch.Tensor:
        model(input_ids=prompt, past_key_values=cache)
        for pixels in frames:
            if mark:
                cache.mark(frame == IMAGE)
            model(input_ids=frame, pixel_values=pixels[None], past_key_values=cache)
        first = model(input_ids=question, past_key_values=cache).logits
        return torch.cat([first, model(input_ids=question[:, :1], past_key_values=cache).logits], 1)

    expected = answer(DynamicCache(config=model.config.text_config), mark=False)
    whole = lm_kv.KVCache(model, POLICY, budget=1.0)
    torch.testing.assert_close(answer(whole, mark=False), expected, atol=1e-5, rtol=0)
    cache = lm_kv.KVCache(model, POLICY, budget=16)
    assert (answer(cache, mark=True) - expected).abs().max() > 1e-5
    stats = cache.stats()
    assert (stats.seen, stats.kept) == ((32,), (32.0,))
    assert stats.read[0] <= 16
    # All but four tokens of the question's indexing, and the token decoded since, are on the host.
    assert stats.bytes_host == (31 - 4) * 2 * 2 * 16 * 4 * 3


def test_options_outside_their_range_are_refused():
    with pytest.raises(DcacheError, match="page must be a whole number of at least 1"):
        lm_kv.rekv(page=0)
    with pytest.raises(DcacheError, match="or question=None"):
        replace(POLICY, selector=None)
