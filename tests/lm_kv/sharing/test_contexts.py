"""Texts read side by side: each as by itself, in any order."""

import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.sharing.contexts import check_contexts, joined, read_in_parallel
from tests.lm_kv.language_models import llama
from tests.lm_kv.sharing.texts import ids, read


def test_every_text_is_read_as_by_itself_behind_the_prefix():
    model, prefix = llama(2), ids(1, 5)
    texts = [ids(1, length, length)[0] for length in (7, 4, 9)]
    cache = read_in_parallel(read(model, prefix), texts)
    start = 0
    for text in texts:
        single = read(model, torch.cat([prefix, text[None]], 1))
        for layer, alone in zip(cache.layers, single.layers, strict=True):
            segment, expected = joined(layer.store), alone.store.tail
            run = segment.pad(segment.keys)[0, :, start : start + len(text)]
            torch.testing.assert_close(run, expected.keys[0, :, 5:], atol=1e-5, rtol=0)
            run = segment.pad(segment.values)[0, :, start : start + len(text)]
            torch.testing.assert_close(run, expected.values[0, :, 5:], atol=1e-5, rtol=0)
            positions = segment.pad(segment.places())[0, :, start : start + len(text)]
            assert torch.equal(positions, expected.positions[:, 5:].expand(2, -1))
        start += len(text)
    assert joined(cache.layers[0].store).lengths.tolist() == [[20, 20]]


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ([], r"contexts must be a list of ids, one tensor for each text, got \[\]"),
        ("text", r"every context must be ids int64 \[T\] without pads, at least one, got 't'"),
        ([torch.ones(2, 3, dtype=torch.long)], r"got torch.int64 \(2, 3\): give one tensor for each"),
        ([torch.ones(3)], r"got torch.float32 \(3,\)"),
        ([torch.ones(0, dtype=torch.long)], r"got torch.int64 \(0,\)"),
    ],
    ids=["none", "words", "batch", "floats", "empty"],
)
def test_what_are_no_ids_is_refused(contexts, message):
    with pytest.raises(DcacheError, match=message):
        check_contexts(contexts)


def test_rows_of_a_tensor_are_texts():
    assert [text.tolist() for text in check_contexts(torch.tensor([[1, 2], [3, 4]]))] == [[1, 2], [3, 4]]
