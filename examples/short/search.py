"""A front of cost against quality: python examples/short/search.py OUT [BUDGET]"""

import sys

from dcache.cli import main as dcache


def main(out: str, budget: str = "60", steps: str = "20") -> int:
    """Observes a profile, then searches; the same command goes on where it stopped, with --resume."""
    profile = f"{out}.profile.safetensors"
    call = ["--steps", steps]
    failed = dcache(["calibrate", "demo", "--prompts", "demo:3", "--out", profile, *call])
    if failed:
        return failed
    options = ["--profile", profile, "--prompts", "demo:3", "--budget", budget, "--out", out, *call]
    return dcache(["search", "demo", *options])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
