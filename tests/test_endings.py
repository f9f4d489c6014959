"""Endings: balanced twins, labels that can be read out of the text, and word counts that fail."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import endings
from data.endings import HAPPY, SAD, load_endings, make_pair, read_ending
from data.tales import LEVELS


@pytest.mark.parametrize("level", LEVELS)
def test_balanced_distinct_and_the_same_for_the_same_seed(level):
    tales = load_endings(300, 4, level)
    assert Counter(label for _, label in tales) == {HAPPY: 150, SAD: 150}
    assert len({text for text, _ in tales}) == 300
    assert tales == load_endings(300, 4, level) and tales != load_endings(300, 5, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", endings.SPLITS)
def test_every_label_can_be_read_out_of_the_text(level, split):
    for text, label in load_endings(600, 1, level, split):
        assert read_ending(text) == label, text


def words(text):
    return Counter(text.lower().replace(".", "").replace(",", "").split())


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10 ** 9), level=st.sampled_from(LEVELS))
def test_twins_have_the_same_words_but_for_the_verdict(seed, level):
    happy, sad = make_pair(seed, level)
    assert happy != sad
    only_happy, only_sad = words(happy) - words(sad), words(sad) - words(happy)
    assert (only_happy | only_sad).keys() <= {"right", "wrong"} and sum(only_happy.values()) <= 1


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10 ** 9), level=st.sampled_from(LEVELS))
def test_tales_are_whole_sentences(seed, level):
    for text in make_pair(seed, level):
        assert text.endswith(".") and "{" not in text and "  " not in text
        assert all(part[0].isupper() or not part[0].isalpha() for part in text.split(". "))
        assert 25 <= len(text.split()) <= 130


@pytest.mark.parametrize("level", LEVELS)
def test_counting_words_fails(level):
    pytest.importorskip("sklearn", reason="scikit-learn counts the words here")
    train, test = load_endings(1600, 1, level), load_endings(1000, 2, level, "combinations")
    assert endings.word_count_accuracy(train, test, 1) < 0.6
    assert endings.word_count_accuracy(train, test, 2) < 0.65


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n": 0}, "an even number above 0"), ({"n": 3}, "an even number above 0"), ({"n": 2, "level": "hard"}, "unknown level 'hard'"),
    ({"n": 2, "split": "skeletons"}, "unknown split 'skeletons'")])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_endings(**arguments)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_can_be_read(text):
    assert read_ending(text) in (None, HAPPY, SAD)


def test_the_command_line(tmp_path, capsys):
    assert endings.main(["--count", "20", "--out", str(tmp_path / "endings.jsonl")]) == 0
    assert len((tmp_path / "endings.jsonl").read_text(encoding="utf-8").splitlines()) == 20
    with pytest.raises(SystemExit):
        endings.main(["--count", "7"])
    assert "they come in pairs" in capsys.readouterr().err
