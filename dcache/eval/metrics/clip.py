"""CLIP score: similarity of picture and prompt, by any model that open_clip can load."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from dcache.errors import DcacheError
from dcache.eval.metrics.base import Batch, Metric, Reader, Rows, Source, framewise, identity
from dcache.eval.metrics.mean import mean
from dcache.eval.metrics.options import MetricOptions

PACKAGES = {"open_clip": "open-clip-torch"}


def clip_reader(
    model: Any, preprocess: Callable[[Any], Any], tokenizer: Any, options: MetricOptions
) -> Reader:
    """A reader of 100 max(cos, 0) of picture and prompt, torchmetrics' definition.

    Hessel et al. (2021) scale by 2.5 instead of 100. Prompts are cut at the model's context length.

    Args:
        model: an open_clip model.
        preprocess: PIL image -> (3, h, w), open_clip's for inference.
        tokenizer: texts -> token ids (N, L).
        options: device and batch size.
    """
    import torch
    from PIL import Image

    device, size = options.device(), options.score_batch_size
    model = model.to(device).eval()

    def read(batch: Batch) -> Rows:
        with torch.no_grad():
            pictures = torch.stack([preprocess(Image.fromarray(p)) for p in batch.pictures]).to(device)
            image = model.encode_image(pictures, normalize=True)
            text = model.encode_text(tokenizer(batch.prompts).to(device), normalize=True)
            cosine = (image * text).sum(dim=-1, keepdim=True)
        return (100 * cosine).clamp(min=0).float().cpu().numpy()

    settings = sorted(model.visual.preprocess_cfg.items())
    return Reader(identity("clip", settings, size, device=device, network=model), framewise(read, size))


def load_clip(name: str, pretrained: str) -> tuple[Any, Callable[[Any], Any], Any]:
    """Load an open_clip model with its weights, its preprocessing and its tokenizer.

    Args:
        name: a model name of open_clip, `hf-hub:ORG/NAME`, or `local-dir:FOLDER`.
        pretrained: a tag of that model, or a checkpoint file; unused with `hf-hub:` and `local-dir:`.

    Raises:
        DcacheError: there is no such model, its weights cannot be loaded, or they were trained with another
            activation than the model's.
    """
    import open_clip

    schema = name.startswith(("hf-hub:", "local-dir:"))
    if not schema and name not in open_clip.list_models():
        raise DcacheError(
            f"open_clip has no model {name!r}: open_clip.list_pretrained() lists them with their tags; "
            "hf-hub:ORG/NAME and local-dir:FOLDER name others"
        )
    try:
        with warnings.catch_warnings():
            # Weights for the other activation load without an error, but every score is wrong.
            warnings.filterwarnings("error", "QuickGELU mismatch", UserWarning)
            model, preprocess = open_clip.create_model_from_pretrained(name, None if schema else pretrained)
        return model, preprocess, open_clip.get_tokenizer(name)
    except UserWarning as error:
        raise DcacheError(
            f"{error} Choose the model with the right activation: ViT-L-14-quickgelu, not ViT-L-14, for "
            "openai"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        tags = "" if schema else f" Its tags: {', '.join(open_clip.list_pretrained_tags_by_model(name))}."
        raise DcacheError(
            f"cannot load the CLIP {name}{'' if schema else ' ' + pretrained}: {str(error).splitlines()[0]}."
            f"{tags} Without a network name a checkpoint with --clip-pretrained FILE, or a folder with "
            "--clip-model local-dir:FOLDER"
        ) from error


def _load(options: MetricOptions) -> Reader:
    return clip_reader(*load_clip(options.clip_model, options.clip_pretrained), options)


METRICS = (
    Metric(
        name="clip",
        title="CLIP score",
        what="100 max(cos, 0) between CLIP's embeddings of picture and prompt, model {clip_model} "
        "({clip_pretrained}); of a clip the mean over its frames",
        better="higher",
        against="prompts",
        digits=2,
        source=Source("clip", _load),
        summary=mean,
        packages=PACKAGES,
    ),
)
