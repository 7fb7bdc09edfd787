import torch

from dcache.lm_kv.codecs.pages import unlike_pages


def test_pages_with_a_key_unlike_their_mean_are_few():
    keys = torch.ones(2, 64, 2)
    keys[0, 9] = torch.tensor([1.0, -1.0])
    keys[0, 40] = torch.tensor([1.0, 0.0])
    keys[1, 3] = -1.0
    valid = torch.ones(2, 64, dtype=torch.bool)
    valid[1, 32:] = False
    pages = unlike_pages(keys, valid, 2, 48)
    # Of 32 pages two may be, of 16 one.
    assert [row.nonzero().flatten().tolist() for row in pages] == [[4, 20], [1]]
    assert unlike_pages(keys, valid, 2, 1).sum(1).tolist() == [1, 1]
    assert not unlike_pages(keys, valid, 2, 0).any()
