import pytest

from dcache import DcacheError
from dcache.lm_kv.layers.places import places_of
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import KeyDistance


def test_layers_with_a_budget_have_places_in_their_order():
    policy = Policy(scorer=KeyDistance(), dense_layers=(0, 4))
    assert places_of(policy, [0, 1, 3, 5], 6) == {1: 0, 3: 1, 5: 2}
    with pytest.raises(DcacheError, match="dense_layers must be indices from 0 to 3, got 4"):
        places_of(policy, [0, 1], 4)
    with pytest.raises(DcacheError, match="leaves nothing to compress"):
        places_of(policy, [0, 4], 6)
