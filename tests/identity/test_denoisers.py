"""Which parts of a pipeline are denoisers: those that take a timestep, and no control image."""

from typing import Any

import pytest
from torch import nn

from dcache.errors import DcacheError
from dcache.identity.denoisers import candidates, config_digest, denoiser_named, denoisers, is_pipeline


class Denoiser(nn.Module):
    def forward(self, x: Any, timestep: Any) -> Any:
        return x


class Sigma(nn.Module):
    def forward(self, x: Any, sigma: Any = None) -> Any:
        return x


class ControlNet(nn.Module):
    def forward(self, x: Any, timestep: Any, controlnet_cond: Any, conditioning_scale: float = 1.0) -> Any:
        return x


class Encoder(nn.Module):
    def forward(self, tokens: Any) -> Any:
        return tokens


class Sampler:
    def set_timesteps(self, steps: int) -> None: ...

    def step(self, output: Any, t: Any, x: Any) -> None: ...


class Pipe:
    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


def compiled(module: nn.Module) -> nn.Module:
    """As `module.compile()` leaves it."""
    module._compiled_call_impl = lambda *args: None  # type: ignore[method-assign]
    return module


def test_a_pipeline_has_modules_and_is_none() -> None:
    assert is_pipeline(Pipe(core=Denoiser()))
    assert not is_pipeline(Denoiser())
    assert not is_pipeline(Pipe(scheduler=Sampler(), steps=3))
    assert not is_pipeline("pipe")
    # What a pipeline lists as its components counts, not its attributes.
    assert not is_pipeline(Pipe(core=Denoiser(), components={"scheduler": Sampler()}))
    assert is_pipeline(Pipe(components={"core": Denoiser()}))


def test_a_bare_module_is_its_own_denoiser() -> None:
    module = Encoder()
    assert denoisers(module) == {"": module}


def test_every_module_that_takes_a_time_is_a_denoiser_whatever_its_class() -> None:
    pipe = Pipe(text=Encoder(), high=Denoiser(), low=Sigma(), vae=nn.Conv2d(1, 1, 1), scheduler=Sampler())
    assert denoisers(pipe) == {"high": pipe.high, "low": pipe.low}


def test_the_only_denoiser_needs_no_name_and_one_of_several_does() -> None:
    pipe = Pipe(high=Denoiser(), low=Sigma())
    assert denoiser_named(pipe, "low") == ("low", pipe.low)
    assert denoiser_named(Pipe(core=pipe.high)) == ("core", pipe.high)
    assert denoiser_named(pipe.high) == ("", pipe.high)
    have = "must be one denoiser of Pipe, which has"
    with pytest.raises(DcacheError, match=f"{have} 'high', 'low'; got None"):
        denoiser_named(pipe)
    with pytest.raises(DcacheError, match=f"{have} 'core'; got 'high'"):
        denoiser_named(Pipe(core=pipe.high), "high")
    with pytest.raises(DcacheError, match=f"{have} none that dcache recognises by its modules' arguments"):
        denoiser_named(Pipe(text=Encoder(), scheduler=Sampler()))


def test_a_controlnet_is_none_unless_there_is_no_other() -> None:
    pipe = Pipe(core=Denoiser(), control=ControlNet())
    assert denoisers(pipe) == {"core": pipe.core}
    # ControlNet-XS: one model is both.
    alone = Pipe(core=ControlNet(), text=Encoder())
    assert denoisers(alone) == {"core": alone.core}


def test_without_a_named_time_a_sampler_is_enough_and_without_both_the_error_names_the_modules() -> None:
    assert denoisers(Pipe(text=Encoder(), core=Encoder(), scheduler=Sampler())) == {}
    with pytest.raises(
        DcacheError, match=r"no denoiser found in Pipe: .*\(text, core\).* timestep, .*sampler"
    ):
        denoisers(Pipe(text=Encoder(), core=Encoder()))


@pytest.mark.parametrize("thing", [None, 3, "pipe", [Denoiser()], Pipe(scheduler=Sampler())])
def test_what_is_no_pipeline_and_no_module_is_refused(thing: Any) -> None:
    kind = type(thing).__name__
    with pytest.raises(DcacheError, match=f"expected a diffusers pipeline or a torch module, got {kind}"):
        denoisers(thing)


def test_a_denoiser_that_is_compiled_as_a_whole_is_refused_and_another_part_may_be() -> None:
    pipe = Pipe(text=compiled(Encoder()), core=Denoiser())
    assert denoisers(pipe) == {"core": pipe.core}
    for target in (Pipe(core=compiled(Denoiser())), compiled(Denoiser())):
        with pytest.raises(DcacheError, match="Denoiser is compiled as a whole"):
            denoisers(target)


def test_a_run_may_show_any_module_to_be_a_denoiser_but_a_controlnet() -> None:
    pipe = Pipe(text=Encoder(), control=ControlNet(), core=Encoder(), steps=3)
    assert candidates(pipe) == {"text": pipe.text, "core": pipe.core}
    with pytest.raises(DcacheError, match="Encoder is compiled as a whole"):
        candidates(Pipe(core=compiled(Encoder())))


def configured(config: Any) -> nn.Module:
    module = Encoder()
    module.config = config
    return module


def test_the_digest_of_a_config_is_of_its_public_entries_in_any_order() -> None:
    digest = config_digest(configured({"depth": 3, "width": 16}))
    assert len(digest) == 12
    assert set(digest) <= set("0123456789abcdef")
    assert config_digest(configured({"width": 16, "depth": 3, "_class_name": "A"})) == digest
    others = [{"depth": 4, "width": 16}, {"depth": 3}, {"depth": "3", "width": 16}, {}]
    assert len({digest, *(config_digest(configured(c)) for c in others)}) == 5
    # Entries that JSON does not have are taken as text.
    assert config_digest(configured({"depth": 3, "dtype": int})) != digest


def test_a_module_without_a_config_has_no_digest() -> None:
    assert config_digest(Encoder()) == ""
    assert config_digest(configured(None)) == ""
    assert config_digest(configured("a name")) == ""
