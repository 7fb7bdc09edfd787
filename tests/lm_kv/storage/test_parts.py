import torch

from dcache.lm_kv.storage.parts import DensePart, RaggedPart


def test_runs_of_a_ragged_part_are_read_where_they_lie():
    keys = torch.tensor([[1.0], [2.0], [3.0]])
    bias = torch.zeros(1, 2, 2)
    part = RaggedPart(keys, 10 * keys, torch.tensor([[2, 1]]), [2, 1], bias)
    assert part.columns == 2
    products = part.products(torch.ones(1, 2, 1, 1))
    assert products.tolist() == [[[[1, 2]], [[3, 0]]]]
    logits = part.mask(products)
    assert logits.tolist() == [[[[1, 2]], [[3, float("-inf")]]]]
    assert part.combine(torch.tensor([[[[0.5, 0.5]], [[1.0, 0.0]]]])).tolist() == [[[[15]], [[30]]]]


def test_a_run_without_tokens_gives_nothing():
    part = RaggedPart(torch.ones(2, 1), torch.ones(2, 1), torch.tensor([[2, 0]]), [2, 0])
    assert part.mask(torch.zeros(1, 2, 1, 2))[0, 1].isneginf().all()
    assert part.combine(torch.ones(1, 2, 1, 2))[0, :, 0, 0].tolist() == [2, 0]


def test_a_dense_part_has_a_bias_and_pads():
    keys = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1)
    part = DensePart(keys, keys, torch.tensor([[[False, True]]]), torch.full((1, 1, 2), 3.0))
    assert part.columns == 2
    logits = part.mask(part.products(torch.ones(1, 1, 1, 1)))
    assert logits.flatten().tolist() == [float("-inf"), 5.0]
