"""Measure `dcache search` on the shipped model, and write the tables and the picture of docs/search.md.

    python examples/measure_search.py strategies --folder work     # equal budgets: half an hour of two cores
    python examples/measure_search.py rivals --folder work         # fronts against everything: ten minutes
    python examples/measure_search.py transfer --folder work       # other steps, guidance, sizes: a minute
    python examples/measure_search.py page                         # docs/search.md and its picture, anew

The folder has, for the guidances `on` and `off`, a profile (`on.profile.safetensors`: dcache calibrate) and a
finished search (`on`, `off`: dcache search); docs/search.md has the commands. Figures go to docs/search.json.
`search_runs.py` measures, `search_page.py` makes tables and plot.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from measure_methods import fill
from search_page import draw, lines
from search_runs import DOCS, GUIDANCES, rivals, strategies, transfer

from dcache.errors import DcacheError
from dcache.eval.machine import machine, versions
from dcache.util.files import write_json

FIGURES = DOCS / "search.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("strategies", "rivals", "transfer", "page"))
    parser.add_argument("--folder", type=Path, help="folder of the profiles and the searches")
    parser.add_argument("--budget", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each strategy")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="timed calls of each rival")
    parser.add_argument("--only", choices=tuple(GUIDANCES), help="rivals: of this guidance; the rest is kept")
    options = parser.parse_args()
    try:
        figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
        if options.what == "page":
            fill(DOCS / "search.md", "\n".join(lines(figures)))
            print(f"wrote {DOCS / 'search.md'} and {draw(DOCS / 'pictures' / 'search.png', figures)}")
            return 0
        if options.folder is None:
            raise DcacheError("expected --folder, the folder of the profiles and the searches")
        if options.what == "strategies":
            measured: Any = strategies(options.folder, options.budget, options.seeds, options.workers)
        elif options.what == "rivals":
            modes = [options.only] if options.only else list(GUIDANCES)
            measured = figures.get("rivals", {}) | rivals(options.folder, options.repeats, modes)
        else:
            measured = transfer(options.folder)
        figures |= {options.what: measured, "machine": machine(), "versions": versions()}
        print(f"wrote {write_json(FIGURES, figures)}")
    except (DcacheError, OSError, ValueError) as error:
        print(f"measure_search: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
