import torch

from dcache.lm_kv.codecs import bases
from dcache.lm_kv.codecs.bases import BasisTokens, HeadBasis


def basis(rank, seed, size=6):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
    return HeadBasis(torch.randn(size, generator=generator), vectors[:rank].half().contiguous())


TOKENS = torch.randn(9, 6, generator=torch.Generator().manual_seed(9))
HEADS = torch.tensor([0, 0, 0, 1, 1, 0, 0, 1, 1])


def test_tokens_are_projected_on_their_heads_directions():
    given = [basis(6, 0), basis(2, 1)]
    tokens = bases.project(TOKENS, HEADS, given)
    assert [tuple(n.shape) for n in tokens.numbers] == [(5, 6), (4, 2)]
    whole, few = HEADS == 0, HEADS == 1
    decoded = tokens.decoded()
    torch.testing.assert_close(decoded[whole], TOKENS[whole], atol=1e-2, rtol=0)
    vectors, mean = given[1].directions.float(), given[1].mean
    expected = mean + (TOKENS[few] - mean) @ vectors.T @ vectors
    torch.testing.assert_close(decoded[few], expected, atol=1e-2, rtol=0)


def test_taken_and_joined_tokens_are_what_they_were():
    given = [basis(3, 0), basis(2, 1)]
    first = bases.project(TOKENS, HEADS, given)
    # Those of a file have directions of their own.
    second = bases.project(TOKENS + 1, HEADS, [basis(3, 2), basis(2, 3)])
    rows = torch.tensor([8, 0, 3, 3, 5])
    assert torch.equal(first.take(rows).decoded(), first.decoded()[rows])
    order = torch.tensor([0, 9, 3, 17, 12, 1])
    whole = torch.cat([first.decoded(), second.decoded()])
    both = bases.join([first, second], order)
    torch.testing.assert_close(both.decoded(), whole[order], atol=1e-6, rtol=0)
    assert len(both.bases) == 4
    # The same directions are held once.
    assert len(bases.join([first, first.take(rows)], torch.arange(14)).bases) == 2


def test_a_file_has_all_of_it():
    tokens = bases.project(TOKENS.bfloat16(), HEADS, [basis(3, 0), basis(2, 1)])
    back = BasisTokens.of(tokens.tensors(), torch.bfloat16)
    assert torch.equal(back.decoded(), tokens.decoded())
    assert back.decoded().dtype == torch.bfloat16


def test_no_tokens():
    tokens = bases.project(TOKENS[:0], HEADS[:0], [basis(3, 0), basis(2, 1)])
    assert tokens.decoded().shape == (0, 6)
    assert tokens.take(torch.empty(0, dtype=torch.long)).decoded().shape == (0, 6)
