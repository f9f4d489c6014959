"""The course's own world of children's tales: a plan holds the facts, a telling turns them into prose.

    python data/tales.py --tales 50000 --seed 7 --out tales.txt

`make_plan` draws facts that obey cause and effect, `tell` writes one of many tellings of them, and `generate_tales` streams both.
Every phrase stands in the plain text files of `data/world/`; this module holds no prose. data/phrases.py reads those files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from random import Random

if __package__ in (None, ""):                                # run as a script: make `data` importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.phrases import LEVELS, Block, Line, Section, World, choose, fits, lexicon, load_world, parse_line, shuffled

__all__ = ["ENDINGS", "LEVELS", "SEPARATOR", "SPLITS", "WORD_LIMITS", "Companion", "Plan", "Teller", "choose", "fits",
           "generate_tales", "held_out", "lexicon", "load_world", "main", "make_plan", "matching", "shuffled", "tell", "tidy"]

SPLITS = ("train", "combinations", "skeletons")
ENDINGS = ("happy", "sad", "funny")
WORD_LIMITS = {"simple": (40, 120), "full": (80, 250)}
COMFORTABLE = {"simple": 100, "full": 210}  # above this many words, beats that may be left out are
LEISURE = {"simple": (0.3,), "full": (0.1, 0.4, 0.7)}     # how often a beat that may be left out is told
SEPARATOR = "<|endoftext|>"


# ---------------------------------------------------------------- plans

@dataclass(frozen=True)
class Companion:
    name: str
    kind: str      # "friend", "brother", "cat", ...
    pronoun: str   # "she" or "he"


@dataclass(frozen=True)
class Plan:
    """The facts of one tale. Phrases such as `problem` speak of the object as "it" and of the hero as "the hero"."""

    skeleton: str
    level: str
    hero: str
    kind: str
    pronoun: str
    trait: str
    companion: Companion | None
    place: str
    object: str
    look: str
    weather: str
    problem: str
    attempts: tuple[str, ...]
    helper: str
    idea: str
    resolution: str
    ending: str
    moral: str

    @property
    def title(self) -> str:
        return f"{self.hero} and the {self.look.title()} {self.object.title()}"

    def to_dict(self) -> dict:
        return {**asdict(self), "attempts": list(self.attempts)}

    @classmethod
    def from_dict(cls, facts: dict) -> Plan:
        """Rebuild a plan from `to_dict`'s result; ValueError names missing and unknown keys."""
        names = set(cls.__dataclass_fields__)
        if set(facts) != names:
            raise ValueError(f"a plan's facts don't fit: missing {sorted(names - set(facts))}, unknown "
                             f"{sorted(set(facts) - names)}; pass what Plan.to_dict returned")
        companion = facts["companion"]
        return cls(**{**facts, "attempts": tuple(facts["attempts"]), "companion": companion and Companion(**companion)})


def held_out(plan: Plan) -> bool:
    """Whether the plan belongs to the held-out combinations (hero x object, place x problem), which train never has."""
    pairs = (f"{plan.hero}+{plan.object}", f"{plan.place}+{plan.problem}")
    return any(zlib.crc32(pair.encode()) % 16 == 0 for pair in pairs)


# ---------------------------------------------------------------- drawing a plan

@cache
def matching(level: str, table: str, expression: str | None) -> list[str]:
    found = [name for name, block in getattr(load_world(level), table).items() if fits(expression, block.tags)]
    if not found:
        raise ValueError(f"no entry of {table} at level {level!r} fits {expression!r}; see data/world/{level}")
    return found


def draw_section(rng: Random, plot: Block, kind: str, facts: frozenset[str]) -> Section:
    options = [section for section in plot.sections[kind] if fits(section.meta.get("needs"), facts)]
    if not options:
        raise ValueError(f"plot {plot.name!r} has no {kind} for the facts {sorted(facts)}")
    return choose(rng, options)


def make_plan(seed: int | str, level: str = "full", split: str = "train") -> Plan:
    """The plan of this seed. `split` is "train", "combinations" (hero x object or place x problem that train never has)
    or "skeletons" (plots that train never has). ValueError for an unknown level or split."""
    load_world(level)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    rng = Random(f"plan {level} {split} {seed}")
    while True:
        plan = draw_plan(rng, level, split == "skeletons")
        if held_out(plan) == (split == "combinations"):
            return plan


@cache
def plot_names(level: str, unseen: bool) -> list[str]:
    return [name for name, plot in load_world(level).plots.items() if (plot.meta.get("split") == "skeletons") == unseen]


