"""The command line: version, help, methods, show, errors and exit statuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dcache
from dcache.cli import main
from dcache.cli.show import draw
from dcache.schedule import Plan, Schedule

LISTED = Schedule.of_steps([0, 1, 4], 6)


def test_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"dcache {dcache.__version__}\n"


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in ("demo", "methods", "show"))


def test_methods_lists_every_preset_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    for name, what in dcache.methods.available().items():
        assert f"\n{name} " in f"\n{out}"
        assert str(what) in out
    assert "threshold=0.08" in out
    assert "<" not in out


def test_show_marks_what_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = LISTED.save(tmp_path / "listed.json")
    assert main(["show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if "trunk" in line] == [["trunk", "■■··■·", "50%"]]
    assert "computed 3 of 6 (50%)" in lines


def test_show_joins_sites_alike_and_keeps_others_apart() -> None:
    even, odd = (True, False, True), (True, True, False)
    rows = {"attn:0": even, "mlp:0": even, "attn:1": odd}
    text = list(draw(Schedule(3, {"": Plan({"a": rows, "b": rows})}), ("#", ".")))
    assert [line.split() for line in text if "#" in line and "%" in line] == [
        ["attn:0", "to", "mlp:0", "(2)", "#.#", "67%"],
        ["attn:1", "##.", "67%"],
    ] * 2
    assert [line for line in text if line.startswith("branch")] == ["branch a", "branch b"]
    assert "computed 12 of 18 (67%)" in text


def test_show_breaks_long_schedules() -> None:
    text = list(draw(Schedule.of_steps([0, 99], 100), ("#", ".")))
    pictures = [line.split()[1] for line in text if line.startswith("  trunk")]
    assert "".join(pictures) == "#" + "." * 98 + "#"
    assert max(map(len, text)) <= 100


@pytest.mark.parametrize("content", [None, "not json", json.dumps({"format": "other"})])
def test_a_bad_schedule_ends_in_a_message_and_status_2(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert main(["show", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dcache: ")
    assert str(path) in printed.err
    assert "Traceback" not in printed.err


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
