"""Schedule search: caching schedules judged by the pictures they make and by measured cost.

`calibrate.py` finds one for a wanted speedup: `placing.py` searches the places of computes, `closed_loop.py`
fits the weights, both on final pictures (`render.py`). What will be: NSGA-II and MAP-Elites over genomes with
a canonical live form, the resumable evaluation of candidates by several processes, and the Pareto front.
"""
