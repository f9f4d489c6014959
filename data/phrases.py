"""The language of the phrase banks in `data/world/`, and the world they make up: data/world/README.md explains it by example."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from random import Random

WORLD = Path(__file__).resolve().parent / "world"
LEVELS = ("simple", "full")


@dataclass(frozen=True)
class Slot:
    """{he}, {He} or {OBJ}; {say whispered} has an argument; {*object.detail} is a phrase from another bank."""

    word: str
    argument: str
    case: str              # "", "capital" or "upper"


@dataclass(frozen=True, eq=False)
class Line:
    """One phrase: its parts are text, slots and lists of alternatives; facts decide whether it may be used."""

    text: str
    wants: frozenset[str]
    refuses: frozenset[str]
    sets: frozenset[str]
    parts: tuple

    def fits(self, facts: frozenset[str]) -> bool:
        return self.wants <= facts and self.refuses.isdisjoint(facts)


TOKEN = re.compile(r"\{([^{}]+)\}|([\[\]|])|([^{}\[\]|]+)")
ENDED = re.compile(r"((^|[^\"])[.!?]|\.\"|[.!?]\*) $")           # a sentence begins after this, but not after "Why?" and its quote
OF_HERO = {"n", "nm", "n's", "mine"}                                 # capital as names are, and small where they are "me" and "my"
OF_COMPANION = {"pal", "palkind", "phe", "phim", "phis", "phand"}


def parse_line(text: str) -> Line:
    """Compile one phrase. "@sad @!pal text" is used in sad tales without a companion,
    "@+snail text" makes @snail true for the rest of the tale. {pal} asks for @met, a companion whom an earlier phrase marked
    @+met has introduced; in such a phrase itself it asks for @pal, that there is one."""
    wants, refuses, sets = set(), set(), set()
    while text.startswith("@"):
        condition, _, text = text[1:].partition(" ")
        {"!": refuses, "+": sets}.get(condition[0], wants).add(condition.lstrip("!+"))
    stack: list[list] = [[[]]]                    # a stack of alternatives, each a list of parts
    for slot, mark, plain in TOKEN.findall(text):
        if plain:
            stack[-1][-1].append(plain)
        elif slot:
            word, _, argument = slot.partition(" ")
            if word.lower() in OF_COMPANION:
                wants.add("pal" if "met" in sets else "met")
            starts = all(not alternatives[-1] for alternatives in stack) or ENDED.search(last_text(stack))
            capital = starts or (word[0].isupper() and word.lower() not in OF_HERO)
            case = "upper" if len(word) > 1 and word.isupper() else "capital" if capital else ""
            stack[-1][-1].append(Slot(word.lower(), argument, case))
        elif mark == "[":
            stack.append([[]])
        elif mark == "|" and len(stack) > 1:
            stack[-1].append([])
        elif mark == "]" and len(stack) > 1:
            alternatives = stack.pop()
            stack[-1][-1].append([tuple(parts) for parts in alternatives])
        else:
            raise ValueError(f"phrase has a stray {mark!r}: {text!r}")
    if len(stack) > 1:
        raise ValueError(f"phrase has an unclosed '[': {text!r}")
    return Line(text, frozenset(wants), frozenset(refuses), frozenset(sets), tuple(stack[0][0]))


def last_text(stack: list[list]) -> str:
    """The plain text right before the place where parsing stands, "" behind a slot."""
    for alternatives in reversed(stack):
        if alternatives[-1]:
            return alternatives[-1][-1] if isinstance(alternatives[-1][-1], str) else ""
    return ""


@dataclass
class Section:
    phrase: str            # what the plan says: "the wind blows it into a tree"
    meta: dict[str, str]
    lines: list[Line]


@dataclass
class Block:
    """One `=== name` entry of a world file: its `key: value` lines and its `# section` lists of phrases."""

    name: str
    meta: dict[str, str]
    sections: dict[str, list[Section]]

    @cached_property
    def tags(self) -> frozenset[str]:
        short = self.name.removeprefix("the ").replace("'", "").replace(" ", "-")       # "the tea shop" is tagged tea-shop
        return frozenset(self.meta.get("tags", "").split()) | {short}

    @cached_property
    def bank(self) -> dict[tuple[str, str], list[Line]]:
        bank: dict[tuple[str, str], list[Line]] = {}
        for kind, sections in self.sections.items():
            for section in sections:
                bank.setdefault((kind, section.phrase), []).extend(section.lines)
        return bank

    def lines(self, section: str, phrase: str = "") -> list[Line]:
        return self.bank.get((section, phrase), [])


def read_blocks(path: Path) -> dict[str, Block]:
    blocks: dict[str, Block] = {}
    block = section = None
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("=== "):
            block, section = Block(line[4:], {}, {}), None
            blocks[block.name] = block
        elif line.startswith("# "):
            head, *pairs = line[2:].split(" | ")
            kind, _, phrase = head.partition(": ")
            section = Section(phrase, dict(pair.split(": ", 1) for pair in pairs), [])
            block.sections.setdefault(kind, []).append(section)
        elif line and section is None:
            key, _, value = line.partition(": ")
            block.meta[key] = value
        elif line:
            section.lines.append(parse_line(line))
    return blocks


@dataclass
class World:
    names: dict[str, list[str]]
    objects: dict[str, Block]
    places: dict[str, Block]
    helpers: dict[str, Block]
    traits: dict[str, Block]
    plots: dict[str, Block]
    common: Block


def read_names(level: str) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for line in (WORLD / "names.txt").read_text(encoding="utf-8").splitlines():
        kind, colon, rest = line.partition(": ")
        if colon and not line.startswith("#"):
            starred = [name for name in rest.split() if level == "full" or name.startswith("*")]
            names.setdefault(kind, []).extend(name.lstrip("*") for name in starred)
    return names


@cache
def load_world(level: str) -> World:
    """Read the lexicon and the phrase banks of one level."""
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}; use one of {', '.join(LEVELS)}")
    folder = WORLD / level

    def read(pattern: str) -> dict[str, Block]:
        return {name: block for path in sorted(folder.glob(pattern)) for name, block in read_blocks(path).items()}

    return World(read_names(level), read("objects*.txt"), read("places*.txt"), read("helpers*.txt"), read("traits*.txt"),
                 read("plots*.txt"), read("common.txt")["common"])


def lexicon(level: str = "full") -> dict[str, list[str]]:
    """The world's words, without its phrases: names, kinds, traits, objects, places and helpers, for a checker to share."""
    world = load_world(level)
    return {"names": [name for group in world.names.values() for name in group],
            "girls": world.names["girl"], "boys": world.names["boy"], "animals": world.names["animal"],
            "kinds": ["girl", "boy", *world.common.meta["kinds"].split()],
            "traits": sorted({trait for plot in world.plots.values() for s in plot.sections["idea"]
                              for trait in s.meta["traits"].split()}),
            "objects": list(world.objects), "places": list(world.places), "helpers": list(world.helpers)}


def choose(rng: Random, options):
    """One of a sequence. Only `random()` is used: its stream is the same on every Python and system."""
    return options[int(rng.random() * len(options))]


def fits(expression: str | None, tags: frozenset[str]) -> bool:
    """Whether tags satisfy "floats small+metal -heavy": any of the alternatives, each a conjunction, and no "-" tag."""
    if not expression:
        return True
    alternatives, refused = parse_expression(expression)
    return refused.isdisjoint(tags) and (not alternatives or any(tags >= wanted for wanted in alternatives))


@cache
def parse_expression(expression: str) -> tuple[tuple[frozenset[str], ...], frozenset[str]]:
    words = expression.split()
    return (tuple(frozenset(word.split("+")) for word in words if word[0] != "-"),
            frozenset(word[1:] for word in words if word[0] == "-"))


def shuffled(rng: Random, options: list) -> list:
    options = list(options)
    return [options.pop(int(rng.random() * len(options))) for _ in range(len(options))]
