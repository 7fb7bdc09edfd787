"""Sequences of small numbers as one string of bits, each under its own table of how often a number comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.util.distribution import install_line

# The largest count of a table: counts are bytes.
MOST = 255


@dataclass(frozen=True, eq=False)
class Coded:
    """Sequences as a range coder wrote them.

    Attributes:
        words: int32 `[W]`, the bits.
        tables: uint8 `[sequences, alphabet]`, how often each number comes, the most frequent one 255 times;
            0 for numbers that do not come.
    """

    words: torch.Tensor
    tables: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """Both tensors by name."""
        return {"words": self.words, "tables": self.tables}

    @staticmethod
    def of(tensors: Mapping[str, torch.Tensor]) -> Coded:
        """What `tensors` gave."""
        return Coded(tensors["words"], tensors["tables"])


def encode(sequences: Sequence[torch.Tensor], alphabet: int) -> Coded:
    """Write sequences, uint8 of any lengths, whose numbers are below `alphabet`."""
    coder = _constriction().stream.queue.RangeEncoder()
    tables = torch.zeros(len(sequences), alphabet, dtype=torch.uint8, device="cpu")
    for table, sequence in zip(tables, sequences, strict=True):
        if len(sequence):
            table.copy_(_table(sequence.cpu(), alphabet))
            coder.encode(sequence.cpu().int().contiguous().numpy(), _model(table))
    words = torch.from_numpy(coder.get_compressed().astype("int64")).int()
    return Coded(words, tables)


def decode(coded: Coded, lengths: Sequence[int]) -> list[torch.Tensor]:
    """The sequences, uint8, of these lengths."""
    words = coded.words.cpu().numpy().astype("uint32")
    coder = _constriction().stream.queue.RangeDecoder(words)
    tables = coded.tables.cpu()
    return [
        torch.from_numpy(coder.decode(_model(table), length)).to(torch.uint8)
        if length
        else torch.empty(0, dtype=torch.uint8, device="cpu")
        for table, length in zip(tables, lengths, strict=True)
    ]


def _table(sequence: torch.Tensor, alphabet: int) -> torch.Tensor:
    """The counts of a sequence's numbers, scaled to bytes; a number that comes has at least 1."""
    counts = torch.bincount(sequence.int(), minlength=alphabet)
    # In whole numbers: 255.00000000000003 rounded up would be no byte.
    most = int(counts.max())
    return ((counts * MOST + most - 1) // most).to(torch.uint8)


def _model(table: torch.Tensor) -> Any:
    """The coder's model of a table: whole counts, so that both sides round them alike."""
    return _constriction().stream.model.Categorical(table.double().numpy(), perfect=False)


def _constriction() -> Any:
    """The library of entropy coders.

    Raises:
        DcacheError: it is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise DcacheError(
            f"arithmetic coding needs the package constriction ({error}): {install_line('cachegen')}"
        ) from None
    return constriction
