"""Episodes of one conversation: clusters, what is kept for each, and which one a question gets."""

import sys
import types
from dataclasses import replace

import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama

IDS = batch(pads=0)["input_ids"][1]
TURNS = list(IDS.split(8))
# Two directions; the fourth segment lies between them, nearer to the second.
POINTS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.6, 0.8], [0.0, 1.0]])


def embed(texts):
    """The points of segments; other texts: where they begin with 2 the first, else the second."""
    known = {tuple(turn.tolist()): point for turn, point in zip(TURNS, POINTS, strict=True)}
    like = [POINTS[0] if int(text[0]) == 2 else POINTS[1] for text in texts]
    return torch.stack(
        [known.get(tuple(text.tolist()), point) for text, point in zip(texts, like, strict=True)]
    )


def positions(cache, layer):
    segment = cache.layers[layer].store.segments[0]
    return [run.tolist() for run in segment.positions.split(segment.sizes)]


def test_one_block_keeps_what_a_second_reading_of_the_medoids_attends_to():
    model = llama(2)
    memory = lm_kv.episodes(model, TURNS, 10, embed=embed, clusters=[0, 1, 0, 1, 1], medoids=2)
    assert memory.labels == (0, 1, 0, 1, 1)
    # The cosines with (.2, .93), the second centroid, are .98, .88 and .98.
    assert memory.medoids == ((0, 2), (1, 4))
    torch.testing.assert_close(memory.centroids, torch.tensor([[1.0, 0.0], [0.2, 2.8 / 3]]))
    for cache, some in zip(memory.caches, memory.medoids, strict=True):
        plain = lm_kv.KVCache(model, replace(lm_kv.kvzip(allocation="heads"), floor=0.0), budget=10)
        with plain.hold(), torch.no_grad():
            model(IDS[None], past_key_values=plain)
        plain.compress(context=torch.cat([TURNS[i] for i in some])[None])
        assert [positions(cache, i) for i in range(2)] == [positions(plain, i) for i in range(2)]
    assert positions(memory.caches[0], 1) != positions(memory.caches[1], 1)
    assert memory.nbytes == sum(cache.nbytes for cache in memory.caches)


def test_blocks_bound_what_is_held_at_once():
    model = llama(2)
    memory = lm_kv.episodes(model, TURNS, 10, embed=embed, clusters=[0, 1, 0, 1, 1], block=8)
    whole = lm_kv.episodes(model, TURNS, 10, embed=embed, clusters=[0, 1, 0, 1, 1])
    for cache, other in zip(memory.caches, whole.caches, strict=True):
        assert cache.stats().kept == other.stats().kept == (10.0,)
        assert cache.stats().seen == (40,)
        # The first block fits the budget, so four of the five are followed by an eviction.
        assert cache.stats().evictions == 4
        assert cache.stats().peak_bytes < 0.6 * other.stats().peak_bytes


@torch.no_grad()
def test_a_budget_of_everything_answers_as_the_whole_conversation():
    model = llama(2)
    memory = lm_kv.episodes(model, TURNS, 1.0, embed=embed, clusters=[0, 1, 0, 1, 1], block=16)
    question = torch.tensor([2, 9, 11])
    ids = torch.cat([memory.ids, question[None]], 1)
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    own = model.generate(ids, past_key_values=memory.cache(question), **options)
    full = model.generate(ids, **options)
    assert torch.equal(own.sequences, full.sequences)
    torch.testing.assert_close(torch.stack(own.logits), torch.stack(full.logits), atol=1.5e-5, rtol=0)


