"""Schedule search: caching schedules chosen by the quality of their final pictures and by measured cost.

- `calibrate.py` finds one schedule for a speedup: `placement.py` searches the computed evaluations,
  `closed_loop.py` fits the weights, both on final pictures (`render.py`).
- `search.py` finds a Pareto front: `strategies/` propose genomes (`space.py`), `loop.py` evaluates them
  (`evaluators.py`, `quality.py`) and logs the results (`journal.py`), `front_report.py` writes the front.
- `observe.py` measures the profile that planners and searches start from.
"""
