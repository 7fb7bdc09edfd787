"""The README for package indexes, where relative links lead nowhere: hatchling calls this for every build.

Links into the repository become absolute where `[project.urls]` has its address as `Repository`. While it has
none, their text alone is left, and pictures are left out.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|!\[[^\]]*\]\([^)\s]+\))*)\]\(([^)\s]+)\)")
LEFT_OUT = "\nLinks of this page lead into the repository; they are left out here.\n"


class ReadmeHook(MetadataHookInterface):
    """Puts the rewritten README into the metadata."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme`, which pyproject.toml lists as dynamic."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_index(text, repository)}


def for_index(text: str, repository: str | None = None) -> str:
    """The page with links that work on a package index.

    Args:
        text: Markdown whose relative links start at the repository's root.
        repository: address such as "https://host/owner/name"; None if there is none.
    """
    # The odd parts are blocks of code, where brackets are no links.
    parts = FENCE.split(text)
    parts[::2] = [_rewritten(part, repository) for part in parts[::2]]
    return "".join(parts) + ("" if repository else LEFT_OUT)


def _rewritten(text: str, repository: str | None) -> str:
    def picture(match: re.Match[str]) -> str:
        address = _absolute(match[2], repository, "raw")
        return f"![{match[1]}]({address})" if address else ""

    def link(match: re.Match[str]) -> str:
        address = _absolute(match[2], repository, "blob")
        return f"[{match[1]}]({address})" if address and match[1] else match[1]

    return re.sub(r"\n{3,}", "\n\n", LINK.sub(link, PICTURE.sub(picture, text)))


def _absolute(target: str, repository: str | None, view: str) -> str | None:
    """The address of a link's target; None for one that leads into a repository without an address."""
    if "://" in target or target.startswith("#"):
        return target
    return f"{repository.rstrip('/')}/{view}/HEAD/{target}" if repository else None
