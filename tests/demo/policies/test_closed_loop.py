"""Episodes of a task that can be computed by hand."""

from dcache.demo.policies.closed_loop import run
from dcache.demo.policies.sampling import Sampler
from tests.demo.policies.toy_task import adders, policy

SAMPLER = Sampler("ddim", 4)


def test_episodes_end_by_success_or_at_the_limit() -> None:
    # Chunks are 1, 2, ..., 16, of which 8 are executed. From 5 the sums are 6, 8, 11, 15, 20: solved by
    # the fifth action. From 19 they are 20: by the first. From 6 they are 7, 9, 12, 16, 21 and not 20 again.
    results = {e.seed: e.result for e in run(policy(), adders(3), [5, 19, 6], SAMPLER)}
    assert (results[5].success, results[5].steps, results[5].chunks, results[5].progress) == (True, 5, 1, 1.0)
    assert (results[19].success, results[19].steps, results[19].chunks) == (True, 1, 1)
    # The limit is 30 actions, in four chunks. The nearest it came to 20 was 21.
    assert (results[6].success, results[6].steps, results[6].chunks) == (False, 30, 4)
    assert results[6].progress == 0.95


def test_a_chunk_may_begin_with_what_the_last_one_left() -> None:
    chosen = policy()
    list(run(chosen, adders(1), [6], SAMPLER, warm=1))
    # Four evaluations of the first chunk, then one of each.
    assert chosen.network.calls == [75, 50, 25, 0, 0, 0, 0]


def test_what_a_chunk_left_is_shifted() -> None:
    (episode,) = run(policy(0.5), adders(1), [100], SAMPLER)
    # Actions 9 to 16 of the chunk, then its last one again.
    assert episode.plan[:, 0].tolist() == [*(0.5 * k for k in range(9, 17)), *[8.0] * 8]


def test_pictures_are_kept_where_wanted() -> None:
    (episode,) = run(policy(), adders(1), [5], SAMPLER, filmed=True)
    assert [int(frame[0, 0, 0]) for frame in episode.frames] == [6, 8, 11, 15, 20]
