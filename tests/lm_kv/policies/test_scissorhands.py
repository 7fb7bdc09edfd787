import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


@torch.no_grad()
def test_what_few_of_the_last_queries_ignore_is_kept():
    model, inputs = llama(1, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    weights = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions[0]
    cache = prefilled(model, lm_kv.scissorhands(history=35, window=2), inputs, budget=10)
    last = weights[0].unflatten(0, (2, 2))[:, :, -35:]
    # The query at position q sees q + 1 tokens.
    share = 1 / torch.arange(6.0, 41.0)[:, None]
    ignored = ((last < share) & (torch.arange(40) <= torch.arange(5, 40)[:, None])).sum((1, 2))
    for head, run in enumerate(cache.layers[0].store.segments[0].positions.split(8)):
        counts = ignored[head, :38]
        # Ties may be kept or not.
        worst = counts[run.long()].max()
        assert (counts < worst).sum() <= 8 <= (counts <= worst).sum()
        assert set((counts < worst).nonzero().flatten().tolist()) <= set(run.tolist())


def test_a_history_of_nothing_is_refused():
    with pytest.raises(DcacheError, match="history must be a whole number of at least 1"):
        lm_kv.scissorhands(history=0)
