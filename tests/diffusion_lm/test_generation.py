"""`generate`: cached runs against uncached ones, batches against single rows, and what is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, diffusion_lm
from dcache.diffusion_lm import decoders
from tests.diffusion_lm import masked_models as models

NEW = 16
METHODS = {
    "none": dcache.methods.none(),
    "dkv": dcache.methods.dkv(refresh=4),
    "prefill": dcache.methods.dkv(variant="prefill"),
    "pd": dcache.methods.dkv(variant="pd", refresh=4),
    "prefix": dcache.methods.prefix(),
    "dual": dcache.methods.dual(),
    "freecache": dcache.methods.freecache(),
    "frozen": dcache.methods.frozen(),
    "window": dcache.methods.window(window=4),
    "elastic": dcache.methods.elastic(gamma=0.9, window=4),
    "elastic now": dcache.methods.elastic(gamma=0.9, window=4, when="now"),
    "dllm_cache": dcache.methods.dllm_cache(prompt=6, response=4),
    "d2cache": dcache.methods.d2cache(masked=4, gap=2),
}


def run(model, ids, method=None, **options):
    """Ids that `generate` returns with a method, and its figures."""
    options = {"max_new_tokens": NEW, "block": NEW, **options}
    if method is None:
        return diffusion_lm.generate(model, ids, **options), None
    with dcache.enabled(model, method):
        return diffusion_lm.generate(model, ids, **options), dcache.stats(model)


def test_it_is_a_loop_of_confidence():
    """One sequence by hand: at every step the likeliest token of all masked positions."""
    model, ids = models.llama(), models.prompts(1)
    canvas = torch.cat([ids, torch.full((1, NEW), models.MASK)], 1)
    for _ in range(NEW):
        with torch.no_grad():
            logits = model(input_ids=canvas).logits
        logits[..., models.MASK] = -torch.inf
        confidence, tokens = logits.softmax(-1).max(-1)
        place = confidence.masked_fill(canvas != models.MASK, -1).argmax()
        canvas[0, place] = tokens[0, place]
    assert torch.equal(run(model, ids)[0], canvas)


@pytest.mark.parametrize("method", [METHODS["none"], dcache.methods.dkv(refresh=1)], ids=lambda m: m.name)
def test_all_rows_at_every_step_are_the_uncached_run(method):
    model, ids = models.llama(), models.prompts()
    out, stats = run(model, ids, method)
    assert torch.equal(out, run(model, ids)[0])
    assert stats.share == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(models.FAMILIES))
def test_policies_that_watch_the_forward_are_exact_on_every_family(name):
    """Where all rows are among those that layers and rollout may choose, it is the uncached run."""
    model, ids = models.family(name), models.prompts(2)
    plain, _ = run(model, ids, max_new_tokens=8)
    for method in (
        dcache.methods.dllm_cache(prompt=1, share=1, response=99),
        dcache.methods.d2cache(masked=99, share=1),
    ):
        assert torch.equal(run(model, ids, method, max_new_tokens=8)[0], plain)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_with_unequal_rows_is_its_single_rows(name):
    model, ids = models.llama(), models.prompts()
    options = {"decoder": "threshold", "threshold": 0.3, "block": 8}
    out, stats = run(model, ids, METHODS[name], **options)
    singles = [run(model, row[None], METHODS[name], **options) for row in ids]
    assert torch.equal(out, torch.cat([single[0] for single in singles]))
    # The decoder took unequal numbers of tokens: rows were really unequal.
    assert len({single[1].forwards for single in singles}) > 1
    assert stats.tokens == 4 * NEW


@pytest.mark.parametrize("name", ["none", "dkv", "dual", "elastic", "window", "dllm_cache", "d2cache"])
def test_left_pads_change_nothing(name):
    model, ids = models.llama(), models.prompts()
    lengths = [8, 5, 3, 8]
    padded, mask = ids.clone(), torch.ones_like(ids)
    for row, length in enumerate(lengths):
        padded[row, : 8 - length] = mask[row, : 8 - length] = 0
    method = METHODS[name]
    out, _ = run(model, padded, method, attention_mask=mask)
    for row, length in enumerate(lengths):
        alone, _ = run(model, ids[row : row + 1, 8 - length :], method)
        assert torch.equal(out[row, 8:], alone[0, length:])
    uncached, _ = run(model, padded, attention_mask=mask)
    assert torch.equal(uncached, run(model, padded, METHODS["none"], attention_mask=mask)[0])


@pytest.mark.parametrize("name", ["none", "dual", "window"])
def test_left_pads_change_nothing_beyond_a_sliding_window(name):
    """ModernBERT: its window is 8 of 24 positions."""
    model, ids = models.family("modernbert"), models.prompts(2)
    padded, mask = ids.clone(), torch.ones_like(ids)
    padded[0, :3] = mask[0, :3] = 0
    out, _ = run(model, padded, METHODS[name], attention_mask=mask)
    alone, _ = run(model, ids[:1, 3:], METHODS[name])
    assert torch.equal(out[0, 8:], alone[0, 5:])


def test_half_precision_refreshed_at_every_step_is_the_uncached_run():
    model, ids = models.llama().half(), models.prompts(2)
    plain, _ = run(model, ids, max_new_tokens=8)
    assert torch.equal(run(model, ids, dcache.methods.dkv(refresh=1), max_new_tokens=8)[0], plain)
    assert (run(model, ids, METHODS["dual"], max_new_tokens=8)[0] != models.MASK).all()


def test_greedy_in_a_batch_whose_rows_end_apart_is_its_single_rows():
    model, ids = models.llama(), models.prompts()
    greedy = dcache.methods.dkv(variant="greedy", refresh=0, window=2)
    plain, _ = run(model, ids, greedy, decoder="left")
    options = {"decoder": "left", "eos_id": int(plain[0, 8 + 5])}
    out, _ = run(model, ids, greedy, **options)
    singles = [run(model, row[None], greedy, **options) for row in ids]
    assert torch.equal(out, torch.cat([single[0] for single in singles]))
    assert len({single[1].forwards for single in singles}) > 1


def test_two_threads_decode_with_one_model():
    """They meet after every step, so that their forwards alternate."""
    model, ids = models.llama(), models.prompts()
    for method in (METHODS["dual"], METHODS["elastic"], METHODS["dllm_cache"]):
        with dcache.enabled(model, method):
            wanted = [diffusion_lm.generate(model, part, max_new_tokens=8) for part in ids.chunk(2)]
            barrier = threading.Barrier(2)

            def decode(part, barrier=barrier):
                meet = lambda *_: barrier.wait(60)  # noqa: E731 - a callback
                return diffusion_lm.generate(model, part, max_new_tokens=8, callback=meet)

            with ThreadPoolExecutor(2) as pool:
                out = list(pool.map(decode, ids.chunk(2)))
        assert all(torch.equal(a, b) for a, b in zip(out, wanted, strict=True))


def test_freecache_with_one_block_is_dkv_prefill():
    model, ids = models.llama(), models.prompts()
    assert torch.equal(run(model, ids, METHODS["freecache"])[0], run(model, ids, METHODS["prefill"])[0])
    assert torch.equal(run(model, ids, METHODS["freecache"])[0], run(model, ids, METHODS["dual"])[0])


@pytest.mark.parametrize(("gamma", "other"), [(-1, METHODS["window"]), (1.5, dcache.methods.none(window=4))])
def test_the_ends_of_elastics_threshold(gamma, other):
    model, ids = models.llama(), models.prompts()
    out, stats = run(model, ids, dcache.methods.elastic(gamma=gamma, window=4))
    same, wanted = run(model, ids, other)
    assert torch.equal(out, same)
    assert stats.rows == wanted.rows


def test_elastic_computes_more_rows_for_a_higher_threshold():
    model, ids = models.llama(), models.prompts()
    shares = [
        run(model, ids, dcache.methods.elastic(gamma=gamma, window=4))[1].share
        for gamma in (-1, 0.5, 0.9, 0.99, 1.5)
    ]
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize("length", [8, 11])
def test_frozen_is_exact_where_attention_is_block_causal(block, length):
    model, ids = models.block_causal(), models.prompts(2, length)
    plain, _ = run(model, ids, block=block, max_new_tokens=24)
    out, stats = run(model, ids, METHODS["frozen"], block=block, max_new_tokens=24)
    assert torch.equal(out, plain)
    assert stats.share < 0.8
    # The oracle can fail: without the finished block's second pass it does.
    stale, _ = run(model, ids, dcache.methods.dkv(refresh=0, delay=0), block=block, max_new_tokens=24)
    assert not torch.equal(stale, plain)


def test_rows_are_those_of_the_closed_form():
    """Dual on two blocks of 8 behind 8: two full passes of 24 rows, 14 of 8. Window 4: 24, then at most 5."""
    model, ids = models.llama(), models.prompts(1)
    _, stats = run(model, ids, METHODS["dual"], block=8)
    assert (stats.rows, stats.possible) == (2 * 24 + 14 * 8, 16 * 24)
    assert stats.refreshes == {"start": 1, "block": 1}
    _, stats = run(model, ids, METHODS["window"])
    assert stats.rows == 24 + sum(min(4, 16 - step) + 1 for step in range(1, 16))
    _, stats = run(model, ids, dcache.methods.window(window=4, delay=0))
    assert stats.rows == 24 + sum(min(4, 16 - step) for step in range(1, 16))
    _, stats = run(model, ids, dcache.methods.dkv(refresh=0))
    assert stats.rows == 24 + sum(16 - step + 1 for step in range(1, 16))
    _, stats = run(model, ids, dcache.methods.dkv(variant="greedy", refresh=0, window=2), decoder="random")
    assert stats.rows == 24 + sum(1 + 1 + min(2, 16 - step - 1) for step in range(1, 16))


def test_shifted_logits_need_the_row_before():
    model, ids = models.DreamShaped(), models.prompts(2)
    plain, _ = run(model, ids)
    assert torch.equal(run(model, ids, dcache.methods.dkv(refresh=1))[0], plain)
    unshifted, _ = run(models.DreamShaped("other"), ids)
    assert not torch.equal(unshifted, plain)
    out, stats = run(model, ids, dcache.methods.window(window=1), decoder="left")
    # The masked row, the one before it that predicts it, which was decoded last.
    assert stats.rows == 2 * (24 + 15 * 2)
    assert (out != models.MASK).all()


def test_equal_seeds_draw_alike_whatever_is_cached():
    model, ids = models.llama(), models.prompts()
    plain, _ = run(model, ids, temperature=1.0, seed=5)
    assert torch.equal(plain, run(model, ids, dcache.methods.dkv(refresh=1), temperature=1.0, seed=5)[0])
    assert not torch.equal(plain, run(model, ids, temperature=1.0, seed=6)[0])
    state = torch.get_rng_state()
    run(model, ids, temperature=1.0)
    assert torch.equal(state, torch.get_rng_state())


def test_the_schedule_takes_so_many_steps():
    model, ids = models.llama(), models.prompts(2)
    seen = []
    run(model, ids, METHODS["dual"], block=8, steps=6, callback=lambda *step: seen.append(step))
    assert [number for number, _, _ in seen] == list(range(6))
    decoded = [int((canvas != models.MASK).sum()) - 2 * 8 for _, canvas, _ in seen]
    # Eight tokens in three steps: 3, 3, 2 of each row.
    assert decoded == [6, 12, 16, 22, 28, 32]
    assert [int(rows.sum()) for _, _, rows in seen] == [48, 16, 16, 48, 16, 16]


def test_eos_ends_a_row():
    model, ids = models.llama(), models.prompts(2)
    plain, _ = run(model, ids, decoder="left")
    eos = int(plain[0, 8 + 3])
    ends = (plain[:, 8:] == eos).long().cumsum(1) > 0
    assert bool(ends[0, 3:].all())
    out, _ = run(model, ids, decoder="left", eos_id=eos)
    assert torch.equal(out[:, 8:], torch.where(ends, eos, plain[:, 8:]))
    _, stats = run(model, ids[:1], METHODS["none"], decoder="left", eos_id=eos)
    assert stats.forwards == int((~ends[0]).sum()) + 1


@pytest.mark.parametrize("decoder", ["random", "left", "factor", "entropy_bound", "threshold"])
def test_decoders_go_with_policies(decoder):
    model, ids = models.llama(), models.prompts(2)
    for method in (None, METHODS["dual"], METHODS["elastic"]):
        out, _ = run(model, ids, method, decoder=decoder, block=8)
        assert (out != models.MASK).all()


def test_guided_decoding_at_its_ends():
    model, ids = models.llama(), models.prompts(2)
    guide = models.llama(is_causal=True, num_hidden_layers=2)
    one, stats = run(model, ids, METHODS["none"], decoder=decoders.guided(guide, "all"))
    assert stats.forwards == 1
    assert torch.equal(one, run(model, ids, decoder="low_confidence", steps=1)[0])
    none, _ = run(model, ids, decoder=decoders.guided(guide, "none"))
    assert torch.equal(none, run(model, ids, decoder="left")[0])


RULES = [("argmax", 0), ("probability", 0.02), ("top_k", 5), ("relative", 0.1)]


@pytest.mark.parametrize(
    ("name", "rule", "level"),
    [
        ("dkv", "top_k", 5),
        *[pytest.param(n, *rule, marks=pytest.mark.slow) for n in ("none", "dkv") for rule in RULES],
    ],
)
def test_a_guides_cache_changes_nothing(name, rule, level):
    model, ids = models.llama(), models.prompts(2)
    guide = models.llama(is_causal=True, num_hidden_layers=2)
    cached, whole = (
        run(model, ids, METHODS[name], decoder=decoders.guided(guide, rule, level, span=5, cache=cache))[0]
        for cache in (None, False)
    )
    assert torch.equal(cached, whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1, "block": 8}, "steps=1 are fewer than the 2 blocks of 8 tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number"),
        ({"max_new_tokens": 200}, "prompt and answer have 208 tokens, .* positions for 128"),
        (
            {"decoder": "lowconfidence"},
            "'lowconfidence' is unknown: .* Did you mean 'low_confidence'",
        ),
        ({"decoder": "guided"}, "needs guide="),
        ({"guide": nn.Linear(1, 1)}, "guide= goes with decoder='guided'"),
        ({"threshold": 2, "decoder": "threshold"}, "threshold must be a number of at least 0 and at most 1"),
        ({"attention_mask": torch.tensor([[1] * 7 + [0]] * 4)}, "pads at the left alone"),
        ({"mask_id": 0, "attention_mask": torch.tensor([[0] + [1] * 7] * 4)}, "pad_token_id and the mask id"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(options, message):
    model, ids = models.llama(), models.prompts()
    run(model, ids)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(DcacheError, match=message):
        run(model, ids, **options)
    assert not calls


def test_greedy_needs_a_known_order():
    model, ids = models.llama(), models.prompts()
    greedy = dcache.methods.dkv(variant="greedy")
    with pytest.raises(DcacheError, match=r"needs the positions to be decoded .*decoder='random' or 'left'"):
        run(model, ids, greedy)
    assert run(model, ids, greedy, decoder="random")[0].shape == (4, 8 + NEW)


def test_models_that_do_not_fit_are_refused():
    ids = models.prompts()
    with pytest.raises(DcacheError, match="LlamaForCausalLM is causal: a token does not see those behind it"):
        run(models.llama(is_causal=True), ids)
    with pytest.raises(DcacheError, match="no mask id was found for LlamaForCausalLM"):
        run(models.llama(mask_token_id=None), ids)
    with pytest.raises(DcacheError, match=r"in training mode, .* model\.eval\(\)"):
        run(models.llama().train(), ids)
    with pytest.raises(DcacheError, match=r"input_ids must be int64 \[B, P\]"):
        run(models.llama(), ids.float())
