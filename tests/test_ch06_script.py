"""Chapter 6's script: from a file of messages to a saved filter, files of any size, and errors that name the remedy."""

import csv
import json
import os
import random
import re
import subprocess
import sys
import tracemalloc

import pytest
import torch

from tests.support import ROOT, chapter

SCRIPT = ROOT / "ch06" / "01_main-chapter-code" / "gpt_class_finetune.py"
ch04, ch05, ch06 = chapter("ch04"), chapter("ch05"), chapter("ch06")
script = chapter("ch06", "gpt_class_finetune")
TOKENIZER = ch05.load_tokenizer(ch05.bundled_folder("tales-small"))
WORDS = ["see", "you", "at", "the", "bus", "late", "home", "soup", "tonight", "mum", "call", "when", "free", "ok", "bring", "bread"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a GPT of one narrow block and random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "gpt"
    ch05.save_checkpoint(folder, ch04.GPTModel(ch04.GPTConfig(2048, 64, 32, 2, 1, 0.0)), TOKENIZER)
    return folder


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A folder with a filter of that size that has learned that spam says "prize"."""
    folder = tmp_path_factory.mktemp("filter")
    with open(folder / "messages.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("label", "text"), *messages(400)])
    arguments = ["--data", folder / "messages.csv", "--pretrained", tiny, "--max-length", 32, "--epochs", 8, "--false-alarm", 1,
                 "--hide", 0, "--dropout", 0, "--learning-rate", 5e-3, "--out", folder / "filter"]
    assert script.main([*map(str, arguments)]) == 0
    return folder / "filter"


def messages(n, seed=0):
    """Rows of label and text that share no key with each other."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        words = [rng.choice(WORDS) for _ in range(7)]
        label = "spam" if i % 2 else "ham"
        if i % 2:
            words.insert(rng.randrange(7), "prize")
        rows.append((label, " ".join(words)))
    return rows


def uci(path, rows):
    """The collection's format: a label, a tab and the text, no header; quotes that never close; one line in Windows-1252."""
    lines = [f"{label}\t{text}".encode() for label, text in rows]
    lines += [b'ham\t"so I said no and she', "ham\tthat\u2019s \u00a320 each".encode("cp1252"), b"ham\tI &lt;3 you &amp; the dog"]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def run(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=900)


def refused(capsys, *arguments):
    """What the script says on stderr, having ended with status 2."""
    assert script.main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


# ---------------------------------------------------------------- training

@pytest.mark.slow
def test_the_uci_file_as_it_is_to_a_filter_and_its_rivals(tmp_path, tiny):
    few_spam = [row for i, row in enumerate(messages(480)) if row[0] == "ham" or i % 8 == 1]
    data = uci(tmp_path / "SMSSpamCollection", few_spam)
    done = run("--data", data, "--pretrained", tiny, "--max-length", 32, "--epochs", 2, "--splits", 2,
               "--out", tmp_path / "filter")
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert f"{len(few_spam) + 3:,} messages, " in said
    assert said.count("accuracy (95% interval)      recall   precision of spam") == 2
    for name in ("always ham", script.WORDS, f"{script.WORDS}, own threshold", "this filter ", "this filter, own threshold"):
        assert said.count(f"\n{name}") >= 3, name  # two splits and their means
    assert "lead over words: " in said
    settings = json.loads((tmp_path / "filter" / "classifier.json").read_text(encoding="utf-8"))
    assert settings["labels"] == ["ham", "spam"]
    assert 0 <= settings["threshold"] <= 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["SMSSpamCollection", "filter"]


def test_a_trained_filter_has_learned_its_word(trained, capsys):
    assert script.main(["--model", str(trained), "--text", "see you at the bus prize tonight", "see you at the bus tonight"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["spam", "ham"]
    assert float(lines[0].split("\t")[1]) > float(lines[1].split("\t")[1]) + 0.3


def test_measures_by_hand():
    p, labels = torch.tensor([0.9, 0.8, 0.6, 0.2]), torch.tensor([1, 0, 1, 1])
    m = script.measure(p, labels, 0.7)
    assert (m["right"], m["n"], m["accuracy"], m["recall"], m["precision"]) == (1, 4, 0.25, 1 / 3, 0.5)
    assert script.measure(p, labels, 0.95)["precision"] != script.measure(p, labels, 0.95)["precision"]  # none held back: nan


def test_the_threshold_keeps_the_precision_and_catches_most():
    p, labels = torch.tensor([0.95, 0.9, 0.85, 0.8, 0.7, 0.2]), torch.tensor([1, 0, 1, 1, 1, 0])
    options = script.parse(["--precision", "0.8"])
    assert script.threshold_for(p, labels, options) == pytest.approx(0.7)
    assert script.threshold_for(p, labels, script.parse([])) == pytest.approx(0.95)
    costs = script.parse(["--false-alarm", "100"])
    assert script.threshold_for(p, labels, costs) == pytest.approx(ch06.best_threshold(p, labels, false_alarm=100))


def test_hidden_tokens_are_never_the_separators():
    class Bar:
        n = 0

        def update(self):
            self.n += 1

    rows = script.HiddenRows([[9, *range(100, 150), 9]] * 20, 0.5, 7, 0, bar := Bar())
    taken = [rows[i] for i in range(20)]
    assert all(row[0] == row[-1] == 9 and len(row) == 52 for row in taken)
    hidden = sum(row.count(7) for row in taken) / 1000
    assert 0.4 < hidden < 0.6
    assert bar.n == 20


# ---------------------------------------------------------------- data that can't be used

BAD = {
    "an unknown label": ("label,text\nham,see you\nspam,win\nmaybe,who knows\n", r"line 4: .*'maybe'"),
    "nothing but a header": ("label,text\n", r"no usable message|no message"),
    "an empty file": ("", r"empty"),
    "no column text": ("label,body\nham,see you\n", r"text"),
    "a row with too much": ("label,text\nham,see you\nspam,win, now\n", r"line 3"),
    "a quote that never closes": ('label,text\nham,see you\nspam,"win\n', r"line 3"),
    "numbers for text": ("label,text\n" + "ham,12\nspam,13\n" * 20, r"number"),
    "one class": ("label,text\n" + "".join(f"ham,{text}\n" for _, text in messages(60)),
                  r"all 60 messages are 'ham'.*add the other"),
}


@pytest.mark.parametrize("case", BAD)
def test_data_that_cannot_be_used(tmp_path, tiny, capsys, case):
    content, words = BAD[case]
    data = tmp_path / "messages.csv"
    data.write_text(content, encoding="utf-8")
    said = refused(capsys, "--data", data, "--pretrained", tiny, "--max-length", 32, "--out", tmp_path / "filter")
    assert said.startswith("gpt_class_finetune.py: ")
    assert "Traceback" not in said
    assert re.search(words, said), said
    assert [p.name for p in tmp_path.iterdir()] == ["messages.csv"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["--text", "hello"], "--text and --classify need a filter"),
    (["--model", "x"], "names a filter but no message"),
    (["--model", "x", "--classify", "in.csv"], "--classify and --out-file go together"),
    (["--model", "x", "--classify", "in.csv", "--out-file", "in.csv"], "choose another name"),
    (["--lora", "4", "--train", "head"], "choose one of them"),
    (["--precision", "0.9", "--false-alarm", "3"], "choose one of them"),
    (["--max-length", "2"], "choose 3 or more"),
    (["--max-length", "9999"], "longer than the model's context"),
    (["--data", "no/such/file"], "no/such/file"),
])
def test_options_that_do_not_fit(capsys, arguments, words):
    assert words in refused(capsys, *arguments)


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--learning-rate", "-1"], ["--hide", "1"], ["--precision", "nan"]])
def test_numbers_that_cannot_be(arguments):
    with pytest.raises(SystemExit):
        script.main(arguments)


def test_a_folder_without_a_filter(tmp_path, capsys):
    assert "there is no classifier in" in refused(capsys, "--model", tmp_path, "--text", "hello")


# ---------------------------------------------------------------- files of any size

def inbox(path, n, columns=("id", "text", "from")):
    rows = messages(n, seed=1)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *((i, text, f"sender, {i}") for i, (_, text) in enumerate(rows))])
    return [label for label, _ in rows]


