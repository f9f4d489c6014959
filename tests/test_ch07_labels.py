"""The store of labels of chapter 7: equal to a list in memory, whole after SIGKILL, closed to foreign files."""

import json
import multiprocessing
import os
import signal
import sqlite3
import time
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.preferences import make_preferences
from data.records import load_preferences
from tests.support import chapter

ch07 = chapter("ch07")
PAIRS = [{"id": f"pair-{i}", "prompt": f"Question {i}?", "a": f"Answer {i}.", "b": f"No answer {i}."} for i in range(300)]
FEW = PAIRS[:6]
needs_fork = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork are POSIX's")


@pytest.fixture
def store(tmp_path):
    return ch07.LabelStore(tmp_path / "labels.db", FEW)


# ---------------------------------------------------------------- equal to a list in memory

choices = st.sampled_from(["A", "B", "tie", "skip"])
steps = st.one_of(st.tuples(st.sampled_from([pair["id"] for pair in FEW]), choices, st.sampled_from("ab")),
                  st.just("undo"), st.just("reopen"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(steps, max_size=25))
def test_any_sequence_equals_a_list(tmp_path_factory, sequence):
    path = tmp_path_factory.mktemp("store") / "labels.db"
    store, model = ch07.LabelStore(path, FEW), []
    for step in sequence:
        if step == "undo":
            assert store.undo() == (model.pop()[0] if model else None)
        elif step == "reopen":
            store = ch07.LabelStore(path, FEW)
        elif step[0] in {pair_id for pair_id, _, _ in model}:
            with pytest.raises(ValueError, match="has a label already"):
                store.add(*step)
        else:
            store.add(*step)
            model.append(step)
        assert store.choices() == model


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(presses=st.lists(st.sampled_from(["A", "B", "tie", "skip", "undo"]), max_size=15), seed=st.integers(0, 9))
def test_a_session_goes_through_the_pairs_in_order_and_back(tmp_path_factory, presses, seed):
    path = tmp_path_factory.mktemp("session") / "labels.db"
    tool, model = ch07.LabelingTool(ch07.LabelStore(path, FEW), seed=seed, pause=0), []
    for press in presses:
        (tool.buttons[press].click if press == "undo" or len(model) < len(FEW) else lambda: None)()
        if press == "undo":
            del model[-1:]
        elif len(model) < len(FEW):
            name = FEW[len(model)]["id"]
            first = ch07.shown_first(name, seed)
            shown = {"A": first.upper(), "B": "B" if first == "a" else "A"}
            model.append((name, shown.get(press, press), first))
        assert tool.session.store.choices() == model and tool.bar.value == len(model)
        now = tool.session.pair
        assert now == (FEW[len(model)] if len(model) < len(FEW) else None)


@pytest.mark.parametrize(("arguments", "message"), [
    (("pair-0", "C"), "unknown label 'C'; labels are 'A', 'B', 'tie' and 'skip'"),
    (("pair-0", "a"), "unknown label 'a'"),
    (("pair-9", "A"), "no pair has the id 'pair-9'"),
    (("pair-0", "A", "c"), "can't be used for labels"),
])
def test_what_is_no_label_is_refused_and_nothing_kept(store, arguments, message):
    with pytest.raises(ValueError, match=message):
        store.add(*arguments)
    assert store.choices() == []


# ---------------------------------------------------------------- killed

def label_until_killed(path, shown):
    """Label pair after pair; after each choice, say what the screen would now show as saved."""
    store, rng = ch07.LabelStore(path, PAIRS), Random(os.getpid())
    session = ch07.LabelingSession(store)
    while session.pair:
        if rng.random() < 0.2 and session.made:
            session.undo()
        else:
            session.choose(rng.choice(["A", "B", "tie", "skip"]))
        os.write(shown, (json.dumps(session.made) + "\n").encode())


@needs_fork
@pytest.mark.parametrize("n_kills", [6, pytest.param(60, marks=pytest.mark.full)])
def test_a_killed_process_loses_nothing_that_was_shown_as_saved(tmp_path, n_kills):
    rng, path, killed, before = Random(n_kills), tmp_path / "labels.db", 0, []
    for _ in range(n_kills):
        (tmp_path / "shown").touch()
        shown = os.open(tmp_path / "shown", os.O_WRONLY | os.O_TRUNC)
        child = multiprocessing.get_context("fork").Process(target=label_until_killed, args=(path, shown))
        child.start()
        until = time.monotonic() + 60
        while not (tmp_path / "shown").read_bytes() and time.monotonic() < until and child.is_alive():
            time.sleep(0.001)
        time.sleep(0.03 * rng.random())
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        os.close(shown)
        killed += child.exitcode == -signal.SIGKILL
        lines = (tmp_path / "shown").read_text().split("\n")
        last = [tuple(row) for row in json.loads(lines[-2])] if len(lines) > 1 else before
        before = ch07.LabelStore(path, PAIRS).choices()
        # at most one step was on the disk and not yet on the screen
        assert before in (last, last[:-1]) or before[:-1] == last
    assert killed >= n_kills - 1 and before


def stop_before_commit(path):
    with ch07.label_file(path) as db:
        db.execute("PRAGMA cache_spill = 1")
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO choices (pair, choice, shown_first) VALUES ('pair-1', 'B', 'a')")
        os.kill(os.getpid(), signal.SIGKILL)


@needs_fork
def test_killed_inside_a_transaction_leaves_the_choices_before_it(store):
    store.add("pair-0", "A")
    child = multiprocessing.get_context("fork").Process(target=stop_before_commit, args=(store.path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and store.choices() == [("pair-0", "A", "a")]
    store.add("pair-1", "tie")


def test_a_commit_waits_for_the_disk_and_the_folder(store):
    with ch07.label_file(store.path) as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert not db.in_transaction
    store.add("pair-0", "A")
    assert [path.name for path in store.path.parent.iterdir()] == ["labels.db"]  # the whole store is one file


# ---------------------------------------------------------------- two at a time

def label_all(path, done):
    store, made = ch07.LabelStore(path, PAIRS[:40]), []
    for pair in PAIRS[:40]:
        try:
            store.add(pair["id"], "A")
            made.append(pair["id"])
        except ValueError as error:
            if "has a label already" not in str(error):
                raise
    done.put(made)


@needs_fork
def test_two_processes_share_a_file(tmp_path):
    context, path = multiprocessing.get_context("fork"), tmp_path / "labels.db"  # which neither of them finds there
    done = context.Queue()
    children = [context.Process(target=label_all, args=(path, done)) for _ in range(2)]
    for child in children:
        child.start()
    one, other = done.get(timeout=120), done.get(timeout=120)
    for child in children:
        child.join(60)
    assert not set(one) & set(other) and len(one) + len(other) == 40
    kept = ch07.LabelStore(path, PAIRS[:40]).choices()
    assert sorted(name for name, _, _ in kept) == sorted(one + other)


def test_a_second_tab_sees_what_the_first_one_did(store):
    one, other = (ch07.LabelingTool(ch07.LabelStore(store.path, FEW), pause=0) for _ in range(2))
    one.buttons["tie"].click()
    other.buttons["skip"].click()  # at the same pair, still on its screen
    assert "has a label already" in other.status.value and other.session.pair["id"] == "pair-1"
    assert store.choices()[0][:2] == ("pair-0", "tie") and len(store.choices()) == 1
    other.buttons["skip"].click()
    assert [choice for _, choice, _ in store.choices()] == ["tie", "skip"] and "already" not in other.status.value


def test_a_file_that_another_program_holds(store):
    with ch07.label_file(store.path) as db:
        db.execute("BEGIN IMMEDIATE")
        with (pytest.raises(ValueError, match="database is locked.*close whatever else uses"),
              ch07.label_file(store.path, patience=0.05) as second):
            second.execute("BEGIN IMMEDIATE")


# ---------------------------------------------------------------- files and pairs that are refused

def foreign_database(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE choices (bird TEXT)")
    db.close()


def damage(path):
    ch07.LabelStore(path, FEW).add("pair-0", "A")
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\x17" * 4096 + whole[8192:])


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: path.write_text("Buy bread. " * 500), "file is not a database"),
    (foreign_database, "database of another program"),
    (lambda path: ch07.LabelStore(path, PAIRS[:5]), "holds labels of other pairs"),
    (lambda path: ch07.LabelStore(path, [FEW[0] | {"b": "Another."}, *FEW[1:]]), "holds labels of other pairs"),
    (damage, "damaged|malformed"),
])
def test_foreign_files_are_refused_by_name_and_left_as_they_are(tmp_path, make, message):
    path = tmp_path / "old file?.db"  # a name that would mean something in an address
    make(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as error:
        ch07.LabelStore(path, FEW)
    assert "old file?.db" in str(error.value) and "name another file" in str(error.value)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_no_folder_a_folder_and_a_file_that_vanished(tmp_path, store):
    for path in (tmp_path / "none" / "labels.db", tmp_path):
        with pytest.raises(ValueError, match="in a folder that exists"):
            ch07.LabelStore(path, FEW)
    tool = ch07.LabelingTool(store, pause=0)
    store.path.unlink()
    tool.buttons["A"].click()
    assert "can&#x27;t be used for labels" in tool.status.value  # the reader is told, nothing is made up
    assert not store.path.exists() and tool.session.pair["id"] == "pair-0"


@pytest.mark.parametrize(("pairs", "message"), [
    ([], "no pairs to label"),
    ([FEW[0], FEW[0]], "two pairs have the id 'pair-0'"),
    ([FEW[0] | {"b": FEW[0]["a"] + " "}], "answers of pair 'pair-0' are the same"),
    ([FEW[0], {"id": "x", "prompt": "?", "a": "one"}], "pair 1 has None as 'b'"),
    ([FEW[0] | {"prompt": "  "}], "pair 0 has '  ' as 'prompt'"),
    ([FEW[0] | {"a": "\ud800"}], "as 'a'; give it a text that can be read"),
    ([FEW[0] | {"id": 7}], "pair 0 has 7 as 'id'"),
])
def test_pairs_that_cannot_be_labeled(tmp_path, pairs, message):
    with pytest.raises(ValueError, match=message):
        ch07.LabelStore(tmp_path / "labels.db", pairs)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the screen

def test_a_key_held_down_and_a_double_click_count_once(store):
    tool = ch07.LabelingTool(store, pause=60)
    for letter in "aaa":
        tool.field.value = letter
    tool.buttons["A"].click()
    assert len(store.choices()) == 1 and tool.field.value == ""


def test_keys_are_letters_of_either_case_and_several_at_once_are_none(store):
    tool = ch07.LabelingTool(store, pause=0)
    for typed, number in (("a", 1), ("B", 2), (" t", 3), ("x", 3), ("ab", 3), ("S", 4), ("u", 3)):
        tool.field.value = typed
        assert len(store.choices()) == number and tool.field.value == "", typed


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("<>&\"'/ascript=\n"), max_size=40))
def test_text_stays_text(text):
    from html.parser import HTMLParser
    read, tags = [], []
    parser = HTMLParser()
    parser.handle_data, parser.handle_starttag = read.append, lambda tag, _: tags.append(tag)
    parser.feed(ch07.card("Title", text))
    parser.close()
    assert "".join(read) == "Title" + text and tags == ["div"] * 3


