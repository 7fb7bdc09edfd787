"""Schedule search: caching schedules chosen by the quality of their final pictures and by measured cost.

- `observe.py` measures the profile that planners and searches start from (`observing/`).
- `calibrate.py` finds one schedule for a speedup: `fitting/` searches the computed evaluations and fits the
  weights, both on final pictures (`rendering/`). `route.py` finds it by a learned router (`routing/`).
- `search.py` finds a Pareto front: `strategies/` propose genomes (`genomes/`), `evaluating/` renders them and
  logs the results, `front_report.py` writes the front.
"""

from pathlib import Path

# Documented modules that moved are found under their old paths until 0.3, and warn.
__path__.append(str(Path(__file__).parents[1] / "moved" / "search"))
