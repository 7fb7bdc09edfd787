"""One line: python examples/short/one_line.py [PIPE]"""

import sys

from diffusers import DiffusionPipeline

import dcache
from dcache.demo.pipeline import call_options, load_pipeline


def main(*name: str) -> None:
    """PIPE is a hub id or a folder; without one the shipped model runs."""
    pipe = DiffusionPipeline.from_pretrained(*name) if name else load_pipeline()
    dcache.enable(pipe)
    image = pipe("a red circle", **({} if name else call_options())).images[0]
    image.save("one_line.png")
    print(dcache.stats(pipe))


if __name__ == "__main__":
    main(*sys.argv[1:])
