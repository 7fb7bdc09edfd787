import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from dcache.errors import DcacheError
from dcache.eval.metrics import METRICS
from dcache.eval.metrics.base import Batch, Sample
from dcache.eval.metrics.inception import INCEPTION, POOLED
from dcache.eval.metrics.options import MetricOptions

pytestmark = pytest.mark.slow


class Untrained(FeatureExtractorInceptionV3):
    """The network with random weights, whatever file it is given."""

    def load_state_dict(self, _):
        """Keep them; make them large enough that pictures differ in the last layer."""
        for one in self.modules():
            if isinstance(one, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(one.weight)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    torch.manual_seed(0)
    network = Untrained("untrained", ["2048"], feature_extractor_weights_path=str(folder / "empty.pth"))
    torch.save(network.state_dict(), folder / "inception.pth")
    return folder / "inception.pth"


def test_rows_are_the_pooled_features_and_the_logits_of_torch_fidelity(weights):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    its = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    with torch.no_grad():
        pooled, logits = its(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    found = INCEPTION.load(MetricOptions(inception_weights=weights, score_batch_size=2)).read(
        Batch(pictures, None, [""] * 3)
    )

    assert found.std() > 0
    assert found[:, :POOLED] == pytest.approx(pooled.numpy(), rel=1e-4, abs=1e-5)
    assert found[:, POOLED:] == pytest.approx(logits.numpy(), rel=1e-4, abs=1e-5)


def test_fid_from_pictures_is_that_of_torchmetrics_with_the_same_network(weights):
    random = np.random.default_rng(0)
    real, made = (random.integers(0, top, (4, 32, 32, 3), dtype=np.uint8) for top in (256, 128))
    reader = INCEPTION.load(MetricOptions(inception_weights=weights))
    rows = [reader.read(Batch(pictures, None, [""] * 4)) for pictures in (made, real)]
    its = FrechetInceptionDistance(feature=FeatureExtractor(weights))
    for pictures, is_real in ((real, True), (made, False)):
        its.update(torch.from_numpy(pictures).permute(0, 3, 1, 2), real=is_real)

    found = METRICS["fid"].summary(Sample(*rows, prompts=np.arange(4)))
    assert found.value == pytest.approx(float(its.compute()), rel=1e-4)


class FeatureExtractor(torch.nn.Module):
    """torch-fidelity's network as torchmetrics takes any."""

    num_features = POOLED

    def __init__(self, weights):
        super().__init__()
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
        )

    def forward(self, pictures):
        return self.network(pictures)[0]


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"fc.weight": torch.ones(1)}, tmp_path / "other.pth")

    with pytest.raises(DcacheError, match=r"other\.pth holds other weights"):
        INCEPTION.load(MetricOptions(inception_weights=tmp_path / "other.pth"))
