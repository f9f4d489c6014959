"""Reading and writing JSON and JSONL records: nothing is dropped in silence, and every complaint names file, line and remedy.

`load_instructions` takes Alpaca-style files (`instruction`, `input`, `output`), `load_preferences` files of pairs
(`prompt`, `chosen`, `rejected`) or a reader's own labels (`prompt`, `a`, `b`, `label`). Both read the course's files and
files from elsewhere alike, as JSON Lines or as one JSON array.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CHOICES = {"a": "A", "b": "B", "tie": "tie", "skip": "skip"}
SPACE = re.compile(r"[\s]*")


@dataclass
class LoadReport:
    """What was read, and which records were left out and why."""

    path: str
    format: str
    kept: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)     # (line, reason), one for each record left out
    notes: list[str] = field(default_factory=list)                   # what was changed without losing anything

    def __str__(self) -> str:
        lines = [f"{self.path} ({self.format}): {self.kept} records read, {len(self.skipped)} left out"]
        lines += [f"  line {line} left out: {reason}" for line, reason in self.skipped]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


class Records(list):
    """A list of dicts that knows where it came from: `records.report` says what was kept and what was left out."""

    def __init__(self, rows: Iterable[dict], report: LoadReport):
        super().__init__(rows)
        self.report = report


class _File:
    """One file's path, report and policy: every complaint goes through `reject`."""

    def __init__(self, path: str | os.PathLike, on_bad: str):
        if on_bad not in ("raise", "skip"):
            raise ValueError(f"on_bad is {on_bad!r}; pass 'raise' or 'skip'")
        self.path, self.on_bad = Path(path), on_bad
        self.report = LoadReport(self.path.name, "JSON Lines")
        self.changed: Counter[str] = Counter()
        self.ids: dict[str, int] = {}

    def reject(self, line: int, problem: str, remedy: str) -> None:
        """Stop here, or under on_bad="skip" write down what is left out and go on."""
        if self.on_bad == "raise":
            raise ValueError(f'{self.path}, line {line}: {problem}; {remedy}, or pass on_bad="skip" to leave it out')
        self.report.skipped.append((line, problem))

    def has_new_id(self, line: int, row: dict) -> bool:
        name = row.get("id")
        if name is None:
            return True
        first = self.ids.setdefault(str(name), line)
        if first != line:
            self.reject(line, f"id {str(name)[:60]!r} stands on line {first} already", "give each record its own id")
        return first == line

    def finish(self, rows: list[dict]) -> Records:
        if not rows:
            why = "; the first was left out: line {}, {}".format(*self.report.skipped[0]) if self.report.skipped else ""
            raise ValueError(f"{self.path}: no usable record in this file{why}; give it at least one")
        self.report.kept = len(rows)
        self.report.notes += [f"{count} {what}" for what, count in self.changed.items()]
        return Records(rows, self.report)


# ---------------------------------------------------------------- lines of JSON, or one array of it

def _rows(file: _File) -> Iterator[tuple[int, dict]]:
    """Every record with the line on which it begins. Blank lines are passed over."""
    if not file.path.is_file():
        raise FileNotFoundError(f"no file at {file.path}; give the path of a .json or .jsonl file")
    with open(file.path, "rb") as stream:
        head = stream.read(4)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head:
        raise ValueError(f"{file.path}, line 1: this looks like UTF-16 or a binary file; save it again as UTF-8 text")
    with open(file.path, "rb") as stream:
        is_array = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    found = _array(file) if is_array else _lines(file)
    anything = False
    for line, row in found:
        anything = True
        if isinstance(row, dict):
            yield line, row
        else:
            file.reject(line, f"{type(row).__name__} where a record should be", 'write an object: {"instruction": ...}')
    if not anything and not file.report.skipped:
        raise ValueError(f"{file.path}, line 1: the file is empty; it should hold one JSON object a line, or an array of them")


