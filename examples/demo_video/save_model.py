"""Write the averaged weights as a pipeline folder, small enough for the repository, in one swap."""

import argparse
import shutil
from pathlib import Path

from clips_data import Average, load
from components import Denoiser, make_pipeline, make_tokenizer

from dcache.demo.video.pipeline import MODEL_PATH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder in which train_model.py left its result"
    )
    parser.add_argument("--model", type=Path, default=MODEL_PATH)
    args = parser.parse_args()
    state = load(args.out / "model.pt")
    if state is None:
        raise SystemExit(f"there is no model.pt in {args.out}: run train_model.py first")
    average = Average(Denoiser(len(make_tokenizer())), 0.0)
    average.module.load_state_dict(state["average"])

    pipe = make_pipeline(args.out / "vae", average)
    # transformers would load a halved text encoder as it is; diffusers' parts become float32 again.
    pipe.transformer.half()
    pipe.vae.half()
    fresh, old = args.model.with_name(".model.new"), args.model.with_name(".model.old")
    shutil.rmtree(fresh, ignore_errors=True)
    pipe.save_pretrained(fresh, max_shard_size="8MB")
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)
    if (card := args.model / "README.md").exists():
        shutil.copy(card, fresh)
    if args.model.exists():
        args.model.rename(old)
    fresh.rename(args.model)
    shutil.rmtree(old, ignore_errors=True)
    size = sum(file.stat().st_size for file in args.model.rglob("*"))
    print(f"step {state['step']}: {size / 1e6:.1f} MB in {args.model}")


if __name__ == "__main__":
    main()
