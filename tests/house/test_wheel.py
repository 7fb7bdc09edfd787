"""The wheel and the source archive hold the package `dcache` with all of its files, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

import dcache
from dcache.util.distribution import DISTRIBUTION

ROOT = Path(__file__).parents[2]


def package_files() -> set[str]:
    """Every file of the package as it stands in the repository."""
    files = (path for path in (ROOT / "dcache").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(ROOT).as_posix() for path in files}


def build(folder: Path, *options: str) -> None:
    """Build into a folder, with what is installed already."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(folder), str(ROOT)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that was built from this archive alone."""
    folder = tmp_path_factory.mktemp("built")
    build(folder)
    return folder


@pytest.fixture(scope="module", params=["tree", "sdist"])
def wheel(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the wheel, built from the repository itself or from the source archive."""
    folder = built
    if request.param == "tree":
        folder = tmp_path_factory.mktemp("tree")
        build(folder, "--wheel")
    (file,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(file).namelist())


@pytest.fixture(scope="module")
def metadata(built: Path) -> Message:
    """The metadata of the wheel that was built from the source archive."""
    (file,) = built.glob("*.whl")
    archive = zipfile.ZipFile(file)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def sdist(built: Path) -> set[str]:
    """The names of the files in the source archive, below its one folder."""
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        return {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}


def test_the_wheel_holds_every_file_of_the_package(wheel: set[str]) -> None:
    assert {name for name in wheel if name.startswith("dcache/")} == package_files()


def test_the_wheel_has_no_other_top_level_name(wheel: set[str]) -> None:
    tops = {PurePosixPath(name).parts[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dcache"}
    assert len(tops) == 2


@pytest.mark.parametrize("name", ["dcache/py.typed", "dcache/demo/model/model_index.json"])
def test_the_wheel_holds_what_is_not_python(wheel: set[str], name: str) -> None:
    assert name in wheel


def test_the_wheel_holds_the_weights_of_the_demo_model(wheel: set[str]) -> None:
    parts = {"text_encoder", "transformer", "vae"}
    assert "dcache/demo/model/demo.profile.safetensors" in wheel
    weights = [
        PurePosixPath(name) for name in wheel if name.endswith(".safetensors") and ".profile." not in name
    ]
    assert {path.parent.name for path in weights if path.is_relative_to("dcache/demo/model")} == parts


def test_the_wheel_carries_the_licence_and_the_command(wheel: set[str]) -> None:
    assert {"LICENSE", "entry_points.txt"} <= {PurePosixPath(name).name for name in wheel}


def test_the_metadata_name_the_distribution_and_the_version_of_the_package(metadata: Message) -> None:
    assert metadata["Name"] == DISTRIBUTION
    assert metadata["Version"] == dcache.__version__
    pythons = [value for value in metadata.get_all("Classifier", []) if "Python :: 3." in value]
    assert [value.rpartition(" ")[2] for value in pythons] == ["3.11", "3.12", "3.13"]


def test_the_files_are_named_after_the_distribution(built: Path) -> None:
    stem = f"{DISTRIBUTION.replace('-', '_')}-{dcache.__version__}"
    assert sorted(path.name for path in built.iterdir()) == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]


def test_the_source_archive_holds_the_package_and_none_of_the_links(sdist: set[str]) -> None:
    assert {name for name in sdist if name.startswith("dcache/")} == package_files()
    assert {PurePosixPath(name).parts[0] for name in sdist}.isdisjoint(
        {"schedulers", "search", "kernels", "lm_kv", "eval", "tests"}
    )
