"""Pipelines by name and how they are called."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from dcache.demo.pipeline import call_options, model_path
from dcache.demo.pipeline import coefficients as shipped_coefficients
from dcache.errors import DcacheError
from dcache.eval.subject import Subject, coefficients, load


def test_the_demo_is_called_as_its_own_module_says() -> None:
    subject = load("demo", steps=3, device="cpu")
    assert (subject.steps, subject.guidance, subject.name) == (3, 3.0, "demo")
    captions = ["a large striped red circle at the top left on a blue background"] * 2
    made = subject(captions, [5, 6])
    noise = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    options = {**call_options(), "num_inference_steps": 3, "output_type": "np"}
    assert made.dtype == np.float32
    assert np.array_equal(made, subject.pipe(captions, generator=noise, **options).images)
    assert subject.denoisers == [subject.pipe.transformer]
    assert coefficients("demo") == shipped_coefficients()
    assert coefficients("somebody/else") is None


def test_a_clip_has_its_frames_second() -> None:
    made = load("demo-video", steps=2, device="cpu")(["a red circle"], [0])
    assert made.shape == (1, 9, 32, 32, 3)


def test_a_folder_is_loaded_and_keeps_its_pipelines_own_options() -> None:
    subject = load(str(model_path()), device="cpu", options={"clean_caption": False})
    assert (subject.steps, subject.guidance, subject.options) == (20, 4.5, {"clean_caption": False})


def test_a_pipeline_without_prompts_is_called_without() -> None:
    unet = UNet2DModel(8, 3, 3, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
                       up_block_types=("UpBlock2D",) * 2, layers_per_block=1, norm_num_groups=8)  # fmt: skip
    pipe = DDPMPipeline(unet, DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    assert Subject(pipe, "ddpm", {"num_inference_steps": 2})(["", ""], [0, 1]).shape == (2, 8, 8, 3)
    with pytest.raises(DcacheError, match="DDPMPipeline takes no 'height': its call takes batch_size"):
        Subject(pipe, "ddpm", {"height": 8})
    with pytest.raises(DcacheError, match="batch_size, generator cannot be an option of the calls"):
        Subject(pipe, "ddpm", {"batch_size": 2, "generator": None})


def test_what_cannot_be_loaded_or_called_is_told(tmp_path: object) -> None:
    with pytest.raises(DcacheError, match=r"has no model_index\.json\. Expected demo, demo-video, a folder"):
        load(str(tmp_path))
    with pytest.raises(DcacheError, match="dtype must be one of"):
        load("demo", dtype="int3")


def test_the_digest_is_of_the_components_and_not_of_the_object() -> None:
    first, again = (load("demo", steps=2, device="cpu") for _ in range(2))
    assert first.digest == again.digest
    again.pipe.scheduler = again.pipe.scheduler.from_config(again.pipe.scheduler.config, solver_order=1)
    assert first.digest != again.digest
    before = first.digest
    with torch.no_grad():
        first.pipe.transformer.transformer_blocks[3].attn1.to_q.weight[0, 0] += 1
    assert first.digest != before
