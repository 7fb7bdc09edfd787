"""Runs the commands of a page: those of dcache in this process, others are checked against what they name."""

from __future__ import annotations

import inspect
import re
import shlex
import signal
import sys
import threading
import tomllib
import urllib.request
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dcache.cli import main
from tests import scripts
from tests.docs import reader_files
from tests.docs.snippets import ROOT, Block, lines

PROJECTS = ("pyproject.toml", "packages/dcache-demo/pyproject.toml")
# Placeholders, and models that need the network -> what they stand for here.
WORDS = {
    "PIPE": "demo",
    "my/folder": "demo",
    "black-forest-labs/FLUX.1-dev": "demo",
    "stabilityai/stable-diffusion-3.5-medium": "demo",
    "smollm2": reader_files.MODEL,
    "NAME": "pairs",
    "T": "20",
    "S": "2",
}
# What MODEL is for the commands of a group.
MODELS = {"lm": reader_files.MODEL, "dlm": reader_files.MASKED_MODEL}
# A profile of one site.
PROFILED = "--steps 8 --sites trunk --repeats 1"
# With few steps the speedup that can be reached is small, and seconds of a busy machine say less.
PLANNED = "--steps 8 --speedup 1.3 --repeats 1 --budget 2"
SEARCHED = (
    "--steps 8 --budget 4 --population 4 --held-out demo:1 --workers 1 --first 1 --cost flops --pick 1.3x"
)
# Scripts of examples/ that no other test runs -> their function that takes half an hour, left out here.
EXAMPLES = {"examples/measure_search.py": "strategies"}
# Beginning of a command -> options behind it that make it small; the longest beginning counts, the last of an
# option that is given twice counts.
SMALLER: dict[str, str] = {
    "bench": "--steps 4 --repeats 1 --prompts 'a red circle'",
    "bench demo --prompts": "--steps 4 --repeats 1",
    "bench demo-video": "--steps 4 --repeats 1 --frames 5 --prompts demo:1 --methods default",
    "calibrate": f"{PLANNED} --prompts demo-train:3",
    "calibrate demo --method harmonica": f"{PLANNED} --prompts demo-train:3 --iterations 2",
    "calibrate demo --out": f"{PROFILED} --prompts demo-train:2",
    "calibrate demo --prompts demo-train:4 --segments": f"{PROFILED} --prompts demo-train:1 --steps 5",
    "calibrate demo --prompts demo-train:12 --profile demo.profile.safetensors --method lemica": (
        f"{PLANNED} --prompts demo-train:3 --steps 5"
    ),
    "calibrate demo --prompts demo-train:8": f"{PROFILED} --prompts demo-train:2",
    "calibrate demo --prompts demo:8": f"{PROFILED} --prompts demo-train:2",
    # Planned from a profile: docs/calibrate.md has the search.
    "calibrate demo --prompts prompts.txt": f"{PLANNED} --method pairs --sites trunk",
    "calibrate demo --prompts prompts.txt --out": PROFILED,
    "demo": "--steps 4 --prompts 1 --repeats 1",
    "demo --guidance 1 --methods": "--prompts 1 --repeats 1",
    "demo --video": "--steps 4 --prompts 1 --repeats 1 --methods default",
    "dlm bench": "--batches 1 --temperatures 0 --steps 2 --block 64 --repeats 1 --policies dual",
    "dlm bench --policies": "--batches 1 --temperatures 0 --steps 2 --block 64 --repeats 1",
    "dlm demo": "--prompts 1",
    "dlm eval": "--prompts 1 --seeds 1",
    "dlm eval masked-model": "--prompts 1 --seeds 1 --length 40 --new 32",
    "eval": "--prompts demo:1 --metrics psnr --no-warm-up",
    "eval demo --prompts drawbench.txt": "--steps 20 --images-per-prompt 1 --metrics psnr --no-warm-up",
    "lm bench": "--lengths 64 --steps 2 --repeats 1",
    "lm calibrate": "--contexts 1 --questions 1 --tokens 120",
    "lm eval": "--contexts 1 --questions 1 --budgets 0.5",
    "lm eval FOLDER": "--contexts 1 --questions 1 --tokens 120",
    "lm eval model": "--contexts 1 --questions 1 --budgets 0.5 --tokens 120",
    "policy bench": "--episodes 1 --settings 'ddim:4; ddim:4 interval:interval=2'",
    "policy bench --task pusht --settings": "--episodes 1",
    "policy calibrate": "--speedup 1.3 --repeats 1",
    "policy demo": "--timed 1 --settings 'ddim:4; ddim:4 interval:interval=2'",
    "search": f"{SEARCHED} --prompts demo-train:2",
    "search demo --profile my.profile.safetensors": SEARCHED,
    "studio": "--port 0",
}  # fmt: skip


