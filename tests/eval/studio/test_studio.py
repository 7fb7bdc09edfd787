"""One comparison at a time: events in order, errors that are told, stops, what is remembered."""

from typing import Any, cast

import pytest

from dcache import methods
from dcache.errors import DcacheError
from dcache.eval.specs import parse
from dcache.eval.studio.form import Form
from dcache.eval.studio.studio import BusyError, Shown, Studio
from dcache.eval.subject import Subject
from tests.eval.studio.conftest import Log, form


def log(studio: Studio) -> Log:
    return cast(Log, studio.events)


def ended(studio: Studio, **changes: Any) -> list[tuple[str, Any]]:
    """All events of one comparison."""
    studio.start(Form.of(form(**changes)))
    return log(studio).until("done", "failed", "stopped")


def test_events_come_in_order_and_a_second_method_runs_the_cached_side_only(studio: Studio) -> None:
    events = ended(studio, prompt="a green star")
    names = [name for name, _ in events]
    assert names == ["began", *["progress"] * 5, "uncached", *["progress"] * 5, "done"]
    steps = [(e["side"], e["done"], e["total"]) for name, e in events if name == "progress"]
    assert steps == [(side, done, 4) for side in ("uncached", "cached") for done in range(5)]
    number = events[0][1]["number"]
    assert {content["number"] for _, content in events} == {number}
    done = events[-1][1]
    assert done["label"] == "interval 2"
    assert done["form"] == form(prompt="a green star")

    more = ended(studio, prompt="a green star", method="newton", options="interval=2")
    assert [name for name, _ in more] == ["began", "uncached", *["progress"] * 5, "done"]
    assert more[1][1]["remembered"] is True
    assert more[1][1]["seconds"] == events[6][1]["seconds"]
    assert studio.state() == {"session": studio.session, "run": None, "kept": studio.comparisons.keys()}
    assert studio.comparisons.keys()[-2:] == [number, number + 1]
    other = ended(studio, prompt="a green star", seed=4)
    assert other[6][1]["remembered"] is False


def test_an_uncached_call_of_another_speed_is_not_remembered(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(studio, prompt="a yellow star")
    with monkeypatch.context() as slow:
        slow.setattr("dcache.eval.studio.compare.drift_note", lambda *_: ["slower now"])
        _, done = ended(studio, prompt="a yellow star")[-1]
    assert done["remembered"] is True
    assert done["notes"] == ["slower now"]
    _, anew = ended(studio, prompt="a yellow star")[-1]
    assert anew["remembered"] is False


def test_a_second_run_is_refused_while_one_is_under_way_and_a_stop_ends_it(studio: Studio) -> None:
    number = studio.start(Form.of(form(steps=1000, prompt="a long call")))
    log(studio).until("progress")
    assert studio.state()["run"]["number"] == number
    with pytest.raises(BusyError, match=f"run {number} is under way"):
        studio.start(Form.of(form()))
    assert studio.stop() is True
    (*_, last) = log(studio).until("stopped", "done", "failed")
    assert last == ("stopped", {"number": number})
    assert studio.comparisons.get(number) is None
    assert studio.stop() is False
    # The pipeline is as it was.
    assert ended(studio)[-1][0] == "done"


def test_what_is_wrong_with_a_form_is_said_before_a_run(studio: Studio) -> None:
    for changes, message in (
        ({"method": "newtn"}, "is unknown"),
        ({"options": "interval=0"}, "interval"),
        ({"pipeline": "nowhere"}, "there is no pipeline"),
    ):
        with pytest.raises(DcacheError, match=message):
            studio.start(Form.of(form(**changes)))
    assert log(studio).queue.empty()


def test_a_method_that_does_not_fit_fails_before_the_uncached_call(studio: Studio) -> None:
    began, (name, failed) = ended(studio, method="deepcache", options="", prompt="not yet seen")
    assert (began[0], name) == ("began", "failed")
    assert "needs a UNet" in failed["message"]


def test_a_pipelines_own_error_is_told_and_the_next_run_works(
    studio: Studio, demo: Subject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def burst(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the decoder burst. Call someone")

    with monkeypatch.context() as broken:
        broken.setattr(demo.pipe.vae, "decode", burst)
        name, content = ended(studio, prompt="something new")[-1]
    assert name == "failed"
    assert content["message"] == "RuntimeError: the decoder burst. The terminal has all of it"
    assert "the decoder burst. Call someone" in capsys.readouterr().err
    assert ended(studio)[-1][0] == "done"


def test_the_setup_says_which_methods_fit(studio: Studio) -> None:
    (pipeline,) = studio.setup["pipelines"]
    assert pipeline["class"] == "PixArtAlphaPipeline"
    assert (pipeline["steps"], pipeline["guidance"], pipeline["kind"]) == (4, 3.0, "image")
    assert pipeline["condition"] == "prompt"
    assert set(pipeline["unfit"]) == {"causal", "deepcache"}
    assert "needs a UNet" in pipeline["unfit"]["deepcache"]
    assert set(studio.setup["methods"]) == set(methods.available())
    assert studio.setup["methods"]["interval"]["options"]["interval"] == "3"
    assert studio.setup["methods"]["tuned"]["options"]["speedup"] == "none"


class Plain:
    """A pipeline without a denoiser that is known."""

    def __call__(self, prompt: Any = None, num_inference_steps: int = 3) -> Any:
        raise NotImplementedError


def test_methods_of_the_command_line_are_offered() -> None:
    studio = Studio({"toy": Shown(Subject(Plain(), "toy"))}, parse("newton:interval=4"))
    assert studio.setup["entries"] == [{"name": "newton:interval=4", "label": "newton 4"}]
    studio.close()
    assert not studio._thread.is_alive()
