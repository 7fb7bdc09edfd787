"""Write the figures of docs/diffusion_lm from evaluations of the shipped text models.

    dcache dlm eval mirror --prompts 300 --out mirror
    dcache dlm eval acrostic --prompts 300 --out acrostic
    python examples/measure_texts.py mirror acrostic

Tables lie between the lines `<!-- NAME -->` and `<!-- end -->` of a page.
"""

import argparse
import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs" / "diffusion_lm"
HEAD = "| policy | quality | 95 % | same tokens | rows |\n|---|---|---|---|---|"
HEAD_OF_ONE = "| model | order | setting | quality | none, same order | rows |\n|---|---|---|---|---|---|"


def table_of(measured: dict, model: str) -> str:
    """The table of a model, the uncached loop of each decode order in bold."""
    lines = [HEAD]
    for row in measured[model]["rows"]:
        name = f"**none, {row['order']}**" if row["name"] == "none" else row["name"]
        between = f"{row['low']:.3f}-{row['high']:.3f}"
        lines.append(f"| {name} | {row['quality']:.3f} | {between} | {row['same']:.0%} | {row['rows']:.1%} |")
    return "\n".join(lines)


def table_of_one(measured: dict, policy: str) -> str:
    """The table of a policy on both models."""
    lines = [HEAD_OF_ONE]
    for model, results in measured.items():
        plain = {row["order"]: row["quality"] for row in results["rows"] if row["name"] == "none"}
        for row in results["rows"]:
            if row["name"].split()[0] == policy:
                figures = f"{row['quality']:.3f} | {plain[row['order']]:.3f} | {row['rows']:.1%}"
                lines.append(f"| {model} | {row['order']} | {row['name']} | {figures} |")
    return "\n".join(lines)


def fill(path: Path, tables: dict[str, str]) -> None:
    """Put tables between their marks."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = rf"<!-- {name} -->\n.*?<!-- end -->"
        text = re.sub(
            pattern, lambda _, n=name, t=table: f"<!-- {n} -->\n{t}\n<!-- end -->", text, flags=re.S
        )
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    folders = parser.parse_args().folders
    results = [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in folders]
    measured = {one["model"]: one for one in results}
    (DOCS / "measured.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    fill(DOCS / "measure.md", {model: table_of(measured, model) for model in measured})
    for page in (DOCS / "policies").glob("*.md"):
        fill(page, {"table": table_of_one(measured, page.stem)})


if __name__ == "__main__":
    main()
