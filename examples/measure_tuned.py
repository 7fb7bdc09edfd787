"""Measure the method tuned on the three demo settings, and write its tables into docs/default.md.

    python examples/measure_tuned.py                  # half an hour of one core
    python examples/measure_tuned.py --only video     # one setting anew, beside the figures of the others
    python examples/measure_tuned.py --draw-only      # the tables again, from tuned.json

Plans are made from one observed call, for each of three prompts, and from eight calls together. Each plan
makes the pictures of eight held-out captions; PSNR is to the uncached pictures of the same seeds, before
rounding to eight bits. No figure depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import dcache
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.fidelity import decibels
from dcache.eval.prompts import read
from dcache.eval.subject import Subject, load
from dcache.observation.tuning import folder
from dcache.observation.tuning.learned import Learned, kind_in
from dcache.schedulers.planners.tuned import Halves
from dcache.util.files import write, write_json

DOCS = Path(__file__).parent.parent / "docs"
CAPTIONS = 8
OBSERVED = 8
# The prompts whose single calls are planned from.
SINGLE = (0, 3, 6)


@dataclass(frozen=True)
class Setting:
    """One of the demo settings.

    Attributes:
        title: its name in the tables.
        source: the shipped pipeline.
        guidance: guidance scale, None for the pipeline's own.
        speedups: what is asked of tuned: 9, 8, 7, 6 and 5 computed evaluations of 20.
        bars: speedup -> PSNR that is to be reached there.
    """

    title: str
    source: str
    guidance: float | None
    speedups: tuple[float, ...]
    bars: dict[float, float]

    def subject(self) -> Subject:
        """The pipeline, loaded anew: a model remembers what was observed of it."""
        given = {} if self.guidance is None else {"guidance": self.guidance}
        return load(self.source, device="cpu", dtype="float32", **given)


SETTINGS = {
    "guidance": Setting(
        *("guidance 3", "demo", 3.0, (2.0, 2.25, 2.5, 2.9, 3.4)), bars={2.0: 50.5, 2.5: 46.0, 3.4: 37.5}
    ),
    "none": Setting(
        *("no guidance", "demo", 1.0, (1.99, 2.15, 2.4, 2.7, 3.05)), bars={2.15: 55.5, 2.7: 49.5, 3.05: 45.5}
    ),
    "video": Setting(
        *("video", "demo-video", None, (2.1, 2.35, 2.7, 3.1, 3.6)), bars={2.1: 39.0, 2.7: 31.0, 3.1: 28.5}
    ),
}  # fmt: skip
# What tuned is compared with, by computed evaluations of 20.
OTHERS: dict[int, list[tuple[str, dict[str, Any]]]] = {
    9: [("default", {}), ("adaptive", {"share": 0.45})],
    8: [("newton", {"interval": 3}), ("adaptive", {"share": 0.4})],
    7: [("newton", {"interval": 4}), ("adaptive", {"share": 0.35})],
    6: [("newton", {"interval": 5}), ("adaptive", {"share": 0.3})],
    5: [("interval", {"interval": 4}), ("adaptive", {"share": 0.25})],
}


def quality(subject: Subject, reference: Any, prompts: Sequence[str]) -> list[float]:
    """PSNR in dB of every picture."""
    pictures = subject(prompts, range(500, 500 + len(prompts)))
    errors = (pictures.clip(0, 1).astype(np.float64) - reference.clip(0, 1)) ** 2
    return [decibels(float(error.mean())) for error in errors]


def observe(setting: Setting, prompt: str, seed: int, home: Path) -> Path:
    """Observe one call; what was learned is in this folder."""
    os.environ[folder.VARIABLE] = str(home)
    subject = setting.subject()
    dcache.enable(subject.pipe, speedup=2.0)
    subject([prompt], [seed])
    (path,) = folder.files()
    return path


def merged(paths: Sequence[Path], home: Path) -> None:
    """The mean of several observations, as one."""
    kind = kind_in(paths[0])
    every = [Learned.load(path, kind) for path in paths] if kind is not None else []
    known = [learned.observed for learned in every if learned is not None]
    if kind is None or len(known) < len(paths) or every[0] is None:
        raise DcacheError(f"{home} has an observation that cannot be read")

    def mean(tables: Sequence[Any]) -> Any:
        return np.mean(tables, axis=0)

    halves = [observed.halves for observed in known if observed.halves is not None]
    names = ("mean", "difference", "cross")
    joined = Halves(*(mean([getattr(h, name) for h in halves]) for name in names)) if halves else None
    observed = replace(known[0], gram=mean([observed.gram for observed in known]), halves=joined)
    os.environ[folder.VARIABLE] = str(home)
    folder.save(kind, replace(every[0], observed=observed), print)


def measured(setting: Setting, progress: Any) -> dict[str, Any]:
    """All figures of one setting."""
    captions = read(f"{setting.source}:{CAPTIONS}")
    prompts = read(f"{setting.source}-train:{OBSERVED}")
    plain = setting.subject()
    reference = plain(captions, range(500, 500 + len(captions)))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        homes = [Path(temporary, str(i)) for i in range(OBSERVED)]
        paths = [observe(setting, p, 1000 + i, homes[i]) for i, p in enumerate(prompts)]
        merged(paths, Path(temporary, "all"))
        for source, home in [*((f"prompt {i}", homes[i]) for i in SINGLE), ("eight", Path(temporary, "all"))]:
            os.environ[folder.VARIABLE] = str(home)
            subject = setting.subject()
            for speedup in setting.speedups:
                dcache.enable(subject.pipe, speedup=speedup)
                values = quality(subject, reference, captions)
                plan = dcache.stats(subject.pipe).plan
                reached = re.search(r"(\d+) of \d+ computed, ([\d.]+)x", plan)
                if reached is None:
                    raise DcacheError(f"nothing was planned: {plan}")
                row = {"source": source, "asked": speedup, "computed": int(reached[1])}
                rows.append(row | {"speedup": float(reached[2]), "psnr": values})
                progress(
                    f"{setting.title}, {source}: {rows[-1]['computed']} computed, {np.mean(values):.1f} dB"
                )
    for computed, methods in OTHERS.items():
        for name, options in methods:
            with dcache.enabled(plain.pipe, name, **options):
                values = quality(plain, reference, captions)
            label = dcache.stats(plain.pipe).method
            rows.append({"source": label, "computed": computed, "psnr": values})
            progress(f"{setting.title}, {label}: {np.mean(values):.1f} dB")
    return {"captions": CAPTIONS, "rows": rows}


def lines(figures: dict[str, Any]) -> list[str]:
    """The table in Markdown."""
    table = [
        "| setting | computed | FLOPs | one call (mean of three) | their range | worst picture | eight calls "
        "| bar | adaptive | preset |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = ((setting, asked, name) for name, setting in SETTINGS.items() for asked in setting.speedups)
    return [*table, *(_line(setting, asked, figures[name]["rows"]) for setting, asked, name in rows)]


def _line(setting: Setting, asked: float, rows: Sequence[dict[str, Any]]) -> str:
    here = [row for row in rows if row.get("asked") == asked]
    means = {row["source"]: float(np.mean(row["psnr"])) for row in here}
    single = [means[f"prompt {i}"] for i in SINGLE]
    worst = min(min(row["psnr"]) for row in here if row["source"] != "eight")
    computed = here[0]["computed"]
    others = {
        row["source"].partition("(")[0]: (row["source"], float(np.mean(row["psnr"])))
        for row in rows
        if row["computed"] == computed and "asked" not in row
    }
    adaptive = others.pop("adaptive", ("", float("nan")))[1]
    ((preset, best),) = others.values()
    cells = [
        *(setting.title, str(computed), f"{here[0]['speedup']:.2f}x", f"**{np.mean(single):.1f}**"),
        *(f"{min(single):.1f} – {max(single):.1f}", f"{worst:.0f}", f"{means['eight']:.1f}"),
        *(f"{setting.bars[asked]:g}" if asked in setting.bars else "", f"{adaptive:.1f}"),
        f"{best:.1f} `{preset.partition('(')[0]}`",
    ]
    return "| " + " | ".join(cells) + " |"


def fill(path: Path, table: Sequence[str]) -> None:
    """Put the table between the page's markers."""
    page = path.read_text(encoding="utf-8")
    begin, end = "<!-- tuned -->", "<!-- /tuned -->"
    new = page[: page.index(begin) + len(begin)] + "\n" + "\n".join(table) + "\n" + page[page.index(end) :]
    write(path, lambda temporary: temporary.write_text(new, encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=list(SETTINGS), help="one setting")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder whose page is written")
    parser.add_argument("--draw-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    file = options.docs / "tuned.json"
    figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    warnings.simplefilter("ignore", DcacheWarning)
    if not options.draw_only:
        for name in [options.only] if options.only else SETTINGS:
            figures[name] = measured(SETTINGS[name], lambda text: print(text, file=sys.stderr, flush=True))
            write_json(file, figures)
    if set(figures) == set(SETTINGS):
        fill(options.docs / "default.md", lines(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
