"""The tale in a reader's head: its words and sentences, the people and things in them, and the facts found so far.

The checker of data/read_tale.py is built on this. From the generator it takes the world's lexicon (names, kinds, objects, places,
helpers) and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from data import cues
from data.tales import lexicon


@dataclass(frozen=True)
class Violation:
    name: str
    why: str


@dataclass
class Sentence:
    text: str
    words: list[str]            # all words and marks, lower case
    told: list[str]             # the words outside quotation marks
    names: list[str] = field(default_factory=list)


@dataclass
class Reading:
    """The facts of a tale as a reader finds them; "" where the tale doesn't say."""

    hero: str = ""
    kind: str = ""
    pronoun: str = ""
    trait: str = ""
    companion: str = ""
    place: str = ""
    object: str = ""
    problem: str = ""
    helper: str = ""
    solved: bool | None = None
    ending: str = ""
    sentences: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)


# ---------------------------------------------------------------- words and sentences

TOKEN = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*|\d+|\.\.\.|[^\s]")
SENTENCE = re.compile(r'.+?(?:[.!?]+["”*)]*(?=\s+["“*(]?[A-Z]|\s*$|\s*\n)|\s*\n+|$)', re.S)


@dataclass(frozen=True)
class Words:
    """The lexicon of one level, arranged for looking things up."""

    names: dict[str, str]                   # name -> "she", "he" or "" for the animals' names
    kinds: frozenset[str]
    traits: frozenset[str]
    helpers: frozenset[str]
    objects: dict[str, list[tuple]]         # first word -> the phrases that begin with it
    places: dict[str, list[tuple]]
    people: dict[str, list[tuple]]
    opening: re.Pattern
    called: re.Pattern


def by_first_word(phrases: Iterable[str]) -> dict[str, list[tuple]]:
    table: dict[str, list[tuple]] = {}
    for phrase in sorted({p.lower().removeprefix("the ") for p in phrases}, key=len, reverse=True):
        words = tuple(TOKEN.findall(phrase))
        table.setdefault(words[0], []).append(words)
    return table


@cache
def words_of(level: str) -> Words:
    known = lexicon(level)
    names = dict.fromkeys(known["animals"], "") | dict.fromkeys(known["girls"], "she") | dict.fromkeys(known["boys"], "he")
    kinds = frozenset(known["kinds"])
    everyone = {*known["helpers"], *cues.FEMALE, *cues.MALE, *cues.PEOPLE, *cues.ANIMALS, *kinds}
    return Words(names, kinds, frozenset(known["traits"]), frozenset(known["helpers"]), by_first_word(known["objects"]),
                 by_first_word(known["places"]), by_first_word(everyone),
                 *(re.compile(pattern.replace("KIND", "|".join(kinds))) for pattern in (cues.OPENING, cues.CALLED)))


@cache
def common_words() -> frozenset[str]:
    """The whole words among GPT-2's tokens: some 24,000, and with them the letter triples English is spelled with."""
    lines = (Path(__file__).with_name("gpt2") / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    tokens = (line.replace(" ", "") for line in lines)
    return frozenset(token[1:].lower() for token in tokens if token[0] == "Ġ" and token[1:].isalpha())


@cache
def letter_triples() -> frozenset[str]:
    return frozenset(f"^{word}$"[i:i + 3] for word in common_words() for i in range(len(word)))


def find_phrases(words: list[str], table: dict[str, list[tuple]]) -> list[tuple[int, int, str]]:
    """Where the table's phrases stand, as (start, end, phrase), the longest first; a plural's or possessive's s is let pass."""
    found, i = [], 0
    while i < len(words):
        for phrase in table.get(words[i]) or table.get(words[i].removesuffix("'s"), ()):
            n = len(phrase)
            if n == 1 or (*words[i:i + n - 1], words[min(i + n, len(words)) - 1].removesuffix("'s")) == phrase:
                found.append((i, i + n, " ".join(phrase)))
                i += n - 1
                break
        i += 1
    return found


def split_sentences(text: str, names: dict[str, str]) -> list[Sentence]:
    sentences, inside, slanted = [], False, False
    for match in SENTENCE.finditer(text):
        raw = TOKEN.findall(match[0].replace("“", '"').replace("”", '"').replace("’", "'"))
        if not raw:
            continue
        told = []
        for token in raw:
            if token == '"':
                inside = not inside
            elif token == "*":                              # *italics* are somebody's voice too
                slanted = not slanted
            elif not inside and not slanted:
                told.append(token.lower())
        if "\n" in text[match.end() - 1:match.end() + 2]:
            inside = slanted = False                        # a quotation ends with its paragraph at the latest
        found = [name for before, name, after in zip(["", *raw], (token.removesuffix("'s") for token in raw), [*raw[2:], "", ""])
                 if name in names and (before, after) != ('"', '"')]       # a name by itself in quotation marks is only a cry
        sentences.append(Sentence(match[0].strip(), [t.lower() for t in raw if t not in '"*'], told, found))
    return sentences


# ---------------------------------------------------------------- the tale in the reader's head

class Tale:
    """A tale under reading: its sentences, the people and things in them, and the facts found so far."""

    def __init__(self, text: str, level: str):
        self.text, self.known = text.strip(), words_of(level)
        self.sentences = split_sentences(self.text, self.known.names)
        self.facts = Reading(sentences=[s.text for s in self.sentences])
        self.things = [find_phrases(s.words, self.known.objects) for s in self.sentences]
        self.people = [find_phrases(s.told, self.known.people) for s in self.sentences]
        narrated = [word for s in self.sentences for word in s.told]
        self.plain = level == "simple"            # plain tales say everything outright, so more can be asked of them
        self.narrator_is_hero = sum(word in ("i", "me", "my") for word in narrated) > 0.025 * len(narrated)

    def object_to(self, name: str, why: str) -> None:
        if all(violation.name != name for violation in self.facts.violations):
            self.facts.violations.append(Violation(name, why))

    def last(self, share: float, at_least: int = 3) -> range:
        """The indices of the tale's last sentences."""
        n = len(self.sentences)
        return range(max(0, min(n - at_least, n - int(n * share))), n)

# ---------------------------------------------------------------- small questions to a sentence

def article_before(words: list[str], start: int) -> str:
    """The article or possessive of the noun at `start`, over at most two adjectives."""
    for word in words[max(0, start - 3):start][::-1]:
        if word in cues.ARTICLES or word in cues.POSSESSIVES:
            return word
        if not word.isalpha() or word in cues.LOCATIVE:
            break
    return ""


def is_scenery(tale: Tale, i: int, start: int) -> bool:
    words = tale.sentences[i].words
    return start >= 2 and words[start - 2] in cues.LOCATIVE and words[start - 1] in cues.ARTICLES


def plain(tale: Tale, i: int) -> str:
    """Sentence i in lower case, the object replaced by THING and the hero by HERO."""
    text = tale.sentences[i].text
    if tale.facts.hero:
        text = re.sub(rf"\b{tale.facts.hero}\b", "HERO", text)
    words = [word if word == "HERO" else word.lower() for word in TOKEN.findall(text)]
    return re.sub(r" (?=[,.!?])", "", " ".join(words).replace(tale.facts.object or "no object", "THING"))
