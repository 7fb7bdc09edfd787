"""The documentation site: the reference has every public name; links that leave docs/ have pages."""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import dcache
from tests import scripts

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[2]
# Not for users to import: commands, and old paths.
INSIDE = {"__main__", "cli", "moved", "adapters", "discovery", "sigmas"}


def tool(name: str) -> ModuleType:
    return scripts.load(f"tools/{name}.py")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return tool("site_hooks")


def test_every_public_name_is_in_the_reference(hooks: ModuleType) -> None:
    listed = {public for entries in hooks.api_entries().values() for public, _ in entries}
    rooms = [f"dcache.{m.name}" for m in pkgutil.iter_modules(dcache.__path__) if m.name not in INSIDE]
    for room in ["dcache", *rooms]:
        module = importlib.import_module(room)
        missing = {f"{room}.{name}" for name in getattr(module, "__all__", ())} - listed
        assert not missing
    for preset in dcache.methods.available():
        assert f"dcache.methods.{preset}" in listed
    for policy in dcache.lm_kv.available():
        assert f"dcache.lm_kv.{policy}" in listed
    # Imported when they are first used, and not in `__all__`.
    assert {"dcache.capturing", "dcache.injecting", "dcache.memo", "dcache.refine"} <= listed


def test_a_name_leads_to_where_it_is_defined(hooks: ModuleType) -> None:
    pages = hooks.api_entries()
    assert ("dcache.enable", "dcache.api.enable") in pages["front"]
    assert ("dcache.methods.newton", "dcache.methods.newton.newton") in pages["methods"]
    assert ("dcache.lm_kv.snapkv", "dcache.lm_kv.policies.snapkv.snapkv") in pages["lm_kv"]


def test_links_that_leave_the_docs_lead_to_pages(hooks: ModuleType) -> None:
    text = "[a](../ARCHITECTURE.md#rooms) [b](x.md) [c](https://a.b)"
    page = hooks.relinked(text, ROOT / "docs" / "faq.md", "faq.md")
    assert page == "[a](repository/ARCHITECTURE.md#rooms) [b](x.md) [c](https://a.b)"
    readme = ROOT / "README.md"
    assert hooks.relinked("[a](docs/faq.md)", readme, hooks.page_of(readme)) == "[a](../faq.md)"


def test_every_page_is_in_the_navigation(hooks: ModuleType) -> None:
    import yaml

    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = hooks.expanded(yaml.safe_load(text)["nav"])
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - set(_leaves(nav)) == set()


def _leaves(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [leaf for part in parts for leaf in _leaves(part)]  # type: ignore[attr-defined]


def test_doctests_are_fenced() -> None:
    fenced = tool("griffe_doctests").fenced("Adds.\n\n>>> print(1)\n1\n\nArgs:\n    a: b")
    assert fenced == "Adds.\n\n```pycon\n>>> print(1)\n1\n```\n\nArgs:\n    a: b"
