"""Every GPU makes its share of the pictures:

accelerate launch examples/short/several_gpus.py OUT
"""

import sys

from dcache.eval import Settings, evaluate


def main(out: str) -> None:
    """One process makes all of them; four processes make a quarter each, and the first one scores."""
    result = evaluate(
        "demo", "demo:4", "default;newton:interval=4", Settings(steps=4), out=out, metrics=["psnr"]
    )
    print(*result.files, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
