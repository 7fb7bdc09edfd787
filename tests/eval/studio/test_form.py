"""What the page may ask for: numbers in range, methods by name, options as literals, no files."""

from pathlib import Path
from typing import Any

import pytest

from dcache.errors import DcacheError
from dcache.eval.entries import BenchEntry
from dcache.eval.specs import parse
from dcache.eval.studio.form import LONGEST_PROMPT, Form
from dcache.eval.subject import Subject
from tests.eval.studio.conftest import form


class Pipe:
    """Takes a prompt, steps and guidance."""

    def __call__(self, prompt: Any = None, num_inference_steps: int = 9, guidance_scale: float = 2.0) -> None:
        raise NotImplementedError


class Classes:
    """Takes a class number."""

    def __call__(self, class_labels: Any, num_inference_steps: int = 9) -> None:
        raise NotImplementedError


def own() -> dict[str, BenchEntry]:
    return {entry.spec: entry for entry in parse("newton:interval=4")}


def test_a_form_becomes_a_call_and_a_method() -> None:
    asked = Form.of(form(pipeline="toy", options=" interval=3, sites=attn+mlp"))
    subject = asked.subject({"toy": Subject(Pipe(), "toy", {"num_inference_steps": 5})})
    assert subject.options == {"num_inference_steps": 4, "guidance_scale": 3.0}
    entry = asked.entry({}, None)
    assert entry.call == ", dcache.methods.interval(interval=3, sites=['attn', 'mlp']))"
    assert Form.of(asked.content()) == asked


def test_what_is_left_out_is_the_pipelines() -> None:
    asked = Form.of({"pipeline": "toy", "prompt": "a fox", "steps": None, "guidance": None})
    subject = asked.subject({"toy": Subject(Pipe(), "toy", {"num_inference_steps": 5})})
    assert (subject.steps, subject.guidance) == (5, 2.0)
    assert asked.method == "tuned"


def test_a_class_number_needs_a_text_and_nothing_needs_none() -> None:
    classes = {"toy": Subject(Classes(), "toy")}
    assert classes["toy"].condition == "class_labels"
    with pytest.raises(DcacheError, match="the prompt is empty"):
        Form("toy", " ").subject(classes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"guidance": float("nan")}, "guidance must be a number"),
        ({"guidance": "3"}, "guidance must be a number"),
        ({"guidance": 10**400}, "guidance must be a number"),
        ({"prompt": 3}, "prompt must be a text"),
        ({"method": ["interval"]}, "method must be a text"),
        ({"warm_up": 1}, "warm_up must be true or false"),
        ({"prompt": "x" * (LONGEST_PROMPT + 1)}, "prompt has 4001 characters"),
        ({"options": "x" * 2000}, "options has 2000 characters"),
        ({"code": "1"}, r"unknown: \['code'\]"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DcacheError, match=message):
        Form.of(form(**changes))


@pytest.mark.parametrize("content", [None, 3, [], "x", {}, {"pipeline": "demo"}])
def test_other_json_is_no_form(content: object) -> None:
    with pytest.raises(DcacheError, match="expected"):
        Form.of(content)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("newtn", "", "is unknown"),
        ("nowhere.json", "", "is unknown"),
        ("/etc/passwd", "", "is unknown"),
        ("hub:owner/name", "", "is unknown"),
        ("interval:interval=3", "", "is unknown"),
        ("interval;newton", "", "is unknown"),
        ("interval", "interval", "expected option=value"),
        ("interval", "order=3", "no option 'order'"),
        ("interval", "interval=0", "interval"),
        ("interval", "interval=__import__('os')", "must be a number"),
        ("teacache", "coefficients=/etc/passwd", "coefficients must be a number"),
        ("teacache", "coefficients=a+b", "coefficients must be a number"),
        ("fitted", "profile=x.safetensors", "profile must be a number"),
        ("smoothcache", 'table={"a":"b"}', "table must be a number"),
        ("newton:interval=4", "order=1", "has its options already"),
    ],
)
def test_no_file_is_opened_and_no_code_is_run(method: str, options: str, message: str) -> None:
    with pytest.raises(DcacheError, match=message):
        Form.of(form(method=method, options=options)).entry(own(), None)


def test_methods_of_the_command_line_are_there_by_their_specification() -> None:
    entries = own()
    assert Form.of(form(method="newton:interval=4", options="")).entry(entries, None) is next(
        iter(entries.values())
    )


def test_numbers_of_a_shipped_model_are_its_own() -> None:
    from dcache.demo.pipeline import coefficients

    entry = Form.of(form(method="teacache", options="threshold=0.3")).entry({}, Path(coefficients()))
    assert entry.note.startswith("coefficients of the shipped model")


def test_an_unknown_pipeline_and_steps_that_a_shipped_one_cannot_make() -> None:
    with pytest.raises(DcacheError, match="there is no pipeline 'nowhere' here: expected one of toy"):
        Form("nowhere", "x").subject({"toy": Subject(Pipe(), "toy")})
    with pytest.raises(DcacheError, match="steps must be at least 2 for demo"):
        Form("demo", "x", steps=1).subject({"demo": Subject(Pipe(), "demo")})
