"""The engine against the model's own forward: full passes have its bits, rows its values."""

import pytest
import torch

from dcache.diffusion_lm import enabled, make
from dcache.diffusion_lm.engine import Stream, with_logits
from dcache.diffusion_lm.passes import Pass
from dcache.diffusion_lm.selection import Selection
from dcache.errors import DcacheError
from dcache.kernels import RowIndex
from tests.diffusion_lm import masked_models as models

FAST = ("llama", "qwen3", "eurobert", "modernbert", "diffllama")
ROWS = ([1, 5, 20], [3], [0, 2, 4, 6, 23])
WIDTH = 24


def bound(model):
    enabled.enable(model, make("dkv"))
    return enabled.engine_of(model)


def canvas() -> torch.Tensor:
    ids = models.prompts(3, WIDTH)
    ids[:, 12:] = models.MASK
    return ids


def some() -> torch.Tensor:
    mask = torch.zeros(3, WIDTH, dtype=torch.bool)
    for row, columns in enumerate(ROWS):
        mask[row, columns] = True
    return mask


@torch.no_grad()
def assert_exact(model, tolerance: float) -> None:
    """A full pass is bitwise the plain one, and ragged rows are the same rows of it."""
    ids = canvas()
    plain = model(input_ids=ids).logits
    engine = bound(model)
    stream = Stream(engine, torch.arange(WIDTH).expand(3, WIDTH))
    whole = stream.forward(ids, torch.ones_like(some()), {})
    assert torch.equal(whole.logits, plain)
    rows = stream.forward(ids, some(), {})
    named = rows.selection.named
    wanted = plain.gather(1, rows.selection.positions[..., None].expand(-1, -1, plain.shape[2]))
    assert rows.logits.shape[:2] == (3, 5)
    assert (rows.logits - wanted)[named].abs().max() <= tolerance * plain.abs().max()
    # All rows that changed, and then all: the store is what a new one is.
    changed = ids.clone()
    changed[some()] = 7
    stream.forward(changed, some(), {})
    again = stream.forward(changed, torch.ones_like(some()), {})
    enabled.disable(model)
    assert torch.equal(again.logits, model(input_ids=changed).logits)


@pytest.mark.parametrize("name", FAST)
def test_a_full_pass_is_bitwise_the_models_own(name):
    assert_exact(models.family(name), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kv", [2, 4])
@pytest.mark.parametrize("name", sorted(models.FAMILIES))
def test_every_family_is_exact(name, kv, dtype):
    assert_exact(models.family(name, dtype, num_key_value_heads=kv), 1e-5 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("kv", [2, 4])
def test_a_model_of_lladas_shape_is_exact(kv):
    model = models.LLaDAShaped(kv)
    assert bound(model).binding.name == "sdpa calls"
    assert_exact(model, 1e-5)


def test_a_model_of_dreams_shape_is_exact():
    model = models.DreamShaped()
    assert bound(model).binding.name == "cache argument"
    assert_exact(model, 1e-5)


@pytest.mark.parametrize("size", [None, 8])
def test_a_model_of_llada2s_shape_is_exact(size):
    assert_exact(models.LLaDA2Shaped(size), 1e-5)


def test_half_precision_is_exact():
    assert_exact(models.family("llama", torch.float16), 0.01)


@pytest.mark.parametrize("name", ["modernbert", "llama"])
@torch.no_grad()
def test_left_pads_beyond_a_sliding_window_are_exact(name):
    """ModernBERT's window is 8 positions, the sequence has 24, of which up to 7 are pads."""
    model, ids = models.family(name), canvas()
    mask = torch.ones_like(ids)
    mask[0, :7] = mask[1, :2] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    arguments = {"position_ids": positions} if name == "llama" else {}
    plain = model(input_ids=ids, attention_mask=mask, **arguments).logits
    engine = bound(model)
    stream = Stream(engine, positions if arguments else torch.arange(WIDTH).expand(3, WIDTH))
    whole = stream.forward(ids, torch.ones_like(some()), {"attention_mask": mask})
    assert torch.equal(whole.logits, plain)
    rows = stream.forward(ids, some() & (mask != 0), {"attention_mask": mask})
    difference = (rows.logits - rows.selection.take(plain))[rows.selection.named]
    enabled.disable(model)
    assert difference.abs().max() <= 1e-5 * plain.abs().max()
    # The oracle can fail: pads and the window matter to these rows.
    assert (model(input_ids=ids, **arguments).logits - plain)[mask != 0].abs().max() > 0.1


@torch.no_grad()
def test_the_order_of_rows_changes_nothing():
    model, ids = models.llama(), canvas()
    engine = bound(model)
    changed = torch.where(some(), 9, ids)
    results, stores = [], []
    for order in (torch.arange(5), torch.tensor([3, 0, 4, 2, 1])):
        stream = Stream(engine, torch.arange(WIDTH).expand(3, WIDTH))
        stream.forward(ids, torch.ones_like(some()), {})
        selection = Selection(some())
        selection.index = RowIndex(selection.index.index[:, order].contiguous(), WIDTH)
        forward = Pass(selection, stream.store, stream.masks)
        logits = engine.forward(forward, changed, stream.positions, {}).logits
        results.append(selection.put(torch.zeros(3, WIDTH, models.VOCABULARY), logits))
        stores.append(stream.forward(changed, ~some(), {}).logits)
    assert (results[0] - results[1]).abs().max() < 1e-5
    assert (stores[0] - stores[1]).abs().max() < 1e-5


@torch.no_grad()
def test_a_row_that_was_written_is_what_attention_sees():
    """One token changes and is computed: all others, computed by themselves, see its new keys and values."""
    model = models.llama(num_hidden_layers=1)
    ids = canvas()
    stream = Stream(bound(model), torch.arange(WIDTH).expand(3, WIDTH))
    stream.forward(ids, torch.ones_like(some()), {})
    ids[some()] = 9
    stream.forward(ids, some(), {})
    # With one layer keys depend on ids alone, so after this the store is exact.
    others = stream.forward(ids, ~some(), {})
    enabled.disable(model)
    plain = model(input_ids=ids).logits
    wanted = plain.gather(1, others.selection.positions[..., None].expand(-1, -1, plain.shape[2]))
    assert (others.logits - wanted)[others.selection.named].abs().max() < 1e-4


@torch.no_grad()
def test_guidance_as_a_pair_of_rows_is_two_runs():
    model, ids = models.llama(), canvas()
    unconditional = ids.clone()
    unconditional[:, :12] = models.MASK
    engine = bound(model)
    streams = [Stream(engine, torch.arange(WIDTH).expand(n, WIDTH)) for n in (6, 3, 3)]
    for rows in (torch.ones_like(some()), some(), ~some()):
        pair = streams[0].forward(torch.cat([ids, unconditional]), torch.cat([rows, rows]), {}).logits
        alone = [
            s.forward(x, rows, {}).logits for s, x in zip(streams[1:], (ids, unconditional), strict=True)
        ]
        assert (pair - torch.cat(alone)).abs().max() < 1e-4
        ids[some()] = unconditional[some()] = 11


def test_an_output_without_logits_is_refused():
    with pytest.raises(DcacheError, match=r"an object with logits, got tuple: leave return_dict=False out"):
        with_logits((torch.zeros(1),), torch.zeros(1))
