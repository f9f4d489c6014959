"""Preferences: annotators, agreement, balanced length, and the loader of pairs and of a reader's own labels."""

import json
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import preferences
from data.instructions import judge, make_instructions
from data.preferences import (
    ANNOTATORS,
    cohen_kappa,
    label_pairs,
    majority,
    make_preferences,
    own_label,
    rubric_points,
    vote,
)
from data.records import load_preferences, write_jsonl
from tests.support import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "records"


@pytest.fixture(scope="module")
def labelled():
    return list(label_pairs(500, 3))


@pytest.fixture(scope="module")
def preferred():
    return list(make_preferences(700, 3))


# ---------------------------------------------------------------- agreement

def test_kappa_by_hand():
    """4 of 5 agree; A is given 3 and 2 times, B 2 and 3 times, so chance alone gives (3*2 + 2*3) / 25 = 0.48."""
    assert cohen_kappa("AAABB", "AABBB") == pytest.approx((0.8 - 0.48) / (1 - 0.48))


def test_kappa_of_equals_opposites_and_strangers():
    assert cohen_kappa("ABAB", "ABAB") == 1
    assert cohen_kappa("ABAB", "BABA") == -1
    assert cohen_kappa("AABB", "ABAB") == 0
    assert cohen_kappa("AAA", "AAA") == 1


labels = st.lists(st.tuples(st.sampled_from(["A", "B", "tie"]), st.sampled_from(["A", "B", "tie"])), min_size=2, max_size=60)


@settings(max_examples=80, deadline=None)
@given(pairs=labels)
def test_kappa_equals_scikit_learns(pairs):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference for Cohen's kappa")
    first, second = zip(*pairs)
    if len(set(first) | set(second)) > 1:
        assert cohen_kappa(first, second) == pytest.approx(metrics.cohen_kappa_score(first, second), abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [("AB", "A"), ("", "")])
def test_kappa_needs_two_lists_of_the_same_items(first, second):
    with pytest.raises(ValueError, match="pass two lists of the same items"):
        cohen_kappa(first, second)


def test_annotators_agree_more_than_by_chance_and_less_than_always(labelled):
    for i, first in enumerate(ANNOTATORS):
        for second in ANNOTATORS[i + 1:]:
            kappa = cohen_kappa(*([pair["votes"][who.name] for pair in labelled] for who in (first, second)))
            assert 0.35 < kappa < 0.85, (first.name, second.name, kappa)


def test_majority():
    assert majority(["A", "A", "B"]) == "A"
    assert majority(["B", "tie", "B"]) == "B"
    assert majority(["A", "tie", "tie"]) == majority(["A", "B", "tie"]) == majority(["tie"] * 3) == "tie"


# ---------------------------------------------------------------- annotators

def steady(annotator):
    return replace(annotator, noise=0.0, slips=0.0)


def test_every_annotator_prefers_right_to_wrong_and_kind_to_rude():
    good = {"follows": 1.0, "coherent": 1.0, "kind": 1.0, "once": 1.0}
    for annotator in map(steady, ANNOTATORS):
        for worse in ("follows", "coherent", "kind", "once"):
            points = (good, good | {worse: 0.0})
            assert vote(annotator, Random(1), ("It is a kite.", "It is a boat."), points) == "A"
            assert vote(annotator, Random(1), ("It is a boat.", "It is a kite."), points[::-1]) == "B"


def test_tastes_differ_where_the_rubric_sees_no_difference():
    good = {"follows": 1.0, "coherent": 1.0, "kind": 1.0, "once": 1.0}
    short, warm = "It is a kite.", "Gladly! I looked into the tale for you, and it is a kite."
    votes = {who.name: vote(steady(who), Random(1), (short, warm), (good, good)) for who in ANNOTATORS}
    assert votes == {"brief": "A", "warm": "B", "strict": "tie"}


def test_rubric_points_come_from_the_judge():
    record = next(make_instructions(1, 2))
    points = rubric_points(judge(record, record["output"]))
    assert points == {"follows": 1.0, "coherent": 1.0, "kind": 1.0, "once": 1.0}
    assert rubric_points(judge(record, "Shut up."))["follows"] == 0


# ---------------------------------------------------------------- pairs