def _decode(file: _File, line: int, raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        file.reject(line, f"byte {raw[error.start]:#04x} at position {error.start + 1} isn't UTF-8", "save the file as UTF-8")
        return None


def _lines(file: _File) -> Iterator[tuple[int, object]]:
    with open(file.path, "rb") as stream:
        for line, raw in enumerate(stream, start=1):
            text = _decode(file, line, raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw)
            if text is None or not text.strip():
                continue
            try:
                yield line, json.loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                what = getattr(error, "msg", "nested too deeply")
                file.reject(line, f"broken JSON ({what} at column {getattr(error, 'colno', 1)}): {text.strip()[:40]!r}",
                            "repair the line; each line holds one whole object")


def _array(file: _File) -> Iterator[tuple[int, object]]:
    """The items of one JSON array, each with its line. A broken item ends the reading: nothing after it can be trusted."""
    file.report.format = "JSON array"
    raw = file.path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file.path}, line {line}: byte {raw[error.start]:#04x} isn't UTF-8; save the file as UTF-8") from None
    decoder, at, line = json.JSONDecoder(), text.index("[") + 1, 1
    line += text.count("\n", 0, at)

    def skip(position: int) -> int:
        return SPACE.match(text, position).end()

    def broken(position: int, what: str) -> ValueError:
        where = text.count("\n", 0, position) + 1
        return ValueError(f"{file.path}, line {where}: broken JSON ({what}); repair the array there, or write one object a line "
                          '(JSON Lines), where on_bad="skip" can leave out a broken one')

    at, counted = skip(at), at
    if text[at:at + 1] == "]":
        return
    while True:
        line, counted = line + text.count("\n", counted, at), at
        try:
            item, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            raise broken(getattr(error, "pos", at), getattr(error, "msg", "nested too deeply")) from None
        yield line, item
        end = skip(end)
        if text[end:end + 1] == "]":
            if text[end + 1:].strip():
                raise broken(end + 1, "text after the array's end")
            return
        if text[end:end + 1] != ",":
            raise broken(min(end, len(text) - 1), "a comma or ] is missing")
        at = skip(end + 1)


# ---------------------------------------------------------------- fields

def _text(file: _File, line: int, row: dict, key: str) -> str | None:
    """The text under `key`, or None after a complaint."""
    value = row[key]
    if not isinstance(value, str):
        file.reject(line, f"{key!r} is {type(value).__name__}, not text", "write it in quotation marks")
    elif not value.strip():
        file.reject(line, f"{key!r} is empty", "fill it in or delete the record")
    elif any("\ud800" <= letter <= "\udfff" for letter in value):
        file.reject(line, f"{key!r} holds half of a character (a lone surrogate)", "write the character whole")
    else:
        return value
    return None


def _missing(file: _File, line: int, row: dict, wanted: tuple[str, ...], other: Callable[[dict], str]) -> bool:
    missing = [key for key in wanted if key not in row]
    if missing:
        keys = ", ".join(map(repr, list(row)[:8])) or "none"
        file.reject(line, f"no {' and no '.join(map(repr, missing))} (keys: {keys})", other(row))
    return bool(missing)


def load_instructions(path: str | os.PathLike, *, on_bad: str = "raise") -> Records:
    """Read instructions with their answers: JSON Lines or a JSON array of `instruction`, `output` and, if you like, `input`.

    Further keys (`id`, `family`, `facts`, ...) are kept as they are. A faulty record is an error, ValueError with file, line and
    remedy: wrong keys, empty or non-text fields, a repeated id, broken JSON, bytes that aren't UTF-8. With on_bad="skip" it is left
    out and reported in `.report`. A broken array, an empty file and a file without one usable record are errors in either case.
    """
    def advice(row: dict) -> str:
        if "chosen" in row or "label" in row:
            return "this looks like a file of preferences: use load_preferences"
        return 'an instruction has "instruction", "output" and perhaps "input"; rename the keys'

    file, rows = _File(path, on_bad), []
    for line, row in _rows(file):
        if _missing(file, line, row, ("instruction", "output"), advice) or not file.has_new_id(line, row):
            continue
        given = row.get("input")
        if given is not None and not isinstance(given, str):
            file.reject(line, f"'input' is {type(given).__name__}, not text", 'write it in quotation marks, or "" for none')
            continue
        if _text(file, line, row, "instruction") is None or _text(file, line, row, "output") is None:
            continue
        if given and given.strip() and _text(file, line, row, "input") is None:
            continue
        if given is None:
            file.changed["records have no input; it was set to \"\""] += 1
        rows.append({**row, "input": given or ""})
    return file.finish(rows)


def load_preferences(path: str | os.PathLike, *, on_bad: str = "raise") -> Records:
    """Read pairs of answers: `prompt`, `chosen`, `rejected`, or one's own labels: `prompt`, `a`, `b`, `label` (A, B, tie, skip).

    Every record comes back with `prompt`, `chosen` and `rejected`, further keys kept. `chosen` and `rejected` may also be lists of
    messages ({"role", "content"}), as some collections have them; the last message is the answer and, where `prompt` is missing,
    what both lists begin with is the prompt. Ties and skips can't train a preference: they are left out and reported, never an
    error. Errors are load_instructions', and: chosen equal to rejected, an unknown label.
    """
    def advice(row: dict) -> str:
        if "instruction" in row:
            return "this looks like a file of instructions: use load_instructions"
        return 'a pair has "prompt", "chosen", "rejected"; a label of your own "prompt", "a", "b", "label"'

    file, rows = _File(path, on_bad), []
    for line, row in _rows(file):
        if "label" in row or ("a" in row and "b" in row):
            if _missing(file, line, row, ("prompt", "a", "b", "label"), advice):
                continue
            label = row["label"]
            choice = CHOICES.get(label.strip().lower()) if isinstance(label, str) else None
            if choice is None:
                file.reject(line, f"unknown label {label!r:.40}", "labels are 'A', 'B', 'tie' and 'skip'")
                continue
            if choice in ("tie", "skip"):
                if file.has_new_id(line, row):
                    file.report.skipped.append((line, f"labelled {choice!r}: it says nothing about which is better"))
                continue
            chosen, rejected = ("a", "b") if choice == "A" else ("b", "a")
            row = {**row, "label": choice, "chosen": row[chosen], "rejected": row[rejected]}
        else:
            row = _from_messages(file, row)
            if _missing(file, line, row, ("prompt", "chosen", "rejected"), advice):
                continue
        if not file.has_new_id(line, row) or any(_text(file, line, row, key) is None for key in ("prompt", "chosen", "rejected")):
            continue
        if row["chosen"].strip() == row["rejected"].strip():
            file.reject(line, "chosen and rejected are the same text", "a pair needs two answers")
            continue
        rows.append(row)
    return file.finish(rows)


def _from_messages(file: _File, row: dict) -> dict:
    """Lists of messages turned into texts; anything else comes back untouched, for the checks to complain about."""
    def is_talk(value) -> bool:
        return (isinstance(value, list) and bool(value) and
                all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in value))

    new = dict(row)
    if is_talk(row.get("chosen")) and is_talk(row.get("rejected")):
        file.changed["pairs were lists of messages; the last message was taken as the answer"] += 1
        if "prompt" not in row and row["chosen"][:-1] == row["rejected"][:-1] and len(row["chosen"]) > 1:
            new["prompt"] = row["chosen"][:-1]
        new |= {"chosen": row["chosen"][-1]["content"], "rejected": row["rejected"][-1]["content"]}
    if is_talk(new.get("prompt")):
        new["prompt"] = "\n\n".join(message["content"] for message in new["prompt"])
    return new


# ---------------------------------------------------------------- writing

def write_jsonl(path: str | os.PathLike, rows: Iterable[dict]) -> int:
    """Write one JSON object a line, through a temporary file, so that a stopped run leaves no half file; returns how many."""
    path, count = Path(path), 0
    temporary = path.with_name(path.name + ".partial")
    try:
        stream = open(temporary, "w", encoding="utf-8", newline="\n")      # noqa: SIM115
    except OSError as error:
        raise ValueError(f"can't write to {path}: {error.strerror}; name a file in a folder that exists and is yours") from error
    with stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    os.replace(temporary, path)
    return count
