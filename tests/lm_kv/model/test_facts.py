from dcache.lm_kv.model.facts import difference, facts_of
from tests.lm_kv.language_models import family, llama


def test_models_of_one_class_and_sizes_are_alike():
    facts = facts_of(llama(2).model, [0, 1])
    assert difference(facts, facts_of(llama(2).model, [0, 1])) is None
    assert facts["class"] == "LlamaModel"
    assert facts["full_attention"] == [0, 1]


def test_what_differs_is_said_of_both():
    two, three = facts_of(llama(2).model, [0, 1]), facts_of(llama(3).model, [0, 1])
    assert difference(two, three) == ("num_hidden_layers 2", "num_hidden_layers 3")
    other = facts_of(family("gemma2").model, [1])
    assert "class LlamaModel" in difference(two, other)[0]
    assert "class Gemma2Model" in difference(two, other)[1]
    # A file that knows less than is asked is of another model.
    assert difference({}, {"class": "A"}) == ("class None", "class A")
