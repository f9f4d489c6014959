import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.ngram import END, NGram, split_words

TEXTS = ["the cat sat on the mat.", "the cat ran.", "the dog sat on the cat!"]


@given(st.text(alphabet="ab c.,'\n\"é", max_size=60))
def test_words_join_back_to_the_text(text):
    assert "".join(split_words(text)) == text


def test_witten_bell_by_hand():
    model = NGram(order=2, encode=list).fit(["ab", "aa"])
    # unigrams: a 3, b 1, end 2 of 6, three kinds; uniform over 3 known tokens and one unknown
    unigram_a = (3 + 3 * 1 / 4) / (6 + 3)
    assert model.probability("a", []) == pytest.approx(unigram_a)
    # after a: b, a, end once each
    assert model.probability("a", ["a"]) == pytest.approx((1 + 3 * unigram_a) / (3 + 3))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet="abc", max_size=12), min_size=1, max_size=5), st.text(alphabet="abcx", max_size=8),
       st.integers(1, 5))
def test_probabilities_sum_to_one_after_any_context(texts, context, order):
    model = NGram(order=order, encode=list).fit(texts)
    known = sum(model.probability(token, list(context)) for token in model.vocabulary)
    assert known + model.probability("never seen", list(context)) == pytest.approx(1)


def test_perplexity_of_a_certain_text_is_near_one_and_of_a_foreign_one_is_finite():
    model = NGram().fit(["one two three four five six"] * 200)
    assert model.perplexity(["one two three four five six"]) < 1.02
    assert 3 < model.perplexity(["six one"]) < math.inf
    assert math.isfinite(model.perplexity(["quite unheard of"]))


def test_longer_contexts_lower_perplexity_of_like_text():
    held_out = ["the dog sat on the mat."]
    assert NGram(3).fit(TEXTS).perplexity(held_out) < NGram(1).fit(TEXTS).perplexity(held_out)


def test_sampling_follows_the_probabilities():
    model, rng = NGram(order=2, encode=list).fit(["ab", "aa", "b"]), Random(1)
    drawn = Counter(model.next_token(rng, ["a"]) for _ in range(20_000))
    total = sum(model.probability(token, ["a"]) for token in model.vocabulary)           # all but the unknown token's share
    for token in model.vocabulary:
        assert drawn[token] / 20_000 == pytest.approx(model.probability(token, ["a"]) / total, abs=0.02)


def test_samples_repeat_by_seed_and_end():
    model = NGram().fit(TEXTS)
    assert model.sample(Random(3)) == model.sample(Random(3))
    assert len({model.sample(Random(seed)) for seed in range(20)}) > 2
    assert END not in model.sample(Random(3))
    assert len(split_words(model.sample(Random(3), max_tokens=2))) <= 2


def test_any_tokenizer_will_do():
    model = NGram(order=3, encode=lambda text: list(text.encode()), decode=lambda tokens: bytes(tokens).decode())
    assert isinstance(model.fit(TEXTS).sample(Random(1)), str)


@pytest.mark.parametrize("wrong", [lambda: NGram(order=0), lambda: NGram().fit([]), lambda: NGram().sample(Random(1)),
                                   lambda: NGram().fit(TEXTS).perplexity([])])
def test_errors_say_what_to_do(wrong):
    with pytest.raises(ValueError, match="order is 0|pass at least one|call fit first"):
        wrong()
