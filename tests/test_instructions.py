"""Instructions: their records, the judge, and the loaders of instruction files."""

import json
import re
from collections import Counter, defaultdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import instructions
from data.instructions import (
    ABOUT,
    ANSWER_TOKENS,
    HELD_OUT_FAMILIES,
    PRICE,
    SPLITS,
    TALES,
    VISIBLE,
    count_tokens,
    families,
    judge,
    make_conversations,
    make_instructions,
    wordings,
)
from data.preferences import DECENT, SPOILED
from data.records import load_instructions, write_jsonl
from data.tales import Plan, held_out
from tests.support import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "records"


@pytest.fixture(scope="module")
def made():
    """Some records of every level and split."""
    return {(level, split): list(make_instructions(63, 4, level, split)) for level in ("simple", "full") for split in SPLITS}


# ---------------------------------------------------------------- making

def test_at_least_15_families_and_thirty_wordings_for_those_that_are_trained():
    assert len(wordings()) >= 15 and set(HELD_OUT_FAMILIES) < set(wordings())
    for family, parts in wordings().items():
        trained = family not in HELD_OUT_FAMILIES
        assert len(parts["train"]) + len(parts["held out"]) >= (30 if trained else 12), family
        assert len(parts["held out"]) >= (6 if trained else 3), family


def test_no_wording_is_in_two_parts():
    everything = [line for parts in wordings().values() for part in parts.values() for line in part]
    assert [line for line, count in Counter(everything).items() if count > 1] == []


def test_the_same_seed_gives_the_same_records_and_a_longer_run_begins_alike():
    short, long = list(make_instructions(21, 5)), list(make_instructions(30, 5))
    assert long[:21] == short
    assert list(make_instructions(21, 6)) != short


@pytest.mark.parametrize("level", ["simple", "full"])
def test_conversations_ask_about_one_tale_in_training_wordings_and_answer_rightly(level):
    conversations = list(make_conversations(20, 3, level))
    assert list(make_conversations(5, 3, level)) == conversations[:5] != list(make_conversations(5, 4, level))
    for turns in (record["turns"] for record in conversations):
        names = [turn["family"] for turn in turns]
        assert 3 <= len(turns) <= 6 and len(set(names)) == len(names) and set(names) <= set(ABOUT)
        tale = turns[0]["input"]
        assert tale and not any(turn["input"] for turn in turns[1:])
        for turn in turns:
            assert judge(turn | {"input": tale}, turn["output"]).score == 1, turn
            assert "{" not in turn["instruction"] + turn["output"]
    assert {turn["family"] for record in conversations for turn in record["turns"]} == set(ABOUT)
    for arguments in ((0,), (3, 0, "none"), (3, 0, level, 2)):
        with pytest.raises(ValueError, match="ask for at least|unknown level"):
            next(make_conversations(*arguments))


def test_records_are_plain_json_with_unique_ids(made):
    for records in made.values():
        assert len({record["id"] for record in records}) == len(records)
        for record in records:
            assert set(record) == {"id", "family", "instruction", "input", "output", "facts"}
            assert json.loads(json.dumps(record)) == record
            assert "{" not in record["instruction"] + record["input"] + record["output"]
            assert record["instruction"][0].isupper() and record["output"].strip() == record["output"]


def test_splits_share_neither_wordings_nor_families(made):
    for level in ("simple", "full"):
        train, reworded, new = (made[level, split] for split in SPLITS)
        assert {record["family"] for record in train} == {record["family"] for record in reworded} == set(families())
        assert {record["family"] for record in new} == set(HELD_OUT_FAMILIES)
        known = {record["instruction"] for record in train}
        assert not known & {record["instruction"] for record in reworded}


def test_held_out_splits_ask_about_combinations_that_training_never_has(made):
    for (_, split), records in made.items():
        for record in records:
            if record["family"] != "happier":                # its second tale has a plan of its own
                plan = Plan.from_dict(record["facts"]["plan"])
                assert held_out(plan) == (split != "train")


def test_simple_answers_are_short(made):
    for split in SPLITS:
        assert max(count_tokens(record["output"]) for record in made["simple", split]) <= ANSWER_TOKENS


def test_each_mood_is_asked_for():
    moods = Counter(instructions.draw(f"mood {i}", "end-it", "simple", "train")["facts"]["mood"] for i in range(90)
                    if instructions.draw(f"mood {i}", "end-it", "simple", "train"))
    assert len(moods) == 3 and min(moods.values()) > 0.2 * sum(moods.values())