def test_a_question_gets_the_cache_of_its_episode_which_stays_as_it_is():
    model = llama(1)
    memory = lm_kv.episodes(model, TURNS, 10, embed=embed, clusters=[0, 1, 0, 1, 1])
    first, second = torch.tensor([2, 5]), torch.tensor([[3, 5]])
    assert (memory.nearest(first), memory.nearest(second)) == (0, 1)
    held, cache = memory.caches[1].stats(), memory.cache(second)
    model.generate(
        torch.cat([memory.ids, second], 1), past_key_values=cache, max_new_tokens=3, do_sample=False
    )
    assert cache.stats().seen == (44,)
    assert memory.caches[1].stats() == held
    # Question and answer lie beside what was kept.
    assert positions(cache, 0) == positions(memory.caches[1], 0)
    assert cache.stats().kept == (14.0,)


def test_the_models_input_embeddings_serve_without_a_callable():
    model = llama(1)
    memory = lm_kv.episodes(model, TURNS, 10, clusters=[0, 1, 2, 3, 4], medoids=1)
    table = model.get_input_embeddings().weight
    mean = torch.nn.functional.normalize(table[TURNS[3]].mean(0), dim=0)
    torch.testing.assert_close(memory.centroids[3], mean)
    assert [memory.nearest(turn) for turn in TURNS] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("question", [[2, 9], IDS[:0], IDS.float()], ids=range(3))
def test_a_question_that_is_no_ids_is_refused(question):
    memory = lm_kv.episodes(llama(1), TURNS, 10, embed=embed, clusters=1)
    with pytest.raises(DcacheError, match="a question must be ids int64"):
        memory.cache(question)


def test_clusters_come_from_scikit_learn(monkeypatch):
    class KMeans:
        def __init__(self, **options):
            assert options == {"n_clusters": 3, "n_init": 10, "random_state": 42}

        def fit_predict(self, points):
            assert abs((points**2).sum(1) - 1).max() < 1e-6
            # One of the three clusters is empty.
            return [2, 0, 2, 0, 0]

    package, module = types.ModuleType("sklearn"), types.ModuleType("sklearn.cluster")
    package.__spec__ = types.SimpleNamespace()
    module.KMeans = KMeans
    monkeypatch.setitem(sys.modules, "sklearn", package)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", module)
    memory = lm_kv.episodes(llama(1), TURNS, 10, embed=embed, clusters=3)
    assert memory.labels == (1, 0, 1, 0, 0)


def test_without_scikit_learn_clusters_are_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DcacheError, match=r"needs scikit-learn.*clusters=\[0, 0, 1\]"):
        lm_kv.episodes(llama(1), TURNS, 10, embed=embed)
    assert lm_kv.episodes(llama(1), TURNS, 10, embed=embed, clusters=1).labels == (0,) * 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"clusters": [0, 1]}, "clusters must be a whole number, or 5"),
        ({"clusters": [0, 2, 0, 2, 0]}, "none left out"),
        ({"clusters": "two"}, "clusters must be a whole number"),
        ({"clusters": 9}, "at most the number of segments, 5"),
        ({"clusters": 0}, "clusters must be a whole number of at least 1"),
        ({"policy": "snapkv"}, "snapkv does not read the medoids.*such as kvzip"),
        ({"policy": "speckv"}, "speckv does not read the medoids"),
        ({"embed": lambda texts: torch.zeros(1, 2)}, r"embed must return a tensor \[5, D\]"),
        ({"segments": [IDS[None]]}, "segments must be"),
        ({"segments": []}, "segments must be"),
        ({"block": 0}, "block must be"),
        ({"medoids": 0}, "medoids must be"),
        ({"budget": 0}, "budget must be"),
        ({"segments": 5}, "segments must be"),
        ({"policy": 5}, "policy must be an lm_kv.Policy or the name of one, got 5"),
        ({"embed": 5}, "embed must be a function"),
    ],
    ids=range(16),
)
def test_what_makes_no_episodes_is_refused(more, message):
    arguments = {"segments": TURNS, "budget": 10, "embed": embed, "clusters": [0, 1, 0, 1, 1], **more}
    with pytest.raises(DcacheError, match=message):
        lm_kv.episodes(llama(1), **arguments)
