"""Text messages, spam and genuine: reading, checking and splitting them.

    python data/messages.py                          figures about the course's own messages
    python data/messages.py --data SMSSpamCollection figures about the UCI SMS Spam Collection, file unchanged
    python data/messages.py --baseline               adds bag of words with logistic regression (needs scikit-learn)

Two formats are read. The course's is CSV: UTF-8, a header with `label` and `text`, standard quoting. The UCI
collection's (Almeida, Gomez Hidalgo and Yamakami, 2011) is one message a line, `ham<TAB>text`, no header, and a
quote in it is an ordinary character. Nothing is dropped in silence: what is wrong stops the reading with file, line
and remedy, or is listed in the report.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import html
import io
import math
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import pandas as pd

MESSAGES = Path(__file__).resolve().with_name("messages.csv")
UCI_NAME = "SMSSpamCollection"
LABELS = ("ham", "spam")
ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-fA-F]+|[a-zA-Z]+);")
BAD_BYTE = re.compile("[\udc80-\udcff]")                 # how "surrogateescape" shows a byte that isn't UTF-8
SURROGATE = re.compile("[\ud800-\udfff]")                # half a character: can't be written as UTF-8
NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*")
LINK = re.compile(r"https?://|www\.|\b[\w-]+\.(?:example|invalid|test|com|net|org|co|uk)\b", re.IGNORECASE)


# ---------------------------------------------------------------- reading

@dataclass
class LoadReport:
    """What was read, what was changed on the way, and which lines were left out and why."""

    path: str
    format: str                                                      # "csv" or "uci"
    kept: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)     # (line, reason), one for each message left out
    notes: list[str] = field(default_factory=list)                   # changes that lost nothing

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.kept} messages read, {len(self.skipped)} left out"]
        lines += [f"  line {line} left out: {reason}" for line, reason in self.skipped]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


class _Reader:
    """One file's path, report and policy: every complaint goes through `reject`."""

    def __init__(self, path: Path, format: str, on_bad: str):
        self.path, self.on_bad = path, on_bad
        self.report = LoadReport(path=path.name, format=format)

    def error(self, line: int, problem: str, remedy: str) -> ValueError:
        return ValueError(f"{self.path}, line {line}: {problem}; {remedy}")

    def reject(self, line: int, problem: str, remedy: str) -> None:
        """Stop here, or under on_bad="skip" write down what is left out and go on."""
        if self.on_bad == "raise":
            raise self.error(line, problem, remedy + ', or pass on_bad="skip" to leave it out')
        self.report.skipped.append((line, problem))

    def check(self, line: int, label: str, text: str) -> bool:
        """True for a message that can be used."""
        if label not in LABELS:
            self.reject(line, f"unknown label {label[:40]!r}", "labels are 'ham' and 'spam'")
        elif not text.strip():
            self.reject(line, "the text is empty", "write one or delete the line")
        else:
            return True
        return False


def load_messages(
    path: str | os.PathLike | None = None, *, on_bad: str = "raise", quiet: bool = False
) -> pd.DataFrame:
    """Read labelled messages from `path`, by default the course's own, into columns `label`, `text` and `line`.

    `path` is a CSV file with a header, the UCI collection's file, or the folder that holds it; the content decides
    which. `line` is where the message begins in the file. A further column `id` is kept and must be unique. A faulty
    line is an error; with on_bad="skip" it is left out and reported. The report is printed once to stderr when there
    is anything to say (unless `quiet`), and is at hand as `frame.attrs["report"]`.

    UCI files: lines that aren't UTF-8 are read as Windows-1252, HTML entities (`&lt;#&gt;`) become the characters
    they stand for, further tabs belong to the text; the report counts all three.

    Raises ValueError with file, line and remedy: wrong columns, invalid bytes, broken quoting, unknown label, empty
    text, repeated id, only one class, a text column of numbers, an empty file. FileNotFoundError without a file.
    """
    if on_bad not in ("raise", "skip"):
        raise ValueError(f"on_bad is {on_bad!r}; pass 'raise' or 'skip'")
    path = MESSAGES if path is None else Path(path)
    if path.is_dir():
        path = path / UCI_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no messages at {path}; give the path of a CSV file or of the UCI collection's {UCI_NAME}")
    raw = path.read_bytes()
    first = _first_line(raw.split(b"\n"), path, "a header 'label,text' or lines 'ham<TAB>text'")
    raw = raw.removeprefix(b"\xef\xbb\xbf")                                      # the mark some editors put first
    uci = b"\t" in first and b"," not in first.split(b"\t")[0]
    reader = _Reader(path, "uci" if uci else "csv", on_bad)
    rows = _read_uci(raw, reader) if uci else _read_csv(raw, reader)
    _check_whole(rows, reader)
    frame = pd.DataFrame(rows)
    frame.attrs["report"] = reader.report
    if not quiet and (reader.report.skipped or reader.report.notes):
        print(reader.report, file=sys.stderr)
    return frame


