"""A family is at most ten declarative lines, and nothing else in the package knows a model by name."""

import ast
import inspect
import re
from pathlib import Path

import diffusers
import pytest

import dcache
from dcache.sites import blocks
from dcache.sites.discovery import discover
from tests.laws.product import EVERY
from tests.pipelines import Shape

PACKAGE = Path(dcache.__file__).parent
# The shipped demo models are certain models, presets name what their published numbers are for, ECAD's files
# are of two models, which they tell by the names of their parts alone.
MAY_NAME = {PACKAGE / "sites" / "blocks.py", PACKAGE / "importers" / "ecad.py"}


def lines_of(names: set[str]) -> int:
    """Source lines of all rows of the declarations that are about these classes."""
    count = 0
    for node in ast.walk(ast.parse(inspect.getsource(blocks))):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value.rpartition(".")[2] in names:
                    count += (value.end_lineno or 0) - key.lineno + 1
    return count


@pytest.mark.parametrize("shape", EVERY.values(), ids=str)
def test_a_family_is_at_most_ten_declarative_lines(shape: Shape) -> None:
    structure = discover(shape.model(0))
    classes = {type(m).__name__ for block in structure.blocks for m in block.modules()}
    classes |= {type(m).__name__ for m in structure.model.modules()} if not structure.blocks else set()
    assert lines_of(classes) <= 10


def test_the_counting_counts() -> None:
    assert lines_of({"LTX2VideoTransformerBlock"}) >= 5
    assert lines_of({"NoSuchBlock"}) == 0


def test_no_code_outside_the_declarations_names_a_model() -> None:
    known = [n for n in dir(diffusers) if re.search(r"(Transformer\w*Model|UNet\w*Model|UNet)$", n)]
    tables = (*blocks.SUBLAYERS, *blocks.FUSED, *blocks.STREAMS)
    known += [key.rpartition(".")[2] for key in tables]
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, known)) + r")\b")
    named = {
        f"{path.relative_to(PACKAGE)}: {found[0]}"
        for path in PACKAGE.rglob("*.py")
        if path not in MAY_NAME and "demo" not in path.relative_to(PACKAGE).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name | ast.Attribute | ast.Constant)
        for text in [getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "value", None)]
        if isinstance(text, str) and "\n" not in text
        for found in [pattern.search(text)]
        if found
    }
    assert not named
