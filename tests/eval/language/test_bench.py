"""What a policy's cache costs: bytes by hand, and every cache in every round."""

import pytest
import torch

from dcache import lm_kv
from dcache.eval.language.bench import PLAIN, Turn, costs, table, turn
from dcache.eval.language.policies import parse
from dcache.eval.language.subject import load, random_model


def test_bytes_are_those_of_the_tokens_that_are_left() -> None:
    model = load("recall").model
    told: list[tuple[str, int, int]] = []
    rows = costs(model, parse("random;keydiff:budget=16"), [0.5], [64, 96], 2, 1, lambda *at: told.append(at))
    names = [PLAIN, "random, 50 %", "keydiff budget=16, 16 tokens"]
    assert [(row.name, row.tokens) for row in rows] == [(name, n) for n in (64, 96) for name in names]
    # Two layers of 2 heads with 32 channels, keys and values, float32; two decoded tokens.
    token = 2 * 2 * 32 * 2 * 4
    assert [row.held for row in rows if row.name == PLAIN] == [66 * token, 98 * token]
    assert [row.peak for row in rows if row.name == PLAIN] == [66 * token, 98 * token]
    assert all(row.held < 0.75 * row.held / row.held_share for row in rows if row.name != PLAIN)
    assert all(row.held <= row.peak for row in rows)
    assert all(row.step_share == row.first_share == 1.0 for row in rows if row.name == PLAIN)
    assert len(told) == 2 * 2 * 3 + 1
    assert told[-1] == ("done", 12, 12)
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len(set(map(len, lines))) == 1


def test_the_first_round_of_a_long_prompt_is_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = random_model(1100), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda ids, **kwargs: lengths.append(ids.shape[1]) or forward(ids, **kwargs)
    )
    costs(model, parse("random"), [0.5], [1040], 1, 1)
    assert [length for length in lengths if length > 1] == [1024, 1024, 1040, 1040]


def test_the_vocabulary_is_that_of_the_embeddings() -> None:
    # The config of a model with pictures has none of its own.
    model = random_model(64)
    del model.config.vocab_size
    assert costs(model, parse("keydiff"), [1.0], [40], 1, 1)[0].held_share == 1.0


def test_a_turn_decodes_what_the_model_would(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(64)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        wanted = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)[0, 40:]
    seen: list[int] = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda ids, **kwargs: seen.append(int(ids[0, -1])) or forward(ids, **kwargs)
    )
    measured = turn(model, lm_kv.KVCache(model, "keydiff", budget=1.0), ids, 4)
    assert isinstance(measured, Turn)
    # The prompt's last token, then those that were decoded.
    assert seen == [39, *wanted.tolist()]