def _first_line(lines: Iterable[bytes], path: Path, wanted: str) -> bytes:
    """The first line that isn't blank, without a byte order mark. Raises ValueError for none, and for what isn't text."""
    for number, line in enumerate(lines):
        if number == 0 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
            break
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        if b"\0" in line:
            break
        if line.strip():
            return line
    else:
        raise ValueError(f"{path}, line 1: the file is empty; it should hold {wanted}")
    raise ValueError(f"{path}, line 1: this looks like UTF-16 or a binary file; save it again as UTF-8 text")


def _read_uci(raw: bytes, reader: _Reader) -> list[dict]:
    """`label<TAB>text` lines. Split at line feeds only: a text may hold other characters that Python counts as line ends."""
    rows, changed, feeds = [], Counter(), raw.count(b"\n")
    for line, chunk in enumerate(raw.split(b"\n"), start=1):
        chunk = chunk.removesuffix(b"\r")
        if not chunk.strip():
            changed["blank lines passed over"] += line <= feeds                  # what follows the last line feed is no line
            continue
        try:
            content = chunk.decode("utf-8")
        except UnicodeDecodeError:
            content = chunk.decode("cp1252", errors="replace")
            if "\ufffd" in content:
                reader.reject(line, "bytes that are neither UTF-8 nor Windows-1252", "save the file as UTF-8")
                continue
            changed["lines weren't UTF-8 and were read as Windows-1252"] += 1
        label, tab, text = content.partition("\t")
        if not tab:
            reader.reject(line, f"no tab after the label in {content[:40]!r}", "write 'ham<TAB>text'")
            continue
        if line == 1 and label.lower() in ("label", "v1", "class", "category"):
            raise reader.error(1, f"a header {content[:40]!r} in a tab-separated file",
                               "remove that line, or save the table as CSV")
        if reader.check(line, label, text):
            changed["texts hold further tabs, kept as they are"] += "\t" in text
            if ENTITY.search(text):
                text = html.unescape(text)
                changed["texts held HTML entities, now plain characters"] += 1
            rows.append({"label": label, "text": text, "line": line})
    reader.report.notes += [f"{count} {what}" for what, count in changed.items() if count]
    return rows


def _read_csv(raw: bytes, reader: _Reader) -> list[dict]:
    """CSV with a header. A quoted text may run over several lines; `line` is the first of them."""
    text = raw.decode("utf-8", errors="surrogateescape")                         # a bad byte stays visible until its line is known
    rows, first, table = [], {}, _csv_rows(io.StringIO(text, newline=""), reader)
    line, names = next(table)
    header = _check_header(names, line, ("label", "text"), reader)
    for start, cells in table:
        row = dict(zip(header, cells)) | {"line": start}
        if row.get("id") == "":
            reader.reject(start, "the id is empty", "give each message an id, or none at all")
        elif row.get("id") in first:
            reader.reject(start, f"id {row['id'][:40]!r} stands on line {first[row['id']]} already",
                          "give each message its own id")
        elif reader.check(start, row["label"], row["text"]):
            first |= {row["id"]: start} if "id" in row else {}
            rows.append({name: row[name] for name in ("id", "label", "text", "line") if name in row})
    ignored = [name for name in header if name not in ("id", "label", "text")]
    if ignored:
        reader.report.notes.insert(0, f"columns not used: {', '.join(map(repr, ignored))}")
    return rows