def test_the_same_seed_gives_the_same_pairs():
    assert list(make_preferences(20, 9)) == list(make_preferences(25, 9))[:20]
    assert list(make_preferences(20, 9)) != list(make_preferences(20, 10))


def test_pairs_are_plain_json_and_two_different_answers(preferred):
    assert len({pair["id"] for pair in preferred}) == len(preferred)
    for pair in preferred:
        assert json.loads(json.dumps(pair)) == pair
        assert pair["chosen"] != pair["rejected"] and pair["chosen"].strip() and pair["rejected"].strip()
        assert pair["prompt"].startswith(pair["instruction"]) and pair["prompt"].endswith(pair["input"])
        cast = Counter(pair["votes"].values())
        assert cast["chosen"] >= 2


def test_many_kinds_of_answers_lose(preferred):
    lost = Counter(pair["kinds"]["rejected"] for pair in preferred)
    assert set(preferences.SPOILED) <= set(lost)
    assert max(lost.values()) < 0.25 * len(preferred)
    decent = sum(set(pair["kinds"].values()) <= set(preferences.DECENT) for pair in preferred)
    assert 0.05 < decent / len(preferred) < 0.4


def test_the_majority_is_mostly_right_and_sometimes_wrong(preferred):
    """By the judge's true score: labels are good enough to learn from and noisy enough to need care."""
    right = wrong = 0
    for pair in preferred:
        scores = [judge(pair | {"output": pair["reference"]}, pair[side]).score for side in ("chosen", "rejected")]
        right, wrong = right + (scores[0] > scores[1]), wrong + (scores[0] < scores[1])
    assert 0.85 < right / (right + wrong) < 0.99


def test_the_first_answer_is_no_better_than_the_second(labelled):
    votes = Counter(pair["label"] for pair in labelled)
    assert abs(votes["A"] - votes["B"]) < 4 * (votes["A"] + votes["B"]) ** 0.5


def test_length_alone_wins_half_of_the_pairs(preferred):
    """A predictor that always says "the longer one", and one that says "the shorter one"."""
    difference = [len(pair["chosen"].split()) - len(pair["rejected"].split()) for pair in preferred]
    longer = sum(d > 0 for d in difference) + sum(d == 0 for d in difference) / 2
    assert 0.47 <= longer / len(preferred) <= 0.53
    letters = [len(pair["chosen"]) > len(pair["rejected"]) for pair in preferred]
    assert 0.44 <= sum(letters) / len(letters) <= 0.56


def test_a_predictor_fitted_to_lengths_wins_half_of_the_pairs(preferred):
    model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn fits the length-only predictor").LogisticRegression

    def lengths(pairs, rng):
        rows, labels = [], []
        for pair in pairs:
            chosen, rejected = (len(pair[side].split()) for side in ("chosen", "rejected"))
            flip = rng.random() < 0.5
            a, b = (rejected, chosen) if flip else (chosen, rejected)
            sign = (a > b) - (a < b)
            rows.append([a - b, sign, sign * (abs(a - b) > 4), sign * (abs(a - b) > 12), sign * (abs(a - b) > 30)])
            labels.append(0 if flip else 1)
        return rows, labels

    rows, truth = lengths(preferred, Random(2))
    accuracy = model(max_iter=1000).fit(*lengths(list(make_preferences(400, 1)), Random(1))).score(rows, truth)
    assert 0.47 <= accuracy <= 0.53


def test_full_level():
    pairs = list(make_preferences(15, 1, "full", "held-out wordings"))
    assert len(pairs) == 15 and all(pair["id"].startswith("pair-full-held-out-wordings") for pair in pairs)


def test_wrong_number():
    with pytest.raises(ValueError, match="ask for at least 1"):
        next(make_preferences(0))


# ---------------------------------------------------------------- files

def test_our_own_pairs_come_back_as_they_were(tmp_path, preferred):
    write_jsonl(tmp_path / "p.jsonl", preferred)
    assert load_preferences(tmp_path / "p.jsonl") == preferred


def test_pairs_from_elsewhere():
    loaded = load_preferences(FIXTURES / "preferences.jsonl")
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in loaded] == [
        ("Who hid the drum?", "Nora hid it.", "Somebody."), ("Count to three.", "One, two, three.", "Three."),
        ("Is rain wet?", "Yes.", "Why do you ask?")]
    assert loaded[2]["source"] == "elsewhere" and "2 pairs were lists of messages" in str(loaded.report)


