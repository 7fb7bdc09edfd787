"""The demo's judges: `clip-shapes` finds the caption, `frechet-shapes` sees worse pictures farther away."""

import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from dcache.demo.judges import clip_shapes, frechet_shapes_weights, load_clip_shapes, load_frechet_shapes
from dcache.demo.judges.frechet_shapes import FrechetShapes
from dcache.demo.pictures import Caption, neighbours, render, sample_captions
from dcache.errors import DcacheError

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def clip() -> Any:
    return load_clip_shapes()


@pytest.fixture(scope="module")
def network() -> FrechetShapes:
    return load_frechet_shapes()


@cache
def drawn(count: int, seed: int) -> tuple[list[Caption], np.ndarray]:
    """Captions that no judge has seen, and a picture of each."""
    rng = np.random.default_rng(seed)
    captions = sample_captions(count, rng, unseen=True)
    return captions, render(captions, rng)


def as_tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def found(clip: Any, images: np.ndarray, choices: list[list[Caption]]) -> float:
    """The share of pictures for which the first of their captions scores higher than each of the others."""
    model, preprocess, tokenizer = clip
    seen = model.encode_image(torch.stack([preprocess(Image.fromarray(image)) for image in images]))
    texts = list({caption.text for captions in choices for caption in captions})
    said = torch.nn.functional.normalize(model.encode_text(tokenizer(texts)), dim=-1)
    scores = seen @ said.T
    right = []
    for row, captions in zip(scores, choices, strict=True):
        first, *others = (row[texts.index(caption.text)].item() for caption in captions)
        right.append(first > max(others))
    return float(np.mean(right))


@pytest.fixture(scope="module")
def distance(network: FrechetShapes) -> Callable[[np.ndarray], float]:
    """The Frechet distance of pictures from 128 drawn ones."""
    metric = FrechetInceptionDistance(feature=network, reset_real_features=False)
    metric.update(as_tensor(drawn(128, seed=45)[1]), real=True)

    def measure(images: np.ndarray) -> float:
        metric.reset()
        metric.update(as_tensor(images), real=False)
        return metric.compute().item()

    return measure


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    x = np.arange(-8, 9)
    kernel = torch.from_numpy(np.exp(-(x**2) / (2 * sigma**2))).float()
    kernel /= kernel.sum()
    y = as_tensor(images).float()
    y = torch.nn.functional.pad(y, (8, 8, 8, 8), mode="reflect").reshape(-1, 1, 80, 80)
    y = torch.nn.functional.conv2d(y, kernel[None, None, None, :])
    y = torch.nn.functional.conv2d(y, kernel[None, None, :, None])
    return y.reshape(-1, 3, 64, 64).permute(0, 2, 3, 1).round().byte().numpy()


def test_the_weights_are_small() -> None:
    assert (clip_shapes() / "open_clip_model.safetensors").stat().st_size < 3.5 * MEGABYTE
    assert frechet_shapes_weights().stat().st_size < 0.5 * MEGABYTE


def test_both_load_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model, _, tokenizer = load_clip_shapes()
    assert {p.dtype for p in (*model.parameters(), *load_frechet_shapes().parameters())} == {torch.float32}
    assert not model.training
    ids = tokenizer(["a small plain red star at the top on an orange background", "a fox"])
    assert ids.shape == (2, 16)
    assert ids.dtype == torch.int64


def test_clip_shapes_finds_the_caption_among_random_ones_and_among_its_neighbours(clip: Any) -> None:
    captions, images = drawn(60, seed=40)
    lot = sample_captions(9 * len(captions), np.random.default_rng(41))
    random = [[c, *(o for o in lot[9 * i : 9 * i + 9] if o != c)] for i, c in enumerate(captions)]
    assert found(clip, images, random) >= 0.99
    assert found(clip, images, [[c, *neighbours(c)] for c in captions]) >= 0.9


def test_clip_shapes_knows_which_colour_is_the_background(clip: Any) -> None:
    captions, images = drawn(60, seed=42)
    swapped = [replace(c, colour=c.background, background=c.colour) for c in captions]
    assert found(clip, images, [list(pair) for pair in zip(captions, swapped, strict=True)]) >= 0.97


def test_every_word_of_the_world_is_known_to_clip_shapes(clip: Any) -> None:
    tokenizer, unknown = clip[2], 2
    captions = sample_captions(500, np.random.default_rng(43))
    assert (tokenizer([c.text for c in captions]) != unknown).all()
    assert (tokenizer(["a fox"]) == unknown).any()


def test_frechet_shapes_gives_float_features_of_the_size_it_says(network: FrechetShapes) -> None:
    features = network(as_tensor(drawn(5, seed=44)[1]))
    assert features.shape == (5, network.num_features)
    assert features.dtype == torch.float32
    assert network.num_features <= 96


@pytest.mark.parametrize(
    "pictures", [torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)]
)
def test_frechet_shapes_refuses_other_pictures(network: FrechetShapes, pictures: Tensor) -> None:
    with pytest.raises(DcacheError, match=r"expects torch.uint8 pictures \(N, 3, 64, 64\)"):
        network(pictures)


def worse(kind: str, amount: float) -> np.ndarray:
    """Pictures of 128 other captions, worse in one way."""
    captions, images = drawn(128, seed=46)
    if kind == "blurred":
        return blur(images, amount)
    if kind == "noisy":
        noise = np.random.default_rng(47).normal(0, amount, images.shape)
        return np.clip(images + noise, 0, 255).astype(np.uint8)
    if kind == "flat":
        return (images * (1 - amount) + 127.5 * amount).astype(np.uint8)
    value = {"background": "green", "shape": "circle", "texture": "plain", "place": "center"}[kind]
    wrong = [replace(c, **{kind: value}) if c.colour != value else c for c in captions[: int(128 * amount)]]
    return render([*wrong, *captions[len(wrong) :]], np.random.default_rng(48))


def test_the_same_pictures_have_no_distance_and_others_of_the_world_a_small_one(
    distance: Callable[[np.ndarray], float],
) -> None:
    assert distance(drawn(128, seed=45)[1]) == pytest.approx(0, abs=1e-3)
    assert 0.1 < distance(drawn(128, seed=46)[1]) < 2


@pytest.mark.parametrize(
    ("kind", "little", "much"),
    [
        ("blurred", 0.8, 2),
        ("noisy", 8, 24),
        ("flat", 0.1, 0.4),
        ("background", 0.2, 1),
        ("shape", 0.4, 1),
        ("texture", 0.2, 1),
        ("place", 0.4, 1),
    ],
)
def test_the_worse_the_pictures_the_larger_the_distance(
    distance: Callable[[np.ndarray], float], kind: str, little: float, much: float
) -> None:
    good = distance(drawn(128, seed=46)[1])
    assert good < distance(worse(kind, little)) < distance(worse(kind, much)) / 1.2
