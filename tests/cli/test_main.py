"""The command line: version, help, what it loads."""

import subprocess
import sys

import pytest

import dcache
from dcache.cli import main
from dcache.errors import DcacheError


def test_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"dcache {dcache.__version__}\n"


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in ("demo", "methods", "show"))


def test_the_module_runs_and_loads_nothing_heavy() -> None:
    script = (
        "import runpy, sys\n"
        "sys.argv = ['dcache', 'methods']\n"
        "try:\n    runpy.run_module('dcache.cli', run_name='__main__')\n"
        "except SystemExit as stop:\n    print('status', stop.code)\n"
        "heavy = ('diffusers', 'matplotlib', 'torchmetrics', 'transformers')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-2:] == ["status 0", "[]"]
    assert "taylorseer" in ran.stdout


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyboardInterrupt(), "interrupted. It goes on"),
        (DcacheError("at most 1.35, got 2"), "at most 1.35, got 2. It goes on"),
        (DcacheError("Ask for\n  less."), "Ask for less. It goes on"),
    ],
)
def test_a_note_on_how_the_work_goes_on_is_said(
    error: BaseException, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(_: object) -> int:
        error.add_note("It goes on")
        raise error

    monkeypatch.setattr("dcache.cli._run", ends)
    assert main(["env"]) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert capsys.readouterr().err == f"dcache: {says}\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("policy demo --out x", "unrecognized arguments: --out x. See `dcache policy demo --help`."),
        ("bench --prompt fox", "arguments: --prompt. Did you mean '--prompts'? See `dcache bench --help`."),
        ("bench --promts=fox", "--promts=fox. Did you mean '--prompts'? See `dcache bench --help`."),
        ("lm methods x y", "unrecognized arguments: x y. See `dcache lm methods --help`."),
    ],
)
def test_what_a_part_does_not_take_is_refused_in_its_name(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr().err.endswith(f"{says}\n")
