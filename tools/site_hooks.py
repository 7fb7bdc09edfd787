"""Hooks of the documentation site (mkdocs.yml): pages that are generated, and links that leave docs/.

- API reference: a page for each public room, and for each preset and policy, from what the package exports.
- Files of the repository that pages link to (examples, ARCHITECTURE.md) become pages, so that no link is dead
  offline.
- `folder/*` in the navigation stands for all pages of a folder.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from mkdocs.structure.files import File, Files
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(#[^)\s]*)?(?=\))")
LANGUAGES = {
    ".py": "python",
    ".json": "json",
    ".toml": "toml",
    ".txt": "text",
    ".yml": "yaml",
    ".cff": "yaml",
}
# Title of a page -> modules whose public names are on it; `name!` is a module without `__all__`.
ROOMS = {
    "front": ("dcache",),
    "methods": ("dcache.methods",),
    "method": ("dcache.probes!", "dcache.cache.codec!"),
    "predictors": ("dcache.predictors",),
    "schedulers": ("dcache.schedulers",),
    "planners": ("dcache.schedulers.planners",),
    "sites": ("dcache.sites",),
    "schedule": ("dcache.schedule", "dcache.profile", "dcache.importers"),
    "memo": ("dcache.time_memo",),
    "search": (
        "dcache.search.observe!",
        "dcache.search.calibrate!",
        "dcache.search.refine!",
        "dcache.search.search!",
        "dcache.search.corrections!",
        "dcache.search.check!",
        "dcache.search.route!",
        "dcache.search.transfer!",
        "dcache.search.strategies!",
        "dcache.search.strategies.registry!",
        "dcache.search.genomes.variation!",
        "dcache.search.editing.kv_tracks!",
        "dcache.search.editing.rope_roles!",
        "dcache.search.rendering.render!",
        "dcache.search.rendering.runs!",
    ),
    "eval": ("dcache.eval", "dcache.eval.bench!", "dcache.eval.subject!", "dcache.eval.metrics!"),
    "lm_kv": ("dcache.lm_kv",),
    "diffusion_lm": ("dcache.diffusion_lm",),
    "policy": ("dcache.policy",),
    "kernels": (
        "dcache.kernels",
        "dcache.kernels.changes",
        "dcache.kernels.column_stats",
        "dcache.kernels.lowbit",
        "dcache.kernels.ragged_attention",
        "dcache.kernels.rows",
        "dcache.kernels.store",
        "dcache.kernels.weighted_sum",
    ),
}
# Who searches for a public name is led to its entry before pages that use it.
FIRST_IN_SEARCH = "---\nsearch:\n  boost: 8\n---\n\n"


def public_names(module: ModuleType, *, listed: bool) -> list[str]:
    """The names that a module offers: `__all__`, or its own classes and functions without an underscore."""
    if listed:
        return list(dict.fromkeys([*module.__all__, *late_functions(module)]))
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def late_functions(module: ModuleType) -> list[str]:
    """The functions that a module imports when they are first used."""
    late = [name for name in dir(module) if name not in vars(module)]
    return [name for name in late if not inspect.ismodule(getattr(module, name))]


def where_defined(module: ModuleType, name: str) -> str:
    """The dotted path under which griffe finds a public name."""
    value = getattr(module, name)
    if inspect.ismodule(value):
        return value.__name__
    home = getattr(value, "__module__", None)
    if home and home.startswith("dcache") and hasattr(value, "__qualname__"):
        return f"{home}.{value.__qualname__}"
    return f"{module.__name__}.{name}"


def api_entries() -> dict[str, list[tuple[str, str]]]:
    """Page of the reference -> (public path, path where it is defined) of each of its names."""
    pages: dict[str, list[tuple[str, str]]] = {}
    for title, modules in ROOMS.items():
        entries = pages.setdefault(title, [])
        for dotted in modules:
            module = importlib.import_module(dotted.rstrip("!"))
            for name in public_names(module, listed=not dotted.endswith("!")):
                entries.append((f"{module.__name__}.{name}", where_defined(module, name)))
    return pages


def api_page(title: str, entries: list[tuple[str, str]]) -> str:
    """Markdown of one page of the reference, for mkdocstrings."""
    blocks = [f"{FIRST_IN_SEARCH}# {title}\n"]
    defined = {home: public for public, home in entries}
    for home, public in sorted(defined.items(), key=lambda entry: entry[1].lower()):
        label = public.rpartition(".")[2]
        blocks.append(f'::: {home}\n    options:\n      heading: "{public}"\n      toc_label: "{label}"\n')
    return "\n".join(blocks)


def on_config(config: Any) -> Any:
    """Write out `folder/*` in the navigation; headings get GitHub's anchors, which links in docs/ name."""
    config.nav = expanded(config.nav)
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    # `dcache.methods.__all__` has the keys of a table, which griffe does not follow; the hook does.
    logging.getLogger("mkdocs.plugins.griffe").addFilter(_is_not_of_the_presets)
    return config


