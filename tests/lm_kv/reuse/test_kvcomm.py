import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.reuse.common import NEW, PARTS, behind, chunks, close, usual, whole


def text(middle: torch.Tensor) -> list[lm_kv.Chunk]:
    """Fixed text, what varies, fixed text."""
    return [chunks()[0], lm_kv.encode(usual(), middle), chunks()[2]]


def others(count: int, length: int = 14) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    return [torch.randint(2, 97, (1, length), generator=draw) for _ in range(count)]


def test_a_text_like_none_before_is_the_whole_prefill_and_an_anchor():
    way = lm_kv.kvcomm()
    joined = lm_kv.join(usual(), text(PARTS[1]), way)
    assert joined.computed == (1.0,)
    close(behind(usual(), joined), whole(usual(), *PARTS))
    (seen,) = way.rule.texts
    assert list(seen.anchors) == [1, 2]
    # The first layer depends on nothing before: nothing changed there.
    for anchor in seen.anchors.values():
        assert anchor.change.keys[0].abs().max() < 1e-5
        assert anchor.change.values[1].abs().max() > 0.1


def test_the_same_text_again_is_exact_for_nothing():
    way = lm_kv.kvcomm()
    lm_kv.join(usual(), text(PARTS[1]), way)
    again = lm_kv.join(usual(), text(PARTS[1]), way)
    assert again.computed == (0.0,)
    close(behind(usual(), again), whole(usual(), *PARTS))
    assert len(way.rule.texts) == 1


def test_a_text_like_an_anchor_is_changed_by_its_anchors_alone():
    way = lm_kv.kvcomm(threshold=0.0)
    for middle in others(3):
        assert lm_kv.join(usual(), text(middle), way).computed == (1.0,)
    way.rule.threshold = 1.0
    joined = lm_kv.join(usual(), text(PARTS[1]), way)
    assert joined.computed == (0.0,)
    assert not bool(joined.tokens.any())
    right = lm_kv.encode(usual(), torch.cat(PARTS, 1)).states
    layers = joined.cache.layers
    close(layers[0].store.tail.keys, right.keys[0])
    # The first part stands where it was computed; the others are near, and not right.
    for index, layer in enumerate(layers[1:], 1):
        close(layer.store.tail.values[:, :, :9], right.values[index][:, :, :9])
        assert (layer.store.tail.values[:, :, 9:] - right.values[index][:, :, 9:]).abs().max() > 0.01
    assert sum(one.uses for one in way.rule.texts) >= 1


def test_longer_chunks_than_the_anchors_are_computed_and_shorter_ones_are_not():
    way = lm_kv.kvcomm(threshold=0.0)
    for middle in others(3):
        lm_kv.join(usual(), text(middle), way)
    way.rule.threshold = 1.0
    assert lm_kv.join(usual(), text(NEW), way).computed == (0.0,)
    assert lm_kv.join(usual(), text(others(1, 15)[0]), way).computed == (1.0,)
    assert len(way.rule.texts) == 4


def test_another_template_shares_nothing():
    way = lm_kv.kvcomm(threshold=0.0)
    for middle in others(3):
        lm_kv.join(usual(), text(middle), way)
    way.rule.threshold = 1.0
    first, middle, last = text(PARTS[1])
    for parts in ([last, middle, first], [first, middle], [first, NEW, middle, last], [first, NEW, last]):
        before = len(way.rule.texts)
        assert lm_kv.join(usual(), parts, way).computed == (1.0,)
        assert len(way.rule.texts) == before + 1
    # The same new text at the same place is a template.
    assert lm_kv.join(usual(), [first, NEW, last], way).computed == (7 / 27,)


def test_the_least_used_of_the_oldest_anchors_goes():
    way = lm_kv.kvcomm(threshold=0.0, anchors=3, window=2)
    for number, middle in enumerate(others(4)):
        if number == 3:
            way.rule.texts[0].anchors[1].uses = 5
            kept = [way.rule.texts[0], way.rule.texts[2]]
        lm_kv.join(usual(), text(middle), way)
    assert way.rule.texts[:2] == kept
    assert len(way.rule.texts) == 3


def test_one_chunk_stands_where_it_was_computed():
    joined = lm_kv.join(usual(), [chunks()[0]], "kvcomm")
    assert joined.computed == (0.0,)
    close(behind(usual(), joined), whole(usual(), PARTS[0]))


@pytest.mark.parametrize(
    ("option", "value"), [("threshold", 1.5), ("threshold", "x"), ("anchors", 1), ("window", 0)]
)
def test_options_outside_their_range_are_refused(option, value):
    with pytest.raises(DcacheError, match=option):
        lm_kv.kvcomm(**{option: value})
