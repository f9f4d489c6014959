import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.measure_checker import FACTS, SPOILERS, measure_sound, measure_spoiled, tales_with_ends
from data.ngram import NGram
from data.read_tale import (
    SKILLS,
    TrainingIndex,
    Violation,
    check_tale,
    longest_copied_span,
    passes,
    quotes_pair,
    read_tale,
    skills,
)
from data.tales import LEVELS, SPLITS, generate_tales
from tests.support import ROOT

FIXTURES = Path(__file__).parent / "fixtures" / "tales"


def fixture(name: str) -> list[tuple[str, str, str]]:
    """(level, the violation that must be found, text) of each tale written by hand."""
    entries = (FIXTURES / name).read_text(encoding="utf-8").split("<|endoftext|>\n")
    heads = [entry.partition("\n") for entry in entries]
    return [(*head.removeprefix("# ").partition(": ")[::2], text) for head, _, text in heads]


GOOD, WRONG = fixture("good.txt"), fixture("wrong.txt")
KITE = GOOD[0][2]


def names(text: str, level: str = "simple") -> set[str]:
    return {violation.name for violation in read_tale(text, level).violations}


# ---------------------------------------------------------------- tales written by hand

def test_sound_tales_by_hand_pass():
    refused = [(text[:60], read_tale(text, level).violations) for level, _, text in GOOD if not passes(text, level)]
    assert len(GOOD) == 30
    # One is refused and known to be: a balloon bursts, and everybody laughs at that.
    assert [violation.name for _, violations in refused for violation in violations] == ["celebrated unsolved"], refused


@pytest.mark.parametrize(("level", "wanted", "text"), WRONG, ids=[f"{level}-{wanted}" for level, wanted, _ in WRONG])
def test_the_mistake_in_a_tale_by_hand_is_named(level, wanted, text):
    assert wanted in names(text, level)


def test_facts_of_a_tale_by_hand():
    reading = read_tale(KITE, "simple")
    assert (reading.hero, reading.kind, reading.pronoun, reading.trait) == ("Ben", "boy", "he", "brave")
    assert (reading.object, reading.problem, reading.solved, reading.ending) == ("kite", "taken", True, "happy")
    assert reading.helper == "bird"
    assert len(reading.sentences) == 13
    companion = next(text for _, _, text in GOOD if "his sister Anna" in text)
    assert read_tale(companion, "simple").companion == "Anna"
    assert read_tale(companion, "simple").place == "the lake"


def test_what_only_looks_like_a_fact():
    """A kitchen table is no place, "it was quiet" nobody's trait, a cat on the sofa not the hero's kind, a glad laugh no joke."""
    reading = read_tale("""At number four lived a girl called Vera, with a cat who owned the sofa.

It was so quiet that Vera heard the clock at the kitchen table.

Vera was brave. She took her tin cup to the orchard, and there it rolled under a shed. She could not see it.

A mouse came by. "I will go in," said the mouse. Soon the mouse pushed the cup out.

Vera had the cup back. She was so happy that she laughed.""", "full")
    assert (reading.kind, reading.place, reading.trait) == ("girl", "the orchard", "brave")
    assert (reading.helper, reading.ending, reading.violations) == ("mouse", "happy", [])


# ---------------------------------------------------------------- generated tales

@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", SPLITS)
def test_generated_tales_are_read_rightly(level, split):
    told = tales_with_ends(120, 11, level, split)
    result = measure_sound(told, level)
    assert result["pass"] >= (0.95 if split != "skeletons" else 0.9), result["violations"]
    for fact in FACTS:
        assert result["facts agree"][fact] >= 0.97, (fact, result["facts agree"])
    assert result["all facts agree"] >= 0.95                              # of 120 tales; 1,000 of each split give 0.98 and more


FLOOR = {"simple": 0.85, "full": 0.85}
HARD = {"full": {"ending of the other mood": 0.1, "pronouns flipped half-way": 0.4}}


@pytest.mark.parametrize("level", LEVELS)
def test_spoiled_tales_are_refused(level):
    result = measure_spoiled(tales_with_ends(250 if level == "simple" else 120, 12, level, "train"), level, seed=1)
    assert result["ending of the other mood, read with the plan"]["objects"] >= 0.95
    assert result["sentences shuffled"]["objects"] >= 0.93                # of 120 tales; 600 of each split give 0.95 and more
    for kind in SPOILERS:
        assert result[kind]["objects"] >= HARD.get(level, {}).get(kind, FLOOR[level]), (kind, result[kind])


def test_the_5_gram_model_is_refused():
    rng = Random(2)
    model = NGram().fit(text for _, text in generate_tales(1500, 3, "simple"))
    written = [model.sample(rng) for _ in range(150)]
    assert sum(not passes(text, "simple") for text in written) / 150 >= 0.97
    grammatical = sum(skills(text, "simple")["grammar"] for text in written) / 150
    same_hero = sum(skills(text, "simple")["hero keeps the name"] for text in written) / 150
    assert grammatical > 0.6 > 0.3 > same_hero


