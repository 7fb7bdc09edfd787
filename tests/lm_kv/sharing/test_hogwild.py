"""Workers that read each other, against one text in which the others' stand in front of each one's own."""

import pytest
import torch
from transformers import DynamicCache

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import family, generate, llama
from tests.lm_kv.sharing.texts import batches, ids, questions, read, recall_model

PROMPT, STEPS = 11, 4
# Columns of what each worker begins with, one with pads in front.
HEADS = (3, 5, 5)


def begun(workers: int) -> dict[str, torch.Tensor]:
    """What the workers begin with, `[workers, 5]`, and the mask with the prompt in front."""
    longest = max(HEADS)
    inputs = {
        "input_ids": ids(workers, longest, 3),
        "attention_mask": torch.ones(workers, PROMPT + longest, dtype=torch.long),
    }
    for row, count in enumerate(HEADS[:workers]):
        inputs["input_ids"][row, : longest - count] = 0
        inputs["attention_mask"][row, PROMPT : PROMPT + longest - count] = 0
    return inputs


@pytest.mark.parametrize("name", ["llama", "phi"])
def test_one_worker_is_plain_generation(name):
    model = family(name)
    prefix, behind, plain = batches(rows=1)
    tokens, logits = generate(model, plain, DynamicCache(config=model.config))
    own_tokens, own_logits = generate(model, behind, lm_kv.hogwild(read(model, prefix), 1))
    assert torch.equal(own_tokens, tokens)
    torch.testing.assert_close(own_logits, logits, atol=1.5e-5, rtol=0)


@pytest.mark.parametrize("workers", [2, 3])
def test_every_worker_reads_the_others_text_in_front_of_its_own(workers):
    # With one layer, keys depend on their tokens and places alone, so the text of one view is an oracle.
    model, prompt = llama(layers=1), ids(1, PROMPT)
    inputs = begun(workers)
    tokens, logits = generate(model, inputs, lm_kv.hogwild(read(model, prompt), workers), tokens=STEPS)
    written = [inputs["input_ids"][row, -count:] for row, count in enumerate(HEADS[:workers])]
    for step in range(STEPS):
        for row in range(workers):
            others = [text for index, text in enumerate(written) if index != row]
            view = torch.cat([prompt[0], *others, written[row]])[None]
            with torch.no_grad():
                expected = model(view).logits[0, -1]
            torch.testing.assert_close(logits[row, step], expected, atol=2e-5, rtol=0)
        written = [torch.cat([text, tokens[row, step : step + 1]]) for row, text in enumerate(written)]


def test_all_layers_see_what_the_others_wrote():
    model, prompt = llama(2), ids(1, PROMPT)
    inputs = begun(3)
    _, logits = generate(model, inputs, lm_kv.hogwild(read(model, prompt), 3), tokens=1)
    inputs["input_ids"][2, -1] += 1
    _, other = generate(model, inputs, lm_kv.hogwild(read(model, prompt), 3), tokens=1)
    assert ((other - logits).abs().amax((1, 2)) > 0.01).all()


def test_workers_in_another_order_of_two_give_the_same():
    model, prompt = llama(2), ids(1, PROMPT)
    inputs = begun(2)
    tokens, logits = generate(model, inputs, lm_kv.hogwild(read(model, prompt), 2))
    turned = {name: tensor.flip(0) for name, tensor in inputs.items()}
    cache = lm_kv.hogwild(read(model, prompt), 2)
    other, swapped = generate(model, turned, cache)
    assert torch.equal(other.flip(0), tokens)
    torch.testing.assert_close(swapped.flip(0), logits, atol=1.5e-5, rtol=0)
    # What both wrote is held once, and the prompt once.
    assert cache.stats().kept == (PROMPT + 5 + 11, PROMPT + 3 + 11)


def test_places_that_are_no_rotation_are_refused():
    model = family("gpt2")
    with pytest.raises(DcacheError, match="places its tokens by something other than a rotation"):
        lm_kv.hogwild(read(model, ids(1, 5)), 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "own", "others"), [(1, 0.986, None), (2, 0.966, 0.995), (4, 0.930, 0.997)]
)
def test_recall_of_what_others_wrote(workers, own, others):
    """What docs/lm_kv/policies/hogwild.md says: each worker reads a piece, then all are asked."""
    model = recall_model()
    right, count = torch.zeros(2), torch.zeros(2)
    contexts, keys, values = questions()
    for context, key, value in zip(contexts, keys, values, strict=True):
        cache = lm_kv.hogwild(read(model, context[None, :1]), workers)
        pieces = torch.stack(context[1:].chunk(workers))
        with torch.no_grad():
            places = torch.arange(1, 1 + pieces.shape[1]).expand(workers, -1)
            model(pieces, position_ids=places, past_key_values=cache)
            for one, answer in zip(key, value, strict=True):
                asked = one.expand(workers, 1)
                logits = model(asked, position_ids=places[:, -1:] + 1, past_key_values=cache.fork()).logits
                wrote = (pieces == one).any(1).long()
                count += torch.stack([(1 - wrote).sum(), wrote.sum()])
                hits = (logits[:, -1].argmax(-1) == answer).long()
                right += torch.stack([(hits * (1 - wrote)).sum(), (hits * wrote).sum()])
    shares = (right / count).tolist()
    assert shares[1] == pytest.approx(own, abs=0.01)
    assert others is None or shares[0] == pytest.approx(others, abs=0.01)