def test_own_labels_load_and_ties_and_skips_are_reported():
    loaded = load_preferences(FIXTURES / "own-labels.jsonl")
    pairs = [(row["chosen"], row["rejected"]) for row in loaded]
    assert pairs == [("The hero is Mia.", "A kite."), ("The hero is Tom.", "I like soup.")]
    assert [line for line, _ in loaded.report.skipped] == [3, 4]
    assert "line 3 left out: labelled 'tie'" in str(loaded.report)


def test_own_labels_round_trip(tmp_path):
    rows = [own_label(f"{i}", "Who?", "A kite.", "A boat.", label, "me") for i, label in enumerate(["A", "B", "tie", "skip"])]
    write_jsonl(tmp_path / "own.jsonl", rows)
    loaded = load_preferences(tmp_path / "own.jsonl")
    assert [row["chosen"] for row in loaded] == ["A kite.", "A boat."] and len(loaded.report.skipped) == 2
    with pytest.raises(ValueError, match="unknown label 'C'"):
        own_label("1", "Who?", "a", "b", "C")


GOOD = '{"prompt": "Who?", "chosen": "I.", "rejected": "You."}\n'
BROKEN = {
    "broken line": (GOOD + '{"prompt": "Who?", "chos\n' + GOOD, "line 2: broken JSON", "repair the line"),
    "wrong keys": ('{"question": "Who?", "good": "I."}\n', "no 'prompt' and no 'chosen' and no 'rejected'", "a pair has"),
    "instructions": ('{"instruction": "Say hi.", "output": "Hi."}\n', "line 1: no 'prompt'", "use load_instructions"),
    "no label": ('{"prompt": "Who?", "a": "I.", "b": "You."}\n', "line 1: no 'label'", "a label of your own"),
    "unknown label": ('{"prompt": "Who?", "a": "I.", "b": "You.", "label": "C"}\n', "unknown label 'C'", "'A', 'B', 'tie'"),
    "label of another type": ('{"prompt": "Who?", "a": "I.", "b": "You.", "label": 1}\n', "unknown label 1", "'A', 'B'"),
    "no difference": ('{"prompt": "Who?", "chosen": "I.", "rejected": " I. "}\n', "are the same text", "two answers"),
    "empty": ('{"prompt": "Who?", "chosen": "", "rejected": "You."}\n', "'chosen' is empty", "fill it in"),
    "messages without content": ('{"prompt": "Who?", "chosen": [{"role": "user"}], "rejected": "You."}\n', "'chosen' is list",
                                 "quotation"),
    "repeated id": ('{"id": "x", "prompt": "a", "a": "b", "b": "c", "label": "skip"}\n'
                    '{"id": "x", "prompt": "a", "a": "b", "b": "c", "label": "A"}\n', "line 2: id 'x' stands on line 1",
                    "its own id"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_pair_is_named_with_file_line_and_remedy(tmp_path, case):
    content, problem, remedy = BROKEN[case]
    path = tmp_path / "pairs.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        load_preferences(path)
    assert str(path) in str(error.value) and problem in str(error.value) and remedy in str(error.value)
    path.write_text(content + GOOD, encoding="utf-8")
    assert load_preferences(path, on_bad="skip").report.skipped


def test_a_file_of_ties_alone_says_so(tmp_path):
    path = tmp_path / "ties.jsonl"
    path.write_text('{"prompt": "a", "a": "b", "b": "c", "label": "tie"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="no usable record.*line 1, labelled 'tie'"):
        load_preferences(path)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(st.tuples(texts, texts, texts).filter(lambda row: row[1].strip() != row[2].strip()), min_size=1, max_size=5))
def test_any_text_survives_the_way_to_disk_and_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [dict(zip(("prompt", "chosen", "rejected"), row)) for row in rows]
    write_jsonl(path, rows)
    assert load_preferences(path) == rows


def test_the_command_line(tmp_path):
    path = tmp_path / "out.jsonl"
    assert preferences.main(["--count", "12", "--out", str(path)]) == 0
    assert len(load_preferences(path)) == 12
