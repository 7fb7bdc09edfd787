"""Compile the blocks one by one, so that predicted ones can be left out: python examples/short/compiled.py"""

import torch

import dcache
from dcache.demo.pipeline import call_options, load_pipeline


def main() -> None:
    """On a CPU the compiler would take a minute: "eager" is its stand-in."""
    gpu = torch.cuda.is_available()
    pipe = load_pipeline("cuda" if gpu else "cpu")
    dcache.enable(pipe, compile=True if gpu else {"backend": "eager"})
    pipe("a red circle", **call_options())
    print(dcache.stats(pipe))


if __name__ == "__main__":
    main()