def test_a_plan_is_compared_fact_by_fact():
    (plan, text), (other, _) = list(generate_tales(2, 4, "simple"))
    assert not [v for v in check_tale(text, plan) if v.name.startswith("wrong")]
    wrong = {v.name for v in check_tale(text, other)}
    assert "wrong hero" in wrong
    assert isinstance(check_tale(text, other)[-1], Violation)


# ---------------------------------------------------------------- skills, odd input

def test_each_violation_belongs_to_one_skill():
    owned = [name for violations in SKILLS.values() for name in violations]
    assert len(owned) == len(set(owned))
    assert {wanted for _, wanted, _ in WRONG} <= set(owned)


def test_skills_are_told_apart():
    assert all(skills(KITE, "simple").values())
    broken = skills(KITE.replace("Down came the kite! Ben", "Down came the kite! Tom"), "simple")
    assert not broken["hero keeps the name"] and broken["grammar"] and broken["object kept"] and broken["ending told"]
    assert [skill for skill, kept in skills(KITE[:-9], "simple").items() if not kept][-1] == "finished"


@pytest.mark.parametrize("text", ['HE0my kite"', "He's 's my kite \"", 'She said, "my dog"'])
def test_a_tale_without_a_hero_can_be_read(text):
    for level in LEVELS:
        assert not passes(text, level)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from([*KITE.split(), '"', "*", "\n\n", "a"]), max_size=60).map(" ".join),
       st.sampled_from(LEVELS))
def test_anything_can_be_read(text, level):
    reading = read_tale(text, level)
    assert set(skills(text, level)) == set(SKILLS)
    assert not reading.violations or not passes(text, level)


@pytest.mark.parametrize(("said", "sound"), [
    ('"Why?" asked Ben. "It is gone."', True), ('*"Caw,"* said the crow. "Go on."', True), ('He said ("no") and left.', True),
    ('"Two noses," said Ben, "are warmer than one. "Go on.', False), ('It needs a new one." The troll slept.', False),
    ('"Go on.', False),
])
def test_quotation_marks_open_and_close_in_turn(said, sound):
    assert quotes_pair(said) == sound


def test_what_shuffling_leaves_behind_is_named():
    late = KITE.replace(KITE.split(". ")[0] + ". ", "") + " " + KITE.split(". ")[0] + "."
    assert names(late) & {"introduced late", "no introduction", "not introduced"}
    assert "no introduction" in names("At last the kite came down. " + KITE)
    assert "no introduction" not in names("They say that a kite can hear. " + KITE)
    assert "quotation" in names(KITE + ' "Go." asked Ben.')


def test_no_text_and_no_such_level():
    assert not any(skills(" \n", "simple")[skill] for skill in ("hero keeps the name", "object kept", "ending told", "finished"))
    with pytest.raises(ValueError, match="unknown level 'hard'"):
        read_tale(KITE, "hard")


# ---------------------------------------------------------------- copying

def test_longest_copied_span_by_hand():
    index = TrainingIndex(["one two three four five six seven eight nine ten", "eleven twelve one two three"], run=3, stride=2)
    assert longest_copied_span("Now: three, four, five, six, SEVEN and eight nine ten", index) == (5, "three four five six seven")
    assert longest_copied_span("nine ten eleven twelve", index)[0] < 4                     # not across two texts
    assert longest_copied_span("nothing of it at all here", index) == (0, "")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcde"), min_size=30, max_size=60), st.integers(0, 20), st.integers(9, 30), st.integers(1, 6))
def test_every_long_copied_span_is_found(training, start, length, stride):
    index = TrainingIndex([" ".join(training)], run=4, stride=stride)
    copied = training[start:start + max(length, 4 + stride - 1)]
    if len(copied) >= 4 + stride - 1:
        assert longest_copied_span(" ".join(["x", *copied, "y"]), index)[0] >= len(copied)


def test_training_text_beyond_the_limit_is_refused():
    with pytest.raises(ValueError, match="more than 5 words; index a part"):
        TrainingIndex(["one two three", "four five six"], max_words=5)


def test_a_reading_does_not_depend_on_how_python_hashes():
    """In the last of these tales two traits are told equally often; a set's order once decided between them."""
    program = ("from data.read_tale import read_tale\nfrom data.tales import generate_tales\n"
               "*_, (_, text) = generate_tales(71, 11, 'full', 'train')\nprint(read_tale(text, 'full'))")
    readings = [subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, check=True,
                               capture_output=True, encoding="utf-8").stdout for seed in ("0", "1")]
    assert readings[0] == readings[1]