def draw_plan(rng: Random, level: str, unseen: bool) -> Plan:
    world = load_world(level)
    plot = world.plots[choose(rng, plot_names(level, unseen))]
    object_name = choose(rng, matching(level, "objects", plot.meta.get("objects")))
    weather = choose(rng, plot.meta.get("weather", world.common.meta["weather"]).split())
    season = "" if weather in ("snowy", "frosty") else " -snow"
    place = choose(rng, matching(level, "places", plot.meta.get("places", "") + season))
    ending = choose(rng, plot.meta["endings"].split())
    facts = world.objects[object_name].tags | world.places[place].tags | {weather, ending}
    problem = draw_section(rng, plot, "problem", facts)
    facts |= set(problem.meta.get("tag", "").split())
    idea = draw_section(rng, plot, "idea", facts)
    facts |= set(idea.meta.get("tag", "").split())
    attempts = [section.phrase for section in plot.sections["attempt"] if fits(section.meta.get("needs"), facts)]
    attempts = shuffled(rng, attempts)[:int(rng.random() * 1.6) + (level == "full" and rng.random() < 0.8)]
    trait = choose(rng, idea.meta["traits"].split())
    helper = choose(rng, matching(level, "helpers", idea.meta["helper"]))
    resolution = draw_section(rng, plot, ending, facts)
    hero, kind, pronoun = draw_hero(rng, world)
    companion = draw_companion(rng, world, hero) if rng.random() < 0.45 else None
    if helper == kind:
        return draw_plan(rng, level, unseen)
    facts |= {trait} | ({"pal"} if companion else set())
    moral = choose(rng, [line for line in plot.lines("moral") or world.common.lines("moral") if line.fits(facts)])
    return Plan(plot.name, level, hero, kind, pronoun, trait, companion, place, object_name,
                choose(rng, world.objects[object_name].meta["look"].split("; ")), weather, problem.phrase, tuple(attempts),
                helper, idea.phrase, resolution.phrase, ending, moral.text.replace("{trait}", trait))


def draw_hero(rng: Random, world: World) -> tuple[str, str, str]:
    group = choose(rng, ("girl", "girl", "boy", "boy", "animal"))
    name = choose(rng, world.names[group])
    if group == "animal":
        return name, choose(rng, world.common.meta["kinds"].split()), choose(rng, ("she", "he"))
    return name, group, "she" if group == "girl" else "he"


def draw_companion(rng: Random, world: World, hero: str) -> Companion:
    name, _, pronoun = draw_hero(rng, world)
    relation = choose(rng, world.common.meta["friends"].split())
    relation = {"sibling": "sister" if pronoun == "she" else "brother"}.get(relation, relation)
    return Companion(name, relation, pronoun) if name != hero else draw_companion(rng, world, hero)


# ---------------------------------------------------------------- telling a plan

CASES = {"she": ("she", "her", "her", "herself"), "he": ("he", "him", "his", "himself"), "it": ("it", "it", "its", "itself"),
         "I": ("I", "me", "my", "myself")}
FIRST_PERSON = ("first", "post", "diary")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIO](?!ne\b|nce\b)(?!niq|nif|ni[ct]|nive|se|sua)|hour|honest)")
SPACES = re.compile(r" +([ .,!?])")


def tidy(text: str) -> str:
    """Repair what slots and empty alternatives leave behind: "a apple", two spaces, a space before a comma."""
    return ARTICLE.sub(r"\1n ", SPACES.sub(r"\1", text))


