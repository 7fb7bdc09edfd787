"""Rewrite imports of dcache's modules as they lie in rooms now: `python tools/move_imports.py PATH...`.

Every `.py` and `.md` file below the paths is rewritten in place where it names a module that moved. Kept
until the next release; the old documented paths work until then, with a DeprecationWarning.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

# Old module -> new module, both below `dcache`.
MODULES = {
    "adapters": "sites",
    "adapters.blocks": "sites.blocks",
    "binding": "engine.binding",
    "budget": "engine.budget",
    "codecs": "cache.codec",
    "components": "identity.denoisers",
    "containers": "intercept.pytree",
    "contracts": "sites.streams",
    "correction_file": "schedule.corrections_file",
    "corrections": "predictors.corrections",
    "cost": "profile.cost",
    "decisions": "engine.decisions",
    "discovery": "sites.discovery",
    "eval.metrics.shapes": "demo.metrics",
    "files": "util.files",
    "fitted": "predictors.fitted",
    "guards": "intercept.conflicts",
    "guidance": "engine.lowering.guidance",
    "guider": "identity.guider",
    "halves": "predictors.guided_pair",
    "history": "cache.history",
    "loop": "identity.loop",
    "model_call": "engine.model_call",
    "pipeline": "engine.pipeline",
    "probe_calls": "engine.lowering.probe",
    "profile_file": "profile.file",
    "record": "engine.record",
    "regions": "engine.region",
    "run": "identity.run",
    "sampler": "identity.sampler",
    "schedule_file": "schedule.file",
    "schedulers.gram": "schedulers.planners.gram",
    "schedulers.plans": "schedulers.planners",
    "schedulers.walked": "schedulers.simulate",
    "scout": "identity.detect",
    "search.attention_mass": "search.observing.attention_mass",
    "search.attention_tokens": "search.observing.attention_tokens",
    "search.candidate": "search.evaluating.candidate",
    "search.closed_loop": "search.fitting.closed_loop",
    "search.cost_check": "search.observing.cost_check",
    "search.evaluators": "search.evaluating.evaluators",
    "search.foreground": "search.observing.foreground",
    "search.front": "search.genomes.front",
    "search.initial_population": "search.genomes.initial_population",
    "search.journal": "search.rendering.journal",
    "search.kv_tracks": "search.editing.kv_tracks",
    "search.latency_model": "search.fitting.latency_model",
    "search.loop": "search.evaluating.loop",
    "search.observation_runs": "search.observing.observation_runs",
    "search.passes": "search.observing.passes",
    "search.placement": "search.fitting.placement",
    "search.quality": "search.evaluating.quality",
    "search.render": "search.rendering.render",
    "search.results": "search.rendering.results",
    "search.rope_roles": "search.editing.rope_roles",
    "search.router": "search.routing.router",
    "search.runs": "search.rendering.runs",
    "search.site_timing": "search.observing.site_timing",
    "search.soft_sites": "search.routing.soft_sites",
    "search.space": "search.genomes.space",
    "search.starts": "search.fitting.starts",
    "search.timing": "search.observing.timing",
    "search.variation": "search.genomes.variation",
    "selfcheck": "engine.selfcheck",
    "session": "engine.session",
    "shrink": "engine.degrade",
    "siblings": "engine.lowering.guidance_math",
    "together": "engine.batched_sums",
    "tracing": "engine.trace",
    "whole": "engine.lowering.whole_model",
    "wrap": "api",
}
MODULES |= {
    f"schedulers.plans.{name}": f"schedulers.planners.{name}"
    for name in (
        "bac",
        "cachequant",
        "delta_dit",
        "ertacache",
        "knapsack",
        "magcache",
        "pairs",
        "profilingdit",
        "smoothcache",
        "teacache",
    )
}

# Old module -> name -> new module, for modules that were split; "*" is where the rest went.
NAMES: dict[str, dict[str, str]] = {
    "calls": {
        "Call": "engine.call",
        "BranchNames": "identity.branch",
        "condition_of": "identity.branch",
        "TimeArgument": "identity.timestep",
        "Told": "identity.manual",
    },
    "components": {"*": "identity.denoisers"},
    "identity": {"Identity": "identity.tracker"},
    "liveness": {
        "SITE_NAME": "sites.names",
        "Span": "sites.names",
        "Place": "sites.names",
        "span_of": "sites.names",
        "*": "schedule.liveness",
    },
    "lowering": {
        "BlockCall": "engine.lowering.blocks",
        "RunRegion": "engine.lowering.blocks",
        "HollowCall": "engine.lowering.module",
        "ModuleCall": "engine.lowering.module",
        "SinkCall": "engine.lowering.bracket",
    },
    "pipeline": {"guidance_of": "identity.guider", "*": "engine.pipeline"},
    "predictors": {"Lately": "engine.weight_cache", "*": "predictors"},
    "run": {"CLOCKS": "identity.clock", "*": "identity.run"},
    "schedulers.planners": dict.fromkeys(
        (
            "adjacent",
            "bubbling_union",
            "knapsack",
            "pair_partition",
            "partition",
            "runs",
            "scan",
            "PairPlans",
        ),
        "schedulers.planners.algorithms",
    ),
    "schedulers.rules": {
        "check_number": "util.checks",
        "check_whole": "util.checks",
        "*": "schedulers.rules",
    },
    "schedulers.combine": {"check_share": "util.checks", "*": "schedulers.combine"},
    "selfcheck": {"TOLERANCE": "engine.tolerance", "*": "engine.selfcheck"},
    "sigmas": {
        "adjusted": "schedule.noise_levels",
        "check_grid": "schedule.noise_levels",
        "*": "identity.noise_grid",
    },
    "sites": {
        "Site": "sites.site",
        "Sublayer": "sites.site",
        "Skip": "sites.site",
        "Join": "sites.site",
        "Structure": "sites.structure",
        "cut_into_atoms": "sites.structure",
        "refuse_cut_joins": "sites.structure",
        "SUBLAYER_KINDS": "sites.structure",
    },
    "sizes": {"read_bytes": "util.bytes", "*": "cache.size"},
    "tap": {"MethodTap": "intercept.method", "*": "intercept.module_call"},
}
# Sub-packages whose own names stay importable from them.
PACKAGES = {"predictors", "profile", "schedule", "schedulers", "sites"}


def new_home(module: str, name: str) -> tuple[str, str]:
    """Where `from dcache.<module> import <name>` is found now: the module, and the name in it."""
    whole = f"{module}.{name}".lstrip(".")
    if whole in MODULES:
        home, _, name_there = f"dcache.{MODULES[whole]}".rpartition(".")
        return home, name_there
    table = NAMES.get(module, {})
    moved = table.get(name) or table.get("*") or MODULES.get(module)
    return (f"dcache.{moved}" if moved else f"dcache.{module}" if module else "dcache"), name


def rewritten(text: str, notes: list[str]) -> str:
    """One Python file with its imports and dotted names of modules changed.

    Args:
        text: the file.
        notes: takes a line for each import that has to be changed by hand.
    """
    lines = text.splitlines(keepends=True)
    edits: list[tuple[int, int, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "dcache" or node.module.startswith("dcache."):
                new = _import_from(node)
                by_hand = [alias.name for alias in node.names if _is_split(node.module, alias.name)]
                inside = "".join(lines[node.lineno - 1 : node.end_lineno])
                commented = node.lineno != node.end_lineno and "#" in inside
                if by_hand or (commented and new is not None and "\n" in new):
                    why = (
                        f"{', '.join(by_hand)} was split" if by_hand else "its names went to several modules"
                    )
                    notes.append(f"line {node.lineno}: {why}: change this import by hand")
                elif new is not None and not commented:
                    edits.append((node.lineno, node.end_lineno or node.lineno, new))
        elif isinstance(node, ast.Import):
            changed = [(_dotted(a.name), a.asname) for a in node.names]
            if changed != [(a.name, a.asname) for a in node.names]:
                text_now = ", ".join(n if s is None else f"{n} as {s}" for n, s in changed)
                edits.append((node.lineno, node.end_lineno or node.lineno, f"import {text_now}"))
    for first, last, new in sorted(edits, reverse=True):
        indent = re.match(r"\s*", lines[first - 1])[0]  # type: ignore[index]
        tail = re.search(r"(\s*#.*)?\n?$", lines[last - 1])[0].rstrip("\n")  # type: ignore[index]
        block = "".join(f"{indent}{line}\n" for line in new.splitlines())
        lines[first - 1 : last] = [block.rstrip("\n") + tail + "\n"]
    return dotted_names("".join(lines))


def dotted_names(text: str) -> str:
    """Text in which `dcache.old.module` and `dcache/old/module.py` are named as they are now."""
    text = re.sub(r"\bdcache(?:\.[a-z_]+)+(?:\.[A-Za-z_]\w*)?", lambda m: _dotted(m[0]), text)
    return re.sub(r"\bdcache/([a-z_/]+)\.py\b", lambda m: _path(m[1]), text)


def _path(inside: str) -> str:
    module = inside.replace("/", ".")
    return f"dcache/{MODULES.get(module, module).replace('.', '/')}.py"


def _dotted(name: str) -> str:
    parts = name.split(".")[1:]
    if parts[:2] == ["schedulers", "planners"]:
        # A module then, a package of modules now: only imports of names tell.
        return name
    for end in range(len(parts), 0, -1):
        module, rest = ".".join(parts[:end]), parts[end:]
        if module in NAMES and rest and rest[0] in NAMES[module]:
            return ".".join(["dcache", NAMES[module][rest[0]], *rest])
        if module in MODULES and (module not in PACKAGES):
            return ".".join(["dcache", MODULES[module], *rest])
        if module in NAMES and "*" in NAMES[module] and module not in PACKAGES | {"run", "pipeline"}:
            return ".".join(["dcache", NAMES[module]["*"], *rest])
    return name


def _import_from(node: ast.ImportFrom) -> str | None:
    """The import as it must be now, a line for each module; None where nothing moved."""
    module = (node.module or "").removeprefix("dcache").removeprefix(".")
    homes: dict[str, list[str]] = defaultdict(list)
    for alias in node.names:
        home, name = new_home(module, alias.name)
        shown = alias.asname or (alias.name if alias.name != name else None)
        homes[home].append(name if shown is None or shown == name else f"{name} as {shown}")
    if list(homes) == [node.module] and homes[node.module] == [_shown(alias) for alias in node.names]:
        return None
    return "\n".join(f"from {home} import {', '.join(names)}" for home, names in homes.items())


def _is_split(module: str, name: str) -> bool:
    """Whether a name is a module whose parts went to several."""
    whole = f"{module}.{name}".removeprefix("dcache.")
    return whole in NAMES and whole not in MODULES and whole not in PACKAGES


def _shown(alias: ast.alias) -> str:
    return alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"


def main(paths: list[str]) -> int:
    """Rewrite every file below the paths; print the names of those that changed."""
    if not paths:
        print(__doc__)
        return 2
    for path in map(Path, paths):
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.suffix not in (".py", ".md") or not file.is_file():
                continue
            text = file.read_text(encoding="utf-8")
            notes: list[str] = []
            new = rewritten(text, notes) if file.suffix == ".py" else dotted_names(text)
            for note in notes:
                print(f"{file}, {note}", file=sys.stderr)
            if new != text:
                file.write_text(new, encoding="utf-8")
                print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
