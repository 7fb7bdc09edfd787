"""Callers' own loops: diffusers' LLaDA2Pipeline, a loop of fixed width, guidance in separate calls."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

import dcache
from dcache import DcacheError
from tests.diffusion_lm import masked_models as models


def pipeline(model) -> LLaDA2Pipeline:
    pipe = LLaDA2Pipeline(model=model, scheduler=BlockRefinementScheduler(), tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe, **options):
    """Ids of the pipeline, and how many tokens it edited."""
    edits = []

    def count(pipe, step, timestep, tensors):
        edits.append(int(tensors["editing_transfer_index"].sum()))
        return {}

    options = {
        "gen_length": 32,
        "block_length": 8,
        "num_inference_steps": 8,
        "threshold": 2.0,
        "editing_threshold": None,
        **options,
    }
    out = pipe(
        input_ids=models.prompts(2, 16),
        mask_token_id=models.MASK,
        output_type="seq",
        sampling_method="greedy",
        eos_early_stop=False,
        callback_on_step_end=count,
        callback_on_step_end_tensor_inputs=["editing_transfer_index"],
        **options,
    )
    return out.sequences, sum(edits)


@pytest.mark.parametrize(
    "editing", [{}, {"editing_threshold": 0.02, "threshold": 0.03}], ids=["plain", "editing"]
)
def test_all_rows_are_the_unmodified_pipelines_tokens(editing):
    pipe = pipeline(models.llama())
    plain, edits = call(pipe, **editing)
    with dcache.enabled(pipe, dcache.methods.none()):
        out, count = call(pipe, **editing)
        stats = dcache.stats(pipe)
    assert torch.equal(out, plain)
    assert count == edits
    assert stats.share == 1
    assert (edits > 0) == bool(editing)


def test_the_default_is_dual_on_the_pipelines_block():
    """Four blocks of eight steps; widths 24, 32, 40, 48: all rows when the width grows, then eight."""
    pipe = dcache.enable(pipeline(models.llama()))
    out, _ = call(pipe)
    stats = dcache.stats(pipe)
    assert (out != models.MASK).all()
    assert stats.method == "dual(block=None)"
    assert stats.forwards == 32
    assert stats.rows == 2 * (24 + 32 + 40 + 48 + 28 * 8)
    assert stats.possible == 2 * 8 * (24 + 32 + 40 + 48)
    assert stats.refreshes == {"start": 1, "block": 3}
    # Another call begins anew.
    again, _ = call(pipe)
    assert torch.equal(again, out)
    assert dcache.stats(pipe).forwards == 32


def test_frozen_is_taken_where_attention_is_block_causal_and_is_exact():
    pipe = pipeline(models.block_causal())
    plain, _ = call(pipe)
    dcache.enable(pipe)
    out, _ = call(pipe)
    stats = dcache.stats(pipe)
    assert torch.equal(out, plain)
    assert stats.method == "frozen(block=None)"
    assert "frozen: the model's attention is block-causal, 8 tokens a block" in str(stats)
    # The first forward computes all 24 rows; later blocks begin with 16, and all else is 8.
    assert stats.rows == 2 * (24 + 3 * 16 + 28 * 8)
    dcache.disable(pipe)
    assert torch.equal(call(pipe)[0], plain)


def test_dkv_leaves_the_model_out_where_nothing_changed():
    """Behind the last token a pipeline that edits goes on for steps in which no id changes."""
    model, ids = dcache.enable(models.llama(), dcache.methods.dkv(refresh=0)), models.prompts(2)
    x = torch.cat([ids, torch.full((2, 2), models.MASK)], 1)
    with torch.no_grad():
        model(x)
        x[:, 8:] = 5
        last = model(x).logits
        calls = []
        model.model.register_forward_pre_hook(lambda *_: calls.append(1))
        assert torch.equal(model(x).logits, last)
    assert not calls
    stats = dcache.stats(model)
    assert (stats.forwards, stats.answered, stats.tokens) == (2, 1, 4)


class Loop:
    """LLaDA's own loop: a canvas of fixed width, most confident token first."""

    def __init__(self, model, prompt, new):
        self.model, self.x = model, torch.cat([prompt, prompt.new_full((len(prompt), new), models.MASK)], 1)

    @torch.no_grad()
    def step(self, logits):
        logits = logits.clone()
        logits[..., models.MASK] = -torch.inf
        confidence, tokens = logits.softmax(-1).max(-1)
        masked = self.x == models.MASK
        place = confidence.masked_fill(~masked, -1).argmax(1, keepdim=True)
        self.x = self.x.scatter(1, place, tokens.gather(1, place))

    @torch.no_grad()
    def run(self, guidance=0.0, prompt=8, together=False):
        for _ in range(int((self.x == models.MASK)[0].sum())):
            unconditional = self.x.clone()
            unconditional[:, :prompt] = models.MASK
            if not guidance:
                logits = self.model(self.x).logits
            elif together:
                logits, other = self.model(torch.cat([self.x, unconditional])).logits.chunk(2)
                logits = other + guidance * (logits - other)
            else:
                logits, other = self.model(self.x).logits, self.model(unconditional).logits
                logits = other + guidance * (logits - other)
            self.step(logits)
        return self.x


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    "method", [dcache.methods.dkv(refresh=1), dcache.methods.dkv(refresh=3)], ids=["1", "3"]
)
def test_guidance_is_exact_in_one_call_and_in_two(method, together):
    model, ids = models.llama(), models.prompts(2)
    plain = Loop(model, ids, 8).run(2.0, together=together)
    with dcache.enabled(model, method):
        out = Loop(model, ids, 8).run(2.0, together=together)
        stats = dcache.stats(model)
    if method.parameters["refresh"] == 1:
        assert torch.equal(out, plain)
    # 4 sequences in 8 steps of 16 rows; masked rows and the last one between refreshes at 0, 3, 6.
    wanted = 16 * 8 if method.parameters["refresh"] == 1 else 3 * 16 + sum(8 - s + 1 for s in (1, 2, 4, 5, 7))
    assert stats.rows == 4 * wanted
    assert stats.forwards == (8 if together else 16)