def test_answers_to_questions_are_in_the_tale(made):
    for records in made.values():
        for record in records:
            plan = record["facts"]["plan"]
            if record["family"] in ("hero", "trait", "object", "find-object", "companion", "kind"):
                for words in record["facts"]["must"]:
                    assert any(word in record["input"] for word in words), record
            if record["family"] == "title":
                assert plan["hero"] in record["input"]


def test_what_the_tale_does_not_say_is_not_in_it():
    """The question of an unanswerable instruction has no answer in the tale: its trap words don't occur."""
    for i in range(60):
        record = instructions.draw(f"untold {i}", "not-told", "full", "train")
        if record is None:
            continue
        plan = record["facts"]["plan"]
        slots = {"hero": plan["hero"], "object": plan["object"], "his": "her" if plan["pronoun"] == "she" else "his"}
        told = [trap for question, trap in instructions.UNTOLD if instructions.fill(question, slots) in record["instruction"]]
        assert len(told) == 1 and not re.search(told[0], record["input"], re.I), record


def test_claims_are_true_as_often_as_false():
    records = [instructions.draw(f"claim {i}", "correct", "simple", "train") for i in range(120)]
    yes = [record["output"].startswith("Yes") for record in records if record]
    assert 0.35 < sum(yes) / len(yes) < 0.65


def test_the_happier_tale_is_the_first_as_often_as_the_second():
    records = [instructions.draw(f"happier {i}", "happier", "simple", "train") for i in range(400)]
    first = ["1" in record["output"] for record in records if record]
    assert len(first) > 30 and 0.3 < sum(first) / len(first) < 0.7


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n": 0}, "ask for at least 1"), ({"n": 1, "level": "hard"}, "unknown level 'hard'"),
    ({"n": 1, "split": "test"}, "unknown split 'test'")])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        next(make_instructions(**arguments))


# ---------------------------------------------------------------- judging

def test_reference_answers_score_at_least_95_percent(made):
    for records in made.values():
        for record in records:
            judged = judge(record, record["output"])
            assert judged.score >= 0.95, (record["family"], record["output"], judged.reasons)


def test_decent_answers_score_high_and_spoiled_ones_low(made):
    records = made["simple", "train"] + made["simple", "held-out wordings"]
    scores, rng = defaultdict(list), Random(2)
    for i, record in enumerate(records):
        for name, kind in (SPOILED | DECENT).items():
            answer = kind(record, rng, records[i - 1]["output"])
            if answer and answer != record["output"]:
                scores[name].append(judge(record, answer).score)
    mean = {name: sum(found) / len(found) for name, found in scores.items()}
    assert all(mean[name] < 0.35 for name in SPOILED), mean
    assert all(mean[name] > 0.95 for name in DECENT if name in mean), mean
    high = {name: sum(score > 0.6 for score in scores[name]) / len(scores[name]) for name in SPOILED}
    assert max(high.values()) <= 0.05, high


@pytest.mark.parametrize("answer", ["", "   ", "...", "\n\n", "!?"])
def test_an_empty_answer_scores_nothing(made, answer):
    for record in made["simple", "train"]:
        judged = judge(record, answer)
        assert judged.score == 0 and judged.reasons


def test_a_copied_prompt_scores_low(made):
    for level in ("simple", "full"):
        for record in made[level, "train"]:
            for answer in (record["instruction"], record["input"], record["instruction"] + "\n" + record["input"]):
                assert not answer or judge(record, answer).score < 0.5, (record["family"], answer)


def test_the_prompt_before_a_right_answer_costs(made):
    for record in made["simple", "train"]:
        if record["input"]:
            assert judge(record, f"{record['input']} {record['output']}").score < 0.5, record["family"]


def test_listing_every_possible_answer_is_not_the_truth(made):
    endings = [record for record in made["simple", "train"] if record["family"] == "ending"]
    names = [record for record in made["simple", "train"] if record["family"] == "trait"]
    assert all(judge(record, "It is a happy, sad and funny ending.").score < 0.3 for record in endings)
    assert all(judge(record, "Brave, kind, clever, honest, patient, careful.").score < 0.3 for record in names)


def test_visible_and_held_out_criteria_are_apart_and_make_up_the_score(made):
    for record in made["simple", "train"]:
        judged = judge(record, record["output"].replace("a", "the"))
        assert set(judged.visible) <= set(VISIBLE) and not set(judged.held_out) & set(VISIBLE)
        assert judged.criteria.keys() <= PRICE.keys()
        assert judged.score == pytest.approx(judged.visible_score * judged.held_out_score, abs=1e-3)


