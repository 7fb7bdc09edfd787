"""`make setup` installs pinned packages only, and `make help` tells the truth."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dcache.util.distribution import DISTRIBUTION

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, Requirement]:
    """The constraints by canonical name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def declared() -> list[Requirement]:
    """Everything that `pyproject.toml` asks for, in the core and in the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [requirement for group in groups for requirement in map(Requirement, group)]


def test_every_constraint_is_one_exact_public_version() -> None:
    assert pins()
    for pin in pins().values():
        assert re.fullmatch(r"==[\d.]+", str(pin.specifier)), f"{pin} is no plain version"


def test_every_declared_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in declared():
        if requirement.name != DISTRIBUTION:
            (specifier,) = pinned[canonicalize_name(requirement.name)].specifier
            assert specifier.version in requirement.specifier


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_help_lists_every_target() -> None:
    run = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = {line.split()[0] for line in run.stdout.splitlines() if not line.startswith("make")}
    assert listed == set(phony.split())
