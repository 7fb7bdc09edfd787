"""Draw docs/pictures/badges.svg from the project's own files: `python tools/draw_badges.py`.

A badge is a fact that a test checks: what is needed, the licence, how many methods and policies there are.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

import dcache
from dcache import lm_kv

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "pictures" / "badges.svg"
# Pixels: height, room on both sides of a word, and width of a character of 11 pixels' Verdana or DejaVu Sans.
HEIGHT, PADDING, CHARACTER, GAP = 20, 6, 6.4, 6


def facts() -> dict[str, str]:
    """Label -> value of each badge."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = dict(line.replace(",", ">=").split(">=")[:2] for line in project["dependencies"])
    return {
        "version": dcache.__version__,
        "python": f"{project['requires-python'].removeprefix('>=')}+",
        "torch": f"{needs['torch']}+",
        "diffusers": f"{needs['diffusers']}+",
        "methods": str(len(dcache.methods.available())),
        "KV cache policies": str(len(lm_kv.available("policy"))),
        "licence": project["license"],
    }


def svg(badges: Iterable[tuple[str, str]]) -> str:
    """One row of badges.

    Args:
        badges: labels and values, from left to right.
    """
    parts: list[str] = []
    x = 0.0
    for badge in badges:
        for word, colour in zip(badge, ("#444", "#3949ab"), strict=True):
            inner = len(word) * CHARACTER
            width = inner + 2 * PADDING
            parts.append(f'<rect x="{x:.1f}" width="{width:.1f}" height="{HEIGHT}" fill="{colour}"/>')
            parts.append(f'<text x="{x + width / 2:.1f}" y="14" textLength="{inner:.1f}">{word}</text>')
            x += width
        x += GAP
    style = 'font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle" fill="#fff"'
    size = f'width="{x - GAP:.0f}" height="{HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    FILE.write_text(svg(facts().items()), encoding="utf-8")