def test_what_a_reward_sees_can_be_fooled_and_the_held_out_part_notices(made):
    """Words thrown together satisfy the visible criteria, not the others: the gap that chapter 7 shows."""
    record = next(record for record in made["simple", "train"] if record["family"] == "write")
    plan = record["facts"]["plan"]
    words = f"{plan['hero']} {plan['kind']} {plan['look']} {plan['object']} is very happy. "
    judged = judge(record, (words * 6).strip())
    assert judged.visible_score > 0.95 and judged.held_out_score < 0.3


def test_a_friendly_word_costs_nothing_and_a_rude_one_much(made):
    for record in made["simple", "train"]:
        assert judge(record, f"Gladly! {record['output']}").score >= 0.95
        assert judge(record, f"What a stupid question. {record['output']}").score < 0.5


def test_a_right_word_in_a_denial_is_wrong(made):
    for record in made["simple", "train"]:
        if record["family"] == "hero":
            assert judge(record, f"The hero is not {record['facts']['plan']['hero']}.").score < 0.3


def test_reasons_name_what_is_missing(made):
    record = next(record for record in made["simple", "train"] if record["family"] == "hero")
    assert any(record["facts"]["plan"]["hero"] in reason for reason in judge(record, "A kite is here.").reasons)


@settings(max_examples=150, deadline=None)
@given(answer=st.text(max_size=300), pick=st.integers(0, 62))
def test_any_text_can_be_judged(made, answer, pick):
    judged = judge(made["simple", "train"][pick], answer)
    assert 0 <= judged.score <= 1 and all(0 <= value <= 1 for value in judged.criteria.values())
    assert judged.score == 1 or judged.reasons or judged.score >= 0.95


@settings(max_examples=100, deadline=None)
@given(data=st.data(), pick=st.integers(0, 62))
def test_words_of_the_prompt_in_any_order_do_not_pass(made, data, pick):
    record = made["simple", "train"][pick]
    words = (record["instruction"] + " " + record["input"]).split()
    answer = " ".join(data.draw(st.permutations(words))[:60])
    assert judge(record, answer).score < 0.9


def test_a_record_without_facts_cannot_be_judged():
    with pytest.raises(ValueError, match="no facts to judge by"):
        judge({"instruction": "Hi", "input": "", "output": "Hi"}, "Hi")


def test_an_answer_must_be_text(made):
    with pytest.raises(ValueError, match="the answer is int; pass a text"):
        judge(made["simple", "train"][0], 3)


def test_tale_families_are_judged_by_the_checker(made):
    for record in made["simple", "train"]:
        judged = judge(record, record["output"])
        assert ("hero" in judged.held_out or record["family"] == "write-place") == (record["family"] in TALES)


# ---------------------------------------------------------------- files