class Teller:
    """Renders the beats of one plan, never using a phrase twice.

    `facts` are the words that conditions such as @sad ask for, `slots` the words that {slots} stand for. In a first-person
    telling {N} is "I" and {they} is "we"; otherwise they are the hero's name and "they".
    """

    def __init__(self, plan: Plan, rng: Random):
        world = load_world(plan.level)
        self.plan, self.rng, self.common, self.plot = plan, rng, world.common, world.plots[plan.skeleton]
        self.used: set[Line] = set()
        self.entities = {"object": world.objects[plan.object], "place": world.places[plan.place],
                         "helper": world.helpers[plan.helper], "trait": world.traits.get(plan.trait)}
        place, helper = self.entities["place"], self.entities["helper"]
        self.form = choose(rng, [form for form in self.plot.meta.get("forms", world.common.meta["forms"]).split()
                                 if form != plan.helper])
        self.first = self.form in FIRST_PERSON
        child = plan.kind in ("girl", "boy")
        facts = {plan.ending, plan.trait, plan.weather, "child" if child else "animal", self.form, f"by-{plan.helper}",
                 "first" if self.first else "third", *self.plot.meta.get("facts", "").split()}
        for kind, phrase in (("problem", plan.problem), ("idea", plan.idea)):
            facts |= {tag for s in self.plot.sections[kind] if s.phrase == phrase for tag in s.meta.get("tag", "").split()}
        facts |= place.tags | self.entities["object"].tags
        limb = "hand" if child else "paw"
        self.slots = {
            "name": plan.hero, "kind": plan.kind if child else f"little {plan.kind}", "beast": plan.kind, "trait": plan.trait,
            "little": "" if child else "little ", "hand": limb, "hands": limb + "s", "foot": "foot" if child else "paw",
            "feet": "feet" if child else "paws", "finger": "finger" if child else "claw",
            "fingers": "fingers" if child else "claws", "obj": plan.object, "look": plan.look, "a": "a", "moral": plan.moral,
            "place": plan.place, "at": place.meta["in"], "weather": plan.weather, "h": plan.helper,
            "helper": helper.meta.get("called", f"the {plan.helper}"), "thirdhis": CASES[plan.pronoun][2],
            "ahelper": helper.meta.get("called", f"a {plan.helper}")}
        name, hers = plan.hero, {"she": "hers", "he": "his"}[plan.pronoun]
        self.slots |= dict(zip(("n", "nm", "n's", "mine", "hers"),
                               ("I", "me", "my", "mine", "mine") if self.first else (name, name, f"{name}'s", f"{name}'s", hers)))
        self.slots |= dict(zip(("they", "them", "their"), ("we", "us", "our") if self.first else ("they", "them", "their")))
        self.cases("", "I" if self.first else plan.pronoun)
        self.cases("h", helper.meta["he"])
        if plan.companion:
            facts.add("pal")
            self.slots |= {"pal": plan.companion.name, "palkind": plan.companion.kind, "phand": "hand" if child else "paw"}
            self.cases("p", plan.companion.pronoun)
        self.spots = shuffled(rng, place.meta["spot"].split("; "))
        self.facts = frozenset(facts)

    def cases(self, prefix: str, pronoun: str) -> None:
        self.slots |= dict(zip((prefix + "he", prefix + "him", prefix + "his", prefix + "himself"), CASES[pronoun]))

    def slot(self, word: str, argument: str) -> str:
        if word == "a" and argument:
            return self.slots["a" + argument]
        if word == "say":                         # {say whispered}: Mia whispered, whispered Mia, she whispered, I whispered
            who = self.slots["n"] if self.first or self.rng.random() < 0.85 else self.slots["he"]
            turned = who == self.plan.hero and argument in TURNED and self.rng.random() < 0.6
            return f"{argument} {who}" if turned else f"{who} {argument}"
        if word == "love":
            return self.render(self.phrase(choose(self.rng, self.entities["object"].meta["love"].split("; "))))
        if word == "spot":
            self.spots.append(self.spots.pop(0))
            return self.spots[-1]
        if word.startswith("*"):
            entity, _, section = word[1:].partition(".")
            return self.pick(self.entities[entity].lines(section)) if entity in self.entities else self.beat(word[1:])
        return self.slots[word]

    @staticmethod
    @cache
    def phrase(text: str) -> tuple:
        return parse_line(text).parts

    def render(self, parts) -> str:
        out = []
        for part in parts:
            if isinstance(part, str):
                out.append(part)
            elif isinstance(part, list):
                out.append(self.render(choose(self.rng, part)))
            else:
                value = self.slots.get(part.word) if not part.argument else None
                if value is None:
                    value = self.slot(part.word, part.argument)
                out.append(value if not part.case else value.upper() if part.case == "upper" else value[:1].upper() + value[1:])
        return "".join(out)

    def pick(self, lines: list[Line]) -> str:
        """A phrase that suits the facts and hasn't been used in this tale; "" when none is left."""
        if not lines:
            return ""
        line = choose(self.rng, lines)
        if line in self.used or not line.fits(self.facts):                # seldom; choosing first saves testing them all
            options = [line for line in lines if line not in self.used and line.fits(self.facts)]
            if not options:
                return ""
            line = choose(self.rng, options)
        self.used.add(line)
        self.facts |= line.sets
        return self.render(line.parts)

    def beat(self, name: str) -> str:
        plan, plot = self.plan, self.plot
        if name == "attempt":
            return " ".join(self.pick(plot.lines("attempt", attempt)) for attempt in plan.attempts)
        phrase = {"problem": plan.problem, "idea": plan.idea, "outcome": plan.resolution}.get(name, "")
        section = plan.ending if name == "outcome" else name
        return self.pick(plot.lines(section, phrase)) or self.pick(self.common.lines(section))

    def layout(self) -> list[str]:
        return self.pick(self.common.lines("layout")).split()


