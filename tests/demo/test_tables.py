"""The tables in README and docs are those that the command prints of the committed figures."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcache.cli.demo import SHOWN, judged_cells
from dcache.eval.rows import Row, table

ROOT = Path(__file__).parents[2]


def printed(content: dict[str, Any]) -> str:
    """The table of a demo's results.json."""
    rows = [
        Row(
            label=method["label"],
            library="dcache",
            computed=method["computed"],
            seconds=method["seconds"],
            denoiser_seconds=method["seconds"],
            spread=0.0,
            speedup=method["speedup"],
            denoiser_speedup=None,
            flops=None,
            psnr=[method["mean_psnr"]],
            ssim=[method["mean_ssim"]],
            held=method["held"],
            peak_memory=None,
            broken=None,
        )
        for method in content["methods"]
    ]
    uncached = SimpleNamespace(
        label="uncached",
        median=content["uncached"]["seconds"],
        spread=0.0,
        denoiser_median=1.0,
        peak_memory=None,
    )
    return table(uncached, rows, SHOWN, judged_cells(content["judged"]))


@pytest.mark.parametrize(
    ("page", "figures"),
    [
        ("README.md", "docs/demo.json"),
        ("docs/demo.md", "docs/demo.json"),
        ("docs/demo.md", "docs/demo-video.json"),
    ],
)
def test_a_page_shows_the_committed_figures(page: str, figures: str) -> None:
    content = json.loads((ROOT / figures).read_text(encoding="utf-8"))
    text = (ROOT / page).read_text(encoding="utf-8")
    settings = content["settings"]
    blocks = [block for _, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]
    (block,) = [block for block in blocks if block.startswith(what(settings))]
    assert printed(content) in block
    assert f"steps: {settings['steps']}, guidance: {settings['guidance']:g}, " in block.splitlines()[0]
    assert f"threads: {content['machine']['threads']}; " in block.splitlines()[1]


def what(settings: dict[str, Any]) -> str:
    return (
        f"clips of 9 frames: {settings['prompts']}"
        if settings["video"]
        else f"pictures: {settings['prompts']}"
    )
