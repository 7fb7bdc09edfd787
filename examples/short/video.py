"""A video model, planned from its first call: python examples/short/video.py"""

import dcache
from dcache.demo.video.pipeline import call_options, load_pipeline


def main() -> None:
    """The shipped Wan; yours: WanPipeline.from_pretrained(...), with max_cache_bytes="2GB"."""
    pipe = load_pipeline()
    call = call_options()
    dcache.enable(pipe, speedup=2)
    pipe("a red circle moves to the right", **call)  # observed, in full
    pipe("a blue square moves up", **call)  # planned
    print(dcache.stats(pipe))


if __name__ == "__main__":
    main()
