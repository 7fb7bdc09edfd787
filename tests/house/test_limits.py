"""How large rooms, files, functions and the session may grow; no import is excepted from the rules."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import dcache

PACKAGE = Path(dcache.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = PROJECT["tool"]["importlinter"]["contracts"]


def lines(node: ast.stmt) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def definitions(kind: type[ast.stmt]) -> Iterator[tuple[Path, ast.stmt]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield path, node


def test_the_package_opens_on_few_entries() -> None:
    # What moved is kept for one version. `time_memo` and `policy` were left room for from the start.
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "moved"}
    assert len(entries) <= 31, sorted(entries)
    files = {name for name in entries if (PACKAGE / name).is_file()}
    assert files == {
        "__init__.py",
        "__main__.py",
        "api.py",
        "errors.py",
        "estimate.py",
        "method.py",
        "probes.py",
        "py.typed",
        "stats.py",
    }


def test_at_most_one_file_is_longer_than_three_hundred_lines() -> None:
    long = [p.relative_to(PACKAGE) for p in FILES if len(p.read_text(encoding="utf-8").splitlines()) > 300]
    assert len(long) <= 1, long


def test_no_function_beside_kernels_is_longer_than_sixty_lines() -> None:
    long = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for kind in (ast.FunctionDef, ast.AsyncFunctionDef)
        for path, node in definitions(kind)
        if lines(node) > 60 and "kernels" not in path.relative_to(PACKAGE).parts
    ]
    assert long == []


def test_the_session_is_not_everything() -> None:
    (size,) = [lines(node) for _, node in definitions(ast.ClassDef) if node.name == "Session"]  # type: ignore[attr-defined]
    assert size <= 300


def test_imports_are_layered_without_exception() -> None:
    kinds = [contract["type"] for contract in CONTRACTS]
    assert kinds.count("layers") == 4
    assert "acyclic_siblings" in kinds
    assert "forbidden" in kinds
    for contract in CONTRACTS:
        assert "ignore_imports" not in contract
        if contract["type"] == "layers":
            assert contract["exhaustive"] is True
            # In brackets: a room that need not exist yet.
            optional = [layer.strip("()") for layer in contract["layers"] if layer.startswith("(")]
            assert not any((PACKAGE / room).exists() for room in optional)


def test_every_part_of_the_engine_but_the_observer_is_forbidden_above() -> None:
    (contract,) = [c for c in CONTRACTS if c["type"] == "forbidden"]
    parts = {path.stem for path in (PACKAGE / "engine").iterdir()} - {"__init__", "__pycache__"}
    hidden = {f"dcache.engine.{part}" for part in parts - {"observe", "call"}}
    assert set(contract["forbidden_modules"]) == hidden