def write(tmp_path, content, name="file.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD = '{"instruction": "Say hi.", "input": "", "output": "Hi."}\n'


def test_our_own_records_come_back_as_they_were(tmp_path, made):
    records = made["simple", "train"]
    path = tmp_path / "instructions.jsonl"
    assert write_jsonl(path, records) == len(records)
    loaded = load_instructions(path)
    assert loaded == records and loaded.report.kept == len(records) and loaded.report.skipped == []
    assert not list(tmp_path.glob("*.partial"))


def test_alpaca_style_json():
    loaded = load_instructions(FIXTURES / "alpaca.json")
    assert [row["input"] for row in loaded] == ["", "The café opens at nine.", ""]
    assert "1 records have no input" in str(loaded.report)


BROKEN = {
    "broken line": (GOOD + '{"instruction": "Say\n' + GOOD, "line 2: broken JSON", "repair the line"),
    "wrong keys": ('{"question": "Who?", "answer": "Me."}\n', "line 1: no 'instruction' and no 'output'", "rename the keys"),
    "preferences": ('{"prompt": "Who?", "chosen": "a", "rejected": "b"}\n', "line 1: no 'instruction'", "use load_preferences"),
    "empty output": (GOOD + '{"instruction": "Say hi.", "output": "  "}\n', "line 2: 'output' is empty", "fill it in"),
    "empty instruction": ('{"instruction": "", "output": "Hi."}\n', "line 1: 'instruction' is empty", "fill it in"),
    "number": ('{"instruction": "Count.", "output": 3}\n', "line 1: 'output' is int, not text", "quotation marks"),
    "list as input": ('{"instruction": "Count.", "input": [1], "output": "3"}\n', "line 1: 'input' is list", "quotation marks"),
    "repeated id": ('{"id": 7, "instruction": "a", "output": "b"}\n\n{"id": 7, "instruction": "c", "output": "d"}\n',
                    "line 3: id '7' stands on line 1 already", "its own id"),
    "not a record": (GOOD + "42\n", "line 2: int where a record should be", "write an object"),
    "other encoding": (GOOD.encode() + '{"instruction": "Café?", "output": "Oui."}\n'.encode("latin-1"),
                       "line 2: byte 0xe9 at position 21 isn't UTF-8", "save the file as UTF-8"),
    "half a character": ('{"instruction": "a", "output": "\\ud83d"}\n', "line 1: 'output' holds half of a character", "write the"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_record_is_named_with_file_line_and_remedy(tmp_path, case):
    content, problem, remedy = BROKEN[case]
    path = write(tmp_path, content)
    with pytest.raises(ValueError) as error:
        load_instructions(path)
    assert str(path) in str(error.value) and problem in str(error.value) and remedy in str(error.value)


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_record_can_be_left_out_and_is_reported(tmp_path, case):
    content, problem, _ = BROKEN[case]
    content = content if isinstance(content, bytes) else content.encode()
    loaded = load_instructions(write(tmp_path, content + GOOD.encode()), on_bad="skip")
    line, reason = loaded.report.skipped[0]
    assert len(loaded) >= 1 and len(loaded.report.skipped) == 1
    assert f"line {line}: {reason}".startswith(problem[:30])


WHOLE_FILE = {
    "empty": (b"", "line 1: the file is empty"), "blank lines": (b"\n \n", "line 1: the file is empty"),
    "empty array": (b"[]", "line 1: the file is empty"), "UTF-16": (GOOD.encode("utf-16"), "looks like UTF-16"),
    "array that breaks off": (b'[\n{"instruction": "a", "output": "b"},\n{"instruction": "c"', "line 3: broken JSON"),
    "array without a comma": (b'[\n{"instruction": "a", "output": "b"}\n{"instruction": "c"}]', "line 3: broken JSON"),
    "text after the array": (b'[{"instruction": "a", "output": "b"}]\nand more', "broken JSON (text after the array's end)"),
    "array not UTF-8": (b'[\n{"instruction": "a\xe9", "output": "b"}]', "line 2: byte 0xe9 isn't UTF-8"),
    "nested too deeply": (b"[" * 100_000, "broken JSON"),
    "only bad records": (b'{"output": "b"}\n', "no usable record"),
}


@pytest.mark.parametrize("case", WHOLE_FILE)
def test_a_file_that_is_bad_as_a_whole_stops_even_under_skip(tmp_path, case):
    content, problem = WHOLE_FILE[case]
    path = write(tmp_path, content, "file.json")
    with pytest.raises(ValueError) as error:
        load_instructions(path, on_bad="skip")
    assert problem in str(error.value) and "file.json" in str(error.value)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    assert len(load_instructions(write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()))) == 1
    assert len(load_instructions(write(tmp_path, b"\xef\xbb\xbf [" + GOOD.encode() + b"]"))) == 1


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file at"):
        load_instructions(tmp_path / "absent.jsonl")


def test_unknown_policy(tmp_path):
    with pytest.raises(ValueError, match="pass 'raise' or 'skip'"):
        load_instructions(write(tmp_path, GOOD), on_bad="ignore")


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="can't write to"):
        write_jsonl(tmp_path / "absent" / "file.jsonl", [{}])


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(str.strip)
records = st.fixed_dictionaries({"instruction": texts, "input": st.just("") | texts, "output": texts})


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(records, min_size=1, max_size=6), array=st.booleans())
def test_any_text_survives_the_way_to_disk_and_back(tmp_path_factory, rows, array):
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    if array:
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8", newline="\n")
    else:
        write_jsonl(path, rows)
    assert load_instructions(path) == rows


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_load_or_raise_a_value_error_that_names_the_file(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "bytes.jsonl"
    path.write_bytes(content)
    for policy in ("raise", "skip"):
        try:
            found = load_instructions(path, on_bad=policy).report.path
        except ValueError as error:
            found = str(error)
        assert "bytes.jsonl" in found


def test_the_command_line(tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    assert instructions.main(["--count", "21", "--level", "simple", "--out", str(path)]) == 0
    assert len(load_instructions(path)) == 21
    with pytest.raises(SystemExit):
        instructions.main(["--count", "0", "--out", str(path)])
    assert "ask for at least 1" in capsys.readouterr().err
