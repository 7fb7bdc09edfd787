"""Whether a pipeline is being called in a thread is read from the thread's frames."""

import threading
from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Any

from dcache.identity.threads import is_called_in, is_driven_in


def no_grad(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def decorated(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return decorated


class Pipe:
    @no_grad
    def __call__(self, inside: Callable[[], Any]) -> Any:
        return inside()


class Inheriting(Pipe):
    """Has its call from its base."""


def test_only_the_object_whose_call_is_under_way_is_being_called() -> None:
    pipe, other = Inheriting(), Inheriting()
    assert not is_called_in(pipe, get_ident())
    seen = pipe(lambda: (is_called_in(pipe, get_ident()), is_called_in(other, get_ident())))
    assert seen == (True, False)
    assert not is_called_in(pipe, get_ident())


def test_it_is_seen_from_another_thread_until_the_call_ends_or_the_thread_does() -> None:
    pipe, inside, go_on = Pipe(), threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        go_on.wait(timeout=60)
        raise KeyError

    def call() -> None:
        try:
            pipe(wait)
        except KeyError:
            ended.set()
        rest.wait(timeout=60)

    ended, rest = threading.Event(), threading.Event()
    thread = threading.Thread(target=call)
    thread.start()
    assert thread.ident is not None
    assert inside.wait(timeout=60)
    assert is_called_in(pipe, thread.ident)
    go_on.set()
    assert ended.wait(timeout=60)
    # The call raised; the thread goes on.
    assert not is_called_in(pipe, thread.ident)
    rest.set()
    thread.join(timeout=60)
    assert not is_called_in(pipe, thread.ident)


def test_a_loop_with_the_sampler_is_seen_from_another_thread() -> None:
    class Sampler:
        def set_timesteps(self) -> None:
            """Stand for one."""

        def step(self) -> None:
            inside.set()
            go_on.wait(timeout=60)

    def loop(scheduler: Sampler) -> None:
        scheduler.step()

    inside, go_on, sampler = threading.Event(), threading.Event(), Sampler()
    thread = threading.Thread(target=loop, args=(sampler,))
    thread.start()
    assert thread.ident is not None
    assert inside.wait(timeout=60)
    assert is_driven_in(sampler, thread.ident)
    assert not is_driven_in(Sampler(), thread.ident)
    go_on.set()
    thread.join(timeout=60)
    assert not is_driven_in(sampler, thread.ident)