def _csv_rows(lines: Iterable[str], reader: _Reader) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a CSV's header, then of each row that has as many cells as the header; the rest is rejected."""
    table = csv.reader(lines, strict=True)
    line, blank, header = 1, 0, None
    while True:
        try:
            cells = next(table)
        except StopIteration:
            break
        except csv.Error as problem:
            raise reader.error(line, f"broken quoting ({problem})",
                               'close the quote that opens there; a quote inside a text is written twice, ""') from None
        start, line = line, table.line_num + 1
        if not cells or cells == [""]:
            blank += 1
        elif header is None:
            header = cells
            yield start, cells
        elif any(BAD_BYTE.search(cell) for cell in cells):
            reader.reject(start, "bytes that aren't UTF-8", "save the file as UTF-8 (it may be Windows-1252, or a mixture)")
        elif len(cells) != len(header):
            reader.reject(start, f"{len(cells)} columns where the header has {len(header)}",
                          "put quotes around a text that holds a comma")
        else:
            yield start, cells
    if header is None:
        raise reader.error(1, "no header and no message", "begin with a line that names the columns, such as 'label,text'")
    if blank:
        reader.report.notes.append(f"{blank} blank lines passed over")


def _check_header(cells: list[str], line: int, needed: Sequence[str], reader: _Reader) -> list[str]:
    """The columns' names in lower case, the `needed` ones among them."""
    header = [cell.strip().lower() for cell in cells]
    missing = [name for name in needed if name not in header]
    if missing:
        raise reader.error(line, f"the columns are {', '.join(map(repr, cells))[:120]}, without {' and '.join(map(repr, missing))}",
                           f"name the columns in a first line '{','.join(needed)}'")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise reader.error(line, f"column {repeated[0]!r} appears twice", "give each column its own name")
    return header


def _only_numbers(line: int, text: str, reader: _Reader) -> ValueError:
    return reader.error(line, f"the text column holds only numbers, such as {text[:20]!r}",
                        "is another column the text? name that one 'text'")


def _check_whole(rows: list[dict], reader: _Reader) -> None:
    """What can be judged only when all lines are known."""
    report = reader.report
    report.kept = len(rows)
    if not rows:
        found = "no usable message" if report.skipped else "a header and no message"
        raise reader.error(1, f"{found} in the file", "add lines with a label and a text")
    if len(rows) > 1 and all(NUMBER.fullmatch(row["text"].strip()) for row in rows):
        raise _only_numbers(rows[0]["line"], rows[0]["text"], reader)
    counts = Counter(row["label"] for row in rows)
    if len(counts) == 1:
        (label, count), = counts.items()
        raise reader.error(rows[0]["line"], f"all {count} messages are {label!r}, so there is nothing to tell apart",
                           "add the other class")


