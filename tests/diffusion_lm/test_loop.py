"""Options of a decoding loop."""

import pytest
import torch

import dcache
from dcache import DcacheError, diffusion_lm
from dcache.diffusion_lm.loop import Options
from tests.diffusion_lm import masked_models as models


def test_numbers_are_checked():
    for changes, message in (
        ({"new": 0}, "max_new_tokens"),
        ({"block": 0}, "block"),
        ({"steps": 0}, "steps"),
        ({"temperature": -1}, "temperature"),
    ):
        options = {"new": 1, "block": 1, "steps": None, "temperature": 0.0, **changes}
        with pytest.raises(DcacheError, match=f"{message} must be a"):
            Options(**options, seed=0, attention_mask=None, mask_id=None, eos_id=None, callback=None)


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        (lambda proposal: proposal.candidates & False, "decoder 'mine' committed no token in a step"),
        (
            lambda proposal: proposal.candidates[0],
            r"must return a bool tensor \[1, 12\], got torch.bool \[12\]",
        ),
        (lambda proposal: None, "decoder 'mine' must return a bool tensor .* got NoneType"),
    ],
    ids=["nothing", "one row", "none"],
)
def test_a_decoder_that_picks_no_token_ends_the_loop(pick, message):
    """The same step would come again without an end."""
    with pytest.raises(DcacheError, match=message):
        diffusion_lm.generate(
            models.llama(),
            models.prompts(1),
            max_new_tokens=4,
            decoder=diffusion_lm.decoders.Decoder("mine", pick),
        )


class Named(diffusion_lm.RowPolicy):
    def __init__(self, named):
        self.named = named

    def rows(self, step):
        return self.named(step)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (lambda step: step.masked & False, "no row was named for a forward"),
        (lambda step: step.region ^ True, r"mine\(delay=0\) and decoder 'low_confidence' committed no token"),
        (lambda step: step.masked.float(), "rows of mine must return a bool tensor .* got torch.float32"),
    ],
    ids=["nothing", "the prompt", "numbers"],
)
def test_a_policy_that_computes_no_masked_row_ends_the_loop(named, message):
    model = models.llama()
    with (
        dcache.enabled(model, diffusion_lm.RowMethod("mine", policy=Named(named), delay=0)),
        pytest.raises(DcacheError, match=message),
    ):
        diffusion_lm.generate(model, models.prompts(1), max_new_tokens=4)


def test_the_callback_gets_what_is_returned():
    """Behind EOS everything is EOS already in the step that decodes it."""
    model, ids, shown = models.llama(), models.prompts(1), []
    plain = diffusion_lm.generate(model, ids, max_new_tokens=8, decoder="left")
    out = diffusion_lm.generate(
        model,
        ids,
        max_new_tokens=8,
        decoder="left",
        eos_id=int(plain[0, 9]),
        callback=lambda step, ids, rows: shown.append(ids),
    )
    assert torch.equal(shown[-1], out)
    assert len(shown) < 8


def test_the_first_blocks_take_the_remainder_of_the_steps():
    """Five steps for two blocks of four tokens: three for the first, two for the second."""
    places = []
    diffusion_lm.generate(
        models.llama(),
        models.prompts(1),
        max_new_tokens=8,
        block=4,
        steps=5,
        callback=lambda step, ids, rows: places.append((ids[0, 8:] != models.MASK).sum().item()),
    )
    assert places == [2, 3, 4, 6, 8]


def test_blocks_are_decoded_one_after_the_other():
    """Two blocks of 3 and one of 2, whatever the order within."""
    seen = []
    diffusion_lm.generate(
        models.llama(),
        models.prompts(1),
        max_new_tokens=8,
        block=3,
        decoder="random",
        callback=lambda _, ids, __: seen.append((ids[0, 8:] != models.MASK).nonzero().flatten().tolist()),
    )
    assert [set(seen[n]) for n in (2, 5, 7)] == [{0, 1, 2}, set(range(6)), set(range(8))]
    assert [len(places) for places in seen] == list(range(1, 9))
    assert torch.is_grad_enabled()
