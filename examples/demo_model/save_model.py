"""Write the averaged weights as a pipeline folder, small enough for the repository, in one swap."""

import argparse
from pathlib import Path

from common import averaged, replace_model
from components import Denoiser, make_pipeline, make_tokenizer

from dcache.demo.pipeline import model_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder in which train_model.py left its result"
    )
    parser.add_argument("--model", type=Path, default=model_path())
    args = parser.parse_args()
    step, average = averaged(args.out / "model.pt", Denoiser(len(make_tokenizer())))
    pipe = make_pipeline(args.out / "vae", average)
    pipe.transformer.half()
    pipe.vae.half()
    replace_model(pipe, args.model)
    size = sum(file.stat().st_size for file in args.model.rglob("*"))
    print(f"step {step}: {size / 1e6:.1f} MB in {args.model}")


if __name__ == "__main__":
    main()
