"""InceptionV3 as FID was defined with it: torch-fidelity's network, TensorFlow's weights and resize."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.eval.metrics.base import Batch, Reader, Rows, Source, channels_first, framewise, identity
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.metrics.weights import Weights, locate

POOLED = 2048


def weights() -> Weights:
    """The converted weights of 2015, as torch-fidelity publishes them."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return Weights("InceptionV3 (FID, KID, inception-score)", URL_INCEPTION_V3, "inception_weights")


def _load(options: MetricOptions) -> Reader:
    import numpy as np
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path, device = locate(weights(), options.inception_weights), options.device()
    try:
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        ).to(device)
    except (RuntimeError, AttributeError) as error:
        raise DcacheError(f"{path} does not hold the weights of torch-fidelity's InceptionV3") from error

    def read(batch: Batch) -> Rows:
        with torch.no_grad():
            features = network(channels_first(batch.pictures, device))
        return np.concatenate([part.cpu().numpy() for part in features], axis=1)

    return Reader(
        identity("inception", options.score_batch_size, device=device, network=network),
        framewise(read, options.score_batch_size),
    )


# A row is the 2048 pooled features, then the 1008 logits without bias.
INCEPTION = Source("inception", _load)
