"""Lines that a slow machine adds to a command's progress."""


def without_heartbeats(text: str) -> list[str]:
    """The lines of what was written to stderr, without those that only say that the work goes on."""
    return [line for line in text.splitlines() if not line.startswith("still at it: ")]
