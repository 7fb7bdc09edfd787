"""Keys and values of layers, or of all heads, that are encoded together; tensors may belong to several."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch

from dcache.errors import DcacheError, DcacheWarning
from dcache.lm_kv.codecs.codec import Codec


class Joint(Codec, Protocol):
    """A codec that encodes several layers, or all heads of one, after a prompt; it stores all tokens."""

    @property
    def name(self) -> str:
        """The preset's."""

    @property
    def alone(self) -> bool:
        """Whether each layer is encoded by itself, as soon as it ran."""

    @property
    def shared(self) -> frozenset[str]:
        """Names of encoded tensors that the layers of a group have in common."""

    def groups(self, layers: int) -> list[tuple[int, ...]]:
        """Places of the layers that are encoded together, of so many; the others stay as they are."""

    def encode_group(
        self,
        codecs: Sequence[Any],
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        lengths: torch.Tensor,
        first: torch.Tensor,
        inputs: Sequence[torch.Tensor] = (),
    ) -> list[tuple[Any, Any]]:
        """Each layer's encoded keys and values.

        Args:
            codecs: this codec, bound to each layer.
            keys: of each layer `[N, d]`, the same tokens in all layers and heads.
            values: of each layer `[N, d_v]`.
            lengths: int64 `[rows, heads]`; equal in all heads of a row.
            first: int64 `[rows]`, the position by which the model turned each row's first key; those of the
                others follow without gaps.
            inputs: of each layer `[T, D]`, what attention was given for the rows' tokens, one row after the
                other; empty for layers whose tails keep none.
        """

    @property
    def paired(self) -> frozenset[str]:
        """Names of encoded tensors that a layer's values may have from its keys, where they are counted."""

    def above(self, keys: Any, values: Any, below: Any) -> dict[str, Any]:
        """Restored keys and values, by these names, which are read with the keys of the layer below."""


def check_joint(joint: Joint | None, everything: bool, layers: int) -> None:
    """Refuse a budget beside layers that are encoded together; warn where there are none of them.

    Args:
        joint: a policy's, None where it encodes no layers together.
        everything: whether the budget is all tokens.
        layers: how many layers have a budget.

    Raises:
        DcacheError: the budget is smaller.
    """
    if joint is None:
        return
    if not everything:
        raise DcacheError(
            f"{joint.name} stores all tokens of several layers or heads together: leave budget=1.0, or evict "
            "with another policy and codec, such as lm_kv.keydiff() with lm_kv.cskv()"
        )
    if not joint.groups(layers):
        warnings.warn(
            f"{joint.name} encodes no layer of this model: all tokens stay as they came in {layers} of the "
            "layers; a smaller start may change it",
            DcacheWarning,
            stacklevel=5,
        )


class WholeRows:
    """Base of codecs whose rows are taken whole: what is encoded together is not taken apart.

    An encoded part has `counts` int64 `[rows it was made of]`, tokens of each, and `rows` int64 `[rows]`,
    which of them each row is.
    """

    name: ClassVar[str]
    block: ClassVar[int] = 0
    alone: ClassVar[bool] = False
    paired: ClassVar[frozenset[str]] = frozenset()

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> Any:
        """Refused: one layer's tokens alone.

        Raises:
            DcacheError: always.
        """
        raise DcacheError(
            f"{self.name} encodes several layers or heads together and stores all tokens: use it with "
            "budget=1.0, or another codec such as lm_kv.cskv()"
        )

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> Any:
        """Refused, as keys are."""
        return self.encode_keys(values, lengths, lengths)

    def above(self, keys: Any, values: Any, below: Any) -> dict[str, Any]:
        """Nothing changes: a layer is read by itself, or with what `shared` names."""
        return {}

    def join(self, parts: Sequence[Any], order: torch.Tensor, lengths: torch.Tensor) -> Any:
        """Never called: each prompt's tokens are a segment by themselves, and none is evicted."""
        raise TypeError("what is encoded together is not joined")


def rows_taken(
    counts: torch.Tensor, rows: torch.Tensor, index: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """The new `rows` of an encoded part of which these tokens are taken, int64 indices of whole rows.

    Args:
        counts: the part's.
        rows: the part's.
        index: int64 `[N]`, the tokens' places.
        lengths: int64 `[new rows, heads]`.
    """
    heads = lengths.shape[1]
    ends = (counts[rows] * heads).cumsum(0)
    sizes = lengths.sum(1)
    first = sizes.cumsum(0) - sizes
    taken = []
    for size, start in zip(sizes.tolist(), first.tolist(), strict=True):
        if size:
            taken.append(int(rows[int((ends <= index[start]).sum())]))
        else:
            taken.append(int(rows[int((counts[rows] == 0).nonzero()[0])]))
    new = torch.tensor(taken, dtype=torch.int64, device=rows.device)
    if not torch.equal(counts[new] * heads, sizes):
        raise TypeError("what is encoded together is taken in whole rows")
    return new
