"""Observe the shipped model for a moment and write the profile: run by one process or by several."""

import sys

from dcache.eval.processes import join
from dcache.eval.subject import load
from dcache.search.observe import observe

PROMPTS = ["a red circle", "a large blue square", "a green star"]


def main() -> None:
    team = join("cpu")
    subject = load("demo", steps=3, device="cpu", dtype="float32")
    found = observe(subject, PROMPTS, sites=("trunk", "mlp:1"), repeats=1)
    if team.first:
        found.save(sys.argv[1])


if __name__ == "__main__":
    main()
