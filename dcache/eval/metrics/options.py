"""Options of metrics: weights, model names, device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dcache.errors import DcacheError
from dcache.eval.limits import check_device

LPIPS_NETS = ("alex", "vgg", "squeeze")


@dataclass(frozen=True)
class MetricOptions:
    """Options of all metrics; each field's metadata has the help that a command line shows.

    Raises:
        DcacheError: a value is out of range.
    """

    reference: Path | None = field(
        default=None,
        metadata={"help": "folder of real pictures for FID, KID and frechet-shapes; else the uncached ones"},
    )
    inception_weights: Path | None = field(
        default=None,
        metadata={"help": "torch-fidelity's InceptionV3 weights (.pth) for FID, KID and inception-score"},
    )
    lpips_net: str = field(
        default="alex",
        metadata={"help": f"LPIPS's network: {', '.join(LPIPS_NETS)}", "choices": LPIPS_NETS},
    )
    lpips_weights: Path | None = field(
        default=None,
        metadata={"help": "torchvision's ImageNet weights (.pth) of that network"},
    )
    clip_model: str = field(
        default="ViT-L-14-quickgelu",
        metadata={"help": "open_clip's model name, hf-hub:ORG/NAME or local-dir:FOLDER, for clip"},
    )
    clip_pretrained: str = field(
        default="openai",
        metadata={
            "help": "open_clip's pretrained tag or a checkpoint file; unused with hf-hub: and local-dir:"
        },
    )
    image_reward_model: str = field(
        default="ImageReward-v1.0",
        metadata={"help": "ImageReward's model name, or its checkpoint with med_config.json beside it"},
    )
    score_batch_size: int = field(
        default=16,
        metadata={"help": "pictures (or frames) that a metric's network sees at once"},
    )
    score_device: str = field(
        default="auto",
        metadata={"help": "where metrics' networks run: auto, cpu, cuda, cuda:1, ..."},
    )

    def __post_init__(self) -> None:
        """Check the values."""
        if self.lpips_net not in LPIPS_NETS:
            raise DcacheError(f"lpips_net must be one of {', '.join(LPIPS_NETS)}, got {self.lpips_net!r}")
        if self.score_batch_size < 1:
            raise DcacheError(f"score_batch_size must be at least 1, got {self.score_batch_size}")

    def device(self) -> str:
        """The device by its name in torch; `auto` is the first GPU, else the CPU.

        Raises:
            DcacheError: torch has no such device here.
        """
        import torch

        if self.score_device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            check_device(self.score_device)
        except DcacheError as error:
            raise DcacheError(f"score_device {self.score_device!r} cannot be used: {error}") from error
        return self.score_device
