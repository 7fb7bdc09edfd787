"""Improve a plan on your own prompts, in place: python examples/short/calibrate.py [MINUTES]"""

import sys

import dcache
from dcache.demo.pipeline import call_options, load_pipeline
from dcache.demo.task import prompts


def main(minutes: float = 5.0, steps: int = 20) -> None:
    """The same for a schedule file: dcache calibrate PIPE --prompts FILE --speedup 2"""
    pipe = load_pipeline()
    call = call_options() | {"num_inference_steps": steps}
    dcache.enable(pipe, speedup=2)
    refinement = dcache.refine(pipe, prompts(8), minutes=minutes, **call)
    print(f"{refinement.planned:.1f} dB planned, {refinement.psnr:.1f} dB refined")
    refinement.schedule.save("refined.schedule.json")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
