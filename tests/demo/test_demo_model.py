"""The shipped model: small files, loads as any pipeline does, and draws what held-out captions say."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PixArtAlphaPipeline, PixArtTransformer2DModel
from diffusers.utils import logging as diffusers_logging

from dcache.demo import pictures
from dcache.demo.judges import load_frechet_shapes
from dcache.demo.judges.frechet_shapes import FrechetShapes
from dcache.demo.pipeline import call_options, load_pipeline, model_path

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def reader() -> FrechetShapes:
    return load_frechet_shapes()


@pytest.fixture(scope="module")
def pipe() -> PixArtAlphaPipeline:
    return load_pipeline()


def right(reader: FrechetShapes, images: np.ndarray, captions: list[pictures.Caption]) -> np.ndarray:
    """Which pictures show every attribute of their caption."""
    return (reader.read(images) == np.array([caption.labels for caption in captions])).all(1)


def test_the_folder_is_small() -> None:
    sizes = [file.stat().st_size for file in model_path().rglob("*") if file.is_file()]
    assert sum(sizes) < 20 * MEGABYTE
    assert max(sizes) < 10 * MEGABYTE


def test_it_loads_as_an_unmodified_float32_pipeline() -> None:
    pipe = PixArtAlphaPipeline.from_pretrained(model_path())
    assert type(pipe.transformer) is PixArtTransformer2DModel
    assert type(pipe.vae) is AutoencoderKL
    modules = (pipe.text_encoder, pipe.transformer, pipe.vae)
    assert {p.dtype for module in modules for p in module.parameters()} == {torch.float32}


def test_load_pipeline_is_quiet_and_leaves_progress_bars_as_they_were(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert diffusers_logging.is_progress_bar_enabled()
    load_pipeline()
    assert diffusers_logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def test_load_pipeline_casts(pipe: PixArtAlphaPipeline) -> None:
    half = load_pipeline(dtype=torch.bfloat16)
    assert {p.dtype for p in half.transformer.parameters()} == {torch.bfloat16}
    assert pipe.transformer.dtype == torch.float32


def test_every_word_of_every_caption_is_known(pipe: PixArtAlphaPipeline) -> None:
    words = {word for caption in pictures.all_captions() for word in caption.text.split()}
    unknown = pipe.tokenizer.unk_token_id
    assert all(unknown not in pipe.tokenizer(word).input_ids for word in words)
    assert unknown in pipe.tokenizer("fox").input_ids
    longest = max((caption.text for caption in pictures.all_captions()), key=lambda text: len(text.split()))
    assert len(pipe.tokenizer(longest).input_ids) <= call_options()["max_sequence_length"]


def test_the_reader_reads_drawn_pictures_and_not_wrong_ones(reader: FrechetShapes) -> None:
    rng = np.random.default_rng(5)
    captions = pictures.sample_captions(300, rng)
    images = pictures.render(captions, rng)
    assert right(reader, images, captions).mean() > 0.97
    assert right(reader, images, captions[1:] + captions[:1]).mean() < 0.02


def test_the_autoencoder_keeps_drawn_pictures(pipe: PixArtAlphaPipeline, reader: FrechetShapes) -> None:
    rng = np.random.default_rng(6)
    captions = pictures.sample_captions(64, rng)
    x = torch.from_numpy(pictures.render(captions, rng)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    psnr = -10 * ((y - x) / 2).square().mean((1, 2, 3)).log10()
    assert psnr.mean() > 32
    assert right(reader, (y / 2 + 0.5).permute(0, 2, 3, 1).numpy(), captions).mean() > 0.95


@pytest.mark.slow
def test_generated_pictures_show_what_held_out_captions_say(
    pipe: PixArtAlphaPipeline, reader: FrechetShapes
) -> None:
    captions = pictures.sample_captions(40, np.random.default_rng(7), unseen=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(40)]
    texts = [caption.text for caption in captions]
    images = pipe(texts, generator=generators, output_type="np", **call_options()).images
    assert right(reader, images, captions).mean() >= 0.9
    assert right(reader, images, captions[1:] + captions[:1]).mean() < 0.1