def test_without_widgets_a_line_of_text_is_shown_that_is_the_same_everywhere(store):
    assert ch07.LabelingTool(store)._repr_mimebundle_()["text/plain"] == "(a tool to label 6 pairs)"


# ---------------------------------------------------------------- export

@settings(max_examples=25, deadline=None)
@given(made=st.lists(choices, min_size=1, max_size=6))
def test_export_is_read_back(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("export")
    store = ch07.LabelStore(folder / "labels.db", FEW)
    for pair, choice in zip(FEW, made):
        store.add(pair["id"], choice, "b")
    assert ch07.export_labels(store, folder / "mine.jsonl", "me") == len(made)
    expected = [(pair["prompt"], pair[choice.lower()], pair["b" if choice == "A" else "a"])
                for pair, choice in zip(FEW, made) if choice in "AB"]
    if not expected:
        with pytest.raises(ValueError, match="no usable record"):
            load_preferences(folder / "mine.jsonl")
        return
    rows = load_preferences(folder / "mine.jsonl")
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == expected
    assert {(row["annotator"], row["shown_first"]) for row in rows} == {("me", "b")}
    assert len(rows.report.skipped) == len(made) - len(expected)
    mixed = {row["id"]: row for row in [*make_preferences(5, seed=1), *rows]}
    assert len(mixed) == 5 + len(rows)


def test_nothing_to_export(tmp_path, store):
    with pytest.raises(ValueError, match="no choice yet; label some pairs first"):
        ch07.export_labels(store, tmp_path / "mine.jsonl")
    assert not (tmp_path / "mine.jsonl").exists()


def test_the_coin_is_fair_and_keeps_its_word():
    fronts = [ch07.shown_first(f"pair-{i}", seed=5) for i in range(2000)]
    assert abs(fronts.count("a") - 1000) < 5 * 2000**0.5 / 2
    assert fronts[:4] == [ch07.shown_first(f"pair-{i}", 5) for i in range(4)]
    assert fronts != [ch07.shown_first(f"pair-{i}", seed=6) for i in range(2000)]
