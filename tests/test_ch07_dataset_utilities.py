"""The bonus on data: MinHash against all pairs, leakage, balance, the three commands and their errors."""

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import program

utilities = program("ch07/02_bonus_dataset-utilities/dataset_utilities.py")
WORDS = [f"word{i}" for i in range(400)]


def texts(n, seed=0):
    rng = Random(seed)
    return [" ".join(rng.choices(WORDS, k=40)) for _ in range(n)]


def changed(text, n, seed=0):
    words, rng = text.split(), Random(seed)
    for i in rng.sample(range(len(words)), n):
        words[i] = f"new{i}"
    return " ".join(words)


def test_jaccard_by_hand():
    assert utilities.jaccard(utilities.shingles("the red bell is gone"), utilities.shingles("The red bell, is here!")) == 0.5
    assert len(utilities.shingles("one two")) == len(utilities.shingles("")) == 1


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 60))
def test_signatures_estimate_the_similarity(a, b, both):
    numbers = Random(a * 10_000 + b * 100 + both).sample(range(2**32), a + b + both)
    one, two = set(numbers[:a + both]), set(numbers[a:])
    signed = utilities.signatures([one, two], size=2_000)
    assert abs((signed[0] == signed[1]).mean() - utilities.jaccard(one, two)) < 0.06


def test_minhash_finds_what_comparing_all_finds():
    base = texts(60)
    every = base + [changed(text, n, i) for i, (text, n) in enumerate(zip(base, [0, 1, 2, 3, 20, 30] * 10, strict=True))]
    sets = [utilities.shingles(text) for text in every]
    slowly = {(i, j) for j in range(len(every)) for i in range(j) if utilities.jaccard(sets[i], sets[j]) >= 0.6}
    found = utilities.near_duplicates(every, 0.6)
    assert {(i, j) for _, i, j in found} == slowly and len(slowly) > 20
    assert [s for s, *_ in found] == sorted((s for s, *_ in found), reverse=True)
    assert len(utilities.candidates(utilities.signatures(sets))) < 300                  # of 7,140 pairs


@pytest.mark.parametrize("threshold", [0.0, 0.39, 1.01, float("nan")])
def test_a_threshold_that_cannot_be(threshold):
    with pytest.raises(ValueError, match="choose a share from 0.4 to 1"):
        utilities.near_duplicates(texts(3), threshold)


def test_nothing_and_one_text():
    assert utilities.near_duplicates([]) == utilities.near_duplicates(texts(1)) == []


def test_leakage_names_the_nearest_in_training():
    train = texts(30)
    test = [changed(train[7], 1), *texts(5, seed=9), train[3]]
    train.append(changed(train[7], 4))
    found = utilities.leakage(train, test, 0.6)
    assert [(i, j) for _, i, j in found] == [(3, 6), (7, 0)] and found[0][0] == 1
    assert utilities.leakage(train[:5], texts(5, seed=9)) == []


def test_balance_finds_the_lean_and_only_that():
    rng = Random(0)
    pairs = []
    for _ in range(400):
        a, b = (" ".join(rng.choices(WORDS, k=rng.randint(5, 20))) + "." for _ in range(2))
        pairs.append({"chosen": a + " word1!", "rejected": b})
    first = utilities.balance(pairs)[0]
    assert first.name == "exclamation marks" and first.more_chosen == 1 and first.differ == 400
    rows = {row.name: row for row in utilities.balance([{"chosen": "a b", "rejected": "c d"}])}
    assert rows["words"].differ == 0 and rows["words"].more_chosen == 0.5 and rows["words"].half_width == 1


def test_the_commands(tmp_path, capsys):
    rows = [{"instruction": f"Ask {text}", "output": "It is so."} for text in texts(8)]
    train, test, prefs = (tmp_path / name for name in ("train.json", "test.jsonl", "prefs.jsonl"))
    train.write_text(json.dumps([*rows, rows[2] | {"output": "It is not so."}]), encoding="utf-8")
    other = {"instruction": "What else?", "output": "Nothing."}
    test.write_text(json.dumps(rows[4]) + "\n" + json.dumps(other) + "\n", encoding="utf-8")
    prefs.write_text(json.dumps({"prompt": "Well?", "chosen": "Yes, of course.", "rejected": "No"}) + "\n", encoding="utf-8")
    assert utilities.main(["duplicates", str(train)]) == 0
    assert "1 pairs of 9 records are at least 70% alike" in (said := capsys.readouterr().out) and "  9: Ask" in said
    assert utilities.main(["leakage", str(train), str(test)]) == 0
    assert "1 of 2 test records (50.0%)" in (said := capsys.readouterr().out) and "train 5:" in said
    assert utilities.main(["balance", str(prefs)]) == 0
    assert "ends with a mark" in capsys.readouterr().out
    assert utilities.main(["duplicates", str(prefs)]) == 0


def test_errors_name_file_and_line(tmp_path, capsys):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"instruction": "Say it.", "output": "It."}\n{"instruction": ""}\n', encoding="utf-8")
    for arguments, words in ((["duplicates", str(broken)], "line 2"), (["balance", str(tmp_path / "none.jsonl")], "none.jsonl"),
                             (["duplicates", str(broken), "--threshold", "0.1"], "line 2")):
        assert utilities.main(arguments) == 2
        assert words in capsys.readouterr().err
    for arguments in ([], ["leakage", "one.jsonl"], ["balance", "one.jsonl", "two.jsonl"], ["count", "x"]):
        with pytest.raises(SystemExit):
            utilities.main(arguments)


def test_signatures_are_the_same_each_time():
    sets = [utilities.shingles(text) for text in texts(5)]
    assert np.array_equal(utilities.signatures(sets), utilities.signatures(sets))
