"""Caching under a LoRA: python examples/short/lora.py"""

import torch
from peft import LoraConfig, inject_adapter_in_model

import dcache
from dcache.demo.pipeline import call_options, load_pipeline

CONFIG = LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)


def main() -> None:
    """On a hub's pipeline: `pipe.load_lora_weights(...)`. Here an untrained one changes the shipped model."""
    pipe = load_pipeline()
    call = {"prompt": "a red circle", **call_options(), "output_type": "pt"}
    dcache.enable(pipe, "newton", interval=3)
    plain = pipe(**call, generator=torch.Generator().manual_seed(0)).images
    # No feature of the plain model is used for the adapted one.
    inject_adapter_in_model(CONFIG, pipe.transformer)
    adapted = pipe(**call, generator=torch.Generator().manual_seed(0)).images
    print("the adapter changes the picture:", not torch.equal(plain, adapted))
    print(dcache.stats(pipe))


if __name__ == "__main__":
    main()
