"""A limit of bytes that several keepers of one denoiser share; intercepts of its call carry it."""

from __future__ import annotations

from typing import Protocol


class Tables(Protocol):
    """Interface: bytes that are kept beside the histories, and that can be made again."""

    def bytes_now(self) -> int:
        """Bytes of the tables now."""
        ...

    def make_way(self, nbytes: int) -> int:
        """Throw away at least so many bytes, or everything; returns the bytes that were freed."""
        ...


class ByteLimit(Protocol):
    """Interface: a limit of bytes, as `engine.budget.Budget`."""

    def admit(self, tables: Tables) -> None:
        """Count these tables from now on; histories come before them."""
        ...

    def spare(self, nbytes: int) -> bool:
        """Reserve bytes for an entry of a table; False if histories, once full, would not fit beside it."""
        ...
