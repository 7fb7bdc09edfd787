"""Write the averaged weights as a complete StableDiffusionPipeline folder in float16, in one swap."""

import argparse
from pathlib import Path

from components_unet import MODEL_PATH, make_pipeline, make_unet

from common import averaged, replace_model  # isort: skip  (components_unet shows where it is)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder in which train_unet.py left its result"
    )
    parser.add_argument("--model", type=Path, default=MODEL_PATH)
    args = parser.parse_args()
    step, average = averaged(args.out / "unet.pt", make_unet())
    pipe = make_pipeline(average.module)
    # transformers would load a halved text encoder as it is; diffusers' parts become float32 again.
    pipe.unet.half()
    pipe.vae.half()
    replace_model(pipe, args.model)
    size = sum(file.stat().st_size for file in args.model.rglob("*"))
    print(f"step {step}: {size / 1e6:.1f} MB in {args.model}")


if __name__ == "__main__":
    main()
