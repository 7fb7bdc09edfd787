"""Samples and conditioning, told apart by identity and content."""

import pytest
import torch

from dcache.identity.content import Conditioning, Continuity, Sample, content_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_equal_tensors_have_equal_content_and_others_do_not(dtype: torch.dtype) -> None:
    a = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    assert torch.equal(content_of(a), content_of(a.clone()))
    # The same numbers in another order.
    assert not torch.equal(content_of(a), content_of(a.flip(1)))
    # 4 numbers of 1, at the places 2, 3, 4 and 6.
    assert content_of(a).tolist() == [4.0, 15.0]


def test_a_sample_is_the_last_calls_or_another() -> None:
    sample = Sample()
    x = torch.arange(4.0)
    assert sample.is_same((x,), {})
    sample.note((x,), {})
    assert sample.is_same((x.clone(),), {})
    assert sample.is_same((), {"hidden_states": x})
    assert not sample.is_same((x + 1,), {})
    assert not sample.is_same((x[:3],), {})
    # What is no tensor cannot tell.
    assert sample.is_same((1.0,), {})


def fresh(seen: Conditioning, tensor: torch.Tensor | None) -> bool:
    return seen.is_fresh({} if tensor is None else {"encoder_hidden_states": tensor})


def prompt(value: float) -> torch.Tensor:
    return torch.full((1, 2, 3), value)


def test_another_prompt_is_fresh_where_the_old_one_is_gone() -> None:
    seen = Conditioning()
    first = prompt(1)
    assert not fresh(seen, first)
    assert not fresh(seen, first)
    del first
    assert fresh(seen, prompt(2))


def test_prompts_that_live_at_once_are_branches() -> None:
    seen = Conditioning()
    cond, uncond = prompt(1), prompt(2)
    assert [fresh(seen, each) for each in (cond, uncond, cond, uncond)] == [False] * 4
    del cond
    assert not fresh(seen, prompt(3))
    del uncond
    # Both that were held are gone, and so is the third.
    assert fresh(seen, prompt(4))


def test_a_prompt_that_is_made_anew_in_every_evaluation_is_the_same() -> None:
    seen = Conditioning()
    assert [fresh(seen, prompt(1)) for _ in range(3)] == [False] * 3


def test_without_conditioning_nothing_is_fresh() -> None:
    seen = Conditioning()
    assert not fresh(seen, None)
    assert not fresh(seen, prompt(1))
    assert not fresh(seen, None)


def test_a_run_that_opens_knows_its_own_only() -> None:
    seen = Conditioning()
    fresh(seen, prompt(1))
    seen.restart({"encoder_hidden_states": prompt(2)})
    assert not fresh(seen, prompt(2))
    # The prompt of the run before is another one by now.
    assert fresh(seen, prompt(1))


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (1, 16, 16)), generator=torch.Generator().manual_seed(seed))


def breaks(*samples: torch.Tensor) -> list[bool]:
    """Whether each sample cannot have come of the one before it."""
    continuity, result = Continuity(), []
    for sample in samples:
        result.append(continuity.is_broken((sample,), {}))
        continuity.note((sample,), {})
    return result


def test_a_step_keeps_some_of_the_sample_and_other_noise_keeps_nothing() -> None:
    x = noise(0)
    # The correlation of x + 2 n with x is 1 / sqrt(5), about 0.45; that of other noise about 0.
    assert breaks(x, x + 2 * noise(1)) == [False, False]
    assert breaks(x, noise(1)) == [False, True]


def test_a_step_is_measured_by_those_before_it() -> None:
    x = noise(0)
    near, half = x + 0.1 * noise(1), x + 1.5 * noise(2)
    # About 0.995 and then 0.55: too little after so much, and enough as a first step.
    assert breaks(x, near, half) == [False, False, True]
    assert breaks(x, half) == [False, False]


def test_the_first_item_tells_of_batches_and_another_size_is_another_picture() -> None:
    x = noise(0)
    # Guidance that ends: the batch of two becomes one.
    assert breaks(torch.cat([x, x]), x) == [False, False]
    assert breaks(x, noise(0, 1, 8, 16)) == [False, True]


@pytest.mark.parametrize("x", [torch.ones(1, 16, 16), torch.zeros(1, 100)], ids=["ones", "zeros"])
def test_constant_samples_say_nothing(x: torch.Tensor) -> None:
    assert breaks(x, noise(0, *x.shape), x) == [False, False, False]


def test_few_elements_say_nothing() -> None:
    assert breaks(noise(0, 1, 15), noise(2, 1, 15)) == [False, False]
    # A chunk of 16 actions of two numbers.
    assert breaks(noise(0, 1, 16, 2), noise(2, 1, 16, 2)) == [False, True]


def test_large_samples_are_compared_by_some_of_their_elements() -> None:
    x = noise(0, 1, 400_000)
    assert breaks(x, x.half(), noise(1, 1, 400_000)) == [False, False, True]
