"""Pages that are read: the best ones as long as they fit, with sinks and those that are always read first."""

import torch

from dcache.lm_kv.layers.pages import chosen
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.selectors import PageBounds
from dcache.lm_kv.storage.segment import Segment


def test_pages_are_chosen_as_a_walk_over_them_does():
    torch.manual_seed(0)
    lengths = torch.tensor([[10, 10], [3, 7]])
    keys, values = torch.randn(30, 4), torch.randn(30, 5)
    segment = Segment(keys, values, torch.zeros(30, dtype=torch.int32), lengths)
    selector = PageBounds(2)
    index = selector.index(segment.pad(keys), segment.valid, {})
    query = torch.randn(2, 4, 1, 4)
    limit, sinks = torch.tensor([5, 5]), torch.tensor([1, 0])
    part, read = chosen(segment, index, selector, query, Logits(0.5), limit, sinks)
    counts = []
    for row in range(2):
        for head in range(2):
            size = int(lengths[row, head])
            start = int(lengths.flatten()[: 2 * row + head].sum())
            pages = [list(range(first, min(first + 2, size))) for first in range(0, size, 2)]
            bounds = [
                [
                    sum(max(q * float(keys[start + t, j]) for t in page) for j, q in enumerate(one))
                    for page in pages
                ]
                for one in query[row, 2 * head : 2 * head + 2, 0].tolist()
            ]
            scores = (torch.tensor(bounds) * 0.5).softmax(-1).mean(0)
            if row == 0:
                scores[0] = 9.0
            expected, left = [], 5
            for page in scores.argsort(descending=True).tolist():
                if len(pages[page]) > left:
                    break
                left -= len(pages[page])
                expected += pages[page]
            tokens = part.keys[row, head][part.valid[row, head]]
            assert torch.equal(tokens, keys[start : start + size][sorted(expected)])
            assert torch.equal(
                part.values[row, head][part.valid[row, head]], values[start:][sorted(expected)]
            )
            counts.append(len(expected))
    assert read.tolist() == [sum(counts[:2]) / 2, sum(counts[2:]) / 2]


def test_pages_that_are_always_read_come_first_up_to_a_quarter():
    keys = torch.eye(12)
    segment = Segment(keys, keys, torch.arange(12).int(), torch.tensor([[12]]))
    index = PageBounds(1).index(segment.pad(keys), segment.valid, {})
    always = torch.zeros(1, 1, 12, dtype=torch.bool)
    always[..., [2, 4, 5]] = True
    index = {**index, "always": always}
    # The query likes late tokens; of eight that are read two may be such pages.
    query = torch.arange(12.0).view(1, 1, 1, 12)
    part, read = chosen(
        segment, index, PageBounds(1), query, Logits(1.0), torch.tensor([8]), torch.tensor([0])
    )
    assert part.keys[0, 0].argmax(1).tolist() == [2, 4, 6, 7, 8, 9, 10, 11]
    assert read.tolist() == [8]
