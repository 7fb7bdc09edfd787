"""Save a run as a schedule, and replay it: python examples/short/schedule_file.py"""

import torch

import dcache
from dcache.demo.pipeline import call_options, load_pipeline


def main() -> None:
    """The file is JSON; the replayed run has the same bits."""
    pipe = load_pipeline()
    call = {**call_options(), "output_type": "pt"}
    dcache.enable(pipe, "fbcache", threshold=0.12)
    first = pipe("a red circle", **call, generator=torch.Generator().manual_seed(0)).images
    dcache.trace(pipe).save("circle.schedule.json")
    dcache.enable(pipe, "circle.schedule.json")
    second = pipe("a red circle", **call, generator=torch.Generator().manual_seed(0)).images
    print("the same bits:", torch.equal(first, second))
    print(dcache.Schedule.load("circle.schedule.json"))


if __name__ == "__main__":
    main()
