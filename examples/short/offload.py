"""Weights fetched group by group; a predicted block fetches none: python examples/short/offload.py"""

import torch

import dcache
from dcache.demo.pipeline import call_options, load_pipeline


def main() -> None:
    """On a machine without a GPU the groups go from the CPU to the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipe = load_pipeline(device)
    pipe.transformer.enable_group_offload(
        onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    dcache.enable(pipe, max_cache_bytes="100MB")
    pipe("a red circle", **call_options())
    print(dcache.stats(pipe))


if __name__ == "__main__":
    main()
