"""A diffusion policy in a control loop: python examples/short/policy.py"""

import dcache
from dcache.demo.policies.open_loop import load_observations
from dcache.demo.policies.policy import load_policy
from dcache.demo.policies.sampling import Sampler
from dcache.policy import Loop


def main() -> None:
    """The shipped PushT policy on recorded observations: four actions of each chunk are executed."""
    policy, sampler = load_policy("pusht"), Sampler("ddim", 20)
    states = load_observations("pusht").states
    dcache.enable(policy)
    with Loop(lambda seen: policy.chunks(seen, [0], sampler), execute=4, denoiser=policy) as loop:
        for i in range(8):
            action = loop.act(states[i : i + 1])
        print("the last action:", action.tolist())
        print(loop.stats())
    dcache.disable(policy)


if __name__ == "__main__":
    main()
