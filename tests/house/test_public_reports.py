"""Every test that the log of public reports names exists."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_named_test_exists() -> None:
    rows = re.findall(r"`tests/([\w/]+\.py)::(test_\w+)`", (TESTS / "public_reports.md").read_text("utf-8"))
    assert len(rows) >= 16
    missing = [
        f"{path}::{name}"
        for path, name in rows
        if not re.search(rf"^def {name}\(", (TESTS / path).read_text("utf-8"), re.MULTILINE)
    ]
    assert missing == []
