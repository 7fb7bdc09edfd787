"""`Run`: delay, pads, shift, sequences that wait, and positions that were never computed."""

import torch

from dcache.diffusion_lm.engine import Engine, Stream
from dcache.diffusion_lm.row_stats import RowStats
from dcache.diffusion_lm.run import Block, Run, with_predecessors
from dcache.methods import window
from tests.diffusion_lm import masked_models as models
from tests.diffusion_lm.steps import columns, listed

ACTIVE = torch.ones(2, dtype=torch.bool)


def run(method, **changes):
    """Two sequences of twelve; position 4 was decoded since it was computed, position 0 of one is a pad."""
    ids = torch.full((2, 12), models.MASK)
    ids[:, :4] = 1
    stream = Stream(Engine(None, None, None), torch.arange(12).expand(2, 12))
    stream.computed = ids.clone()
    ids = ids.clone()
    ids[:, 4] = 5
    real = columns(list(range(12)), list(range(1, 12)))
    options = {"shift": False, "whole": "", **changes}
    region = columns(list(range(4, 12)), list(range(4, 12)))
    state = Run(None, method, region, real, stream, Block(4, 12, 4), stats=RowStats(), **options)
    return state, ids


def rows(state, ids, active=ACTIVE):
    masked = (ids == models.MASK) & state.region
    mask, reason = state.rows(state.step_of(ids, masked), active)
    return listed(mask), reason


def test_delay_adds_what_was_decoded_last():
    assert rows(*run(window(window=2))) == ([[4, 5, 6]] * 2, "")
    assert rows(*run(window(window=2, delay=0))) == ([[5, 6]] * 2, "")


def test_a_shift_needs_the_row_before_each_masked_one():
    assert rows(*run(window(window=2, delay=0), shift=True)) == ([[4, 5, 6]] * 2, "")


def test_sequences_that_wait_compute_nothing():
    state, ids = run(window(window=1))
    assert rows(state, ids, torch.tensor([False, True])) == ([[], [4, 5]], "")


def test_what_was_never_computed_is_and_pads_are_not():
    state, ids = run(window(window=1, delay=0))
    state.stream.computed[:, [0, 11]] = -1
    assert rows(state, ids) == ([[0, 5, 11], [5, 11]], "")


def test_all_rows_for_a_reason():
    state, ids = run(window(window=1), whole="width")
    assert rows(state, ids) == ([list(range(12))] * 2, "width")


def test_predecessors_stop_at_the_first_row():
    assert listed(with_predecessors(columns([0, 5]), columns([0, 5]))) == [[0, 4, 5]]


def test_a_block_remembers_the_one_before():
    block = Block(4, 8, 4, steps=3)
    block.move(8, 12)
    assert (block.previous, block.start, block.end, block.steps) == (4, 8, 12, 0)
