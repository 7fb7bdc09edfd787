"""When tokens are evicted."""

from __future__ import annotations


def due(new: int, since: int, every: int, recording: bool) -> bool:
    """Whether a layer's tokens are evicted at the end of this call.

    After a call with several tokens (a prompt, a chunk of one, a later turn), and every so many decoded
    tokens.

    Args:
        new: columns of this call.
        since: columns since the last eviction, this call's included.
        every: decoded tokens between evictions; 0 for none while decoding.
        recording: whether the library may take tokens back; then `due_at_crop` says when.

    >>> due(new=40, since=40, every=0, recording=False), due(new=1, since=8, every=8, recording=False)
    (True, True)
    """
    if recording:
        return False
    return new > 1 or (every > 0 and since >= every)


def due_at_crop(evictions: int, since: int, every: int) -> bool:
    """The same while the library verifies drafts by calls of several tokens: after the prompt, then `every`.

    Args:
        evictions: evictions so far.
        since: columns since the last one.
        every: decoded tokens between evictions.
    """
    return evictions == 0 or (every > 0 and since >= every)