@contextmanager
def open_rows(path: str | os.PathLike) -> Iterator[TextRows]:
    """Read a CSV file of any size row by row: `with open_rows(path) as rows: for cells in rows: ...`.

    No more than a row and a few kilobytes are in memory. A text may be empty: what comes from outside has promised
    nothing. Raises what `load_messages` raises, with file, line and remedy, for everything but labels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; give the path of a CSV file with a column 'text'")
    with open(path, "rb") as stream:
        _first_line(iter(lambda: stream.readline(2**20), b""), path, "a header with a column 'text'")
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        yield TextRows(stream, _Reader(path, "csv", "raise"))


class TextRows:
    """What `open_rows` gives: `header`, the columns' names as they are written; `text`, the index of the one named "text";
    the rows' cells, on iteration; `line`, where the latest row began; and `bytes_read` of `n_bytes`.
    """

    def __init__(self, stream: TextIO, reader: _Reader):
        self._stream, self._reader, self.n_bytes = stream, reader, reader.path.stat().st_size
        self._rows = _csv_rows(stream, reader)
        self.line, self.header = next(self._rows)
        self.text = _check_header(self.header, self.line, ("text",), reader).index("text")

    @property
    def bytes_read(self) -> int:
        return self._stream.buffer.tell()

    def __iter__(self) -> Iterator[list[str]]:
        count, first = 0, None                                                   # the first row, while all texts are numbers
        for line, cells in self._rows:
            self.line, count = line, count + 1
            if not NUMBER.fullmatch(cells[self.text].strip()):
                first = None
            elif count == 1:
                first = line, cells[self.text]
            if first and count == 1000:                                          # it won't become text any more
                break
            yield cells
        if first and count > 1:
            raise _only_numbers(*first, self._reader)


# ---------------------------------------------------------------- writing

def write_messages(path: str | os.PathLike, messages: Iterable[tuple[str, str]]) -> None:
    """Write (label, text) pairs as the CSV that `load_messages` reads back exactly. The file appears whole or not at all."""
    path, lines = Path(path), ["label,text"]
    for number, (label, text) in enumerate(messages, start=1):
        if label not in LABELS:
            raise ValueError(f"message {number} has the label {label!r}; labels are 'ham' and 'spam'")
        if not isinstance(text, str) or not text.strip() or SURROGATE.search(text):
            raise ValueError(f"message {number} has the text {text!r:.60}; it must be text, not empty, and valid Unicode")
        needs_quotes = re.search(r'[",\r\n]', text) or text != text.strip()
        lines.append(f"{label}," + ('"' + text.replace('"', '""') + '"' if needs_quotes else text))
    temporary = path.with_name(path.name + ".part")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    os.replace(temporary, path)


# ---------------------------------------------------------------- splitting

def message_key(text: str) -> str:
    """What two messages share when they differ only in case, digits, punctuation, spacing or the address of a link."""
    key = unicodedata.normalize("NFKC", text).casefold()
    key = re.sub(r"(?:https?://|www\.)\S+|\S+\.[a-z]{2,}/\S*", " link ", key)
    key = re.sub(r"\d[\d.,]*", "0", key)
    return " ".join(re.findall(r"\w+", key)) or text.strip()


def split_messages(
    messages: pd.DataFrame, validation: float = 0.1, test: float = 0.2, salt: str = ""
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Train, validation and test parts of `messages`, fixed by the texts alone.

    A message's part follows from the SHA-256 of its `message_key`: the same on every machine and in every order of
    lines, unmoved when other messages are added, and copies that differ only in digits, case or punctuation stay
    together. Shares are met on average, not exactly. Another `salt` gives another split. Raises ValueError for
    impossible shares, missing or non-text columns, and a part that comes out empty.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(f"validation={validation} and test={test} can't be; pass shares from 0 up, together under 1")
    missing = {"label", "text"} - set(messages.columns)
    if missing:
        raise ValueError(f"messages have the columns {list(messages.columns)}; needed are 'label' and 'text'")
    wrong = [value for value in messages["text"] if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"the text column holds {wrong[0]!r}, which isn't text; read the file with load_messages")
    place = pd.Series([_place(text, salt) for text in messages["text"]], index=messages.index, dtype=float)
    parts = {"test": place < test, "validation": (place >= test) & (place < test + validation),
             "train": place >= test + validation}
    for name, share in (("train", 1.0), ("validation", validation), ("test", test)):
        if share > 0 and not parts[name].any():
            raise ValueError(f"the {name} part of {len(messages)} messages is empty; "
                             "bring more messages or change validation and test")
    return tuple(messages[parts[name]].reset_index(drop=True) for name in ("train", "validation", "test"))


def _place(text: str, salt: str = "") -> float:
    """A number in [0, 1) that depends on the message's key (and the salt) only, as even as dice."""
    digest = hashlib.sha256((salt + message_key(text)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# ---------------------------------------------------------------- measuring

def word_set(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+(?:'\w+)?", text.casefold().replace("’", "'"))) or frozenset([text.strip()])


def near_duplicates(texts: Iterable[str], at_least: float = 0.6) -> list[tuple[float, int, int]]:
    """Pairs of texts whose sets of words overlap by `at_least` (Jaccard: shared words over all words), as (overlap, i, j), i < j.

    Two sets that overlap so much share a word among the rarest few of each, so only such pairs are compared
    (prefix filtering: Chaudhuri, Ganti and Kaushik, 2006).
    """
    sets = [word_set(text) for text in texts]
    frequency = Counter(word for words in sets for word in words)
    holders: dict[str, list[int]] = {}
    found = []
    for j, words in enumerate(sets):
        must_share = max(1, math.ceil(at_least * len(words) - 1e-9))
        rarest = sorted(words, key=lambda word: (frequency[word], word))[:len(words) - must_share + 1]
        candidates = {i for word in rarest for i in holders.get(word, ())}
        for i in sorted(candidates):
            overlap = len(words & sets[i]) / len(words | sets[i])
            if overlap >= at_least:
                found.append((overlap, i, j))
        for word in rarest:
            holders.setdefault(word, []).append(j)
    return sorted(found, reverse=True)


SURFACE = {
    "a link": LINK.search,
    "a digit": re.compile(r"\d").search,
    "a currency sign": re.compile(r"[£$€¥₹₦]").search,
    "an exclamation mark": re.compile("!").search,
    "a word in capitals": re.compile(r"\b[A-Z]{3,}\b").search,
    "no capital at all": lambda text: not re.search(r"[A-Z]", text),
}


def describe(messages: pd.DataFrame) -> str:
    """The figures of the data card, as plain text."""
    train, validation, test = split_messages(messages)
    lengths = messages["text"].str.len()
    groups = {label: messages.loc[messages["label"] == label, "text"] for label in LABELS}
    pairs = near_duplicates(messages["text"])
    lines = [
        f"messages          {len(messages)}: " + ", ".join(f"{len(group)} {label}" for label, group in groups.items()),
        f"characters        mean {lengths.mean():.1f}, median {lengths.median():.0f}, "
        f"shortest {lengths.min()}, longest {lengths.max()}",
        *(f"  {label:<15} mean {group.str.len().mean():.1f}" for label, group in groups.items()),
        f"distinct words    {len(set().union(*map(word_set, messages['text'])))}",
        f"near-duplicates   {len(pairs)} pairs with word overlap of 0.6 or more",
        "split             " + ", ".join(f"{len(part)} {name} ({(part['label'] == 'spam').mean():.1%} spam)"
                                         for name, part in (("train", train), ("validation", validation), ("test", test))),
        "share of messages with" + " " * 12 + "ham   spam",
    ]
    for name, has in SURFACE.items():
        ham, spam = (sum(bool(has(text)) for text in group) / len(group) for group in groups.values())
        lines.append(f"  {name:<28} {ham:6.1%} {spam:6.1%}")
    return "\n".join(lines)


def baseline(messages: pd.DataFrame, only: Sequence[str] = ()) -> str:
    """Bag of words with logistic regression: trained on the training part and scored on the test part; and five-fold.

    Beside it what else costs nothing. `only` names some of the rows. Needs scikit-learn.
    """
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    train, _, test = split_messages(messages)
    tokens = r"\w+|[^\w\s]"                                                     # words and, one by one, punctuation
    models = {
        "most frequent class": None,
        "length and the shares above": make_pipeline(StandardScaler(), LogisticRegression()),
        "words, counted": make_pipeline(CountVectorizer(), LogisticRegression(max_iter=2000)),
        "words, TF-IDF": make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)),
        "words and punctuation, there or not": make_pipeline(
            CountVectorizer(preprocessor=lambda text: re.sub(r"\d", "0", text.lower()), token_pattern=tokens, binary=True),
            LogisticRegression(max_iter=2000)),
        "2 to 4 characters, TF-IDF": make_pipeline(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)),
    }
    surface = lambda texts: np.array([[len(text), *(bool(has(text)) for has in SURFACE.values())] for text in texts])
    lines = [f"{'accuracy':<38} test  5-fold"]
    for name, model in models.items():
        if only and name not in only:
            continue
        if model is None:
            frequent = train["label"].mode()[0]
            scores = (test["label"] == frequent).mean(), (messages["label"] == frequent).mean()
        else:
            x = surface if name.startswith("length") else list
            folds = StratifiedKFold(5, shuffle=True, random_state=0)
            crossed = cross_val_score(model, x(messages["text"]), messages["label"], cv=folds).mean()
            scores = model.fit(x(train["text"]), train["label"]).score(x(test["text"]), test["label"]), crossed
        lines.append(f"  {name:<36} {scores[0]:.1%}  {scores[1]:.1%}")
    half_width = 1.96 * 0.5 / len(test) ** 0.5
    return "\n".join([*lines, f"  ({len(test)} test messages: a difference under {half_width:.0%} means little)"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Figures about a file of labelled messages.")
    parser.add_argument("--data", type=Path, metavar="PATH", help="CSV, or the UCI collection's file or its folder")
    parser.add_argument("--skip", action="store_true", help="leave faulty lines out and list them")
    parser.add_argument("--baseline", action="store_true", help="also train bag of words with logistic regression")
    options = parser.parse_args(arguments)
    try:
        messages = load_messages(options.data, on_bad="skip" if options.skip else "raise")
        print(describe(messages))
        if options.baseline:
            print(baseline(messages))
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"messages.py: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
