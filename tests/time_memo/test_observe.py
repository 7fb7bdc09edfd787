"""Which modules depend on the timestep alone, found in one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dcache.time_memo.observe import allowed_sources, observe
from dcache.time_memo.wiring import Argument, Derived, Output
from tests.time_memo.nets import TIMED, Modulated, Net, draw, net


def seen(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    text = kwargs.pop("text", False)
    with torch.no_grad():
        return observe(model, model, args, kwargs, text)


def test_timed_modules_are_the_topmost_with_weights() -> None:
    model, sample, time = net(), draw(0, 2, 8), torch.tensor([5.0])
    observation = seen(model, sample, time)
    assert [part.name for part in observation.timed] == TIMED
    assert {part.sources for part in observation.timed} == {frozenset({"timestep"})}
    assert torch.equal(observation.output, model(sample, time))


def test_pooled_text_is_a_source_and_the_text_itself_only_where_it_is_wanted() -> None:
    given = {"pooled": draw(1, 2, 8), "encoder_hidden_states": draw(2, 2, 3, 8)}
    plain = seen(net(), draw(0, 2, 8), torch.tensor([5.0]), **given)
    assert {part.name: part.sources for part in plain.timed} == {
        "time_embed": {"timestep"},
        "blocks.0.linear": {"timestep", "pooled"},
        "blocks.1.linear": {"timestep", "pooled"},
    }
    wide = seen(net(), draw(0, 2, 8), torch.tensor([5.0]), **given, text=True)
    assert {part.name for part in wide.timed} == {*TIMED, "text"}


def test_text_alone_leaves_out_what_depends_on_the_timestep_as_well() -> None:
    given = {"pooled": draw(1, 2, 8), "encoder_hidden_states": draw(2, 2, 3, 8)}
    apart = seen(net(), draw(0, 2, 8), torch.tensor([5.0]), **given, text="alone")
    # The blocks' layers are called with timestep and pooled text.
    assert {part.name: part.sources for part in apart.timed} == {
        "time_embed": {"timestep"},
        "text": {"encoder_hidden_states"},
    }


def test_samples_are_no_source_and_neither_are_lists_of_texts() -> None:
    model, time = net(), torch.tensor([5.0])
    given = {"timestep": time, "pooled": [draw(1, 3, 8), draw(2, 4, 8)]}
    assert allowed_sources(model, (draw(0, 2, 8),), given, text=False) == {"timestep"}
    assert allowed_sources(model, (draw(0, 2, 8),), given, text=True) == {"timestep", "pooled.0", "pooled.1"}


class Twice(Net):
    """The first block is called with the timestep, then with the sample in its place."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        emb = self.time_embed(timestep.reshape(-1, 1))
        block: Modulated = self.blocks[0]  # type: ignore[assignment]
        return sample * block.linear(emb) + block.linear(sample)


class TwiceByTime(Net):
    """One layer for two embeddings of the timestep."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        emb = self.time_embed(timestep.reshape(-1, 1))
        block: Modulated = self.blocks[0]  # type: ignore[assignment]
        return sample * block.linear(emb) + block.linear(2 * emb)


def test_a_module_that_is_called_twice_is_not_timed() -> None:
    for kind in (Twice, TwiceByTime):
        observation = seen(kind().eval(), draw(0, 2, 8), torch.tensor([5.0]))
        assert [part.name for part in observation.timed] == ["time_embed"]


def test_adapters_and_what_they_stand_on_are_left_out() -> None:
    model = net()
    wrapped = nn.Module()
    wrapped.base_layer, wrapped.lora = model.blocks[0].linear, nn.Linear(8, 8)
    wrapped.forward = lambda x: wrapped.base_layer(x) + 2.0 * wrapped.lora(x)  # type: ignore[method-assign]
    model.blocks[0].linear = wrapped  # type: ignore[assignment]
    names = [part.name for part in seen(model, draw(0, 2, 8), torch.tensor([5.0])).timed]
    assert names == ["time_embed", "blocks.1.linear"]


@pytest.mark.parametrize("kind", ["adapter", "hook"])
def test_what_depends_on_an_adapter_or_a_hook_is_left_out(kind: str) -> None:
    model = net()
    if kind == "hook":
        model.time_embed[1].register_forward_hook(lambda _module, _args, output: output * 2)  # type: ignore[operator]
    else:
        wrapped = nn.Module()
        wrapped.base_layer, wrapped.forward = model.time_embed[1], model.time_embed[1].forward  # type: ignore[method-assign]
        model.time_embed[1] = wrapped  # type: ignore[operator]
    names = [part.name for part in seen(model, draw(0, 2, 8), torch.tensor([5.0])).timed]
    assert names == ["time_embed.0"]


@pytest.mark.parametrize("pooled", [None, draw(1, 2, 8)])
def test_nodes_say_where_inputs_come_from(pooled: torch.Tensor | None) -> None:
    nodes = seen(
        net(), draw(0, 2, 8), torch.tensor([5.0]), **({} if pooled is None else {"pooled": pooled})
    ).nodes
    assert nodes["time_embed"].leaves == (Derived(frozenset({"timestep"})),)
    assert nodes["blocks.0.linear"].leaves == (Output("blocks.0.silu", 0),)
    through = Output("time_embed", 0) if pooled is None else Derived(frozenset({"timestep", "pooled"}))
    assert nodes["blocks.0.silu"].leaves == (through,)
    assert Argument("sample") not in [leaf for node in nodes.values() for leaf in node.leaves]
