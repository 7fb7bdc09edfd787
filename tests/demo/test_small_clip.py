"""The judge `clip-shapes`, read without open_clip, gives what open_clip gives from the same files."""

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from dcache.demo.judges import clip_shapes, load_clip_shapes
from dcache.demo.pictures import render, sample_captions


@pytest.fixture(scope="module")
def theirs() -> Any:
    name = f"local-dir:{clip_shapes()}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


@torch.no_grad()
@pytest.mark.parametrize("normalize", [False, True])
def test_embeddings_of_pictures_are_those_of_open_clip(theirs: Any, normalize: bool) -> None:
    rng = np.random.default_rng(7)
    pictures = [Image.fromarray(image) for image in render(sample_captions(12, rng), rng)]
    ours = load_clip_shapes()
    mine, other = (
        model.encode_image(torch.stack([preprocess(picture) for picture in pictures]), normalize=normalize)
        for model, preprocess, _ in (ours, theirs)
    )
    torch.testing.assert_close(mine, other)


@torch.no_grad()
@pytest.mark.parametrize("normalize", [False, True])
def test_embeddings_of_captions_are_those_of_open_clip(theirs: Any, normalize: bool) -> None:
    captions = [caption.text for caption in sample_captions(40, np.random.default_rng(8))]
    texts = [*captions, "", "a fox", "  a   red\tstar ", "a red star " * 20]
    ours = load_clip_shapes()
    assert torch.equal(ours[2](texts), theirs[2](texts))
    mine, other = (
        model.encode_text(tokens(texts), normalize=normalize) for model, _, tokens in (ours, theirs)
    )
    torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (96, 131), (77, 64), (40, 50)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pictures_of_any_size_are_prepared_as_by_open_clip(
    theirs: Any, size: tuple[int, int], mode: str
) -> None:
    pixels = np.random.default_rng(9).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    torch.testing.assert_close(load_clip_shapes()[1](picture), theirs[1](picture))
