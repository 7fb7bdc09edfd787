"""What every binding promises of a full pass."""

import torch

from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.passes import Pass
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.store import KVStore
from tests.diffusion_lm.masked_models import prompts


@torch.no_grad()
def check_full_pass(model, bind):
    """It has the model's own bits, and nothing is left behind once the binding is removed.

    Args:
        model: a model.
        bind: the class of the binding.

    Returns:
        The pass.
    """
    ids = prompts(2)
    plain = model(input_ids=ids).logits
    before = {path: (dict(vars(part)), len(part._forward_hooks)) for path, part in model.named_modules()}
    binding = bind(model)
    forward = Pass(Selection(torch.ones_like(ids, dtype=torch.bool)), KVStore(), Masks())
    arguments = {"input_ids": ids, "position_ids": torch.arange(8).expand(2, 8)}
    assert torch.equal(binding.run(forward, model, arguments).logits, plain)
    binding.remove()
    after = {path: (dict(vars(part)), len(part._forward_hooks)) for path, part in model.named_modules()}
    assert after == before
    assert torch.equal(model(input_ids=ids).logits, plain)
    return forward
