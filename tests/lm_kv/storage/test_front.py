"""Parts that all rows read, against attention with the part copied into every row."""

import pytest
import torch

from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.model.attention import Fresh, Logits, attend, attend_one, attend_some
from dcache.lm_kv.storage.front import Block, Blocks, SharedPart
from dcache.lm_kv.storage.parts import DensePart
from dcache.lm_kv.storage.reducers import drop
from dcache.lm_kv.storage.stored import gather
from dcache.lm_kv.storage.tail import Tail

ROWS, HEADS, GROUPS, SIZE, LENGTH = 3, 2, 2, 8, 7


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def dense(rows: int, length: int) -> DensePart:
    return DensePart(random(rows, HEADS, length, SIZE), 1 + random(rows, HEADS, length, SIZE))


def copied(part: DensePart) -> DensePart:
    keys, values = (states.expand(ROWS, -1, -1, -1) for states in (part.keys, part.values))
    return DensePart(keys, values)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("queries", [1, 4])
def test_it_is_attention_with_a_copy_in_every_row(queries, softcap):
    query, shared, own = random(ROWS, HEADS * GROUPS, queries, SIZE), dense(1, LENGTH), dense(ROWS, queries)
    logits = Logits(0.3, softcap)
    expected = attend(query, [copied(shared), own], logits, Fresh()).output
    part = SharedPart(shared)
    close(attend(query, [part, own], logits, Fresh()).output, expected)
    close(attend_some(query, [part, own], logits, Fresh()), expected)
    if queries == 1:
        close(attend_one(query, [part, own], logits, None).output, expected)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_temperature_and_scale_say_how_much_mass_the_part_gets(softcap):
    temperature, scale = 0.8, 0.9
    query, shared, own = random(ROWS, HEADS * GROUPS, 1, SIZE), dense(1, LENGTH), dense(ROWS, 2)
    logits, folded = Logits(0.3, softcap), query.reshape(ROWS, HEADS, GROUPS, SIZE)
    there = logits.of(folded @ shared.keys.mT) / temperature
    here = logits.of(folded @ own.keys.mT)
    mass = torch.cat([scale * temperature * there.logsumexp(-1, keepdim=True), here], -1).softmax(-1)
    expected = mass[..., :1] * (there.softmax(-1) @ shared.values) + mass[..., 1:] @ own.values
    part = SharedPart(shared, temperature, scale)
    for output in (
        attend_one(query, [part, own], logits, None).output,
        attend_one(query, [part, own], logits, "sum").output,
    ):
        close(output, expected.reshape(ROWS, 1, HEADS * GROUPS, SIZE))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_rows_that_do_not_read_it_are_as_without(temperature):
    query, own = random(ROWS, HEADS * GROUPS, 1, SIZE), dense(ROWS, 2)
    readers = torch.tensor([True, False, True])
    part = SharedPart(dense(1, LENGTH), temperature, readers=readers)
    for statistic in (None, "sum"):
        got = attend_one(query, [part, own], Logits(0.3), statistic).output
        close(got[1], attend_one(query, [own], Logits(0.3), statistic).output[1])
        assert not torch.allclose(got[0], attend_one(query, [own], Logits(0.3), statistic).output[0])


def test_turned_queries_meet_its_keys():
    query, shared, own = random(ROWS, HEADS * GROUPS, 1, SIZE), dense(1, LENGTH), dense(ROWS, 2)
    factors = torch.tensor([1.0, 2.0, -1.0])[:, None, None, None]
    part = SharedPart(shared, turn=lambda states: states * factors)
    keys = shared.keys * factors
    expected = attend_one(query, [DensePart(keys, copied(shared).values), own], Logits(0.3), None).output
    for statistic in (None, "sum"):
        close(attend_one(query, [part, own], Logits(0.3), statistic).output, expected)


def test_blocks_are_read_in_order_and_counted_once():
    tail = Tail(random(1, HEADS, 0, SIZE), random(1, HEADS, 0, SIZE))
    part = dense(1, LENGTH)
    tail.append(part.keys, part.values, torch.arange(LENGTH)[None], None)
    every = torch.ones(1, HEADS, LENGTH, dtype=torch.bool)
    masks = (every, every & (torch.arange(LENGTH) < 3))
    first, second = (drop(gather((), tail), mask, Plain()) for mask in masks)
    blocks = Blocks((Block(first), Block(second, 0.5)))
    assert blocks.kept().tolist() == [[10, 10]]
    assert [p.columns for p in blocks.parts(tail, None)] == [7, 3]
    assert blocks.parts(tail, None)[1].temperature == 0.5
    assert len(blocks.storages()) == len(first.storages()) + len(second.storages())
    nothing = Blocks((Block(drop(gather((), tail), every & False, Plain())),))
    assert nothing.parts(tail, None) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [2, 100])
def test_few_and_many_rows_give_the_same_on_a_gpu(rows):
    query, shared = random(rows, HEADS, GROUPS, SIZE), dense(1, LENGTH)
    expected = SharedPart(shared).attend(query, 0.3, None)
    there = SharedPart(DensePart(shared.keys.cuda(), shared.values.cuda())).attend(query.cuda(), 0.3, None)
    for actual, exact in zip(there, expected, strict=True):
        close(actual.float().cpu(), exact)
