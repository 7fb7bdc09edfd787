"""The one exception family and the one warning of dcache."""

from __future__ import annotations


class DcacheError(Exception):
    """What was asked for cannot be done; the message says what was expected, what came, what to do."""


class DcacheWarning(UserWarning):
    """dcache did less than it was asked for, or did it on weaker grounds, and went on."""
