"""Attention statistics: masses against torch's own function, the mask, R by hand, and whole runs."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dcache.errors import DcacheError
from dcache.identity.denoisers import config_digest
from dcache.profile import FeatureTables, Profile
from dcache.search.attention import with_attention
from dcache.search.observing import attention_mass
from dcache.search.observing.attention_mass import mass
from dcache.search.observing.foreground import foreground, otsu, patches, preference
from tests.pipelines import SHAPES, STEPS, Shape

PROMPTS = ["one", "two"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# What a token receives --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "bool", "added", "heads", "groups", "scale"])
def test_the_mass_is_torchs_attention_to_the_identity(kind):
    query, key = normal(2, 4, 7, 8), normal(2, 2 if kind == "groups" else 4, 7, 8, seed=1)
    mask = {
        "bool": torch.arange(7).expand(2, 1, 1, 7) < torch.tensor([7, 4]).view(2, 1, 1, 1),
        "added": normal(2, 1, 1, 7, seed=2),
        "heads": normal(2, 4, 7, 7, seed=3),
    }.get(kind)
    scale = 0.3 if kind == "scale" else None
    ones = torch.eye(7).expand(2, 4, 7, 7)
    keys = key.repeat_interleave(2, dim=1) if kind == "groups" else key
    weights = F.scaled_dot_product_attention(query, keys, ones, attn_mask=mask, scale=scale)
    found = mass(query, key, mask, scale)
    torch.testing.assert_close(found, weights.mean(dim=(1, 2)))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))


def test_of_a_long_sequence_evenly_spaced_queries_are_looked_at(monkeypatch):
    monkeypatch.setattr(attention_mass, "QUERIES", 3)
    query, key = normal(1, 2, 9, 4), normal(1, 2, 9, 4, seed=1)
    torch.testing.assert_close(mass(query, key), mass(query[:, :, [0, 3, 6]], key))


# Which tokens are the foreground ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_otsu_is_the_best_of_all_splits(seed):
    values = np.round(np.random.default_rng(seed).gamma(1.0, size=15), 1)
    threshold = otsu(values)

    def between(t: float) -> float:
        low, high = values[values <= t], values[values > t]
        return len(low) * len(high) * (high.mean() - low.mean()) ** 2 if len(high) else 0.0

    assert between(threshold) == pytest.approx(max(map(between, values)))


def test_equal_values_have_no_upper_class():
    assert otsu(np.full(4, 2.0)) == 2.0
    assert not foreground(torch.ones(9, 3)).any()


def test_tokens_that_stand_out_are_the_foreground():
    tokens = 0.1 * normal(40, 12)
    tokens[[3, 4, 17]] += 5.0
    assert list(np.flatnonzero(foreground(tokens))) == [3, 4, 17]
    # The fourth component is not looked at: what stands out there alone is near the mean of the others.
    axes = torch.zeros(62, 4)
    for i in range(60):
        axes[i, i % 3] = 5.0 if i % 2 else -5.0
    axes[60, 3], axes[61, 3] = 8.0, -8.0
    assert not foreground(axes)[60:].any()


def test_patches_are_the_tokens_in_the_order_of_the_embedding():
    picture = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    found = patches(picture, [2, 2])
    assert found.shape == (2, 6, 12)
    # A convolution that takes each patch as it is.
    convolved = F.conv2d(picture, torch.eye(12).view(12, 3, 2, 2), stride=2)
    torch.testing.assert_close(found, convolved.flatten(2).transpose(1, 2))
    clip = torch.arange(2.0 * 3 * 4 * 4).view(1, 2, 3, 4, 4)
    convolved = F.conv3d(clip, torch.eye(8).view(8, 2, 1, 2, 2), stride=(1, 2, 2))
    torch.testing.assert_close(patches(clip, [1, 2, 2]), convolved.flatten(2).transpose(1, 2))


def test_preference_by_hand():
    masses = np.array([0.4, 0.1, 0.3, 0.05, 0.1, 0.05])
    mask = np.array([True, False, False, True, True, False])
    assert preference(masses, mask, 0.5) == pytest.approx(1 / 3)
    assert preference(masses, mask, 4 / 6) == pytest.approx(2 / 3)
    assert preference(masses, mask, 0.01) == pytest.approx(1 / 3)
    assert preference(masses, mask, 1.0) == 1.0


# Whole runs -------------------------------------------------------------------------------------------------


@dataclass
class Runs:
    """A pipeline of the tests, called as a subject is."""

    shape: Shape
    pipe: Any
    guidance: None = None

    def __call__(self, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        return self.shape.run(self.pipe, seed=seeds[0])


def subject(name: str) -> Runs:
    return Runs(SHAPES[name], SHAPES[name].build())


def profile_of(runs: Runs) -> Profile:
    module = runs.shape.denoiser(runs.pipe)
    empty = FeatureTables(np.zeros((STEPS, STEPS)), np.zeros((STEPS, STEPS)), np.zeros(STEPS))
    return Profile(
        STEPS,
        {"trunk": {"0": {"delta": empty}}},
        component=runs.shape.part,
        model=type(module).__name__,
        config=config_digest(module),
    )


class Explicit(AttnProcessor):
    """Attention by hand in diffusers' own class, whose weights can be seen."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, attn, *args, **kwargs):
        original = attn.get_attention_scores

        def scores(*given):
            found = original(*given)
            self.seen.append(found.view(-1, attn.heads, *found.shape[1:]).mean(dim=(1, 2)))
            return found

        attn.get_attention_scores = scores
        try:
            return super().__call__(attn, *args, **kwargs)
        finally:
            del attn.get_attention_scores


