"""The guide's rules, by hand, and its caches; its ends are in test_generation.py."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dcache import DcacheError, diffusion_lm, lm_kv
from dcache.diffusion_lm.decoders import Proposal, guided
from tests.diffusion_lm import masked_models as models


class Guide(nn.Module):
    """Predicts the successor of each token with probability .6, the one after it with .3."""

    def forward(self, input_ids, use_cache):
        chances = torch.full((*input_ids.shape, 6), 0.1 / 4)
        chances.scatter_(-1, ((input_ids + 1) % 6)[..., None], 0.6)
        chances.scatter_(-1, ((input_ids + 2) % 6)[..., None], 0.3)
        return SimpleNamespace(logits=chances.log())


@pytest.mark.parametrize(
    ("rule", "level", "count"),
    [
        ("argmax", 0, 2),
        ("probability", 0.2, 3),
        ("top_k", 2, 3),
        ("relative", 0.4, 3),
        ("probability", 0.5, 2),
    ],
)
def test_the_longest_prefix_that_passes_is_committed(rule, level, count):
    """1 | 2, 3 are the guide's own choices, 5 its second, 2 none."""
    draft = torch.tensor([[1, 2, 3, 5, 2]])
    candidates = torch.tensor([[False, True, True, True, True]])
    proposal = Proposal(torch.tensor([[1, 0, 0, 0, 0]]), candidates, draft[:, 0], draft.double(), draft)
    take = guided(Guide(), rule, level, cache=False).pick(proposal)
    assert take[0].nonzero().flatten().tolist() == list(range(1, 1 + count))


def test_nothing_is_verified_behind_a_token_that_is_still_masked():
    """The third token's row was not computed, so the draft ends before it."""
    ids = torch.tensor([[1, 0, 0, 0, 0]])
    draft = torch.tensor([[1, 2, 3, 4, 5]])
    candidates = torch.tensor([[False, True, True, False, True]])
    proposal = Proposal(ids, candidates, draft[:, 0], draft.double(), draft)
    take = guided(Guide(), "all", cache=False).pick(proposal)
    assert take[0].nonzero().flatten().tolist() == [1, 2]


def test_an_error_in_the_guide_leaves_no_cache_behind():
    """Some of its layers may have stored tokens: the next text begins anew."""
    guide = models.llama(is_causal=True)
    decoder = guided(guide, "top_k", 40, span=5)

    def decode(**more):
        return diffusion_lm.generate(
            models.llama(), models.prompts(1, 24), max_new_tokens=16, decoder=decoder, **more
        )

    plain, calls = decode(), []

    def fail(*_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    handle = guide.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        decode()
    handle.remove()
    assert torch.equal(decode(), plain)


def test_options_are_checked():
    with pytest.raises(DcacheError, match="needs guide="):
        guided(None)
    with pytest.raises(DcacheError, match="rule must be one of argmax, probability"):
        guided(Guide(), "best")
    with pytest.raises(DcacheError, match="span must be a whole number of at least 1"):
        guided(Guide(), span=0)


def decoded(guide, cache, level=40):
    """Ids of two prompts, and how often the draft model ran."""
    steps = []
    ids = diffusion_lm.generate(
        models.llama(),
        models.prompts(2, 24),
        max_new_tokens=16,
        decoder=guided(guide, "top_k", level, span=5, cache=cache),
        callback=lambda step, *_: steps.append(step),
    )
    return ids, len(steps)


def makes(guide, policy):
    """A function that makes caches, and the caches that it made."""
    made = []

    def make():
        made.append(lm_kv.KVCache(guide, policy))
        return made[-1]

    return make, made


def test_a_guide_may_have_a_cache_that_evicts():
    """With all tokens kept it decides as without a cache; with half of them it holds less."""
    guide = models.llama(is_causal=True, num_hidden_layers=2)
    whole, steps = decoded(guide, cache=False)
    # Some drafts are accepted, some are taken back.
    assert 16 / 5 < steps < 16
    make, full = makes(guide, lm_kv.keydiff(budget=1.0))
    ids, cached = decoded(guide, make)
    assert torch.equal(ids, whole)
    assert (cached, len(full)) == (steps, 2)
    make, halved = makes(guide, lm_kv.keydiff(budget=0.5, every=4))
    ids, _ = decoded(guide, make)
    assert bool((ids != models.MASK).all())
    for less, more in zip(halved, full, strict=True):
        assert less.stats().evictions > 1
        assert less.stats().bytes_held < 0.8 * more.stats().bytes_held


def test_a_guide_with_sliding_layers_takes_drafts_back():
    import transformers as T

    torch.manual_seed(3)
    config = T.MistralConfig(
        **{**models.BASE, "num_hidden_layers": 2}, sliding_window=8, initializer_range=0.3
    )
    guide = T.MistralForCausalLM(config).eval()
    ids, steps = decoded(guide, cache=None)
    whole, _ = decoded(guide, cache=False)
    assert torch.equal(ids, whole)
    assert 16 / 5 < steps < 16
