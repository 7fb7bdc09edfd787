import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.model.guards import check_call, inputs_of

IDS = torch.ones(2, 3, dtype=torch.long)


def test_a_call_that_fits_passes():
    module = torch.nn.Linear(1, 1).requires_grad_(False)
    check_call(module, module, {"input_ids": IDS})


def test_each_reason_to_refuse_has_its_message():
    module = torch.nn.Linear(1, 1)
    with torch.no_grad():
        with pytest.raises(DcacheError, match="belongs to another model than this Linear"):
            check_call(torch.nn.Linear(1, 1), module, {"input_ids": IDS})
        with pytest.raises(DcacheError, match=r"the batch is empty.*got \(0, 3\)"):
            check_call(module, module, {"input_ids": IDS[:0]})
        with pytest.raises(DcacheError, match="which a KVCache does not return: leave it out"):
            check_call(module, module, {"input_ids": IDS, "output_attentions": True})
    with pytest.raises(DcacheError, match="gradients are recorded"):
        check_call(module, module, {"input_ids": IDS})


def test_embeddings_win_over_ids():
    embeds = torch.zeros(1, 2, 4)
    assert inputs_of({"input_ids": None, "inputs_embeds": embeds}) is embeds
    assert inputs_of({"input_ids": IDS}) is IDS
    assert inputs_of({}) is None
