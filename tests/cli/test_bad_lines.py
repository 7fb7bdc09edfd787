"""Bad command lines: status 2, one line on standard error, no traceback, and nothing is loaded or written."""

import json
import shlex
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcache.cli import main
from dcache.cli.run_settings import RunSettings
from dcache.errors import DcacheError
from dcache.schedule import Schedule

# {0} is a folder with the files of `files` below. Every line names what its message must have.
COMMON = [
    ("--steps 0", "--steps must be a whole number"),
    ("--steps -1", "--steps must be a whole number"),
    ("--steps 1", "steps must be at least 2 for demo"),
    ("--steps 1.5", "--steps: invalid int value"),
    ("--steps many", "--steps: invalid int value"),
    ("--height 7", "height must be a multiple of 8"),
    ("--height -5", "--height must be a whole number"),
    ("--height 0", "--height must be a whole number"),
    ("--width 65", "width must be a multiple of 8"),
    ("--width -8", "--width must be a whole number"),
    ("--frames 5", "leave --frames out"),
    ("--frames 0", "--frames must be a whole number"),
    ("--guidance nan", "--guidance must be a number"),
    ("--guidance inf", "--guidance must be a number"),
    ("--guidance -1", "--guidance must be a number"),
    ("--guidance high", "--guidance: invalid float value"),
    ("--device cuda:99", "device"),
    ("--device bogus", "there is no device 'bogus'"),
    ("--device meta", "torch cannot use the device 'meta' here: expected auto, cpu, or a GPU"),
    ("--device ''", "there is no device ''"),
    ("--dtype float8", "--dtype: invalid choice"),
    ("--seed -1", "--seed must be a whole number"),
    ("--seed 100000000000000000000", "--seed must be a whole number"),
    ("--seed 0.5", "--seed: invalid int value"),
    ("--option eta", "expected NAME=VALUE"),
    ("--option foo=3", "demo takes no 'foo'"),
    ("--option =3", "expected NAME=VALUE"),
    ("--option '=' ", "expected NAME=VALUE"),
    ("--option eta=1 --option eta=2", "is given twice"),
    ("--steps 4 --option num_inference_steps=5", "are the same"),
    ("--option num_frames=5", "leave --frames out"),
    ("--prompts ''", "--prompts is empty"),
    ("--prompts ' '", "--prompts is empty"),
    ("--prompts nowhere.txt", "cannot read the prompts"),
    ("--prompts nowhere.pdf", "no prompts in 'nowhere.pdf'"),
    ("--prompts demo:0", "a number of captions"),
    ("--prompts demo:many", "a number of captions"),
    ("--prompts demmo:8", "Did you mean 'demo'?"),
    ("--prompts {0}/empty.txt", "holds no prompts"),
    ("--prompts {0}/gap.txt", "the prompt is empty"),
    ("--prompts {0}/latin.txt", "not UTF-8"),
    ("--prompts {0}/table.csv", "name the column"),
    ("--prompts {0}/table.csv --prompt-column ''", "--prompt-column is empty"),
    ("--out ''", "--out: expected a path"),
    ("--unknown", "unrecognized arguments"),
]
PIPES = [
    ("''", "no pipeline has the name"),
    ("{0}/nowhere/at/all", "there is no folder"),
    ("./nowhere", "there is no folder"),
    ("{0}/empty.txt", "is a file and no pipeline"),
    ("{0}", "it has no model_index.json"),
    ("{0}/broken", "cannot be read as JSON"),
    ("{0}/nameless", "does not name a pipeline's class"),
    ("somebody/model", "needs --prompts"),
    ("demo-video --height 24", "height must be a multiple of 16"),
]
LINES = [
    *((f"bench {more}", message) for more, message in [*COMMON, *PIPES]),
    ("bench --repeats 0", "--repeats must be a whole number"),
    ("bench --repeats -3", "--repeats must be a whole number"),
    ("bench --methods ''", "names none"),
    ("bench --methods newtn", "Did you mean 'newton'?"),
    ("bench --methods 'newton:order=x'", "newton:order=x"),
    ("bench --methods 'newton:intervall=3'", "has no option 'intervall'"),
    ("bench --methods 'default;default'", "more than once"),
    ("bench --methods {0}/nowhere.json", "cannot read the schedule"),
    ("bench --methods {0}/broken/model_index.json", "is not valid JSON"),
    ("bench --methods 'fbcache:max_run=0'", "max_run must be a whole number of at least 1"),
    ("bench --methods 'delta_dit:boundary=1.5'", "boundary as a share"),
    ("bench --methods 'cachequant:steps=-4'", "steps must be a list of whole numbers"),
    ("bench --methods 'deepcache:steps=3'", "steps must be a list of whole numbers"),
    ("bench --out {0}/empty.txt", "is a file"),
    ("bench --out {0}/empty.txt/below", "is a file"),
    ("bench --kernels --steps 4", "--kernels runs no pipeline"),
    ("bench --kernels --prompts fox", "--kernels runs no pipeline"),
    ("bench --kernels --option eta=1", "--kernels runs no pipeline"),
    ("show ./nowhere", "on the hub. Nor is there a schedule or profile file of this name."),
    ("bench --kernels --device bogus", "there is no device 'bogus'"),
    *((f"eval {more}", message) for more, message in COMMON[::3]),
    ("eval --batch-size 0", "--batch-size must be a whole number"),
    ("eval --images-per-prompt 0", "--images-per-prompt must be a whole number"),
    ("eval --stage draw", "--stage: invalid choice"),
    ("eval --metrics beauty", "no metric beauty"),
    ("eval --metrics ''", "no metric"),
    ("eval --stage score --out {0}/nowhere", "holds no evaluation"),
    ("eval --out {0}/empty.txt", "is a file"),
    *((f"calibrate {more}", message) for more, message in COMMON[1::3]),
    ("calibrate --speedup 0 --out {0}/x.json", "--speedup must be a number above 1"),
    ("calibrate --speedup -2 --out {0}/x.json", "--speedup must be a number above 1"),
    ("calibrate --speedup nan --out {0}/x.json", "--speedup must be a number above 1"),
    ("calibrate --speedup 1 --out {0}/x.json", "--speedup must be a number above 1"),
    ("calibrate --budget 0 --out {0}/x.json", "--budget must be a whole number"),
    ("calibrate --method harmonica --iterations 0 --out {0}/x.json", "--iterations must be a whole number"),
    ("calibrate --router -1 --out {0}/x.json", "--router must be a whole number"),
    ("calibrate --repeats 0 --out {0}/x.json", "--repeats must be a whole number"),
    ("calibrate --cap 0 --out {0}/x.json", "--cap must be a number above 0"),
    ("calibrate --cap nan --out {0}/x.json", "--cap must be a number above 0"),
    ("calibrate --method magic --out {0}/x.json", "--method: invalid choice"),
    ("calibrate --out {0}/x.yaml", "--out must end with"),
    ("calibrate --out {0}", "--out must end with"),
    ("calibrate --out {0}/folder.json", "it is a folder"),
    ("calibrate --out {0}/no/x.json", "there is no folder"),
    ("calibrate --prompts fox --out {0}/x.json", "expected 3 or more prompts"),
    ("calibrate --method pairs --prompts fox --out {0}/x.json", "expected 2 or more prompts"),
    ("calibrate --profile {0}/nowhere.safetensors --out {0}/x.json", "there is no such file"),
    ("calibrate --profile {0}/empty.txt --out {0}/x.json", "damaged or of another kind"),
    ("calibrate --profile {0}/empty.txt --out {0}/x.safetensors", "leave one of them out"),
    *((f"search --profile {{0}}/empty.txt {more}", message) for more, message in COMMON[2::3]),
    ("search", "arguments are required: --profile"),
    ("search --profile {0}/empty.txt", "damaged or of another kind"),
    ("search --profile {0}/empty.txt --resume --out {0}", "there is no search in"),
    ("search --profile {0}/empty.txt --workers 0", "--workers must be a whole number"),
    ("search --profile {0}/empty.txt --threads -1", "--threads must be a whole number"),
    ("search --profile {0}/empty.txt --batch-size 0", "--batch-size must be a whole number"),
    ("search --profile {0}/empty.txt --budget 0", "--budget must be a whole number"),
    ("search --profile {0}/empty.txt --pick fast", "--pick expects a speedup"),
    ("search --profile {0}/empty.txt --strategy luck", "a strategy is one of"),
    ("search --profile {0}/empty.txt --recipes x", "recipes are some of"),
    ("search --profile {0}/empty.txt --population 5", "a multiple of four"),
    ("search --profile {0}/empty.txt --mutation 2", "between 0 and 1"),
    ("search --profile {0}/empty.txt --mutation nan", "between 0 and 1"),
    ("search --profile {0}/empty.txt --finishing nan", "shares between 0 and 1"),
    ("search --profile {0}/empty.txt --cost money", "the cost is one of"),
    ("search --profile {0}/empty.txt --first 0", "one prompt or more in its first rung"),
    ("search --profile {0}/empty.txt --held-out demo:8", "held-out prompts are among"),
    (
        "search --profile {0}/empty.txt --prompts fox --held-out fox",
        "1 of the held-out prompts is among the prompts of the search too ('fox')",
    ),
    ("demo --steps 1", "--steps must lie between"),
    ("demo --prompts 0", "--prompts must lie between"),
    ("demo --guidance nan", "--guidance must be a number"),
    ("demo --seed -1", "--seed must lie between"),
    ("demo --repeats 0", "--repeats must lie between"),
    ("demo --out ''", "--out: expected a path"),
    ("demo --out {0}/empty.txt", "is a file"),
    ("demo --methods newtn", "Did you mean 'newton'?"),
    ("studio demo demo --port 0", "demo is named more than once"),
    ("studio nowhere.txt/x/y --port 0", "there is no folder"),
    ("studio demo-video --frames 0 --port 0", "--frames must be a whole number"),
    ("studio --steps 1 --port 0", "steps must be at least 2 for demo"),
    ("studio --methods newtn --port 0", "is unknown"),
    ("studio --methods {0}/nowhere.json --port 0", "there is no such file"),
    ("studio --port 70000", "the port must be a whole number between 0 and 65535"),
    ("studio --port x", "--port: invalid int value"),
    ("studio --host no.such.host.invalid", "cannot listen on no.such.host.invalid"),
    ("studio --device bogus --port 0", "there is no device 'bogus'"),
    ("show", "arguments are required: FILE"),
    ("show ''", "expected a path"),
    ("show {0}/nowhere.json", "there is no such file"),
    ("show {0}", "is no pipeline"),
    ("show {0}/latin.txt", "no text in UTF-8"),
    ("show {0}/list.json", "this is no schedule"),
    ("show {0}/nowhere.profile.safetensors", "there is no such file"),
    ("show {0}/good.json --png x.bogus", "expected the name of a PNG file"),
    ("show {0}/good.json --png ''", "expected a path"),
    ("show {0}/good.json --png {0}/no/folder/x.png", "there is no folder"),
    ("import {0}/list.json --out {0}/o.json", "numbers without a name: say what they are, with --from"),
    ("import {0}/nowhere.json --out {0}/o.json", "No such file or directory"),
    ("import {0}/list.json --from magic --out {0}/o.json", "--from: invalid choice"),
    ("import {0}/list.json --out {0}/list.json", "--out is the input file"),
    ("import {0}/empty.txt --out {0}/o.json", "cannot be read as JSON"),
    ("import {0}/tensors.pt --out {0}/o.json", "not a tensor file"),
    ("import {0}/code.pt --out {0}/o.json", "may run any code"),
    ("export {0}/good.json --to schedule --out {0}/o.json", "give --steps N"),
    ("export {0}/good.json --to schedule --steps 0 --out {0}/o.json", "at least"),
    ("export {0}/good.json --to magic --out {0}/o.json", "--to: invalid choice"),
    ("methods newtn", "Did you mean 'newton'?"),
    ("methods ''", "is unknown"),
    ("env --jsn", "unrecognized arguments"),
    ("bnch", "invalid choice"),
    ("--verbos", "unrecognized arguments"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "empty.txt").write_text("")
    (folder / "gap.txt").write_text("a fox\n\na dog\n")
    (folder / "latin.txt").write_bytes("ein Füchslein\n".encode("latin-1"))
    (folder / "table.csv").write_text("text\na fox\n")
    (folder / "list.json").write_text("[3, 1, 2]")
    (folder / "tensors.pt").write_bytes(b"no tensors")
    (folder / "code.pt").write_bytes(b"PK\x03\x04 and nothing more")
    for name, index in (("broken", "{"), ("nameless", "[]")):
        (folder / name).mkdir()
        (folder / name / "model_index.json").write_text(index)
    (folder / "folder.json").mkdir()
    Schedule.of_steps([0, 1, 4], 6).save(folder / "good.json")
    return folder


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the files; the current folder is another, which stays empty, and so do the files."""
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in files.rglob("*")}
    yield files
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in files.rglob("*")} == before


def test_the_table_is_large() -> None:
    assert len({line for line, _ in LINES}) >= 120


@pytest.mark.parametrize(("line", "message"), LINES, ids=[line for line, _ in LINES])
def test_a_bad_line_ends_with_one_line_before_the_work(
    line: str, message: str, here: Path, unloaded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(line.format(here))) == 2
    printed = capsys.readouterr()
    (error,) = printed.err.splitlines()
    assert error.startswith("dcache: ")
    assert message in error
    assert printed.out == ""


WHOLE = (
    "seed",
    "steps",
    "height",
    "width",
    "frames",
    "repeats",
    "batch_size",
    "budget",
    "workers",
    "threads",
)
REAL = ("guidance", "speedup", "cap")


@given(name=st.sampled_from(WHOLE), value=st.integers(max_value=-1) | st.floats() | st.booleans())
def test_no_other_value_passes_for_a_count(name: str, value: object) -> None:
    with pytest.raises(DcacheError, match=f"--{name.replace('_', '-')} must be a whole number between"):
        RunSettings(pipeline=None, **{name: value})


@given(
    name=st.sampled_from(REAL), value=st.floats(max_value=-1e-9) | st.sampled_from(["3", True, float("nan")])
)
def test_no_other_value_passes_for_a_number(name: str, value: object) -> None:
    with pytest.raises(DcacheError, match=f"--{name} must be a number"):
        RunSettings(pipeline=None, **{name: value})


@given(text=st.text(max_size=30).filter(lambda text: not text.partition("=")[0].strip().isidentifier()))
def test_no_other_text_passes_for_an_option(text: str) -> None:
    with pytest.raises(DcacheError, match="expected NAME=VALUE"):
        RunSettings.of(Namespace(pipeline=None, option=[text]))


def test_the_messages_of_other_libraries_come_with_verbose_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = str(here / "broken")
    for line in (["bench", broken], ["bench", broken, "--verbose"], ["--verbose", "bench", broken]):
        assert main([*line, "--prompts", "a fox"]) == 2
        first, *others = capsys.readouterr().err.splitlines()
        assert "cannot be read as JSON" in first
        assert "Expecting" not in first
        assert len(others) == (1 if "--verbose" in line else 0)
        assert all(other.startswith("caused by JSONDecodeError: Expecting") for other in others)


def test_one_word_is_a_prompt() -> None:
    assert RunSettings(prompts="fox").texts() == ["fox"]


def test_a_column_is_that_of_every_command(here: Path) -> None:
    assert RunSettings(prompts=str(here / "table.csv"), prompt_column="text").texts() == ["a fox"]


def test_good_settings_arrive_whole() -> None:
    settings = RunSettings.of(Namespace(pipeline=None, option=["eta=0.5", "name=x"]))
    assert settings.call() == {
        **dict.fromkeys(("steps", "guidance", "height", "width", "frames")),
        "dtype": "auto",
        "device": "auto",
        "options": {"eta": 0.5, "name": "x"},
    }
    assert json.dumps(settings.call())