def test_a_block_is_needed_for_dual_in_a_loop_of_fixed_width_and_moves_on():
    model, ids = models.llama(), models.prompts(1)
    with dcache.enabled(model, dcache.methods.dual(block=4)), torch.no_grad():
        x = torch.cat([ids, torch.full((1, 8), models.MASK)], 1)
        for place in range(8, 16):
            model(x)
            x[0, place] = 5
        stats = dcache.stats(model)
    assert stats.refreshes == {"start": 1, "block": 1}
    assert stats.rows == 2 * 16 + 6 * 4


def test_the_callers_writes_into_logits_change_nothing():
    model, ids = models.llama(), models.prompts(1)
    x = torch.cat([ids, torch.full((1, 8), models.MASK)], 1)
    with dcache.enabled(model, dcache.methods.dkv(refresh=0)), torch.no_grad():
        first = model(x).logits
        wanted = first.clone()
        first.fill_(0)
        x[0, 8] = 5
        second = model(x).logits
    assert torch.equal(second[:, :8], wanted[:, :8])
    assert not torch.equal(second[:, 8:], wanted[:, 8:])


@pytest.mark.parametrize(
    "options", [{"past_key_values": object()}, {"output_attentions": True}, {"output_hidden_states": True}]
)
def test_a_call_that_rows_cannot_answer_is_refused(options):
    model = dcache.enable(models.llama(), dcache.methods.dkv())
    with (
        torch.no_grad(),
        pytest.raises(DcacheError, match=rf"dkv is enabled, and the call brings {next(iter(options))}"),
    ):
        model(models.prompts(), **options)


def test_a_policy_with_an_order_is_refused_in_callers_loops():
    model = dcache.enable(models.llama(), dcache.methods.elastic())
    with (
        torch.no_grad(),
        pytest.raises(DcacheError, match="elastic needs a decode window, which a loop of one's own"),
    ):
        model(models.prompts())
    with pytest.raises(DcacheError, match="window needs a decode window, which LLaDA2Pipeline does not tell"):
        dcache.enable(pipeline(models.llama()), "window")


def test_gradients_pass_by():
    model = dcache.enable(models.llama(), dcache.methods.dkv())
    model(models.prompts()).logits.sum().backward()
    stats = dcache.stats(model)
    assert (stats.forwards, stats.recorded) == (0, 1)
    assert str(stats).endswith("1 calls recorded gradients and computed all rows: use torch.no_grad()")


def test_a_model_that_went_into_training_is_refused():
    """Its rows may differ by dropout."""
    model = dcache.enable(models.llama(), dcache.methods.dkv())
    with torch.no_grad(), pytest.raises(DcacheError, match="is in training mode"):
        model.train()(models.prompts())


def masked(ids, start, end):
    ids = ids.clone()
    ids[:, start:end] = models.MASK
    return ids


def test_texts_with_masks_at_other_places_are_a_batch():
    """Each row is decoded as by itself: the masked rows of both are computed."""
    model, ids = models.llama(), models.prompts(2, 16)
    texts = masked(ids[:1], 4, 10), masked(ids[1:], 7, 13)

    def decoded(x):
        loop = Loop(model, x, 0)
        for _ in range(6):
            with torch.no_grad():
                loop.step(model(loop.x).logits)
        return loop.x

    with dcache.enabled(model, dcache.methods.dkv(refresh=0)):
        singles = [decoded(text) for text in texts]
        together = decoded(torch.cat(texts))
        assert dcache.stats(model).rows == 2 * (16 + 6 + 5 + 4 + 3 + 2)
    assert torch.equal(together, torch.cat(singles))


