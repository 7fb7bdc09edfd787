"""The wheels and source archives of both distributions: their files, their size, and that they work."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
import zlib
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath

import dcache_demo
import pytest
from hatchling.builders.plugin.interface import BuilderInterface
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import dcache
from dcache.util.distribution import DEMO_DISTRIBUTION, DISTRIBUTION

ROOT = Path(__file__).parents[2]
LARGEST = 2_000_000
# Bytes of a file's header and of its entry in an archive's directory. Its name stands in both.
HEADERS = 30 + 46

# Runs the command line and prints where dcache came from, and what it loaded beyond torch itself.
HELP = """
import json, sys
import torch
before = set(sys.modules)
import dcache, dcache.cli
try:
    dcache.cli.main(["--help"])
except SystemExit:
    pass
print(json.dumps({"from": dcache.__file__, "loaded": sorted(set(sys.modules) - before)}))
"""


@dataclass(frozen=True)
class Distribution:
    """One of the two.

    Attributes:
        name: on package indexes.
        root: its folder with pyproject.toml.
        package: its only package.
        version: of the package.
    """

    name: str
    root: Path
    package: str
    version: str

    @property
    def stem(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}"

    def files(self) -> set[str]:
        """Every file of the package as it stands in the repository."""
        files = (path for path in (self.root / self.package).rglob("*") if path.is_file())
        return {path.relative_to(self.root).as_posix() for path in files if path.suffix != ".pyc"}

    def taken(self, builder: type[BuilderInterface]) -> set[str]:
        """The files that a build would take, without building."""
        return {file.distribution_path for file in builder(str(self.root)).recurse_included_files()}

    def size(self) -> int:
        """Bytes of a wheel with what the build takes, each file compressed as a wheel's are."""
        return sum(
            len(zlib.compress((self.root / name).read_bytes())) + 2 * len(name) + HEADERS
            for name in self.taken(WheelBuilder)
        )


CODE = Distribution(DISTRIBUTION, ROOT, "dcache", dcache.__version__)
DEMO = Distribution(
    DEMO_DISTRIBUTION, ROOT / "packages" / "dcache-demo", "dcache_demo", dcache_demo.__version__
)
BOTH = [CODE, DEMO]


@pytest.mark.parametrize("each", BOTH, ids=[each.name for each in BOTH])
def test_the_builds_take_every_file_of_the_package(each: Distribution) -> None:
    assert each.taken(WheelBuilder) == each.files()
    below = f"{each.package}/"
    assert {name for name in each.taken(SdistBuilder) if name.startswith(below)} == each.files()


def test_the_wheel_stays_small() -> None:
    assert CODE.size() < LARGEST


def test_dcache_ships_no_weights() -> None:
    weights = {name for name in CODE.files() if name.endswith((".safetensors", ".pt", ".bin", ".npz"))}
    assert weights == set()