def test_a_run_gives_what_the_explicit_attention_does():
    runs = subject("pixart")
    found = with_attention(runs, profile_of(runs), PROMPTS, seed=5, every=3, top=0.3).attention
    by_hand = subject("pixart")
    module = by_hand.shape.denoiser(by_hand.pipe)
    processors = []
    for block in module.transformer_blocks:
        processors.append(Explicit())
        block.attn1.set_processor(processors[-1])
    predictions = []
    module.register_forward_hook(lambda m, args, out: predictions.append(out[0]))
    for seed in (5, 6):
        by_hand([], [seed])
    expected = {i: [] for i in range(len(processors))}
    for call in [c for c in range(2 * STEPS) if c % STEPS % 3 == 0]:
        tokens = patches(predictions[call][:, : module.config.in_channels], [module.config.patch_size] * 2)
        masks = [foreground(row) for row in tokens]
        for depth, processor in enumerate(processors):
            for row, mask in zip(processor.seen[call], masks, strict=True):
                expected[depth].append(preference(row.double().numpy(), mask, 0.3))
    assert list(found) == [f"block:{i}" for i in range(len(processors))]
    assert list(found.values()) == pytest.approx([np.mean(rows) for rows in expected.values()])
    assert len(set(found.values())) > 1


class Queries(TorchFunctionMode):
    """Keeps the weights of every attention, the mean over heads and queries."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key"), args, strict=False)) | (kwargs or {})
            query, key = given["query"], given["key"]
            logits = query @ key.mT / query.shape[-1] ** 0.5
            self.seen.append(logits.softmax(-1).mean((1, 2)))
        return func(*args, **(kwargs or {}))


def test_of_joint_attention_the_pictures_part_is_taken_in_single_blocks_too():
    runs = subject("flux")
    found = with_attention(runs, profile_of(runs), PROMPTS[:1], seed=5, every=3, top=0.3).attention
    by_hand = subject("flux")
    predictions = []
    model = by_hand.shape.denoiser(by_hand.pipe)
    model.register_forward_hook(lambda m, args, out: predictions.append(out[0]))
    with Queries() as queries:
        by_hand([], [5])
    depth = by_hand.shape.depth
    expected = {i: [] for i in range(depth)}
    for call in [c for c in range(STEPS) if c % 3 == 0]:
        tokens = predictions[call]
        masks = [foreground(row) for row in tokens]
        for i, mass_of_all in enumerate(queries.seen[call * depth : (call + 1) * depth]):
            # FLUX joins the text in front of the picture, in double and in single blocks.
            picture = mass_of_all[:, -tokens.shape[1] :]
            for row, mask in zip(picture.double().numpy(), masks, strict=True):
                if mask.any():
                    expected[i].append(preference(row, mask, 0.3))
    assert list(found) == [f"block:{i}" for i in range(depth)]
    assert list(found.values()) == pytest.approx([np.mean(rows) for rows in expected.values()])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in runs.shape.denoiser(runs.pipe).modules())


def test_clips_are_seen_too_and_nothing_is_left_behind():
    runs = subject("wan")
    module = runs.shape.denoiser(runs.pipe)
    before = runs([], [0])
    told: list[str] = []
    profile = profile_of(runs)
    found = with_attention(runs, profile, PROMPTS, progress=told.append)
    assert set(found.attention) == {f"block:{i}" for i in range(runs.shape.depth)}
    assert all(0.0 <= r <= 1.0 for r in found.attention.values())
    assert found.made["attention"] == {"prompts": 2, "every": 4, "top": 0.5}
    assert found.sites == profile.sites
    assert len(told) == len(PROMPTS)
    hooks = itertools.chain.from_iterable((m._forward_hooks, m._forward_pre_hooks) for m in module.modules())
    assert not any(hooks)
    assert bool((runs([], [0]) == before).all())


def test_every_evaluation_or_a_few():
    runs = subject("wan")
    few, all_of_them = (
        with_attention(runs, profile_of(runs), PROMPTS, every=every).attention for every in (STEPS, 1)
    )
    assert few != all_of_them


def test_attention_that_does_not_go_through_torchs_function_is_refused():
    runs = subject("pixart")
    for block in runs.shape.denoiser(runs.pipe).transformer_blocks[1:]:
        block.attn1.set_processor(AttnProcessor())
    with pytest.raises(DcacheError, match=r"blocks 1, .*was not seen: it must go through torch\.nn\.func"):
        with_attention(runs, profile_of(runs), PROMPTS)
    module = runs.shape.denoiser(runs.pipe)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.mark.parametrize(
    ("name", "says"),
    [("pixart", "of its blocks 1 none is found"), ("sd", "no list of blocks is found")],
)
def test_models_whose_self_attention_is_not_known_are_refused(name, says):
    runs = subject(name)
    if name == "pixart":
        runs.pipe.transformer.transformer_blocks[1].attn1 = torch.nn.Identity()
    with pytest.raises(DcacheError, match=f"cannot be observed: .*{says}"):
        with_attention(runs, profile_of(runs), PROMPTS)


def test_bad_input_is_refused():
    runs = subject("pixart")
    profile = profile_of(runs)
    with pytest.raises(DcacheError, match="at least one prompt to observe attention"):
        with_attention(runs, profile, [])
    with pytest.raises(DcacheError, match="every must be"):
        with_attention(runs, profile, PROMPTS, every=0)
    with pytest.raises(DcacheError, match="top must be"):
        with_attention(runs, profile, PROMPTS, top=-0.1)
    other = subject("wan")
    with pytest.raises(DcacheError, match="the profile is of a WanTransformer3DModel"):
        with_attention(runs, profile_of(other), PROMPTS)
