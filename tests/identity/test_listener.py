"""A listener that overrides nothing watches a sampler without any effect."""

import torch
from diffusers import DDIMScheduler

from dcache.identity.listener import Listener
from dcache.identity.sampler import tap


def test_a_listener_that_overrides_nothing_ends_a_run_behind_the_last_step() -> None:
    sampler, plain, listener = DDIMScheduler(), DDIMScheduler(), Listener()
    watched = tap(sampler, listener)
    x = torch.ones(1, 2, 4, 4)
    for each in (sampler, plain):
        each.set_timesteps(2)
    assert watched.run is not None
    watched.run.place(float(sampler.timesteps[0]), None)
    a = b = x
    for t in sampler.timesteps:
        assert watched.run is not None
        watched.run.calls += 1
        a = sampler.step(x, t, a).prev_sample
        b = plain.step(x, t, b).prev_sample
    assert torch.equal(a, b)
    assert watched.run is None
    with listener.here():
        assert not listener.is_copied({})
    assert listener.watch_of(object()) is None
