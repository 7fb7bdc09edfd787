"""`dcache methods`: a list of all methods, or a page for each named one."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dcache import methods
from dcache.errors import DcacheError
from dcache.methods import About
from dcache.methods.resolve import preset_called
from dcache.util.options import did_you_mean

if TYPE_CHECKING:
    from argparse import _SubParsersAction

WIDTH = 110
FAMILIES = {
    "any": "any denoiser",
    "transformer": "a list of blocks",
    "unet": "a UNet",
    "sublayers": "blocks whose sublayers are known",
    "cross-attention": "cross-attention",
    "guidance": "guidance",
    "block-causal": "video models with block-causal attention",
}
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("methods", help="list the methods and their options")
    parser.add_argument("names", nargs="*", metavar="NAME", help="print a page on this method")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one paragraph for each preset, or a page for each named one."""
    presets = methods.available()
    for i, name in enumerate(arguments.names):
        arguments.names[i] = preset_called(name) or name
        if arguments.names[i] not in presets:
            raise DcacheError(_unknown(name, presets))
    if arguments.json:
        names = arguments.names or list(presets)
        print(json.dumps({name: described(name, presets[name]) for name in names}, indent=1))
        return 0
    if arguments.names:
        print("\n\n".join("\n".join(page(name, presets[name])) for name in arguments.names))
        return 0
    for name, what in presets.items():
        for line in paragraph(name, what, max(map(len, presets)) + 2):
            print(line)
    print(
        "\n`dcache methods NAME` explains the options. `dcache lm methods` and `dcache dlm methods` list the "
        "policies of language models."
    )
    return 0


def _unknown(name: str, presets: Collection[str]) -> str:
    """What to say of a name that is no preset's."""
    from dcache import diffusion_lm, lm_kv

    for command, policies in (("lm", lm_kv.available()), ("dlm", diffusion_lm.available())):
        if name in policies:
            return f"{name!r} is a policy of language models: `dcache {command} methods` lists them"
    return f"method {name!r} is unknown: expected one of {', '.join(presets)}.{did_you_mean(name, presets)}"


def described(name: str, what: About) -> dict[str, Any]:
    """All facts of one preset as JSON values; defaults of other types as text."""
    parameters = inspect.signature(getattr(methods, name)).parameters.values()
    defaults = {p.name: json.loads(json.dumps(p.default, default=str)) for p in parameters}
    return {**asdict(what), "families": list(what.families), "options": defaults}


def paragraph(name: str, what: About, width: int) -> Iterator[str]:
    """Name and summary, then options with defaults, model families, sites, paper and requirements."""
    yield f"{name:<{width}}{what}"
    lines = [", ".join(_options(name)) or "no options"]
    lines += [f"for: {_families(what)}; sites: {what.sites}; from: {what.paper}"]
    lines += [f"needs: {what.needs}"] if what.needs else []
    for line in lines:
        yield _filled(line, " " * width, " " * width)


def page(name: str, what: About) -> Iterator[str]:
    """A page on one preset: docstring, meaning of each option, model families, requirements and paper."""
    about, _, rest = (inspect.getdoc(getattr(methods, name)) or "").partition("\nArgs:\n")
    summary, *paragraphs = re.split(r"\n\s*\n", about.strip())
    yield _filled(f"{name}: {summary}")
    for text in paragraphs:
        yield ""
        yield _filled(text)
    options, meanings = _options(name), _meanings(rest)
    width = max(map(len, options), default=0) + 4
    if options:
        yield ""
    for option in options:
        meaning = meanings[option.partition("=")[0]]
        yield _filled(meaning, f"  {option:<{width - 2}}", " " * width)
    facts = {
        "for": _families(what),
        "sites": what.sites,
        "needs": what.needs or "nothing",
        "from": what.paper,
        "paper": "".join(f"https://arxiv.org/abs/{number}" for number in ARXIV.findall(what.paper)),
        "page": f"docs/methods/{name}.md",
    }
    yield ""
    for key, value in facts.items():
        if value:
            yield _filled(value, f"{key:<8}", " " * 8)


def _meanings(text: str) -> dict[str, str]:
    """Option -> meaning, from the text after `Args:` in a docstring."""
    section = re.split(r"\n(?=\S)", text)[0]
    entries = re.split(r"\n(?=    \S)", section)
    pairs = (entry.strip().partition(": ") for entry in entries)
    return {name: meaning for name, _, meaning in pairs}


def _options(name: str) -> list[str]:
    parameters = inspect.signature(getattr(methods, name)).parameters.values()
    return [f"{parameter.name}={parameter.default!r}" for parameter in parameters]


def _families(what: About) -> str:
    return " and ".join(FAMILIES[family] for family in what.families)


def _filled(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=rest)
