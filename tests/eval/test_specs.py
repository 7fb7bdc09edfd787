"""From the text of `--methods` to contestants."""

from pathlib import Path

import pytest

import dcache
from dcache.demo.pipeline import coefficients
from dcache.errors import DcacheError
from dcache.eval.specs import parse
from dcache.schedule import Schedule


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("default", ["default"]),
        ("default,newton", ["default", "newton"]),
        ("newton:interval=4,order=1;fbcache", ["newton 4", "fbcache"]),
        ("newton:interval=4,order=2,default", ["newton 4 order=2", "default"]),
        ("taylorseer:interval=4,lite=true", ["taylorseer 4 lite"]),
        ("interval:sites=attn+mlp,warmup=1", ["interval @attn+mlp"]),
    ],
)
def test_specifications_get_short_labels(text: str, labels: list[str]) -> None:
    assert [choice.label for choice in parse(text)] == labels


def test_a_specification_becomes_the_call_that_enables_it() -> None:
    (choice,) = parse("newton:interval=4,sites=attn+mlp,clock=step,last=false")
    made = eval(f"(None{choice.call}", {"dcache": dcache})[1]
    assert made == choice.method
    assert made.sites == ("attn", "mlp")
    assert made.clock == "step"


def test_a_schedule_file_is_a_method(tmp_path: Path) -> None:
    path = Schedule.of_steps([0, 2], 4).save(tmp_path / "mine.json")
    (choice,) = parse(str(path))
    assert (choice.label, choice.file_name) == ("file mine", "file-mine")
    assert choice.method == Schedule.load(path)


def test_the_digest_changes_with_what_is_computed_and_with_nothing_else(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (choice,) = parse(text, coefficients())
        return choice.digest

    specs = [
        "newton",
        "newton:interval=4",
        "newton:order=2",
        "interval",
        "teacache",
        "teacache:threshold=0.3",
    ]
    assert len({digest(spec) for spec in specs}) == len(specs)
    assert (
        digest("newton:interval=4,order=1")
        == digest("newton:order=1,interval=4")
        == digest("newton:interval=4")
    )
    files = [Schedule.of_steps([0, n], 4).save(tmp_path / f"{n}.json") for n in (1, 2)]
    assert digest(str(files[0])) != digest(str(files[1]))
    before = digest(str(files[0]))
    Schedule.of_steps([0, 3], 4).save(files[0])
    assert digest(str(files[0])) != before


def test_shipped_numbers_are_used_where_there_are_some() -> None:
    (choice,) = parse("teacache:threshold=0.4", coefficients())
    assert "examples/measure_coefficients.py" in choice.note
    assert 'coefficients="FILE.json"' in choice.call.replace("'", '"')
    with pytest.raises(DcacheError, match="teacache needs coefficients="):
        parse("teacache")
