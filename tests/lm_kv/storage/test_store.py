import torch

from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.storage.reducers import drop
from dcache.lm_kv.storage.store import LayerStore, share_seen


def store(columns: int = 4, scored: bool = False) -> LayerStore:
    """One row, two heads, keys 0, 1, 2, ... in the first and 100, 101, ... in the second."""
    keys = torch.stack([torch.arange(float(columns)), 100 + torch.arange(float(columns))]).view(
        1, 2, columns, 1
    )
    new = LayerStore(keys, keys, () if scored else None)
    new.append(keys, keys, torch.arange(columns)[None], None, torch.tensor([columns]))
    return new


def pack(of: LayerStore, keep: list[list[int]], columns: int) -> None:
    stored = of.stored()
    mask = torch.zeros_like(stored.valid)
    for head, tokens in enumerate(keep):
        mask[0, head, tokens] = True
    of.pack(stored, mask, columns, drop, Plain())


def test_packing_keeps_other_tokens_in_each_head_and_the_newest_in_the_tail():
    one = store()
    pack(one, [[0, 3], [1, 2, 3]], columns=1)
    assert one.kept().tolist() == [[2, 3]]
    (segment,) = one.segments
    assert segment.keys.flatten().tolist() == [0, 101, 102]
    assert one.tail.keys.flatten().tolist() == [3, 103]
    assert one.columns == 4
    assert one.seen.tolist() == [4]


def test_packing_again_goes_on_from_what_was_kept():
    one = store()
    pack(one, [[0, 3], [1, 2, 3]], columns=1)
    # Slots are now the first head's 0 and an empty one, the second head's 101 and 102, then the tail.
    pack(one, [[2], [0, 2]], columns=1)
    assert one.kept().tolist() == [[1, 2]]
    assert one.segments[0].keys.flatten().tolist() == [101]


def test_scores_follow_their_tokens_and_go_on_adding_up():
    one = store(scored=True)
    one.add_scores(torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]))
    pack(one, [[0, 3], [1, 2, 3]], columns=1)
    assert not one.add_scores(torch.full((1, 2, 3), 10.0))
    assert one.segments[0].score.tolist() == [11, 16, 17]
    assert one.tail.score.tolist() == [[[14.0], [18.0]]]


def test_a_crop_takes_true_tokens_back():
    one = store()
    one.append(
        torch.zeros(1, 2, 2, 1), torch.zeros(1, 2, 2, 1), torch.tensor([[4, 4]]),
        torch.tensor([[True, False]]), torch.tensor([5]),
    )  # fmt: skip
    one.crop(2)
    assert one.seen.tolist() == [4]
    assert one.columns == 4


def test_a_fork_shares_segments_and_goes_its_own_way():
    one = store()
    pack(one, [[0, 3], [3]], columns=1)
    other = one.fork()
    assert other.segments[0].keys is one.segments[0].keys
    one.append(torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1), torch.tensor([[4]]), None, torch.tensor([5]))
    assert other.kept().tolist() == [[2, 1]]
    assert other.columns == 4


def test_a_segment_without_scores_gets_some_which_are_bytes_that_are_held():
    one = store()
    pack(one, [[0, 3], [1, 2, 3]], columns=1)
    columns = torch.full((1, 2, 3), 10.0)
    assert one.add_scores(columns)
    assert not one.add_scores(columns)
    assert one.segments[0].score.tolist() == [20, 20, 20]


def test_stores_with_equal_counts_share_one_tensor():
    first, second, other = store(), store(), store(3)
    share_seen([first, None, second, other])
    assert second.seen is first.seen
    assert other.seen.tolist() == [3]
