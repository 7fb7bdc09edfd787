"""Names of guidance branches: by cache context, by ordinal, by conditioning tensor."""

import weakref

import pytest
import torch

from dcache.cache.history import Branch
from dcache.errors import DcacheError
from dcache.identity.branch import BranchNames, condition_of
from dcache.identity.loop import MOST_BRANCHES


def branch(name: str, condition: torch.Tensor) -> Branch:
    return Branch(name, 1, condition=weakref.ref(condition))


def test_calls_are_numbered_within_an_evaluation() -> None:
    names = BranchNames()
    assert [names.name(index, None, {}) for index in (0, 0, 0, 1, 1, 2)] == ["0", "1", "2", "0", "1", "0"]


def test_a_branch_is_known_again_by_its_conditioning_when_another_stops_calling() -> None:
    negative, positive = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    branches = {"0": branch("0", negative), "1": branch("1", positive)}
    names = BranchNames()
    assert [names.name(0, c, branches) for c in (negative, positive)] == ["0", "1"]
    # Guidance ends: only the second branch calls from here on.
    assert names.name(1, positive, branches) == "1"
    assert [names.name(2, c, branches) for c in (negative, positive)] == ["0", "1"]


def test_conditioning_that_no_branch_has_seen_goes_by_the_ordinal() -> None:
    first, second = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    branches = {"0": branch("0", first), "1": Branch("1", 1)}
    names = BranchNames()
    assert names.name(0, second, branches) == "0"
    assert names.name(0, first, branches) == "1"
    # A tensor that was made anew for this evaluation: the old one is gone.
    gone = {"0": branch("0", torch.zeros(1, 2, 3))}
    assert names.name(1, second, gone) == "0"
    assert names.name(2, None, branches) == "0"


def test_more_calls_than_there_may_be_branches_are_refused() -> None:
    names = BranchNames()
    assert MOST_BRANCHES == 8
    for i in range(MOST_BRANCHES):
        assert names.name(3, None, {}) == str(i)
    with pytest.raises(DcacheError, match=r"called 9 times .* at most 8\. Call dcache\.step\(module, index="):
        names.name(3, None, {})
    assert names.name(4, None, {}) == "0"


def test_conditioning_is_a_tensor_of_tokens_under_a_known_name() -> None:
    tokens, pooled = torch.ones(1, 2, 3), torch.ones(1, 3)
    assert condition_of({"encoder_hidden_states": tokens}) is tokens
    assert condition_of({"hidden_states": tokens}) is None
    assert condition_of({"encoder_hidden_states": pooled}) is None
    assert condition_of({"encoder_hidden_states": [tokens]}) is None
    assert condition_of({}) is None
    # The first known name that holds one counts.
    other = tokens.clone()
    assert condition_of({"context": other, "encoder_hidden_states": tokens}) is tokens
    assert condition_of({"context": other, "encoder_hidden_states": None}) is other


def test_views_of_one_evaluation_have_branches_of_their_own_and_any_number_of_them() -> None:
    names = BranchNames()
    for index in range(2):
        seen = [names.name(index, None, {}, view) for view in range(20) for _ in range(2)]
        assert seen == [str(i) for i in range(40)]
    for _ in range(MOST_BRANCHES):
        names.name(2, None, {}, 1)
    with pytest.raises(DcacheError, match="called 9 times between two sampler steps"):
        names.name(2, None, {}, 1)
