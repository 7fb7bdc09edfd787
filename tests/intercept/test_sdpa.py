"""`SdpaCalls`: calls of torch's attention function get other arguments, positional ones included."""

import torch
from torch.nn import functional as F

from dcache.intercept.sdpa import SdpaCalls


def test_the_arguments_are_named_and_replaced_inside_the_mode_alone() -> None:
    q = torch.ones(1, 1, 1, 2)
    keys, values = torch.eye(2)[None, None], torch.tensor([[[[1.0], [3.0]]]])
    seen = []

    def changed(call: dict[str, object]) -> dict[str, object]:
        seen.append(sorted(call))
        return {**call, "value": values * 2}

    plain = F.scaled_dot_product_attention(q, keys, values, None)
    with SdpaCalls(changed):
        other = F.scaled_dot_product_attention(q, keys, values, None)
        # Both keys fit the query alike.
        assert torch.equal(torch.softmax(torch.zeros(2), 0), torch.tensor([0.5, 0.5]))
    assert seen == [["attn_mask", "key", "query", "value"]]
    assert plain.item() == 2.0
    assert other.item() == 4.0
    assert F.scaled_dot_product_attention(q, keys, values).item() == 2.0
