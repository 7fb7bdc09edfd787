"""The five links in the root are for readers; nothing imports through them, and nothing can."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKS = ("schedulers", "search", "kernels", "lm_kv", "eval")


def imported_names(file: Path) -> set[str]:
    """The first component of every absolute import in a file."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("name", LINKS)
def test_the_link_is_relative_and_leads_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("dcache") / name
    assert (link / "__init__.py").is_file()


def test_the_root_holds_no_other_link() -> None:
    assert {path.name for path in ROOT.iterdir() if path.is_symlink()} - {".venv"} == set(LINKS)


@pytest.mark.parametrize("folder", ["dcache", "tests", "examples", "tools"])
def test_no_module_imports_a_link_by_its_bare_name(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    guilty = {
        str(file.relative_to(ROOT)): bare for file in files if (bare := imported_names(file) & {*LINKS})
    }
    assert files
    assert not guilty


@pytest.mark.parametrize("name", LINKS)
def test_a_bare_name_does_not_resolve_to_the_repository(name: str) -> None:
    spec = importlib.util.find_spec(name)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
    assert not [place for place in places if Path(place).resolve().is_relative_to(ROOT / "dcache")]
