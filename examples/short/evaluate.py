"""Pictures of several methods, metrics and a report: python examples/short/evaluate.py OUT"""

import sys

from dcache.eval import Settings, evaluate


def main(out: str, steps: str = "20") -> None:
    """The first argument of `evaluate` may be a hub id; the report is a page, Markdown and JSON."""
    methods = "default;fbcache:threshold=0.12;newton:interval=4"
    settings = Settings(steps=int(steps), batch_size=4)
    result = evaluate("demo", "demo:4", methods, settings, out=out, metrics=["psnr", "ssim"])
    print(*result.files, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
