"""The declarations of block classes: of diffusers' own classes, and fit for names of sites.

The classes are looked up in diffusers' sources, which are read and not imported.
"""

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest
from torch import nn

from dcache.sites.blocks import ASIDE, STREAMS, SUBLAYERS, key_of
from dcache.sites.discovery import find_sublayers
from dcache.sites.names import SITE_NAME
from dcache.sites.structure import SUBLAYER_KINDS

MODELS = Path(importlib.util.find_spec("diffusers").submodule_search_locations[0], "models")


@cache
def sources() -> dict[str, ast.ClassDef]:
    """Every class of diffusers' models, by name."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(MODELS.rglob("*.py"))]
    return {node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def class_of(key: str) -> str:
    """The class of a row's key, which is one of diffusers."""
    package, _, name = key.partition(".")
    assert package == "diffusers"
    return name


def attributes_of(name: str) -> set[str]:
    """What a class sets on itself, in `__init__` or elsewhere; of the class that a row is for."""
    name = class_of(name)
    return {
        node.attr
        for node in ast.walk(sources()[name])
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def arguments_of(name: str) -> list[str]:
    """Arguments of a class's `forward`, in order; of the class that a row is for."""
    name = class_of(name)
    (forward,) = (n for n in sources()[name].body if isinstance(n, ast.FunctionDef) and n.name == "forward")
    return [argument.arg for argument in (*forward.args.args, *forward.args.kwonlyargs)]


@pytest.mark.parametrize("name", SUBLAYERS)
def test_a_declared_block_has_its_sublayers(name: str) -> None:
    declared = {attribute for attributes in SUBLAYERS[name].values() for attribute in attributes}
    assert declared <= attributes_of(name)
    assert set(SUBLAYERS[name]) <= set(SUBLAYER_KINDS) - {"fused"}


@pytest.mark.parametrize("name", STREAMS)
def test_declared_streams_are_arguments_of_the_block(name: str) -> None:
    assert set(STREAMS[name]) <= set(arguments_of(name))
    assert len(set(STREAMS[name])) == len(STREAMS[name])


def test_lists_that_are_no_part_of_the_trunk_are_attributes_of_diffusers_models() -> None:
    used = {n.attr for c in sources().values() for n in ast.walk(c) if isinstance(n, ast.Attribute)}
    assert used >= ASIDE


@pytest.mark.parametrize("name", SUBLAYERS)
def test_every_sublayer_of_a_block_gets_a_name_of_its_own(name: str) -> None:
    attributes = [attribute for named in SUBLAYERS[name].values() for attribute in named]
    block = type(class_of(name), (nn.Module,), {"__module__": "diffusers.models.any"})()
    for attribute in attributes:
        setattr(block, attribute, nn.Identity())
    model = nn.Module()
    model.blocks = nn.ModuleList([block])
    found = list(find_sublayers(model, [block]))
    names = [sublayer.name for sublayer in found]
    assert len(set(names)) == len(attributes)
    assert all(SITE_NAME.fullmatch(n) for n in names)
    assert {id(sublayer.module) for sublayer in found} == {id(getattr(block, a)) for a in attributes}
    # The first of each kind has the kind's plain name.
    assert {f"{kind}:0" for kind in SUBLAYERS[name]} <= set(names)


def test_another_packages_class_of_the_same_name_has_no_row() -> None:
    kind = type("LTXVideoTransformerBlock", (nn.Module,), {"__module__": "others.models"})
    assert key_of(kind) == "others.LTXVideoTransformerBlock"
    block = kind()
    block.attn1 = nn.Identity()
    model = nn.Module()
    model.blocks = nn.ModuleList([block])
    assert list(find_sublayers(model, [block])) == []
