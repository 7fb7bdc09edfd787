"""A masked-diffusion language model: python examples/short/diffusion_lm.py"""

import dcache
from dcache.demo.texts import mirror


def main() -> None:
    """The shipped mirror model repeats a text backwards; yours: LLaDA, Dream, LLaDA2."""
    model, ids = mirror.load_model(), mirror.prompts(4)
    for method in (None, dcache.methods.dkv(refresh=8)):
        if method is not None:
            dcache.enable(model, method)
        out = dcache.diffusion_lm.generate(model, ids, max_new_tokens=16, block=8)
        print(f"{method or 'uncached'}: {mirror.score(out):.3f} of the texts are right")
    print(dcache.stats(model))
    dcache.disable(model)


if __name__ == "__main__":
    main()
