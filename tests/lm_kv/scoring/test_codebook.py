import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.scoring.codebook import Codebook, means_of, nearest_codes, query_factor


def seen(*queries: list[float]) -> dict[str, torch.Tensor]:
    query = torch.tensor(queries)[None, None]
    return {"query": query, "valid": torch.ones(1, len(queries), dtype=torch.bool)}


def test_codewords_are_near_in_what_queries_see():
    keys = torch.tensor([[0.0, 9.0], [5.0, 8.0], [5.0, -8.0], [0.0, -9.0], [7.0, 7.0]]).view(1, 1, 5, 2)
    valid = torch.tensor([1, 1, 1, 1, 0]).bool().view(1, 1, 5)
    # Queries that see the first channel alone, or the second one.
    first = Codebook(2).index(keys, valid, seen([1.0, 0.0], [-2.0, 0.0]))
    assert first["codes"][0, 0, :4].tolist() == [0, 1, 1, 0]
    assert first["codebook"].tolist() == [[[[0, 0], [5, 0]]]]
    second = Codebook(2).index(keys, valid, seen([0.0, 1.0]))
    assert second["codes"][0, 0, :4].tolist() == [0, 0, 1, 1]
    assert second["codebook"].tolist() == [[[[2.5, 8.5], [2.5, -8.5]]]]
    products = Codebook(2).products(torch.tensor([[[[2.0, 1.0]]]]), second)
    assert products[..., :4].flatten().tolist() == [13.5, 13.5, -3.5, -3.5]


def test_as_many_codewords_as_keys_are_exact():
    torch.manual_seed(0)
    keys, query = torch.randn(2, 3, 12, 8), torch.randn(2, 6, 4, 8)
    state = {"query": query, "valid": torch.ones(2, 4, dtype=torch.bool)}
    index = Codebook(12).index(keys, torch.ones(2, 3, 12, dtype=torch.bool), state)
    asked = query[:, :, 0].unflatten(1, (3, 2))
    torch.testing.assert_close(Codebook(12).products(asked, index), asked @ keys.mT)


def test_the_factor_is_that_of_the_second_moments():
    query = torch.randn(1, 4, 9, 3)
    valid = torch.tensor([[True] * 7 + [False] * 2])
    factor = query_factor(query, valid, 2)
    counted = query[:, :2, :7].flatten(1, 2)[0]
    moments = counted.T @ counted / 7
    own = factor[0, 0] @ factor[0, 0].T
    torch.testing.assert_close(own, moments + 1e-3 * moments.diagonal().mean() * torch.eye(3))


def test_the_algorithm_never_makes_distances_longer():
    torch.manual_seed(0)
    points, valid = torch.randn(2, 40, 3), torch.ones(2, 40, dtype=torch.bool)
    valid[1, 25:] = False
    codes = nearest_codes(points, valid, 5)
    centres = means_of(points, codes, valid, 5)

    def error(of: torch.Tensor) -> float:
        nearest = ((points[:, :, None] - of[:, None]) ** 2).sum(-1).amin(-1)
        return float((nearest * valid).sum())

    begins = torch.stack([points[0, torch.arange(5) * 8], points[1, torch.arange(5) * 5]])
    assert error(centres) < 0.9 * error(begins)
    # A run by itself gets the same codewords.
    assert torch.equal(nearest_codes(points[1:, :25], valid[1:, :25], 5), codes[1:, :25])


def test_codewords_need_queries():
    with pytest.raises(DcacheError, match="give its policy a QueryWindow observer"):
        Codebook().index(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, dtype=torch.bool), {})