def test_scores_do_not_pile_up_and_do_not_narrow_the_run_behind_them():
    """Each call of a score is a text of its own; then a loop generates everything masked."""
    model, ids = models.llama(), models.prompts(1, 16)
    with dcache.enabled(model, dcache.methods.dkv(refresh=0)), torch.no_grad():
        bytes_held = []
        for step in range(8):
            x = ids.clone()
            x[0, 6 + step] = models.MASK
            model(x)
            bytes_held.append(dcache.stats(model).bytes_held)
        assert bytes_held[3:] == [4 * bytes_held[0]] * 5
        x = masked(ids, 8, 16)
        model(x)
        x[0, 8] = 5
        before = dcache.stats(model).rows
        model(x)
        # Seven masked rows, and the one that was decoded.
        assert dcache.stats(model).rows == before + 8


def test_bytes_are_those_of_all_streams_with_their_logits():
    """3 layers, keys and values, 2 heads of 16; 60 logits; float32; two streams of guidance."""
    model, ids = models.llama(), models.prompts(2)
    with dcache.enabled(model, dcache.methods.dkv()):
        Loop(model, ids, 8).run(guidance=2.0)
        assert dcache.stats(model).bytes_held == 2 * 2 * 16 * 4 * (3 * 2 * 2 * 16 + 60)


def test_an_error_in_the_model_ends_the_stream():
    model, ids = models.llama(), models.prompts(1)
    x = torch.cat([ids, torch.full((1, 8), models.MASK)], 1)
    dcache.enable(model, dcache.methods.dkv())
    with torch.no_grad():
        model(x)
        x[0, 8] = 5
        handle = model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(x)
        handle.remove()
        out = model(x).logits
        dcache.disable(model)
        assert torch.equal(out, model(x).logits)


def test_a_second_run_of_the_same_prompt_begins_anew():
    """Its ids differ from the last call's in the current block alone, where tokens became masks again."""
    model, ids = dcache.enable(models.llama(), dcache.methods.dkv(refresh=0)), models.prompts(2)
    first = Loop(model, ids, 8).run()
    assert torch.equal(Loop(model, ids, 8).run(), first)
    assert dcache.stats(model).forwards == 8
    assert dcache.stats(model).refreshes == {"start": 1}


def test_two_threads_have_streams_of_their_own():
    """Their calls alternate; each is answered from its own thread's rows."""
    model, ids = models.llama(), models.prompts(2)
    method = dcache.methods.dkv(refresh=0)
    with dcache.enabled(model, method):
        wanted = [Loop(model, part, 8).run() for part in ids.chunk(2)]
        barrier = threading.Barrier(2)

        def decode(part):
            loop = Loop(model, part, 8)
            step = loop.step
            loop.step = lambda logits: (step(logits), barrier.wait(60))
            return loop.run()

        with ThreadPoolExecutor(2) as pool:
            out = list(pool.map(decode, ids.chunk(2)))
        assert dcache.stats(model).rows == 16 + sum(8 - s + 1 for s in range(1, 8))
    assert all(torch.equal(a, b) for a, b in zip(out, wanted, strict=True))


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("length", [32, 28], ids=["whole blocks", "a last block with a tail"])
def test_llada2s_shape_under_its_pipeline(size, length):
    """Prompt and answer of 44 tokens leave a tail, for which the pipeline's mask has zeros: causal there."""
    pipe = pipeline(models.LLaDA2Shaped(size))
    plain, _ = call(pipe, gen_length=length)
    with dcache.enabled(pipe, dcache.methods.none()):
        assert torch.equal(call(pipe, gen_length=length)[0], plain)
    dcache.enable(pipe)
    out, _ = call(pipe, gen_length=length)
    stats = dcache.stats(pipe)
    assert stats.share < 0.5
    if size and length == 32:
        assert stats.method == "frozen(block=None)"
        assert torch.equal(out, plain)


@pytest.mark.parametrize("method", ["dllm_cache", "d2cache"])
@pytest.mark.parametrize("editing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_policies_that_watch_the_forward_in_a_pipeline(method, editing):
    """All they may compute is the pipeline's own run, with edits too; less runs through."""
    pipe = pipeline(models.llama())
    options = {"editing_threshold": 0.02, "threshold": 0.03} if editing else {}
    plain = call(pipe, **options)
    every = {"dllm_cache": {"prompt": 1, "response": 1}, "d2cache": {"masked": 99, "share": 1}}[method]
    with dcache.enabled(pipe, method, **every):
        out = call(pipe, **options)
        assert dcache.stats(pipe).share == 1
    assert torch.equal(out[0], plain[0])
    assert out[1] == plain[1]
    with dcache.enabled(pipe, method):
        call(pipe, **options)
        assert dcache.stats(pipe).share < 0.9
