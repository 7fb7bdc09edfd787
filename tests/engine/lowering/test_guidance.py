"""The branch without the prompt as a site: how it is told from the other, and when it is left alone."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, Schedule
from dcache.cache.codec import Codec
from dcache.cache.history import Branch, History
from dcache.engine.anchors import fit_rows
from dcache.engine.call import Call
from dcache.engine.lowering.guidance import GuidanceRegion, Pair, Seen
from dcache.engine.lowering.guidance_math import cond_is_first
from dcache.engine.session import session_of
from dcache.identity.run import Run
from dcache.method import Method
from dcache.schedulers import Listed
from tests.engine.tiny_models import OutOfSight
from tests.families import FAMILIES
from tests.pipelines import SHAPES, generator

STEPS = 6


class Core(nn.Module):
    """x / 2 + the condition, twice as much in every other column; notes the rows it is run on.

    `mixes` lets the rows of a batch see each other.
    """

    rows = OutOfSight()

    def __init__(self, extra: int = 0, mixes: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.extra, self.mixes = extra, mixes
        self.rows = []
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        self.rows.append(x.shape[0])
        columns = torch.arange(x.shape[-1]) % 2 + 1
        y = x * self.weight + encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1) * columns
        if self.mixes:
            y = y - y.mean(0, keepdim=True)
        # A learned variance, which the pipeline drops.
        return torch.cat([y, *[y * 3] * self.extra], 1) if self.extra else y


class Sampler:
    """An Euler step of 1/8; timesteps above 901, where FasterCache raises neither band."""

    def __init__(self) -> None:
        self.timesteps = torch.zeros(0)

    def set_timesteps(self, steps: int) -> None:
        self.timesteps = torch.linspace(1000, 910, steps)

    def step(self, model_output: torch.Tensor, t: Any, x: torch.Tensor) -> torch.Tensor:
        return x - model_output / 8


class Pipe:
    """Guidance in every way that pipelines have it.

    Args:
        core: the denoiser.
        cond_first: whether the branch with the prompt comes first.
        batched: whether both are halves of one batch, else two calls.
    """

    def __init__(self, core: Core | None = None, cond_first: bool = False, batched: bool = True) -> None:
        self.core = Core() if core is None else core
        self.scheduler = Sampler()
        self.cond_first, self.batched = cond_first, batched
        self.sign, self.rescale, self.third = 1.0, 0.0, False

    def maybe_free_model_hooks(self) -> None:
        """As diffusers' pipelines."""

    def outputs(self, x: torch.Tensor, t: Any, c: torch.Tensor, u: torch.Tensor) -> list[torch.Tensor]:
        order = [c, u] if self.cond_first else [u, c]
        if self.batched:
            both = self.core(torch.cat([x, x]), t, encoder_hidden_states=torch.cat(order)).chunk(2)
        else:
            both = [self.core(x, t, encoder_hidden_states=e) for e in order]
        if self.third:
            self.core(x, t, encoder_hidden_states=c * 2)
        return list(both if self.cond_first else reversed(both))

    @torch.no_grad()
    def __call__(self, steps: int = STEPS, images: int = 1, **more: Any) -> torch.Tensor:
        """more: scale, prompt, negative: numbers or functions of the step."""
        told = {"scale": 3.0, "prompt": 4.0, "negative": 1.0, **more}
        self.scheduler.set_timesteps(steps)
        x = torch.arange(images * 32.0).view(images, 2, 4, 4)
        for i, t in enumerate(self.scheduler.timesteps):
            scale, c, u = (v(i) if callable(v) else v for v in told.values())
            c, u = torch.full((images, 3, 2), c), torch.full((images, 3, 2), u)
            if scale is None:
                m = self.core(x, t, encoder_hidden_states=c)
            else:
                c, u = self.outputs(x, t, c, u)
                m = u + scale * (c - u)
                if self.rescale:
                    m = m * (1 - self.rescale) + self.rescale * m * c.std() / m.std()
            x = self.scheduler.step(self.sign * m[:, :2], t, x)
        self.maybe_free_model_hooks()
        return x


