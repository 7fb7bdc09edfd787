"""Files of published weights: a given file, torch hub's cache, or a download; an error otherwise."""

from __future__ import annotations

import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dcache.errors import DcacheError
from dcache.util.files import make_folder
from dcache.util.text import first_sentence


@dataclass(frozen=True)
class Weights:
    """A published file.

    Attributes:
        what: name of the model, for messages.
        url: address of the published file.
        option: the field of `MetricOptions` that names a local copy.
    """

    what: str
    url: str
    option: str

    @property
    def name(self) -> str:
        """The file's name, which ends with the first digits of its SHA-256."""
        return self.url.rpartition("/")[2]

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return "--" + self.option.replace("_", "-")


def locate(weights: Weights, given: Path | None) -> Path:
    """Path of the file: the given one, or torch hub's copy, which is downloaded if it is missing.

    Raises:
        DcacheError: there is no file and the download failed, or the file is not a plain file of tensors. The
            message has the expected path, the address, and the option for a local copy.
    """
    import torch

    if given is not None and not given.is_file():
        raise DcacheError(
            f"{weights.flag}: {given} is not a file. Expected {weights.name}, from {weights.url}"
        )
    path = given or Path(torch.hub.get_dir(), "checkpoints", weights.name)
    if not path.is_file():
        _download(weights, path)
    _check_plain(path, weights)
    return path


@contextmanager
def hub_with(name: str, path: Path) -> Iterator[None]:
    """Make torch hub find `path` under `name` inside the block, for libraries that only load from the hub."""
    import torch

    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder, "checkpoints")
        checkpoints.mkdir()
        try:
            (checkpoints / name).symlink_to(path.resolve())
        except OSError:
            # On Windows only some users may create links.
            shutil.copyfile(path, checkpoints / name)
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def _download(weights: Weights, path: Path) -> None:
    import torch

    make_folder(path.parent)
    digits = re.search(r"-([0-9a-f]{8,})\.", weights.name)
    try:
        torch.hub.download_url_to_file(weights.url, str(path), digits and digits[1])
    except (OSError, RuntimeError) as error:
        raise DcacheError(
            f"the weights of {weights.what} are not at {path} and cannot be downloaded: "
            f"{first_sentence(error)}. Fetch {weights.url} where there is a network, then put it there or "
            f"name it with {weights.flag}"
        ) from error


def _check_plain(path: Path, weights: Weights) -> None:
    # Both libraries that read these files unpickle arbitrary content, so it is checked here.
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DcacheError(
            f"{path} is not a file of weights: {str(error).splitlines()[0]}. Expected {weights.name}, from "
            f"{weights.url}: remove the file or name another with {weights.flag}"
        ) from error
