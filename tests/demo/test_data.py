"""The shipped models are found in dcache-demo, and its absence is said in one line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import dcache_demo
import pytest

import dcache
from dcache.demo.data import folder
from dcache.errors import DcacheError

PACKAGE = Path(dcache_demo.__file__).parent
PAGES = [PACKAGE.resolve().parent / "README.md", *sorted(PACKAGE.rglob("README.md"))]

# Prints which heavy packages are loaded once a folder was looked up, with and without dcache.
LOOK_UP = """
import json, sys
import dcache_demo
dcache_demo.folder("image")
alone = sorted({name.partition(".")[0] for name in sys.modules} & {"dcache", "numpy", "torch"})
from dcache.demo.data import folder
before = set(sys.modules)
folder("image")
print(json.dumps([alone, sorted(set(sys.modules) - before), "diffusers" in sys.modules]))
"""


@pytest.mark.parametrize("name", sorted(dcache_demo.FOLDERS))
def test_a_folder_is_found_by_its_name_and_has_files(name: str) -> None:
    path = folder(name)
    assert path == dcache_demo.folder(name)
    assert path.name == name
    assert [file for file in path.rglob("*") if file.is_file()]


def test_the_package_has_no_other_folder() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(dcache_demo.FOLDERS)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name must be one of image, .*, got 'pictures'"):
        dcache_demo.folder("pictures")


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dcache_demo", None)
    with pytest.raises(DcacheError, match=r"not installed: pip install dcache-demo$"):
        folder("image")


def test_models_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcache_demo, "__version__", "0.0.7")
    expected = f"dcache {dcache.__version__} needs dcache-demo of the same version, got 0.0.7: "
    with pytest.raises(DcacheError, match=re.escape(expected)):
        folder("image")


def test_looking_a_folder_up_loads_no_library() -> None:
    run = subprocess.run([sys.executable, "-P", "-c", LOOK_UP], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [[], [], False]


@pytest.mark.parametrize("page", PAGES, ids=[page.parent.name for page in PAGES])
def test_links_of_its_pages_are_absolute(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not link.startswith("https://")]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.parent.name for page in PAGES])
def test_the_python_of_its_pages_runs(page: Path) -> None:
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    names: dict[str, object] = {}
    exec(block, names)
    assert {"pipe", "model"} & set(names)
