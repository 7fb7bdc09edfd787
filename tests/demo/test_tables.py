"""The tables in README and docs are those that the command prints of the committed figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import scripts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> Any:
    """tools/demo_tables.py."""
    return scripts.load("tools/demo_tables.py")


@pytest.mark.parametrize(
    ("page", "figures"),
    [
        ("README.md", "docs/demo.json"),
        ("docs/demo.md", "docs/demo.json"),
        ("docs/demo.md", "docs/demo-video.json"),
    ],
)
def test_a_page_shows_the_committed_figures(tool: Any, page: str, figures: str) -> None:
    content = json.loads((ROOT / figures).read_text(encoding="utf-8"))
    text = (ROOT / page).read_text(encoding="utf-8")
    assert f"```\n{tool.printed(content)}```\n" in text
    # Nothing is left for the tool to write.
    assert tool.figures(content | {"settings": content["settings"] | {"out": "x"}}) == content
    assert tool.replaced(text, tool.printed(content)) == text


def test_only_the_block_of_the_same_kind_is_replaced(tool: Any) -> None:
    page = "```bash\nmake demo\n```\n```\npictures: 1\n```\n```\nclips of 9 frames: 1\n```\n"
    wanted = page.replace("pictures: 1", "pictures: 2")
    assert tool.replaced(page, "pictures: 2\n") == wanted
