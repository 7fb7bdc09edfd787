"""Strategies of `dcache search` beside pymoo's NSGA-II and pyribs' MAP-Elites, at equal budgets.

    pip install pymoo ribs
    dcache calibrate demo --out demo.profile.safetensors
    python examples/measure_strategies.py demo.profile.safetensors

Candidates are judged by the profile alone (the share of the run that is computed; the features' predicted
error in dB), so that thousands cost seconds. The figure is the hypervolume of all that was evaluated, from
the point (everything computed, 0 dB). Every strategy begins with random genomes of this package. Twins are
genomes that are the function of an earlier one. `--archive FILE.png` draws the archive of MAP-Elites, and
`--only NAME` leaves the other strategies out.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from dcache.eval.canvas import INK, new_figure, save
from dcache.predictors import Newton, Reuse
from dcache.profile import Profile
from dcache.schedulers.planners.gram import predicted_error
from dcache.search.genomes.space import RECIPES, Genome, Space, units_of
from dcache.search.genomes.variation import random_genome
from dcache.search.strategies import Strategy
from dcache.search.strategies.map_elites import MapElites
from dcache.search.strategies.nsga2 import NSGA2
from dcache.search.strategies.random_and_local import RandomSearch

BATCH = 24
Point = tuple[float, float]


class Problem:
    """What a genome costs and how wrong it is, each evaluated once.

    Attributes:
        space: the genomes.
        results: genome -> (share of the run that is computed, predicted error in dB).
    """

    def __init__(self, profile: Profile, units: str) -> None:
        self.space = Space(profile, units_of(profile, units), (RECIPES["reuse"], RECIPES["newton"]))
        self.tables = [[profile.tables(site) for site in unit] for unit in self.space.units]
        self.results: dict[Genome, Point] = {}

    def evaluate(self, genes: Iterable[int]) -> Point:
        """The two objectives of a genome, both minimised."""
        genome = tuple(int(gene) for gene in genes)
        if genome not in self.results:
            predictor = (Reuse(), Newton(1))[genome[self.space.bits]]
            rows = self.space.rows(genome)
            steps, taus = len(rows[0]), [float(t) for t in range(len(rows[0]))]
            error = 0.0
            for row, tables in zip(rows, self.tables, strict=True):
                anchors = [t for t in range(steps) if row[t]]
                for table in tables:
                    scale = float(np.mean(np.diag(table.gram))) * len(tables) * len(rows) * steps
                    error += sum(
                        predicted_error(table.gram, predictor, [a for a in anchors if a < t], taus, t) / scale
                        for t in range(steps)
                        if not row[t]
                    )
            computed = sum(map(sum, rows)) / len(rows) / steps
            self.results[genome] = (computed, float(10 * np.log10(max(error, 1e-9))))
        return self.results[genome]

    def start(self, seed: int) -> list[Genome]:
        """The first genomes of every strategy."""
        return [random_genome(self.space, random.Random(1000 * seed + i)) for i in range(BATCH)]

    def twins(self) -> float:
        """The share of the genomes whose canonical schedule is that of an earlier one."""
        digests = {self.space.schedule(genome).canonical().digest() for genome in self.results}
        return 1.0 - len(digests) / len(self.results)

    def hypervolume(self) -> float:
        """Of all that was evaluated, from (1, 0 dB)."""
        volume, best = 0.0, 0.0
        for computed, error in sorted(self.results.values()):
            if error < best:
                volume += (1.0 - computed) * (best - error)
                best = error
        return volume


def ours(make: Callable[[Space, random.Random], Strategy]) -> Callable[[Problem, int, int], None]:
    """A strategy of this package."""

    def run(problem: Problem, budget: int, seed: int) -> None:
        strategy = make(problem.space, random.Random(seed))
        while len(problem.results) < budget:
            strategy.tell([(genome, problem.evaluate(genome)) for genome in strategy.ask()])

    return run


def pymoo(problem: Problem, budget: int, seed: int) -> None:
    """NSGA-II of pymoo: four-point crossover at 0.9, two bits flipped on average."""
    from pymoo.algorithms.moo import nsga2
    from pymoo.core.problem import Problem as Definition
    from pymoo.operators.crossover.pntx import PointCrossover
    from pymoo.operators.mutation.bitflip import BitflipMutation

    size = problem.space.bits + 1
    algorithm = nsga2.NSGA2(
        pop_size=BATCH,
        sampling=np.array(problem.start(seed), dtype=bool),
        crossover=PointCrossover(n_points=4, prob=0.9),
        mutation=BitflipMutation(prob=1.0, prob_var=2 / size),
        eliminate_duplicates=True,
    )
    definition = Definition(n_var=size, n_obj=2, xl=0, xu=1, vtype=bool)
    algorithm.setup(definition, termination=("n_gen", 10**6), seed=seed, verbose=False)
    while len(problem.results) < budget:
        offspring = algorithm.ask()
        offspring.set("F", np.array([problem.evaluate(genes) for genes in offspring.get("X")]))
        for individual in offspring:
            individual.evaluated = {"F", "G", "H"}
        algorithm.tell(infills=offspring)


def ribs(problem: Problem, budget: int, seed: int) -> None:
    """MAP-Elites of pyribs: the same cells as ours, Gaussian steps over bits that are numbers."""
    from ribs.archives import GridArchive
    from ribs.emitters import GaussianEmitter
    from ribs.schedulers import Scheduler

    space, size = problem.space, problem.space.bits + 1
    archive = GridArchive(solution_dim=size, dims=(20, 8), ranges=[(0, 1), (0, 1)], seed=seed)
    emitter = GaussianEmitter(
        archive,
        sigma=0.4,
        initial_solutions=[[0.05 + 0.9 * bit for bit in genome] for genome in problem.start(seed)],
        batch_size=BATCH,
        lower_bounds=[0.0] * size,
        upper_bounds=[1.0] * size,
        seed=seed,
    )
    scheduler = Scheduler(archive, [emitter])
    while len(problem.results) < budget:
        errors, cells = [], []
        for solution in scheduler.ask():
            genome = (solution > 0.5).astype(int)
            computed, error = problem.evaluate(genome)
            places = [i % space.width + 1 for i, bit in enumerate(genome[:-1]) if bit]
            errors.append(-error)
            cells.append((computed, sum(places) / len(places) / space.width if places else 0.0))
        scheduler.tell(errors, cells)


STRATEGIES = {
    "random": ours(lambda space, rng: RandomSearch(space, rng, BATCH)),
    "NSGA-II, ours on DEAP": ours(lambda space, rng: NSGA2(space, [], rng, BATCH)),
    "NSGA-II, pymoo": pymoo,
    "MAP-Elites, ours": ours(lambda space, rng: MapElites(space, [], rng, 1.0, batch=BATCH)),
    "MAP-Elites, pyribs": ribs,
}


def draw(problem: Problem, path: Path) -> None:
    """The archive of all that was evaluated: cost against mean position, coloured by the predicted error."""
    archive = MapElites(problem.space, list(problem.results.items()), random.Random(0), 1.0, batch=BATCH)
    table = np.full(archive.cells, np.nan)
    for cell, members in archive.elites.items():
        table[cell] = -min(objectives[1] for _, objectives in members)
    figure = new_figure(7.0, 3.0)
    axes = figure.subplots()
    shown = axes.imshow(table.T, origin="lower", aspect="auto", extent=(0, 100, 0, 1), cmap="viridis")
    axes.set_xlabel("computed, % of the events", color=INK)
    axes.set_ylabel("mean position\nof the computes", color=INK)
    figure.colorbar(shown, ax=axes, label="predicted fidelity, dB")
    figure.subplots_adjust(left=0.12, right=1.0, bottom=0.18, top=0.95)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--units", nargs="+", default=["whole", "kinds"])
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=STRATEGIES)
    parser.add_argument("--archive", type=Path)
    given = parser.parse_args()
    profile = Profile.load(given.profile)
    print("units  strategy  median hypervolume (least to most)  twins")
    for units in given.units:
        for name in given.only or STRATEGIES:
            volumes, twins = [], []
            for seed in range(given.seeds):
                problem = Problem(profile, units)
                STRATEGIES[name](problem, given.budget, seed)
                volumes.append(problem.hypervolume())
                twins.append(problem.twins())
            median = statistics.median(volumes)
            spread = f"({min(volumes):.2f} to {max(volumes):.2f})"
            print(f"{units}  {name}  {median:.2f} {spread}  {statistics.mean(twins):.1%}", flush=True)
            if given.archive is not None and name.startswith("MAP-Elites") and units == given.units[0]:
                draw(problem, given.archive)


if __name__ == "__main__":
    main()
