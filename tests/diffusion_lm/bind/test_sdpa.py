"""`SdpaBinding`: a full pass has the model's own bits, and nothing is left behind."""

import torch

from dcache.diffusion_lm.bind.sdpa import SdpaBinding
from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.passes import Pass
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.store import KVStore
from tests.diffusion_lm import masked_models as models


@torch.no_grad()
def test_a_full_pass_has_the_models_bits_and_leaves_nothing_behind():
    model, ids = models.LLaDAShaped(), models.prompts(2)
    plain = model(input_ids=ids).logits
    before = {path: (dict(vars(part)), len(part._forward_hooks)) for path, part in model.named_modules()}
    binding = SdpaBinding(model)
    forward = Pass(Selection(torch.ones_like(ids, dtype=torch.bool)), KVStore(), Masks())
    arguments = {"input_ids": ids, "position_ids": torch.arange(8).expand(2, 8)}
    assert torch.equal(binding.run(forward, model, arguments).logits, plain)
    assert forward.calls == 3
    assert forward.store.bytes_held > 0
    binding.remove()
    after = {path: (dict(vars(part)), len(part._forward_hooks)) for path, part in model.named_modules()}
    assert after == before
    assert torch.equal(model(input_ids=ids).logits, plain)
