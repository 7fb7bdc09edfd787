"""Profile of a policy's uncached runs, for `bac` and `knapsack`, from held-out observations.

python examples/diffusion_policy/observe.py pusht --steps 100
"""

import argparse
from pathlib import Path

import torch

from dcache.demo.policies.observed import PolicyPipeline, profile_path
from dcache.demo.policies.open_loop import OBSERVATIONS, load_observations
from dcache.demo.policies.policy import load_policy
from dcache.demo.policies.sampling import LEVELS, Sampler
from dcache.eval.subject import Subject
from dcache.search.observe import observe

if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("drawer-open", "pusht"))
    parser.add_argument("--steps", type=int, required=True, help=f"{LEVELS} is DDPM, fewer are DDIM")
    parser.add_argument("--observations", type=int, default=8)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, help="folder (default: the shipped policy's)")
    given = parser.parse_args()
    policy = load_policy(given.task, given.weights)
    sampler = Sampler("ddpm" if given.steps == LEVELS else "ddim", given.steps)
    seen = given.out / OBSERVATIONS if given.out else None
    seen = seen if seen and seen.exists() else None
    pipe = PolicyPipeline(policy, load_observations(given.task, seen), sampler)
    prompts = [str(i) for i in range(given.observations)]
    profile = observe(
        Subject(pipe, given.task), prompts, sites=("trunk", "sublayers"), batch_size=4, repeats=1
    )
    profile.save(profile_path(given.task, given.steps, given.out))
