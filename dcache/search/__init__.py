"""Schedule search: evolutionary search over caching schedules, judged by pictures and by measured cost.

Nothing is here yet. What will be: NSGA-II and MAP-Elites over genomes with a canonical live form, a cost
model from measured latencies, the resumable evaluation of candidates by several processes, and the Pareto
front with its plot.
"""
