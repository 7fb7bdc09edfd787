import math
import sys

import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.codecs import range_coding


def sequences():
    generator = torch.Generator().manual_seed(0)
    lengths = (0, 1, 700, 3000, *range(900, 910))
    spread = (1.0, 1.0, 0.5, 4.0, *[2.0] * 10)
    return [
        (torch.randn(n, generator=generator) * s + 8).round().clamp(0, 15).to(torch.uint8)
        for n, s in zip(lengths, spread, strict=True)
    ]


def test_what_is_decoded_is_what_was_encoded():
    pytest.importorskip("constriction")
    given = sequences()
    coded = range_coding.encode(given, 16)
    back = range_coding.decode(range_coding.Coded.of(coded.tensors()), [len(s) for s in given])
    assert all(torch.equal(a, b) for a, b in zip(given, back, strict=True))
    assert coded.tables.shape == (14, 16)
    assert coded.tables.amax(1).tolist() == [0, *[255] * 13]


def test_bits_are_those_of_the_entropy():
    pytest.importorskip("constriction")
    given = sequences()
    coded = range_coding.encode(given, 16)
    bits = 0.0
    for sequence in given:
        counts = torch.bincount(sequence.long(), minlength=16).tolist()
        bits -= sum(c * math.log2(c / sum(counts)) for c in counts if c)
    # A word is 32 bits; counts are rounded to 1/255 of the largest.
    assert bits <= 32 * len(coded.words) <= 1.01 * bits + 64


def test_without_its_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(DcacheError, match=r"coding needs .*pip install 'dcache-torch\[cachegen\]'"):
        range_coding.encode([torch.zeros(3, dtype=torch.uint8)], 4)
