"""Put the tables of `dcache demo` into README.md and docs/demo.md, and its figures into docs/demo*.json.

    dcache demo --out OUT && python tools/demo_tables.py OUT/results.json

A block of a page is replaced if it begins as the command's output does. Run the demo on a machine that does
nothing else.
"""

import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dcache.cli.demo import SHOWN, heading_of, judged_cells, legend
from dcache.eval.rows import Row, table

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/demo.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What a table needs, and what says how it was measured; paths of a machine are left out.
KEPT = ("format", "machine", "versions", "uncached", "judged", "settings")


def printed(content: dict[str, Any]) -> str:
    """The lines that the command prints of its results.json, down to the legend."""
    rows = [Row(**{field.name: method[field.name] for field in fields(Row)}) for method in content["methods"]]
    uncached = SimpleNamespace(
        label="uncached",
        median=content["uncached"]["seconds"],
        spread=0.0,
        denoiser_median=1.0,
        peak_memory=None,
    )
    settings = content["settings"]
    return "\n".join(
        [
            heading_of(settings, content["machine"], content["versions"]),
            "",
            table(uncached, rows, SHOWN, judged_cells(content["judged"])),
            legend(settings["video"]),
            "",
        ]
    )


def figures(content: dict[str, Any]) -> dict[str, Any]:
    """The part of a results.json that is committed."""
    kept = {name: content[name] for name in KEPT}
    kept["settings"] = {name: value for name, value in kept["settings"].items() if name != "out"}
    names = [field.name for field in fields(Row)]
    return kept | {"methods": [{name: method[name] for name in names} for method in content["methods"]]}


def replaced(page: str, text: str) -> str:
    """The page with the text in the place of the block that begins with the same word."""
    first = text.partition(":")[0]
    return BLOCK.sub(lambda block: f"```\n{text}```" if block[2].startswith(f"{first}:") else block[0], page)


def main(results: Path) -> None:
    """Write the pages and the figures."""
    content = json.loads(results.read_text(encoding="utf-8"))
    text = printed(content)
    name = "demo-video.json" if content["settings"]["video"] else "demo.json"
    committed = json.dumps(figures(content), indent=1) + "\n"
    (ROOT / "docs" / name).write_text(committed, encoding="utf-8")
    for page in PAGES:
        path = ROOT / page
        path.write_text(replaced(path.read_text(encoding="utf-8"), text), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
