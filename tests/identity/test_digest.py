"""The digest of a model's components: folders of evaluations hold it, so that it must stay what it is."""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from dcache.eval.subject import Subject
from dcache.identity.digest import model_digest


class Toy(nn.Module):
    """Two parameters and a config."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.config = OrderedDict(size=size, _name_or_path="not counted")
        self.weight = nn.Parameter(torch.arange(float(size * 4)).reshape(size, 4))
        self.register_buffer("table", torch.ones(2, dtype=torch.float16))


class Pipe:
    """Has components, and takes a prompt."""

    def __init__(self, **components: Any) -> None:
        self.components = components

    def __call__(self, prompt: list[str]) -> None: ...


def test_the_digest_is_what_folders_hold() -> None:
    assert model_digest("Pipe", {"transformer": Toy(), "tokenizer": None}) == "ce223bda806d"
    assert Subject(Pipe(tokenizer=None, transformer=Toy()), "toy").digest == "ce223bda806d"


def test_it_changes_with_everything_that_decides_pictures() -> None:
    changed, other_config = Toy(), Toy()
    with torch.no_grad():
        changed.weight[0, 0] += 1
    other_config.config["size"] = 4
    made = [
        model_digest("Pipe", {"transformer": Toy()}),
        model_digest("Other", {"transformer": Toy()}),
        model_digest("Pipe", {"unet": Toy()}),
        model_digest("Pipe", {"transformer": changed}),
        model_digest("Pipe", {"transformer": other_config}),
        model_digest("Pipe", {"transformer": Toy(4)}),
        model_digest("Pipe", {"transformer": Toy().half()}),
        model_digest("Pipe", {"transformer": Toy(), "sampler": object()}),
        model_digest("Pipe", {}),
    ]
    assert len(set(made)) == len(made)


def test_weights_that_are_elsewhere_count_by_their_shapes() -> None:
    meta = Toy().to("meta")
    assert model_digest("Pipe", {"transformer": meta}) == model_digest(
        "Pipe", {"transformer": Toy().to("meta")}
    )
    assert model_digest("Pipe", {"transformer": meta}) != model_digest("Pipe", {"transformer": Toy()})
