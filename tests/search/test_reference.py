"""A reference for corrections is the same pipeline in full precision, called alike, or refused."""

from typing import Any

import pytest
from diffusers import EulerDiscreteScheduler

from dcache import DcacheError
from dcache.schedule import Plan, Schedule
from dcache.search.corrections import fit_corrections
from dcache.search.reference import refuse_other
from tests.pipelines import FLUX, PIXART, STEPS
from tests.search.pipeline_subjects import shaped


def pixart(**config: Any) -> Any:
    """A tiny pipeline whose denoiser's config says something else."""
    pipe = PIXART.build()
    pipe.transformer.register_to_config(**config)
    return pipe


def resampled(sampler: Any) -> Any:
    pipe = PIXART.build()
    pipe.scheduler = sampler
    return pipe


REFUSED = {
    "class": (FLUX.build, "transformer is a FluxTransformer2DModel where the pipeline's is a PixArtTrans"),
    "config": (lambda: pixart(num_layers=9), r"transformer has num_layers=9 where the pipeline's has \d"),
    "sampler": (
        lambda: resampled(EulerDiscreteScheduler()),
        "sampler is a EulerDiscreteScheduler where the pipeline's is a ",
    ),
    "levels": (
        lambda: resampled(type(PIXART.build().scheduler)(beta_end=0.5)),
        r"sampler has beta_end=0\.5 where the pipeline's has 0\.02",
    ),
    "no pipeline": (lambda: "full", "in full precision, got str: load it once more, without quantisation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_pipeline_is_refused_with_what_differs(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(DcacheError, match=words):
        refuse_other(PIXART.build(), make(), None)


def test_that_only_one_is_quantised_is_no_difference() -> None:
    refuse_other(PIXART.build(), PIXART.build(seed=1), None)
    refuse_other(pixart(quantization_config={"bits": 8}), PIXART.build(), "transformer")


SCHEDULE = Schedule(
    STEPS,
    {"transformer": Plan({"*": {"trunk": tuple(t % 2 == 0 for t in range(STEPS))}})},
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_inference_steps": STEPS + 2},
            rf"reference does not run like the pipeline: .*{STEPS}.*{STEPS + 2}",
        ),
        ({"height": 128}, r"reference's output of trunk in evaluation 1 is \(.*\) and the pipeline's \(.*\)"),
    ],
    ids=["steps", "latents"],
)
def test_a_reference_that_is_called_otherwise_is_refused(changes: dict[str, Any], words: str) -> None:
    subject, reference = shaped(PIXART), PIXART.build()
    own = type(reference)

    class Other(own):  # type: ignore[misc,valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **{**kwargs, **changes})

    reference.__class__ = Other
    with pytest.raises(DcacheError, match=words):
        fit_corrections(subject, SCHEDULE, ["1"], reference=reference)