def _is_not_of_the_presets(record: logging.LogRecord) -> bool:
    return "dcache.methods.__all__" not in record.getMessage()


def expanded(entry: Any) -> Any:
    """The navigation with every page of `folder/*`."""
    if isinstance(entry, list):
        return [item for part in entry for item in _as_list(expanded(part))]
    if isinstance(entry, dict):
        return {title: expanded(part) for title, part in entry.items()}
    if not entry.endswith("/*"):
        return entry
    folder = entry[:-2]
    if folder == "api":
        return [{title: f"api/{title}.md"} for title in ROOMS]
    pages = sorted((DOCS / folder).glob("*.md"), key=lambda path: (path.stem != "README", path.stem))
    return [f"{folder}/{path.name}" for path in pages]


def _as_list(entry: Any) -> list[Any]:
    return entry if isinstance(entry, list) else [entry]


def on_files(files: Files, config: Any) -> Files:
    """Add the reference, and a page for each file outside docs/ that a page links to."""
    for title, entries in api_entries().items():
        files.append(File.generated(config, f"api/{title}.md", content=api_page(title, entries)))
    for path in sorted(_linked_files()):
        files.append(File.generated(config, page_of(path), content=_source_page(path)))
    return files


def _linked_files() -> set[Path]:
    """Files outside docs/ that pages link to, and those that these link to."""
    waiting, seen = [*DOCS.rglob("*.md")], set()
    while waiting:
        page = waiting.pop()
        for target in _targets(page):
            if target not in seen and not target.is_relative_to(DOCS):
                seen.add(target)
                if target.suffix == ".md":
                    waiting.append(target)
    return seen


def _targets(page: Path) -> Iterator[Path]:
    for link, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in link:
            target = _file_of((page.parent / link).resolve())
            if target.exists() and target.is_relative_to(ROOT) and target.suffix in {".md", *LANGUAGES, ""}:
                yield target


def _file_of(path: Path) -> Path:
    """A folder is shown by its README where it has one."""
    readme = path / "README.md"
    return readme if path.is_dir() and readme.exists() else path


def page_of(path: Path) -> str:
    """The page of a file outside docs/: x.md -> repository/x.md, x.py -> repository/x.py.md."""
    relative = PurePosixPath("repository") / path.relative_to(ROOT).as_posix()
    if relative.name == "README.md":
        relative = relative.with_name("README_.md")
    return str(relative) if relative.suffix == ".md" else f"{relative}.md"


def _source_page(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        files = sorted(p.name for p in path.iterdir() if not p.name.startswith(("_", ".")))
        return f"# {name}/\n\n" + "\n".join(f"- `{entry}`" for entry in files) + "\n"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return relinked(text, path, page_of(path))
    return f"# {name}\n\n~~~~ {{.{LANGUAGES.get(path.suffix, 'text')}}}\n{text}\n~~~~\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave docs/ lead to the pages of those files."""
    source = page.file.src_uri
    if source.startswith(("repository/", "api/")):
        return markdown
    return relinked(markdown, DOCS / source, source)


def relinked(text: str, path: Path, uri: str) -> str:
    """Links of a file, as they are on its page of the site."""
    depth = "../" * (len(PurePosixPath(uri).parts) - 1)

    def moved(match: re.Match[str]) -> str:
        link, anchor = match[1], match[2] or ""
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        target = _file_of((path.parent / link).resolve())
        if target.is_relative_to(DOCS):
            place = target.relative_to(DOCS).as_posix()
        elif target.exists() and target.is_relative_to(ROOT):
            place = page_of(target)
        else:
            return match[0]
        return f"{depth}{place}{anchor}"

    return LINK.sub(moved, text)