TURNED = {"said", "asked", "cried", "whispered", "shouted", "called", "murmured", "yelled", "breathed"}


def tell(plan: Plan, seed: int | str) -> str:
    """One telling of the plan: the same plan and seed always give the same text, another seed gives other words."""
    shortest, longest = WORD_LIMITS[plan.level]
    for attempt in range(100):
        paragraphs = draw_paragraphs(plan, Random(f"tell {attempt} {seed}"))
        words = sum(len(text.split()) for paragraph in paragraphs for text, _ in paragraph)
        for paragraph in reversed(paragraphs):
            for piece in [piece for piece in reversed(paragraph) if piece[1]]:
                if words > COMFORTABLE[plan.level]:
                    paragraph.remove(piece)
                    words -= len(piece[0].split())
        if shortest <= words <= longest:
            return tidy("\n\n".join(" ".join(text for text, _ in paragraph) for paragraph in paragraphs if paragraph))
    raise ValueError(f"no telling of {plan} has {shortest} to {longest} words; its plot's phrases are too long or too short")


def draw_paragraphs(plan: Plan, rng: Random) -> list[list[tuple[str, bool]]]:
    """The telling's paragraphs, each a list of (text, whether it may be left out)."""
    teller = Teller(plan, rng)
    leisure = choose(rng, LEISURE[plan.level])
    paragraphs: list[list[tuple[str, bool]]] = [[]]
    for beat in teller.layout():
        name = beat.rstrip("?")
        optional = name != beat
        if beat == "/":
            paragraphs.append([])
        elif not optional or rng.random() < leisure:
            text = teller.beat(name)
            if text:
                paragraphs[-1].append((text, optional))
            elif not optional and not (name == "attempt" and not plan.attempts):
                raise ValueError(f"plot {plan.skeleton!r} has no phrase for {name!r} that fits {plan}")
    return paragraphs


def generate_tales(n: int, seed: int = 0, level: str = "full", split: str = "train") -> Iterator[tuple[Plan, str]]:
    """Stream n plans with a telling each; the first of them don't depend on n. ValueError if n isn't positive."""
    if n <= 0:
        raise ValueError(f"number of tales is {n}; ask for at least 1")
    for i in range(n):
        plan = make_plan(f"{seed}/{i}", level, split)
        yield plan, tell(plan, f"{seed}/{i}")


# ---------------------------------------------------------------- command line

def write_tales(out: Path, n: int, seed: int, level: str, split: str, jsonl: bool, quiet: bool = False) -> None:
    """Write n tales to a file, through a temporary name, so that a stopped run leaves no half file behind."""
    tales = generate_tales(n, seed, level, split)
    first = next(tales)                                      # complains about the arguments before any file is touched
    temporary = out.with_name(out.name + ".partial")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as stream:
            for plan, text in with_progress(first, tales, n, quiet):
                if jsonl:
                    stream.write(json.dumps({"plan": plan.to_dict(), "text": text}, ensure_ascii=False) + "\n")
                else:
                    stream.write(f"{text}\n{SEPARATOR}\n")
        os.replace(temporary, out)
    except OSError as error:
        raise ValueError(f"can't write to {out}: {error.strerror}; name a file in a folder that exists and is yours") from error
    finally:
        temporary.unlink(missing_ok=True)


def with_progress(first, rest, n: int, quiet: bool):
    """Chain first and rest; show a bar where tqdm is installed and somebody watches."""
    bar = None
    if sys.stderr.isatty() and not quiet:
        try:
            from tqdm import tqdm
            bar = tqdm(total=n, unit=" tales", mininterval=0.5)
        except ImportError:
            pass
    for item in chain([first], rest):
        yield item
        if bar:
            bar.update(1)
    if bar:
        bar.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write tales from the course's own world.")
    parser.add_argument("--tales", type=int, default=1000, metavar="N", help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same tales (default 0)")
    parser.add_argument("--level", default="full", help="simple or full (default full)")
    parser.add_argument("--split", default="train", help="train, combinations or skeletons (default train)")
    parser.add_argument("--out", type=Path, default=Path("tales.txt"), help="file to write (default tales.txt)")
    parser.add_argument("--jsonl", action="store_true", help='write {"plan": ..., "text": ...} lines instead of plain text')
    options = parser.parse_args(arguments)
    try:
        write_tales(options.out, options.tales, options.seed, options.level, options.split, options.jsonl)
    except ValueError as error:
        parser.exit(2, f"tales.py: {error}\n")
    print(f"{options.tales} tales written to {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