@pytest.mark.slow
def test_a_file_streams_through_with_flat_memory(tmp_path, trained):
    """5,000 messages need no more memory than 1,000; every column comes back, and the answers are right."""
    reader, peaks = ch06.load_classifier(trained), {}
    for n in (1_000, 5_000):
        labels = inbox(tmp_path / f"{n}.csv", n)
        tracemalloc.start()
        script.classify_file(tmp_path / f"{n}.csv", tmp_path / f"{n}-sorted.csv", reader)
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[5_000] < peaks[1_000] + 2**20, peaks
    with open(tmp_path / "5000-sorted.csv", encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["id", "text", "from", "predicted", "probability"]
    assert [row[0] for row in rows] == [str(i) for i in range(5_000)]
    assert rows[7][2] == "sender, 7"
    right = sum(row[3] == label for row, label in zip(rows, labels, strict=True))
    assert right > 4_000


FILES = {
    "no column text": ("id,body\n1,hello\n", "text"),
    "an empty file": ("", "the file is empty"),
    "a row with too much, at the end": ("id,text\n" + "1,hello\n" * 50 + "1,hello,2\n", "line 52"),
    "a column that is taken": ("text,predicted\nhello,ham\n", "there is a column 'predicted' already"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_used_leaves_nothing(tmp_path, trained, capsys, case):
    content, words = FILES[case]
    (tmp_path / "in.csv").write_text(content, encoding="utf-8")
    (tmp_path / "out.csv").write_text("what was there", encoding="utf-8")
    said = refused(capsys, "--model", trained, "--classify", tmp_path / "in.csv", "--out-file", tmp_path / "out.csv")
    assert words in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "what was there"


def test_no_folder_for_the_answers(tmp_path, trained, capsys):
    inbox(tmp_path / "in.csv", 3)
    said = refused(capsys, "--model", trained, "--classify", tmp_path / "in.csv", "--out-file", tmp_path / "none" / "out.csv")
    assert "make it first" in said
