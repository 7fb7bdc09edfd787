import os
from urllib.error import URLError

import pytest
import torch

from dcache.errors import DcacheError
from dcache.eval.metrics.inception import weights as inception_weights
from dcache.eval.metrics.paired import lpips_weights
from dcache.eval.metrics.weights import Weights, hub_with, locate

PUBLISHED = Weights("a network", "https://example.org/files/net-0a1b2c3d.pth", "some_weights")


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def no_network(*_):
    raise URLError("no route to host")


def test_a_download_that_fails_says_where_the_file_belongs_and_where_it_comes_from(hub):
    with pytest.raises(DcacheError) as caught:
        locate(PUBLISHED, None)

    told = str(caught.value)
    assert all(
        part in told for part in (str(hub / "net-0a1b2c3d.pth"), PUBLISHED.url, "--some-weights", "no route")
    )


def test_a_download_lands_in_the_cache_of_torch_hub_and_its_digest_is_checked(hub, monkeypatch):
    def fetch(url, path, digits):
        assert (url, digits) == (PUBLISHED.url, "0a1b2c3d")
        torch.save({"w": torch.ones(1)}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)

    assert locate(PUBLISHED, None) == hub / "net-0a1b2c3d.pth"
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    assert locate(PUBLISHED, None) == hub / "net-0a1b2c3d.pth"


def test_a_path_that_is_no_file_is_refused_without_a_download(tmp_path):
    with pytest.raises(DcacheError, match=r"--some-weights: .*none\.pth is not a file"):
        locate(PUBLISHED, tmp_path / "none.pth")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_file_that_runs_code_is_refused_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Harmful()}, tmp_path / "bad.pth")

    with pytest.raises(DcacheError, match="is not a file of weights"):
        locate(PUBLISHED, tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "half.pth").write_bytes(b"PK\x03\x04 and no more")

    with pytest.raises(DcacheError, match="is not a file of weights"):
        locate(PUBLISHED, tmp_path / "half.pth")


def test_torch_hub_finds_a_lent_file_and_its_own_folder_afterwards(tmp_path):
    mine, before = tmp_path / "mine.pth", torch.hub.get_dir()
    torch.save({"w": torch.ones(1)}, mine)

    with hub_with(PUBLISHED.name, mine):
        assert torch.hub.load_state_dict_from_url(PUBLISHED.url) == {"w": torch.ones(1)}
    assert torch.hub.get_dir() == before


def test_published_names_end_with_a_digest():
    nets = [lpips_weights(net) for net in ("alex", "vgg", "squeeze")]

    assert [one.name.partition("-")[0] for one in nets] == ["alexnet", "vgg16", "squeezenet1_1"]
    assert inception_weights().name == "weights-inception-2015-12-05-6726825d.pth"
    assert inception_weights().flag == "--inception-weights"
