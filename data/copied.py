"""How much of a text is copied: the longest span that it shares with the training text."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable


class TrainingIndex:
    """Where the runs of `run` words of a training text stand: one entry for every `stride` words, so memory stays bounded.

    Every span of at least run + stride - 1 words that a text shares with the training text holds an indexed run and is found.
    A run that is repeated all over the training text is followed at `repeats` places only.
    """

    def __init__(self, texts: Iterable[str], run: int = 12, stride: int = 4, repeats: int = 100, max_words: int = 50_000_000):
        self.run, self.words, self.places = run, array("L"), {}
        self.ids: dict[str, int] = {}
        for text in texts:
            self.words.extend(self.ids.setdefault(word, len(self.ids) + 1) for word in COPIED.findall(text.lower()))
            self.words.append(0)                                         # nothing is copied across two texts
            if len(self.words) > max_words:
                raise ValueError(f"training text has more than {max_words} words; index a part of it or pass a larger max_words")
        for i in range(0, len(self.words) - run + 1, stride):
            places = self.places.setdefault(hash(tuple(self.words[i:i + run])), [])
            if len(places) < repeats:
                places.append(i)


COPIED = re.compile(r"\w+(?:['’-]\w+)*")


def longest_copied_span(text: str, index: TrainingIndex) -> tuple[int, str]:
    """The longest run of words that the text shares with the training text: how many, and which (case and marks left aside)."""
    said = COPIED.findall(text.lower())
    ids = [index.ids.get(word, -1) for word in said]
    best, best_start, i = 0, 0, 0
    while i <= len(ids) - index.run:
        for place in index.places.get(hash(tuple(ids[i:i + index.run])), ()):
            left = common(ids, i - 1, index.words, place - 1, -1)
            length = left + common(ids, i, index.words, place, 1)
            if length > best:
                best, best_start = length, i - left
        i += 1
    return best, " ".join(said[best_start:best_start + best])


def common(a: list[int], i: int, b: array, j: int, step: int) -> int:
    """How many words agree from a[i] and b[j] on, going forward (step 1) or backward (step -1)."""
    length = 0
    while 0 <= i < len(a) and 0 <= j < len(b) and a[i] == b[j]:
        i, j, length = i + step, j + step, length + 1
    return length
