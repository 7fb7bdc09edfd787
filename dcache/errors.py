"""The one exception family and the one warning of dcache."""

from __future__ import annotations


class DcacheError(Exception):
    """A request that dcache cannot fulfil. The message names what was expected, what came, and what to do."""


class DcacheWarning(UserWarning):
    """dcache continues with less caching than requested, or with an assumption that it could not verify."""
