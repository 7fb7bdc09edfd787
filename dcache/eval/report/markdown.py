"""The report as Markdown: table, notes, machine and versions."""

from __future__ import annotations

from dcache.eval.machine import heading
from dcache.eval.report.content import Content
from dcache.eval.report.figure import Figure


def markdown(content: Content) -> str:
    """The text of `report.md`."""
    lines = [
        f"# {_escaped(content.pipeline['name'])}: uncached and cached",
        "",
        f"{content.made}, dcache {content.versions['dcache']}.",
        "",
        *(f"- {_escaped(fact)}" for fact in [*content.facts(), heading(content.machine, content.versions)]),
        "",
        "| method | " + " | ".join(_escaped(column.title) for column in content.columns) + " |",
        "|---|" + "---|" * len(content.columns),
    ]
    for row in content.rows:
        figures = [_cell(row.figures[column.key]) for column in content.columns]
        lines.append(f"| {_escaped(row.label)} | {' | '.join(figures)} |")
    lines += ["", "The best of each column is bold. In brackets: " + _brackets(content) + ".", ""]
    lines += [f"- **{_escaped(c.title)}**: {_escaped(c.what)}" for c in content.columns]
    lines += ["", "## Methods", ""]
    lines += [f"- {_escaped(r.label)}: `dcache.enable(pipe{r.call}`" for r in content.rows if r.call]
    if content.notes:
        lines += ["", "## Notes", ""]
        lines += [f"- {_escaped(f'{n.about}: {n.text}' if n.about else n.text)}" for n in content.notes]
    for title, table in content.tables().items():
        lines += ["", f"## {title}", "", "| | |", "|---|---|"]
        lines += [f"| {_escaped(name)} | {_escaped(value)} |" for name, value in table.items()]
    return "\n".join(lines) + "\n"


def _cell(figure: Figure) -> str:
    text = f"**{figure.text}**" if figure.best else figure.text
    return f"{text} ({figure.spread})" if figure.spread else text


def _brackets(content: Content) -> str:
    spreads = dict.fromkeys(
        column.spread for column in content.columns if any(r.figures[column.key].spread for r in content.rows)
    )
    return "; ".join(spreads) or "nothing"


def _escaped(text: str) -> str:
    for mark in ("\\", "|", "`", "*", "_", "<", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
