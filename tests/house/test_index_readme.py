"""On package indexes every link of the README works, or is left out."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests import scripts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = """\
# Title

[![badge](https://host/b.svg)](https://host/ci) and [![local](b.svg)](docs/ci.md)

![picture](docs/p.png)

See [the docs](docs/a.md#part), [below](#title) and [elsewhere](https://host/x).

```python
table[key](docs)
```
"""


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    return scripts.load("hatch_build.py")


def test_without_an_address_texts_stay_and_pictures_go(hook: ModuleType) -> None:
    assert hook.for_index(PAGE) == (
        "# Title\n\n"
        "[![badge](https://host/b.svg)](https://host/ci) and \n\n"
        "See the docs, [below](#title) and [elsewhere](https://host/x).\n\n"
        "```python\ntable[key](docs)\n```\n"
        "\nLinks of this page lead into the repository; they are left out here.\n"
    )


def test_with_an_address_they_become_absolute(hook: ModuleType) -> None:
    text = hook.for_index(PAGE, "https://git.example/owner/name/")
    assert "![picture](https://git.example/owner/name/raw/HEAD/docs/p.png)" in text
    assert "[the docs](https://git.example/owner/name/blob/HEAD/docs/a.md#part)" in text
    assert "left out" not in text


def test_the_readme_keeps_its_code_and_loses_every_relative_link(hook: ModuleType) -> None:
    text = hook.for_index(README)
    links = re.findall(r"\]\(([^)\s]+)\)", hook.FENCE.sub("", text))
    assert not [link for link in links if not link.startswith(("https://", "#"))]
    assert hook.FENCE.findall(text) == hook.FENCE.findall(README)
    assert len(text) > 0.7 * len(README)
