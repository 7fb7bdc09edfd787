"""The page in a real browser, where there is one: its script draws, sorts and compares, without an error."""

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from dcache.eval.report import report
from dcache.eval.store import Store

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Uses the page as a reader would, and writes down what it then shows.
USE = """
<script>
const point = (x) => new PointerEvent("pointermove", { bubbles: true, clientX: x });
const order = () => all(".figures tbody:last-of-type th").map((head) => head.firstChild.data.trim());
const heads = all(".figures thead tr:last-child button"), cells = all(".grid .cell");
const shown = (cell) => getComputedStyle(one(".base + .top", cell));
const seen = { ready: document.documentElement.dataset.ready, drawn: all("#plot circle").length };
seen.names = all("#plot .name").map((name) => name.textContent);
heads[2].click(); seen.fastest = order();
heads[2].click(); seen.slowest = order();
all("[name=mode]")[3].click(); seen.blend = shown(cells[1]).mixBlendMode;
one("#gain").value = 4; one("#gain").dispatchEvent(new Event("input"));
seen.gain = getComputedStyle(one(".frame", cells[1])).filter;
all("[name=mode]")[2].click();
const box = cells[1].getBoundingClientRect();
cells[1].dispatchEvent(point(box.left + box.width / 4)); seen.wiped = shown(cells[1]).clipPath;
seen.below = one(".base", cells[1]).src === one(".top", cells[0]).src;
cells[1].click(); seen.large = one("#what").textContent;
one("dialog").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
seen.next = one("#what").textContent;
const before = getComputedStyle(document.body).backgroundColor;
one("#theme").click(); seen.dark = before !== getComputedStyle(document.body).backgroundColor;
seen.loaded = performance.getEntriesByType("resource").filter((r) => !r.name.startsWith("data:")).length;
document.body.replaceChildren(JSON.stringify(seen));
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_reader_can_sort_compare_and_enlarge(run: tuple[Store, dict[str, Any]], tmp_path: Path) -> None:
    path = report(*run)[0]
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", f"{USE}</body>"), encoding="utf-8")
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000",
        "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    # Errors of scripts and refused requests are told to the console.
    assert [line for line in ran.stderr.splitlines() if "CONSOLE" in line] == []
    seen = json.loads(unescape(ran.stdout.partition("<body>")[2].partition("</body>")[0]))
    assert seen == {
        "ready": "yes",
        "drawn": 2,
        "names": ["half", "close"],
        "fastest": ["half", "close", "black"],
        "slowest": ["close", "half", "black"],
        "blend": "difference",
        "gain": "brightness(16)",
        "wiped": "inset(0px 0px 0px 25%)",
        "below": True,
        "large": "half: a fox | in <b>snow</b>, seed 7 (30.0)",
        "next": "half: a fox | in <b>snow</b>, seed 8 (31.0)",
        "dark": True,
        "loaded": 0,
    }
