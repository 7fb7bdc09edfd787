"""What the pages tell to type is understood: command lines by the parser, methods by the registry."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest

import dcache
from dcache import lm_kv
from dcache.cli import main
from dcache.cli.parser import Parser
from tests.docs import shell
from tests.docs.shell import WORDS
from tests.docs.snippets import ROOT, all_pages, blocks, lines, sentences, text_of

LACKS = "the following arguments are required"
# Commands of other programs, as they are quoted in sentences.
OTHERS = re.compile(r"(make|pip install|python (examples|tools)/\S+|\.venv/bin/pytest|pytest) ")
# Options of `dcache.enable` that are not the method's.
ENGINE = {"compile", "strict", "lowering", "max_cache_bytes", "call", "memo"}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are parsed and not run."""
    parse = Parser.parse_args

    def only_parsed(self: Parser, *arguments: Any) -> Any:
        options = parse(self, *arguments)
        options.run = lambda _: 0
        return options

    monkeypatch.setattr(Parser, "parse_args", only_parsed)


def commands(text: str) -> Iterator[tuple[str, ...]]:
    """The arguments of every `dcache` in a piece of shell."""
    for _, words in lines(text):
        if words[0] == "dcache":
            yield tuple(WORDS.get(word, word) for word in words[1:])


def refused(lines: set[tuple[str, ...]], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Command lines that the parser does not take -> why."""
    return {" ".join(words): capsys.readouterr().err for words in sorted(lines) if main(words) != 0}


@pytest.mark.usefixtures("parsed")
def test_command_lines_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    typed_in = [block for page in all_pages() for block in blocks(page) if block.kind == "shell"]
    typed = {words for block in typed_in for words in commands(block.code)}
    assert len(typed) > 50
    assert refused(typed, capsys) == {}


@pytest.mark.usefixtures("parsed")
def test_commands_in_sentences_lack_at_most_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    quoted = [code for page in all_pages() for code in re.findall(r"`(dcache [^`]*)`", sentences(page))]
    typed = {words for code in quoted for words in commands(code.replace("\n", " "))}
    assert len(typed) > 30
    wrong = refused(typed, capsys)
    assert {line: why for line, why in wrong.items() if LACKS not in why} == {}


def test_other_commands_in_sentences_name_what_is_there() -> None:
    """Targets of make, extras that pip installs, scripts and tests that are run."""
    quoted = {
        code for page in all_pages() for code in re.findall(r"`([^`\n]+)`", sentences(page)) if " " in code
    }
    seen = 0
    for words in (words for code in quoted if OTHERS.match(code) for _, words in lines(code)):
        seen += 1
        if words[0] == "make":
            for target in (word for word in words[1:] if "=" not in word):
                shell.recipe(target)
        elif words[:2] == ["pip", "install"]:
            shell.pip([word for word in words[1:] if word.startswith(("dcache", "install"))])
        else:
            paths = [word for word in words[1:] if word.endswith(".py") or word.startswith("tests/")]
            assert [path for path in paths if not (ROOT / path).exists()] == []
    assert seen >= 15


def lines_to_enable(page: str) -> Iterator[tuple[str, ast.Call]]:
    """Calls in a page, as quoted and parsed; `"fbcache", threshold=0.08` stands for arguments of `enable`."""
    for quoted in re.findall(r"`([^`]+)`", text_of(f"docs/{page}")):
        short = re.match(r'^("\w+"|speedup=[\d.]|interval=\d|max_cache_bytes=|compile=|sites=")', quoted)
        code = f"dcache.enable(pipe, {quoted})" if short else quoted
        try:
            tree = ast.parse(code, mode="eval").body
        except SyntaxError:
            continue
        if isinstance(tree, ast.Call) and "..." not in quoted:
            yield quoted, tree


def resolved(call: ast.Call) -> str:
    """The description of what a call of `dcache.enable` or of a preset asks for."""
    options = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
    if ast.unparse(call.func) != "dcache.enable":
        return dcache.methods.make(ast.unparse(call.func), **options).describe()
    asked = {name: value for name, value in options.items() if name not in ENGINE}
    name = ast.literal_eval(call.args[1]) if len(call.args) > 1 else None
    if name in lm_kv.available():
        asked.pop("budget", None)
        return str(getattr(lm_kv, name)(**asked))
    rests = {"speedup": "tuned", "interval": "deepcache", "sites": "interval"}
    name = name or next((rests[option] for option in asked), "default")
    return dcache.methods.make(name, **asked).describe()


def test_every_line_of_the_pages_of_models_and_questions_resolves() -> None:
    seen = [
        (quoted, resolved(call))
        for page in ("models.md", "faq.md")
        for quoted, call in lines_to_enable(page)
        if ast.unparse(call.func) in {"dcache.enable", *dcache.methods.available()}
    ]
    assert {'dcache.enable(pipe, "deepcache", interval=2)', '"tgate", gate=10', "speedup=2.5"} <= dict(
        seen
    ).keys()
    assert ("adaptive(share=0.45)", "adaptive(share=0.45)") in seen
    assert ('"fbcache", threshold=0.05', "fbcache(threshold=0.05)") in seen
    assert len(seen) > 30


def test_other_functions_that_these_pages_name_exist() -> None:
    text = "".join(text_of(f"docs/{page}") for page in ("models.md", "faq.md"))
    names = set(re.findall(r"`(?:print\()?dcache\.(\w+)", text))
    assert {"memo", "memory_estimate", "stats"} <= names
    assert [name for name in names if not hasattr(dcache, name)] == []
