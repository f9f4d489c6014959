"""Exercises 5.8 and 5.9: right answers, and the answers that readers give before, each with its hint."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from exercises import verdict
from tests.support import chapter

CHECKS = chapter("ch05", "exercise_checks").CHECKS


def write_whole(path, pieces):
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.writelines(pieces)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def in_place(path, pieces):
    with open(path, "wb") as stream:
        stream.writelines(pieces)


def collected(path, pieces):
    data = b"".join(pieces)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def renamed_anyway(path, pieces):
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.writelines(pieces)
    finally:
        os.replace(temporary, path)


def never_swept(path, pieces):
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as stream:
        stream.writelines(pieces)
    os.replace(temporary, path)


def silent(path, pieces):
    try:
        write_whole(path, pieces)
    except RuntimeError:
        pass


def elsewhere(path, pieces):
    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder) / "new", "wb") as stream:
            stream.writelines(pieces)
        shutil.move(Path(folder) / "new", path)


def copied(path, pieces):
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.writelines(pieces)
        path.write_bytes(temporary.read_bytes())
    finally:
        temporary.unlink()


def last_only(path, pieces):
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.touch()
        for piece in pieces:
            temporary.write_bytes(piece)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def weighted(weights):
    return lambda gradients, counts: [sum(w * g for w, g in zip(weights(counts), column, strict=True))
                                      for column in zip(*gradients, strict=True)]


def changed_in_place(gradients, counts):
    for part, count in zip(gradients, counts, strict=True):
        for g in part:
            g *= count / sum(counts)
    return [sum(column) for column in zip(*gradients, strict=True)]


combine = weighted(lambda counts: [n / sum(counts) for n in counts])

WRONG = [
    ("5.8", in_place, "half overwritten"),
    ("5.8", collected, "collected in memory"),
    ("5.8", renamed_anyway, "Rename only after the last piece"),
    ("5.8", never_swept, "is left in the folder"),
    ("5.8", silent, "the caller never hears of it"),
    ("5.8", elsewhere, "lies in another folder"),
    ("5.8", copied, "Rename instead: os.replace"),
    ("5.8", last_only, "but the file holds b'whole'"),
    ("5.8", lambda path, pieces: path.write_bytes(b""), "It never asks for a piece"),
    ("5.9", weighted(lambda counts: [1 / len(counts)] * len(counts)), "the mean of means"),
    ("5.9", weighted(lambda counts: [1.0] * len(counts)), "the sum of the means"),
    ("5.9", weighted(lambda counts: counts), "sums over targets"),
    ("5.9", weighted(lambda counts: [n / len(counts) for n in counts]), "not by that of the processes"),
    ("5.9", weighted(lambda counts: [1 / n for n in counts]), "each is a mean already"),
    ("5.9", lambda gradients, counts: combine(gradients, counts[::-1]), "Weigh each gradient by its count"),
    ("5.9", lambda gradients, counts: combine(gradients, counts)[0], "Return a list with a tensor for each parameter"),
    ("5.9", changed_in_place, "have changed; make new tensors"),
]


@pytest.mark.parametrize(("number", "attempt"), [("5.8", write_whole), ("5.9", combine)])
def test_a_right_answer_is_right(number, attempt):
    assert verdict(number, attempt, CHECKS).startswith(f"Exercise {number}: right.")


@pytest.mark.parametrize(("number", "attempt", "hint"), WRONG, ids=[f"{n}: {h}" for n, _, h in WRONG])
def test_a_wrong_answer_gets_its_hint(number, attempt, hint):
    said = verdict(number, attempt, CHECKS)
    assert said.startswith(f"Exercise {number}: not yet.")
    assert hint in said, said