def run(block: Block) -> None:
    """Run or check every command of a piece of shell, in the current folder.

    Raises:
        AssertionError: with the page and the line of a command that fails.
    """
    seen = 0
    for number, words in lines(block.code):
        seen += 1
        try:
            PROGRAMS[words[0]](words[1:])
        except BaseException as error:
            place = f"{block.page}:{block.line + number}"
            error.add_note(f"{place}: {' '.join(words)}")
            raise
    assert seen, f"{block} has no command"


def shortened(words: list[str]) -> list[str]:
    """The arguments of `dcache`, with models that are here and sizes that take a moment."""
    words = placed(words)
    return [*words, *shlex.split(SMALLER.get(beginning(words), ""))]


def placed(words: list[str]) -> list[str]:
    """The arguments of `dcache` with what placeholders stand for."""
    names = WORDS | {"MODEL": MODELS.get(words[0], "MODEL")}
    return [names.get(word, word) for word in words]


def beginning(words: list[str]) -> str:
    """The entry of `SMALLER` for a command; empty where it has none."""
    line = " ".join(words)
    return max((start for start in SMALLER if line.startswith(start)), key=len, default="")


def dcache(words: list[str]) -> None:
    """The command line, in this process."""
    words = shortened(words)
    with pytest.MonkeyPatch.context() as patch:
        # A server would run until Ctrl-C; this one is asked for its page first.
        patch.setattr("dcache.cli.studio._ready", _visited)
        assert main(words) == 0, f"failed: dcache {' '.join(words)}"


def _visited(address: str, opens: bool) -> None:
    """A reader who opens the page and ends the server."""

    def visit() -> None:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert b"dcache studio" in answer.read()
        finally:
            signal.raise_signal(signal.SIGINT)

    threading.Thread(target=visit, daemon=True).start()


def recipe(target: str) -> str:
    """The commands of a target of the Makefile, which has a line of help."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{target}:.*  ## .*\n((?:\t.*\n)*)", text, re.MULTILINE)
    assert found, f"no target {target} in the Makefile"
    return found[1]


def make(words: list[str]) -> None:
    """Its targets exist; what they run of dcache is run."""
    assert words
    for target in words:
        for line in re.findall(r"\$\(BIN\)/dcache (.*)", recipe(target)):
            dcache(shlex.split(line))


def pip(words: list[str]) -> None:
    """What is installed is one of the two distributions, with extras that they have."""
    projects = [tomllib.loads((ROOT / file).read_text(encoding="utf-8"))["project"] for file in PROJECTS]
    extras = {project["name"]: {*project.get("optional-dependencies", ())} for project in projects}
    action, *names = words
    # The distribution of 0.1 is taken off under its old name.
    assert (action, names) == ("uninstall", ["dcache"]) or action == "install"
    for requirement in map(Requirement, names if action == "install" else ()):
        assert requirement.extras <= extras[requirement.name]


def git(words: list[str]) -> None:
    """A clone of this repository; it has no public address yet."""
    assert words == ["clone", "<this", "repository>"]


def cd(words: list[str]) -> None:
    """Into the clone."""
    assert words == ["dcache"]


def python(words: list[str]) -> None:
    """A script of tools/ is run; of examples/, a test has to run it, and it has the options."""
    words = [WORDS.get(word, word) for word in words]
    script, *options = words
    path = ROOT / script
    assert path.is_file(), f"{script} is not there"
    if script.startswith("tools/") or script in EXAMPLES:
        _script(path, words, EXAMPLES.get(script, ""))
        return
    folder = ROOT / "tests" / "examples"
    name = path.parent.name if path.stem == "run" else path.stem
    tests = [file for file in folder.glob("test_*.py") if name in file.read_text(encoding="utf-8")]
    assert tests, f"no test in tests/examples runs {script}"
    source = _source(path)
    for option in options:
        assert not option.startswith("--") or f'"{option}"' in source, f"{script} has no option {option}"


def _script(path: Path, words: list[str], measures: str) -> None:
    """Run a script that has a function `main`, without what it measures; figures are written beside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        patch.syspath_prepend(str(path.parent))
        script = scripts.load(path)
        if measures:
            patch.setattr(script, measures, lambda *arguments: {})
            patch.setattr(script, "FIGURES", Path("figures.json").absolute())
        taken = [words[1:]] if inspect.signature(script.main).parameters else []
        assert script.main(*taken) == 0, f"failed: python {' '.join(words)}"


def _source(path: Path) -> str:
    files = path.parent.glob("*.py") if path.stem == "run" else [path]
    return "".join(file.read_text(encoding="utf-8") for file in files)


def mkdir(words: list[str]) -> None:
    """A folder in the current one."""
    (folder,) = [word for word in words if word != "-p"]
    assert not Path(folder).is_absolute()
    Path(folder).mkdir(exist_ok="-p" in words)


PROGRAMS = {
    "dcache": dcache,
    "make": make,
    "mkdir": mkdir,
    "pip": pip,
    "git": git,
    "cd": cd,
    "python": python,
}
