"""The lines of docs/models.md are enabled on a tiny pipeline of the family that their row names, and run."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import dcache
from tests.docs.snippets import text_of
from tests.families import mmdit, single, unets, video
from tests.pipelines import FLUX, PIXART, SD, WAN, Shape

# Beginning of a row -> the families of it that are run.
ROWS: dict[str, tuple[Shape, ...]] = {
    "FLUX.1-dev": (FLUX,),
    "FLUX.1-schnell": (FLUX,),
    "FLUX.2-dev": (mmdit.FLUX2,),
    "Stable Diffusion 3.5": (mmdit.SD3,),
    "Stable Diffusion 1.5, SDXL": (SD, unets.SDXL),
    "PixArt-alpha": (PIXART,),
    "Qwen-Image": (mmdit.QWEN,),
    "Z-Image": (single.Z_IMAGE,),
    "Sana": (single.SANA, mmdit.HIDREAM, mmdit.AURAFLOW, single.DIT),
    "Wan 2.1, 1.3B": (WAN,),
    "Wan 2.1, 14B": (WAN,),
    "Wan 2.2": (video.WAN22,),
    "HunyuanVideo": (video.HUNYUAN,),
    "CogVideoX": (video.COGVIDEOX,),
    "LTX": (video.LTX, video.LTX2),
    "Mochi": (video.MOCHI,),
    "SkyReels": (video.SKYREELS,),
}
# Arguments of the call that a row asks for, as small as the tiny pipeline.
CALLED = {"SkyReels": {"ar_step": 2, "causal_block_size": 2}}
# Lines that rightly predict nothing here: exact ones, and thresholds that random weights may not reach.
COMPUTES = ("dcache.memo", '"causal"', "threshold=")
# Beginnings of lines that say a part of `dcache.enable(pipe, ...)`.
SHORT = re.compile(r'("\w+"|speedup=|max_cache_bytes=)')


def rows() -> dict[str, list[str]]:
    """First cell -> the code in the next two, of the tables of images and videos."""
    tables = text_of("docs/models.md").partition("## Images")[2].partition("## Policies")[0]
    cells = [line.strip("| ").split(" | ") for line in tables.splitlines() if line.startswith("| ")]
    return {
        first: re.findall(r"`([^`]+)`", f"{line} {then}")
        for first, line, then, *_ in cells
        if first not in {"model", "---"}
    }


def typed(lines: list[str]) -> list[str]:
    """What a reader types; a bare option stands for the first line with another value of it."""
    full = []
    for line in lines:
        if line.startswith("interval="):
            full.append(re.sub(r"interval=\d+", line, full[0]))
        else:
            full.append(f"dcache.enable(pipe, {line})" if SHORT.match(line) else line)
    return full


def test_every_row_has_a_family() -> None:
    found = {row: [start for start in ROWS if row.startswith(start)] for row in rows()}
    assert {row for row, starts in found.items() if len(starts) != 1} == set()
    assert {start for starts in found.values() for start in starts} == ROWS.keys()


# `speedup=` says that the first call is observed; tiny models have limits of their own.
@pytest.mark.filterwarnings("ignore::dcache.DcacheWarning")
@pytest.mark.parametrize(
    ("start", "shape"),
    [pytest.param(start, shape, id=f"{start}-{shape}") for start, shapes in ROWS.items() for shape in shapes],
)
def test_the_lines_of_a_row_run(start: str, shape: Shape) -> None:
    (lines,) = [code for row, code in rows().items() if row.startswith(start)]
    pipe: Any = shape.build()
    more = CALLED.get(start, {})
    plain = shape.run(pipe, **more)
    assert lines
    for line in typed(lines):
        eval(line, {"dcache": dcache, "pipe": pipe})
        outputs = [shape.run(pipe, **more) for _ in range(2 if "speedup=" in line else 1)]
        stats = dcache.stats(pipe)
        assert stats.computed > 0, line
        assert stats.predicted > 0 or any(word in line for word in COMPUTES), line
        assert torch.isfinite(outputs[-1]).all(), line
        dcache.disable(pipe)
        assert torch.equal(shape.run(pipe, **more), plain), line
