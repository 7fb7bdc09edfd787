"""`PlainBinding`: a full pass has the model's own bits, and nothing is left behind."""

from dcache.diffusion_lm.bind.plain import PlainBinding
from tests.diffusion_lm import masked_models as models
from tests.diffusion_lm.full_pass import check_full_pass


def test_a_full_pass_has_the_models_bits_and_leaves_nothing_behind():
    forward = check_full_pass(models.llama(), PlainBinding)
    assert forward.calls == 0
    assert forward.store.bytes_held == 0