def test_both_have_one_version_and_licence() -> None:
    assert DEMO.version == CODE.version
    project = tomllib.loads((DEMO.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == [f"{CODE.name}[demo]=={CODE.version}"]
    assert (DEMO.root / "LICENSE").read_bytes() == (CODE.root / "LICENSE").read_bytes()


def build(distribution: Distribution, folder: Path, *options: str) -> None:
    """Build into a folder, with what is installed already."""
    command = [sys.executable, "-P", "-m", "build", "--no-isolation", *options, "--outdir", str(folder)]
    run = subprocess.run(
        [*command, str(distribution.root)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both source archives, and the wheels that were built from these archives alone."""
    folder = tmp_path_factory.mktemp("built")
    for distribution in BOTH:
        build(distribution, folder)
    return folder


def names_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module", params=BOTH, ids=[each.name for each in BOTH])
def distribution(request: pytest.FixtureRequest) -> Distribution:
    return request.param


@pytest.fixture
def wheel(distribution: Distribution, built: Path) -> Path:
    return built / f"{distribution.stem}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which what the wheels hold is found before anything else of these names."""
    folder = tmp_path_factory.mktemp("installed")
    for file in built.glob("*.whl"):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.slow
def test_the_files_are_named_after_the_distributions(built: Path) -> None:
    names = [f"{each.stem}{end}" for each in BOTH for end in ("-py3-none-any.whl", ".tar.gz")]
    assert sorted(path.name for path in built.iterdir()) == sorted(names)


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_its_package_and_no_other_name(
    distribution: Distribution, wheel: Path
) -> None:
    names = names_of(wheel)
    assert {name for name in names if name.startswith(f"{distribution.package}/")} == distribution.files()
    tops = {PurePosixPath(name).parts[0] for name in names}
    assert tops == {distribution.package, f"{distribution.stem}.dist-info"}
    assert f"{distribution.package}/py.typed" in names
    assert "LICENSE" in {PurePosixPath(name).name for name in names}


@pytest.mark.slow
def test_a_wheel_from_the_repository_equals_one_from_the_source_archive(
    distribution: Distribution, wheel: Path, tmp_path: Path
) -> None:
    build(distribution, tmp_path, "--wheel")
    assert names_of(tmp_path / wheel.name) == names_of(wheel)


@pytest.mark.slow
def test_a_source_archive_holds_the_package_and_nothing_that_shadows_others(
    distribution: Distribution, built: Path
) -> None:
    with tarfile.open(built / f"{distribution.stem}.tar.gz") as archive:
        names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    assert {name for name in names if name.startswith(f"{distribution.package}/")} == distribution.files()
    assert {PurePosixPath(name).parts[0] for name in names}.isdisjoint(
        {"schedulers", "search", "kernels", "lm_kv", "eval", "tests", "packages"}
    )


@pytest.mark.slow
def test_the_wheel_of_the_code_is_as_large_as_was_estimated(built: Path) -> None:
    size = (built / f"{CODE.stem}-py3-none-any.whl").stat().st_size
    assert size < LARGEST
    # Metadata and the record of files come on top; hatchling compresses as zlib does by default.
    assert CODE.size() < size < CODE.size() * 1.1


@pytest.mark.slow
def test_the_metadata(distribution: Distribution, wheel: Path) -> None:
    about = metadata_of(wheel)
    assert (about["Name"], about["Version"]) == (distribution.name, distribution.version)
    assert about["Author"] == "The dcache developers"
    pythons = [value for value in about.get_all("Classifier", []) if "Python :: 3." in value]
    assert [value.rpartition(" ")[2] for value in pythons] == ["3.11"]
    if distribution is DEMO:
        assert about.get_all("Requires-Dist") == [f"{CODE.name}[demo]=={CODE.version}"]


@pytest.mark.slow
def test_help_from_the_wheel_loads_torch_and_no_more(installed: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-P", "-c", HELP],
        cwd=tmp_path,
        env=installed,
        capture_output=True,
        text=True,
        check=True,
    )
    *printed, last = run.stdout.splitlines()
    result = json.loads(last)
    assert "usage: dcache" in printed[0]
    assert Path(result["from"]).is_relative_to(installed["PYTHONPATH"])
    # numpy's names for annotations are a few lines; torch loads the rest of numpy.
    others = {name for name in result["loaded"] if not name.startswith(("dcache", "numpy.typing"))}
    allowed = set(sys.stdlib_module_names) | {"numpy"}
    assert {name.partition(".")[0] for name in others} <= allowed
    assert not [name for name in result["loaded"] if name.startswith(("torch", "dcache_demo"))]


@pytest.mark.slow
@pytest.mark.timeout(600)  # an interpreter of its own loads diffusers, transformers and open_clip
def test_the_two_wheels_alone_make_cached_pictures(installed: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "dcache", "demo", "--steps", "4", "--prompts", "1"]
    run = subprocess.run(
        [*command, "--repeats", "1", "--methods", "interval:interval=2", "--out", "out"],
        cwd=tmp_path,
        env=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "grid.png").is_file()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["methods"][0]["computed"] < 1


@pytest.mark.slow
def test_twine_accepts_all_four_files(built: Path) -> None:
    pytest.importorskip("twine")
    command = [sys.executable, "-P", "-m", "twine", "check", "--strict", *map(str, sorted(built.iterdir()))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("PASSED") == 4