def only_guidance(sibling: str, *computed: int) -> Method:
    """A method that predicts guidance at all evaluations but these, and nothing else."""
    return Method("mine", rule=Listed(computed), sites=("guidance",), codec="value", uncond_from=sibling)


def region_of(module: nn.Module) -> GuidanceRegion:
    session = session_of(module)
    assert session is not None
    assert session.binding.guidance is not None
    return session.binding.guidance


BANDS, DROP = only_guidance("bands", 0, 1), only_guidance("drop", 0, 1)


# Which half is which -------------------------------------------------------------------------------


@pytest.mark.parametrize("cond_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("images", [1, 2, 3])
def test_the_half_with_the_prompt_is_learned_and_only_it_is_run(cond_first, batched, sign, extra, images):
    def make() -> Pipe:
        pipe = Pipe(Core(extra), cond_first, batched)
        pipe.sign = sign
        return pipe

    plain = make()(images=images)
    pipe = dcache.enable(make(), BANDS)
    if not batched and not cond_first:
        with pytest.warns(DcacheWarning, match="without the prompt is called before the one with it"):
            assert torch.equal(pipe(images=images), plain)
        return
    # Here the difference of the branches is a constant, so that the prediction is exact.
    torch.testing.assert_close(pipe(images=images), plain, rtol=1e-6, atol=1e-6)
    assert region_of(pipe.core).pair == Pair(batched, cond_first)
    if batched:
        # Evaluation 0 was computed again by the self-check, 1 by half, to see whether that may be done.
        assert pipe.core.rows == [2 * images] * 3 + [images] * 5
    else:
        assert pipe.core.rows == [images] * (2 * 2 + 1 + 4)
    assert dcache.stats(pipe).predicted == 4
    # A second run knows all of that.
    pipe.core.rows.clear()
    torch.testing.assert_close(pipe(images=images), plain, rtol=1e-6, atol=1e-6)
    assert sum(pipe.core.rows) == images * (2 * 2 + 4)


@pytest.mark.parametrize("cond_first", [True, False])
@pytest.mark.parametrize("scale", [1.5, 7.5, 30.0])
def test_dropping_the_branch_leaves_the_one_with_the_prompt(cond_first, scale):
    pipe = dcache.enable(Pipe(cond_first=cond_first), DROP)
    found = pipe(scale=scale)
    expected = Pipe(cond_first=cond_first)(scale=lambda i: scale if i < 2 else None)
    assert torch.equal(found, expected)
    # From there on neither the other prompt nor the scale is of any consequence.
    other = pipe(scale=lambda i: scale if i < 2 else -77.0, negative=lambda i: 1.0 if i < 2 else 1e6)
    assert torch.equal(other, found)


def test_which_is_which_in_numbers():
    g = generator(1)
    u, c = (torch.randn(2, 4, 5, 5, generator=g) for _ in range(2))
    for scale in (1.1, 3.0, 50.0):
        m = u + scale * (c - u)
        for given in (m, -m, m[:, :2], -m[:, :2], torch.cat([m, m])):
            assert cond_is_first(c, u, given) is True
            assert cond_is_first(u, c, given) is False
        assert cond_is_first(c.bfloat16(), u.bfloat16(), m.bfloat16()) is True
    # A mixture that lies between them is no guidance, and what lies off their line is no mixture.
    rescaled = 0.7 * (u + 3.0 * (c - u))
    for given in (u + 0.3 * (c - u), u, c, torch.randn(2, 4, 5, 5, generator=g), rescaled):
        assert cond_is_first(c, u, given) is None
    # Equal outputs tell nothing, and neither does another shape.
    assert cond_is_first(u, u, u) is None
    assert cond_is_first(c, u, m[:1]) is None
    assert cond_is_first(c, u, m.flatten(1)) is None
    assert cond_is_first(torch.zeros(3), torch.zeros(3), torch.zeros(2)) is None


# Giving up ------------------------------------------------------------------------------------------


def gives_up(pipe: Pipe, says: str, **call: Any) -> None:
    """It says so once, in one of two runs, and changes nothing."""
    plain = pipe(**call)
    pipe.core.rows.clear()
    dcache.enable(pipe, BANDS)
    name = type(pipe.core).__name__
    with pytest.warns(DcacheWarning, match=f"{name}: site 'guidance' is never predicted: .*{says}") as caught:
        found = [pipe(**call) for _ in range(2)]
    assert len([w for w in caught if "guidance" in str(w.message)]) == 1
    assert all(torch.equal(x, plain) for x in found)
    assert dcache.stats(pipe).predicted == 0
    assert dcache.stats(pipe).bytes_held == 0


def test_pictures_of_one_seed_without_guidance_are_no_reason_to_give_up():
    region = region_of(dcache.enable(Pipe(), BANDS).core)
    output = torch.randn(2, 2, 4, 4, generator=generator(0))
    region.seen = Seen(0, [("0", torch.ones(2, 2, 4, 4), output)])
    region.learn(output)
    assert region.pair is None
    assert not region.useless


@pytest.mark.parametrize(
    ("rows", "entry"), [(3, torch.ones(3, 2)), (2, torch.arange(4.0).view(2, 2))], ids=str
)
def test_a_batch_that_is_mixed_but_is_no_two_equal_halves_is_said(rows, entry):
    region = region_of(dcache.enable(Pipe(), BANDS).core)
    region.seen = Seen(0, [("0", entry, torch.randn(rows, 2, generator=generator(0)))])
    with pytest.warns(DcacheWarning, match=f"never predicted: the {rows} rows of a batch are mixed"):
        region.learn(torch.randn(1, 2, generator=generator(1)))


def test_guidance_rescale_is_not_understood():
    pipe = Pipe()
    pipe.rescale = 0.7
    gives_up(pipe, r"not given u \+ s \(c - u\)")


@pytest.mark.parametrize("batched", [True, False])
def test_three_branches_are_not_understood(batched):
    pipe = Pipe(cond_first=True, batched=batched)
    pipe.third = True
    gives_up(pipe, "not given u" if batched else "called 3 times")


def test_the_branch_with_the_prompt_called_last_is_not_understood():
    gives_up(Pipe(cond_first=False, batched=False), "without the prompt is called before")


def test_a_denoiser_whose_rows_see_each_other_is_left_alone():
    gives_up(Pipe(Core(mixes=True)), "give another output without the others beside them")


class Rows:
    """Something made for the rows of the whole batch; filled in calls of mode "write"."""

    def __init__(self) -> None:
        self.mode, self.filled, self.rows = "read", [], 0


class Filled(Core):
    """Takes an object for all rows of its batch, which fewer rows do not fit where it `fits` not."""

    fits = True

    def forward(self, x: torch.Tensor, timestep: Any, encoder_hidden_states: Any, cache: Rows) -> Any:
        if not self.fits and cache.rows not in {0, x.shape[0]}:
            raise RuntimeError("rows of another batch")
        if cache.mode == "write":
            cache.filled.append(x.shape[0])
        return super().forward(x, timestep, encoder_hidden_states)


class FilledPipe(Pipe):
    """Its denoiser is given the object; the calls of these steps write into it."""

    writes: tuple[int, ...] = ()

    def outputs(self, x: torch.Tensor, t: Any, c: torch.Tensor, u: torch.Tensor) -> list[torch.Tensor]:
        core, step = self.core, self.scheduler.timesteps.tolist().index(float(t))
        if step == 0:
            self.cache = Rows()
            self.cache.rows = 2 * x.shape[0]
        self.cache.mode = "write" if step in self.writes else "read"
        self.core = lambda *args, **kwargs: core(*args, cache=self.cache, **kwargs)
        try:
            return super().outputs(x, t, c, u)
        finally:
            self.core = core


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("sibling", ["bands", "drop"])
def test_calls_that_write_are_computed_whole_and_once(batched, sibling):
    pipe = FilledPipe(Filled(), cond_first=True, batched=batched)
    # By then it is known which branch is which, so that this call would be halved and replayed.
    pipe.writes = (2,)
    pipe()
    written = [2] if batched else [1, 1]
    assert pipe.cache.filled == written
    dcache.enable(pipe, only_guidance(sibling, 0, 1))
    pictures = []
    for _ in range(2):
        pictures.append(pipe())
        assert pipe.cache.filled == written
        stats = dcache.stats(pipe)
        assert stats.reasons["writes"] == len(written)
        assert stats.predicted == 2
    assert torch.equal(*pictures)


def test_arguments_that_half_of_the_rows_do_not_fit_are_no_error_of_the_run():
    core = Filled()
    core.fits = False
    gives_up(FilledPipe(core), "give another output without the others beside them")


def test_rows_that_come_as_a_list_are_no_batch():
    class Lists(Core):
        def forward(self, x: list[torch.Tensor], timestep: Any, encoder_hidden_states: Any) -> Any:
            return super().forward(torch.stack(x), timestep, encoder_hidden_states)

    class ListPipe(Pipe):
        def outputs(self, x: torch.Tensor, t: Any, c: torch.Tensor, u: torch.Tensor) -> list[torch.Tensor]:
            return list(self.core([*x, *x], t, encoder_hidden_states=torch.cat([u, c])).chunk(2)[::-1])

    gives_up(ListPipe(Lists()), "its rows come as a list of tensors, not as one batch")


def test_a_hand_written_loop_shows_nobody_what_its_sampler_is_given():
    core = dcache.enable(Core(), BANDS)
    prompts = torch.stack([torch.full((3, 2), 1.0), torch.full((3, 2), 4.0)])
    xs = [torch.full((2, 2, 4, 4), float(t)) for t in range(4)]
    plain = [Core()(x, t, encoder_hidden_states=prompts) for t, x in enumerate(xs)]
    with torch.no_grad():
        with pytest.warns(DcacheWarning, match="never predicted: in a hand-written loop"):
            found = [core(xs[0], 0, encoder_hidden_states=prompts)]
        found += [core(x, t, encoder_hidden_states=prompts) for t, x in enumerate(xs[1:], 1)]
    assert all(torch.equal(x, y) for x, y in zip(found, plain, strict=True))
    assert dcache.stats(core).bytes_now == 0


def test_equal_prompts_tell_nothing():
    gives_up(Pipe(), r"not given u \+ s \(c - u\)", prompt=2.0, negative=2.0)


@pytest.mark.parametrize("method", [BANDS, DROP], ids=["bands", "drop"])
def test_equal_branches_are_predicted_exactly_once_it_is_known_which_is_which(method):
    def negative(i: int) -> float:
        return 1.0 if i == 0 else 4.0

    pipe = dcache.enable(Pipe(), method)
    assert torch.equal(pipe(negative=negative), Pipe()(negative=negative))
    assert dcache.stats(pipe).predicted == 4


# Where there is no guidance ----------------------------------------------------------------------------


def test_two_pictures_without_guidance_are_no_branches():
    pipe = dcache.enable(Pipe(), BANDS)
    with pytest.warns(DcacheWarning, match="nothing was predicted in this run of Core"):
        found = pipe(images=2, scale=None)
    assert set(pipe.core.rows) == {2}
    assert torch.equal(found, Pipe()(images=2, scale=None))
    assert region_of(pipe.core).pair is None
    assert not region_of(pipe.core).useless


def test_two_pictures_without_guidance_after_a_run_of_one_with_it():
    # The shapes are those of the guided run, which was understood.
    pipe = dcache.enable(Pipe(), BANDS)
    pipe()
    assert dcache.stats(pipe).predicted == 4
    with pytest.warns(DcacheWarning, match="nothing was predicted in this run of Core"):
        found = pipe(images=2, scale=None)
    assert torch.equal(found, Pipe()(images=2, scale=None))
    assert dcache.stats(pipe).predicted == 0
    torch.testing.assert_close(pipe(), Pipe()())
    assert dcache.stats(pipe).predicted == 4


@pytest.mark.parametrize("batched", [True, False])
def test_guidance_that_is_switched_off_and_on_again_in_mid_run(batched):
    def scale(i: int) -> float | None:
        return None if i in {3, 4} else 3.0

    plain = Pipe(cond_first=True, batched=batched)(steps=9, scale=scale)
    pipe = dcache.enable(Pipe(cond_first=True, batched=batched), BANDS)
    torch.testing.assert_close(pipe(steps=9, scale=scale), plain, rtol=1e-6, atol=1e-6)
    stats = dcache.stats(pipe)
    if batched:
        # Evaluations 2, 6, 7, 8; at 5 the batch is of another size again, so histories start afresh.
        assert stats.predicted == 4
        assert stats.reasons == {"listed": 1, "shape": 1}
    else:
        assert stats.predicted == 5


def test_guidance_that_begins_late_is_learned_then():
    def scale(i: int) -> float | None:
        return None if i < 2 else 3.0

    pipe = dcache.enable(Pipe(), BANDS)
    torch.testing.assert_close(pipe(scale=scale), Pipe()(scale=scale), rtol=1e-6, atol=1e-6)
    assert region_of(pipe.core).pair == Pair(rows=True, cond_first=False)
    assert dcache.stats(pipe).predicted == 2


# Runs and schedules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("sibling", ["bands", "drop"])
def test_a_trace_is_saved_with_its_sibling_and_replays(batched, sibling, tmp_path):
    def make() -> Pipe:
        return Pipe(cond_first=True, batched=batched)

    pipe = dcache.enable(make(), only_guidance(sibling, 0, 1, 4))
    found, trace = pipe(), dcache.trace(pipe)
    plan = trace.components["core"]
    assert plan.uncond_from == sibling
    rows = {row for sites in plan.rows.values() for row in sites.values()}
    # Where the branches are two calls, the site is one of the second.
    assert (True, True, False, False, True, False) in rows
    loaded = Schedule.load(trace.save(tmp_path / "a.schedule.json"))
    assert loaded == trace
    for fresh in (dcache.enable(make(), loaded), dcache.enable(pipe, loaded)):
        assert torch.equal(fresh(), found)
        assert dcache.stats(fresh).predicted == 3
        assert dcache.trace(fresh).components["core"].rows == plan.rows


def test_a_run_that_was_interrupted_leaves_the_next_one_as_it_was():
    def interrupt(at: int) -> Any:
        def prompt(i: int) -> float:
            if i == at:
                raise KeyboardInterrupt
            return 4.0

        return prompt

    expected = dcache.enable(Pipe(), BANDS)()
    for at in range(1, STEPS):
        pipe = dcache.enable(Pipe(), BANDS)
        with pytest.raises(KeyboardInterrupt):
            pipe(prompt=interrupt(at))
        assert torch.equal(pipe(), expected)
        assert dcache.stats(pipe).predicted == 4
        assert dcache.stats(pipe).bytes_now == 0


def test_an_error_in_the_denoiser_on_half_its_rows_is_forgotten():
    pipe = dcache.enable(Pipe(), BANDS)
    expected = pipe()
    pipe.core.rows.clear()
    original = pipe.core.forward

    def fail(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if x.shape[0] == 1:
            raise RuntimeError("out of memory")
        return original(x, *args, **kwargs)

    pipe.core.forward = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        pipe()
    del pipe.core.forward
    assert torch.equal(pipe(), expected)


def test_a_run_that_computes_everything_is_the_plain_one():
    for method in (only_guidance("bands", *range(STEPS)), only_guidance("drop", *range(STEPS))):
        for batched in (True, False):
            pipe = dcache.enable(Pipe(cond_first=True, batched=batched), method)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "nothing was predicted")
                assert torch.equal(pipe(), Pipe(cond_first=True, batched=batched)())


def test_the_bytes_of_the_bands_are_counted_and_freed():
    pipe = dcache.enable(Pipe(), BANDS)
    pipe(images=2)
    # Two bands of (2, 2, 4, 4) in float32.
    assert dcache.stats(pipe).bytes_held == 2 * 64 * 4
    assert dcache.stats(pipe).bytes_now == 0
    assert region_of(pipe.core).cond is None
    assert region_of(pipe.core).seen.calls == []


def test_the_site_needs_a_method_that_predicts_one_branch_and_sites_that_can_be_halved():
    pipe = SHAPES["sd"].build()
    with pytest.raises(DcacheError, match=r"'guidance' needs a method .*'tgate' or 'fastercache'"):
        dcache.enable(pipe, "interval", sites="guidance")
    for sites in (("guidance", "bracket:0"), ("guidance", "model")):
        with pytest.raises(DcacheError, match="do not support"):
            dcache.enable(pipe, Method("mine", rule=Listed((0,)), sites=sites, uncond_from="drop"))
    with pytest.raises(DcacheError, match="uncond_from must be one of drop, bands"):
        Method("mine", rule=Listed((0,)), uncond_from="mean")


@pytest.mark.parametrize(
    ("time", "low", "high"),
    [(1000, 1, 1), (901, 1, 1), (900, 1.1, 1), (301, 1.1, 1), (300, 1.1, 1.1), (50, 1, 1.1)],
)
def test_the_bands_are_raised_in_their_windows_and_not_ever_more(time, low, high):
    pipe = dcache.enable(Pipe(), BANDS)
    region, session = region_of(pipe.core), session_of(pipe.core)
    assert session is not None
    session.state.run = Run(timesteps=[1000.0, float(time)], started=True, index=1)
    call = Call(Branch("0", 1), 1, 0.0)
    # A constant is low, and a chessboard's row is high.
    c = torch.randn(1, 2, 20, 20, generator=generator(1))
    checks = torch.cos(torch.pi * torch.arange(20.0)).expand(1, 2, 20, 20)
    region.store(call, c, c + 5 + 2 * checks)
    for _ in range(3):
        torch.testing.assert_close(region.decode(c), c + 5 * low + 2 * high * checks, rtol=1e-4, atol=1e-4)
    assert region.history is not None
    assert region.history.run_length == 3
    session.state.run = None


@pytest.mark.parametrize(
    ("made", "cond_first"),
    [(SHAPES["pixart"], False), (SHAPES["sd"], False), (FAMILIES["dit"], True)],
    ids=str,
)
def test_diffusers_halves(made, cond_first):
    pipe = dcache.enable(made.build(), DROP)
    made.run(pipe, "batched")
    assert dcache.stats(pipe).predicted == 5
    assert region_of(made.denoiser(pipe)).pair == Pair(rows=True, cond_first=cond_first)


@pytest.mark.parametrize("shape", ["flux", "wan"])
def test_diffusers_two_calls(shape):
    made = SHAPES[shape]
    pipe = dcache.enable(made.build(), DROP)
    made.run(pipe, "sequential")
    assert region_of(made.denoiser(pipe)).pair == Pair(rows=False, cond_first=True)
    assert dcache.stats(pipe).predicted == 5


def test_a_branch_that_was_left_out_remembers_nothing_when_it_is_called_again():
    """Two calls do as two halves: attention is not predicted from before the calls that were left out."""
    made = SHAPES["wan"]
    pipe = dcache.enable(made.build(), "fastercache", guidance_below=2000.0, attn_below=2000.0)
    made.run(pipe, "sequential", num_inference_steps=14)
    (plan,) = dcache.trace(pipe).components.values()
    rows = plan.rows["uncond"]
    again = [i for i in range(1, 14) if rows["guidance"][i] and not rows["guidance"][i - 1]]
    assert again
    assert all(rows["attn:0"][i] for i in again)


def test_rows_are_found_where_frames_lie_in_the_batch_dimension_too():
    """As in Latte: (rows x frames, tokens, channels)."""
    leaf = torch.arange(12.0).view(6, 2)
    history = History(1, leaves=[(leaf, leaf[:2], leaf[:5])], taus=[0.0], steps=[0])
    fit_rows(history, (2, slice(1, 2)), Codec("value"), mean=False)
    ((frames, rows, other),) = history.leaves
    assert torch.equal(frames, leaf[3:])
    assert torch.equal(rows, leaf[1:2])
    assert torch.equal(other, leaf[:5])
