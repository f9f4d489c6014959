"""Instructions made from tales whose facts are known, and a judge that can therefore tell a good answer from a bad one.

    python data/instructions.py --count 1000 --level simple --out instructions.jsonl

    for record in make_instructions(1000, seed=1, level="simple"):
        print(record["instruction"], record["input"], record["output"], judge(record, "some answer").score)

The ways to ask stand in data/wordings.txt; the tales come from data/tales.py, their facts from the plans. The judge reads an answer
with data/read_tale.py and with the record's facts; it never compares it with the reference answer word for word.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import cache, lru_cache
from pathlib import Path
from random import Random

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.cues import ANIMALS, FEMALE, MALE, MOODS, PEOPLE
from data.read_tale import SKILLS, read_tale
from data.records import write_jsonl
from data.tales import ENDINGS, LEVELS, Plan, Teller, choose, fits, lexicon, load_world, make_plan, matching, tell, tidy

SPLITS = ("train", "held-out wordings", "held-out families")
HELD_OUT_FAMILIES = ("beginning", "companion", "kind", "change-object")
TALES = ("write", "write-ending", "write-place", "continue", "end-it", "last-sentence", "change-hero", "change-object")
BRIEF = ("intro", "setup", "problem", "outcome", "end")                                # a tale that fits into 64 tokens
LONGER = ("intro", "setup", "pal", "problem", "helper", "idea", "outcome", "end")      # a tale to ask about
ANSWER_TOKENS = 64
MOST_WORDS = {"telling": 220, "asked about": 220, "one of two": 110, "retold": 110}    # at the full level


# ---------------------------------------------------------------- the ways to ask

@cache
def wordings() -> dict[str, dict[str, list[str]]]:
    """family -> {"train": [...], "held out": [...]}, from data/wordings.txt."""
    families: dict[str, dict[str, list[str]]] = {}
    family = part = ""
    for line in Path(__file__).with_name("wordings.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("=== "):
            family, part = line[4:], ""
            families[family] = {"train": [], "held out": []}
        elif line.startswith("# "):
            part = line[2:]
        elif part and line.strip():
            families[family][part].append(line)
    return families


def families(split: str = "train") -> tuple[str, ...]:
    """The families of a split, in the order of data/wordings.txt."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(map(repr, SPLITS))}")
    return tuple(name for name in wordings() if (name in HELD_OUT_FAMILIES) == (split == "held-out families"))


# ---------------------------------------------------------------- tales to ask for and to ask about

class Unsuitable(Exception):
    """This plan or telling can't serve this family; another is drawn."""


def count_tokens(text: str) -> int:
    """Words and marks: about what a tokenizer trained on simple tales makes of them."""
    return len(re.findall(r"\w+(?:'\w+)?|[^\w\s]", text))


def parts(plan: Plan, beats: tuple[str, ...], rng: Random) -> list[str]:
    """One telling of a simple plan, beat by beat."""
    teller, told = Teller(plan, rng), []
    for beat in beats:
        if beat != "pal" or plan.companion:
            told.append(tidy(teller.beat(beat)))
    return told


def telling(plan: Plan, rng: Random, purpose: str) -> str:
    """A text of the plan for a purpose: "telling" is an answer, "asked about" an input, "retold" both, "one of two" half an input.

    Where two of them must fit into the context, the full level has only a tale's beginning ("retold") or its end ("one of two").
    """
    if plan.level == "simple":
        if purpose == "asked about":
            return " ".join(parts(plan, LONGER, rng))
        for _ in range(6):
            text = " ".join(parts(plan, BRIEF, rng))
            if count_tokens(text) <= ANSWER_TOKENS:
                reading = read_tale(text, "simple")
                if not reading.violations and reading.ending == plan.ending:
                    return text
        raise Unsuitable
    for _ in range(4):
        text = tell(plan, f"{rng.random()}")
        if purpose in ("retold", "one of two"):
            begun, rest = cut_at_paragraph(text, 0.4 if purpose == "retold" else 0.65)
            text = " ".join(begun if purpose == "retold" else rest)
        if len(text.split()) <= MOST_WORDS[purpose] and re.search(rf"\b{plan.hero}\b", text):
            return text
    raise Unsuitable


def with_ending(plan: Plan, ending: str, rng: Random) -> Plan:
    """The plan as it would be had the tale ended in this mood."""
    world = load_world(plan.level)
    plot = world.plots[plan.skeleton]
    facts = world.objects[plan.object].tags | world.places[plan.place].tags | {plan.weather, ending, plan.trait}
    facts |= {"pal"} if plan.companion else set()
    for kind, phrase in (("problem", plan.problem), ("idea", plan.idea)):
        facts |= {tag for section in plot.sections[kind] if section.phrase == phrase for tag in section.meta.get("tag", "").split()}
    outcomes = [section for section in plot.sections.get(ending, []) if fits(section.meta.get("needs"), facts)]
    morals = [line for line in plot.lines("moral") or world.common.lines("moral") if line.fits(facts)]
    if not outcomes or not morals:
        raise Unsuitable
    if ending == plan.ending:
        return plan
    return replace(plan, ending=ending, resolution=choose(rng, outcomes).phrase,
                   moral=choose(rng, morals).text.replace("{trait}", plan.trait))


def with_article(phrase: str) -> str:
    return tidy(f"so a {phrase}")[3:]                       # tidy knows when it is "an"


def last_sentence(text: str) -> str:
    return re.findall(r'\S.*?[.!?]+["”)*]*(?=\s+[A-Z"“*]|\s*$)', text, re.S)[-1]


def about_hero(phrase: str, plan: Plan, thing: str = "") -> str:
    """A plan's phrase with the hero's name in it and, at its first "it", the thing."""
    phrase = re.sub(r"\bthe hero's\b", f"{plan.hero}'s", phrase)
    phrase = re.sub(r"\bthe hero\b", plan.hero, phrase)
    return re.sub(r"\bit\b", thing, phrase, count=1) if thing else phrase


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


# ---------------------------------------------------------------- what each family asks, and a good answer

@dataclass
class Task:
    """One instruction under construction."""

    slots: dict[str, str] = field(default_factory=dict)
    input: str = ""
    output: str = ""
    must: list[list[str]] = field(default_factory=list)      # groups of words; of each group one must be in the answer
    wrong: list[str] = field(default_factory=list)           # what a true answer doesn't say
    facts: dict = field(default_factory=dict)
    brief: int = 0                                           # the most words a good answer has; 0: as long as a tale


class Maker:
    """Draws one instruction of a family; the method named like the family fills in the task."""

    def __init__(self, plan: Plan, rng: Random, split: str):
        self.plan, self.rng, self.world, self.split = plan, rng, load_world(plan.level), split
        called = self.world.helpers[plan.helper].meta.get("called")
        him = {"she": ("her", "her"), "he": ("him", "his")}[plan.pronoun]
        self.thing = with_article(f"{plan.look} {plan.object}")
        self.at = self.world.places[plan.place].meta["in"]
        self.helper = called or with_article(plan.helper)
        self.kind = with_article(plan.kind)
        self.trait_kind = with_article(f"{plan.trait} {plan.kind}")
        self.slots = {"hero": plan.hero, "kind": plan.kind, "he": plan.pronoun, "him": him[0], "his": him[1], "a kind": self.kind,
                      "a trait kind": self.trait_kind, "someone": self.trait_kind, "object": plan.object, "look": plan.look,
                      "thing": self.thing, "at": self.at, "mood": plan.ending}

    def pick(self, *options: str) -> str:
        return choose(self.rng, options)

    def asked_about(self, *facts: list[str]) -> str:
        """A tale in which each fact can really be read."""
        for _ in range(4):
            text = telling(self.plan, self.rng, "asked about")
            if all(any(says(text, word) for word in words) for words in facts):
                return text
        raise Unsuitable

    def place_words(self) -> list[str]:
        return sorted({self.plan.place.removeprefix("the "), self.at, self.at.split(" ", 1)[-1].removeprefix("the ")})

    # families whose answer is a tale

    def write(self) -> Task:
        plan = self.plan
        return Task(output=telling(plan, self.rng, "telling"), must=[[plan.hero], [plan.kind], [plan.object], [plan.look]])

    def write_ending(self) -> Task:
        self.plan = plan = with_ending(self.plan, choose(self.rng, ENDINGS), self.rng)
        return Task({"mood": plan.ending}, output=telling(plan, self.rng, "telling"), facts={"mood": plan.ending},
                    must=[[plan.object], [plan.look], sorted(MOODS[plan.ending])])

    def write_place(self) -> Task:
        plan = self.plan
        return Task(output=telling(plan, self.rng, "telling"), must=[[plan.trait], [plan.kind], self.place_words()])

    def end_with(self) -> Task:
        text = telling(self.plan, self.rng, "telling")
        last = last_sentence(text)
        if len(last.split()) < 4 or '"' in last:
            raise Unsuitable
        return Task({"last": last}, output=text, facts={"last": last})

    def continue_(self) -> Task:
        plan = self.plan
        if plan.level == "simple":
            told = parts(plan, ("intro", "setup", "problem", "helper", "idea", "outcome", "end"), self.rng)
            given, rest = told[:3], told[3:]
            if count_tokens(" ".join(rest)) > ANSWER_TOKENS:
                raise Unsuitable
        else:
            given, rest = cut_at_paragraph(telling(plan, self.rng, "telling"), 0.5)
        return Task(input=" ".join(given), output=" ".join(rest), facts={"mood": plan.ending}, must=[[plan.hero], [plan.object]])

    def end_it(self) -> Task:
        self.plan = plan = with_ending(self.plan, choose(self.rng, ENDINGS), self.rng)
        if plan.level == "simple":
            told = parts(plan, ("intro", "setup", "problem", "helper", "idea", "outcome", "end"), self.rng)
            given, rest = told[:5], told[5:]
        else:
            given, rest = cut_at_paragraph(telling(plan, self.rng, "telling"), 0.7)
        return Task({"mood": plan.ending}, " ".join(given), " ".join(rest), must=[[plan.object], sorted(MOODS[plan.ending])],
                    facts={"mood": plan.ending})

    def change_hero(self) -> Task:
        plan = self.plan
        text = telling(plan, self.rng, "retold")
        group = plan.kind if plan.kind in self.world.names else "animal"
        new = choose(self.rng, [name for name in self.world.names[group] if name not in text])
        output = re.sub(rf"\b{plan.hero}\b", new, text)
        return Task({"new": new}, text, output, must=[[new], [plan.object]], wrong=[plan.hero],
                    facts={"hero": new, "same": True})

    def change_object(self) -> Task:
        plan = self.plan
        text = telling(plan, self.rng, "retold")
        fitting = matching(plan.level, "objects", self.world.plots[plan.skeleton].meta.get("objects"))
        other = choose(self.rng, [name for name in fitting if name not in text])
        look = choose(self.rng, self.world.objects[other].meta["look"].split("; "))
        if look == plan.look or not fitting:
            raise Unsuitable
        if plan.level == "simple":
            output = re.sub(rf"\b{plan.look} {plan.object}\b", f"{look} {other}", text)
            output = re.sub(r"\b([Aa])n (?=[^aeiou])", r"\1 ", tidy(re.sub(rf"\b{plan.object}\b", other, output)))
        else:
            output = telling(replace(plan, object=other, look=look), self.rng, "retold")
        return Task({"other": with_article(f"{look} {other}")}, text, output, must=[[other], [plan.hero]],
                    wrong=[plan.object], facts={"same": plan.level == "simple"})

    # questions about a tale

    def hero(self) -> Task:
        plan = self.plan
        wrong = [plan.companion.name] if plan.companion else []
        return Task(input=self.asked_about([plan.hero]), must=[[plan.hero]], wrong=wrong, brief=14,
                    output=self.pick(f"The hero is {plan.hero}.", f"The tale is about {plan.hero}.", f"It is about {plan.hero}."))

    def object(self) -> Task:
        plan, thing = self.plan, self.thing
        return Task(input=self.asked_about([f"{plan.look} {plan.object}"]), must=[[plan.object]], brief=14,
                    output=self.pick(f"It is {thing}.", f"{plan.hero} has {thing}.", f"The thing is {thing}."))

    def place(self) -> Task:
        words = self.place_words()
        return Task(input=self.asked_about(words), must=[words], brief=14, wrong=self.others("places", words),
                    output=self.pick(f"It happens {self.at}.", f"{self.plan.hero} is {self.at}.", f"The tale happens {self.at}."))

    def helper_(self) -> Task:
        plan, words = self.plan, [self.plan.helper, self.helper]
        text = self.asked_about(words)
        return Task(input=text, must=[words], brief=14, wrong=self.others("helpers", words),
                    output=self.pick(f"{self.helper} helps {plan.hero}.", f"It is {self.helper}.", f"{self.helper} comes to help."))

    def ending(self) -> Task:
        self.plan = with_ending(self.plan, choose(self.rng, ENDINGS), self.rng)
        mood, others = self.plan.ending, [mood for mood in ENDINGS if mood != self.plan.ending]
        return Task(input=self.asked_about(), must=[[mood, {"happy": "happily", "sad": "sadly", "funny": "laugh"}[mood]]],
                    wrong=others, brief=14, facts={"mood": mood},
                    output=self.pick(f"It has a {mood} ending.", f"The end is {mood}.", f"The tale ends in a {mood} way."))

    def trait(self) -> Task:
        plan = self.plan
        return Task(input=self.asked_about([plan.trait]), must=[[plan.trait]], brief=14,
                    wrong=[trait for trait in lexicon(plan.level)["traits"] if trait != plan.trait],
                    output=self.pick(f"{plan.hero} is {plan.trait}.", f"{plan.hero} is {self.trait_kind}.",
                                     f"The tale says that {plan.hero} is {plan.trait}."))

    def why(self) -> Task:
        plan = self.plan
        told = about_hero(plan.problem, plan, f"the {plan.object}")
        return Task(input=self.asked_about(), output=sentence(told), brief=22, must=key_words(plan.problem))

    def find_object(self) -> Task:
        plan = self.plan
        name = self.pick(plan.object, f"{plan.look} {plan.object}")
        return Task(input=self.asked_about([f"{plan.look} {plan.object}"]), must=[[plan.object]], brief=5,
                    output=name[:1].upper() + name[1:], facts={"no mark": True})

    def one_sentence(self) -> Task:
        plan = self.plan
        feeling = {"happy": f"{plan.pronoun} is happy", "sad": f"{plan.pronoun} is sad", "funny": "everyone laughs"}[plan.ending]
        problem = about_hero(plan.problem, plan)
        output = self.pick(f"{plan.hero}, {self.trait_kind}, has {self.thing}, but {problem}, and in the end {feeling}.",
                           f"This is about {self.trait_kind} named {plan.hero} who has {self.thing}, but {problem}, and then "
                           f"{self.helper} helps, and {feeling}.")
        return Task(input=self.asked_about([plan.trait]), output=output, brief=45, facts={"one sentence": True},
                    must=[[plan.hero], [plan.object], [word for group in key_words(plan.problem) for word in group]])

    def title(self) -> Task:
        plan = self.plan
        output = self.pick(plan.title, f"{plan.hero} and the {plan.object.title()}")
        return Task(input=self.asked_about([plan.object]), output=output, brief=9, must=[[plan.hero], [plan.object]],
                    facts={"no mark": True, "not in the tale": True})

    def not_told(self) -> Task:
        text = self.asked_about()
        open_questions = [question for question, told in UNTOLD if not re.search(told, text, re.I)]
        if not open_questions:
            raise Unsuitable
        question = fill(choose(self.rng, open_questions), self.slots)
        return Task({"unknown": question}, text, self.pick(*NOT_TOLD), brief=16, must=[DOES_NOT_SAY])

    def correct(self) -> Task:
        plan, rng = self.plan, self.rng
        about, true = self.pick("hero", "object", "place", "ending"), rng.random() < 0.5
        truth, words = {"hero": (plan.hero, [plan.hero]), "object": (self.thing, [plan.object]),
                        "place": (self.at, self.place_words()), "ending": (plan.ending, [plan.ending])}[about]
        text = self.asked_about(words if about != "ending" else [""])
        if about == "hero":
            group = self.world.names[plan.kind if plan.kind in self.world.names else "animal"]
            false = choose(rng, [name for name in group if name not in text])
        elif about == "object":
            name = choose(rng, [name for name in self.world.objects if not says(text, name)])
            false = with_article(f"{choose(rng, self.world.objects[name].meta['look'].split('; '))} {name}")
        elif about == "place":
            false = choose(rng, [block.meta["in"] for name, block in self.world.places.items() if name != plan.place])
        else:
            false = choose(rng, [mood for mood in ENDINGS if mood != plan.ending])
        says_so = {"hero": "The hero is called {}.", "object": f"{plan.hero} has {{}}.", "place": "The tale happens {}.",
                   "ending": "The tale has a {} ending."}[about]
        yes = ["yes", "that is right", "that's right", "you are right", "that is true", "that's true", "that is so"]
        no = ["no", "not", "n't", "wrong", "false"]
        answer = self.pick("Yes. ", "Yes, that is right. ") if true else self.pick("No. ", "No, that is not right. ")
        return Task({"claim": says_so.format(truth if true else false)}, text, answer + says_so.format(truth), brief=20,
                    must=[yes if true else no, words], wrong=["no", "not", "wrong", "false"] if true else ["yes"])

    def list_who(self) -> Task:
        plan = self.plan
        text = self.asked_about([plan.hero], [plan.helper])
        known = f"{plan.hero} {plan.kind} {plan.helper} {plan.companion.kind if plan.companion else ''}".lower()
        for word in re.findall(r"[a-z]+", text.lower()):
            if word in PEOPLE | ANIMALS | FEMALE | MALE and word not in known.split():
                raise Unsuitable                            # somebody else is in it, too
        people, must = [plan.hero], [[plan.hero], [plan.helper]]
        if plan.companion and says(text, plan.companion.name):
            people.append(f"{self.slots['his']} {plan.companion.kind} {plan.companion.name}")
            must.append([plan.companion.name])
        listed = f"{', '.join(people)} and {self.helper}"
        return Task(input=text, output=self.pick(f"{listed}.", f"There are {listed}.", f"We meet {listed}."), must=must, brief=20,
                    wrong=self.others("helpers", [plan.helper, *(word for person in people for word in person.split())]))

    def happier(self) -> Task:
        plan, rng = self.plan, self.rng
        self.plan = plan = with_ending(plan, choose(rng, ("happy", "sad")), rng)
        wanted = "sad" if plan.ending == "happy" else "happy"
        other = with_ending(make_plan(f"second {rng.random()}", plan.level, tale_split(self.split)), wanted, rng)
        if other.hero == plan.hero:
            raise Unsuitable
        told = [telling(plan, rng, "one of two"), telling(other, rng, "one of two")]
        best = 1 if plan.ending == "happy" else 2
        names = (["1", "one", "first"], ["2", "two", "second"])
        named = ("Tale 1", "Tale 2") if plan.level == "simple" else ("The end of tale 1", "The end of tale 2")
        return Task(input=f"{named[0]}: {told[0]}\n\n{named[1]}: {told[1]}", brief=14, must=[names[best - 1]],
                    wrong=[f"tale {3 - best}", *names[2 - best]],
                    output=self.pick(f"Tale {best}.", f"Tale {best} is happier.", f"It is tale {best}."))

    def beginning(self) -> Task:
        plan = self.plan
        return Task(output=self.pick(f"Once there was {self.trait_kind} named {plan.hero}.",
                                     f"There was once {self.kind} named {plan.hero}, and {plan.pronoun} was {plan.trait}.",
                                     f"This is the story of {plan.hero}, {self.trait_kind}."),
                    must=[[plan.hero], [plan.kind], [plan.trait]], brief=30, facts={"one sentence": True})

    def companion(self) -> Task:
        plan = self.plan
        if not plan.companion:
            raise Unsuitable
        pal, whose = plan.companion, f"{self.slots['his']} {plan.companion.kind} {plan.companion.name}"
        return Task(input=self.asked_about([pal.name]), must=[[pal.name]], brief=14,
                    output=self.pick(f"It is {pal.name}.", f"{plan.hero} is with {whose}.", f"{pal.name} is with {plan.hero}."))

    def kind_(self) -> Task:
        plan = self.plan
        kinds = [kind for kind in lexicon(plan.level)["kinds"] if kind != plan.kind]
        return Task(input=self.asked_about([plan.kind]), must=[[plan.kind]], wrong=kinds, brief=12,
                    output=self.pick(f"{plan.hero} is {self.kind}.", f"The hero is {self.kind}.", sentence(self.kind)))

    def others(self, table: str, words: list[str]) -> list[str]:
        mine = {word for phrase in words for word in phrase.lower().split()}
        names = (name.removeprefix("the ") for name in getattr(self.world, table))
        return [name for name in names if name.split()[-1] not in mine]


def cut_at_paragraph(text: str, share: float) -> tuple[list[str], list[str]]:
    """The text in two, at the paragraph's end nearest to the share."""
    ends = [match.start() for match in re.finditer(r"\n\n", text)]
    if not ends:
        raise Unsuitable
    cut = min(ends, key=lambda end: abs(end - share * len(text)))
    return [text[:cut]], [text[cut:].strip()]


STOP = frozenset(re.findall(r"[a-z]+", """
    it is the a an to of and in on at for with by his her he she they that this be has have been not nobody one so up down off
    out into from its who what whom does do did can will as all too get gets very hero about there him them no new"""))
SAME = [set(words.split()) for words in (
    "lost gone missing loses find", "breaks broke broken break fell", "takes took taken take steals stole", "falls fell fall",
    "flies flew fly flown", "blows blew blow blown", "wants wanted want", "wet water", "stuck", "slow last", "noise noises sound",
    "throws threw thrown", "sinks sank sunk", "tears tore torn", "eating ate eaten eats", "drops dropped", "lands landed",
    "slides slid", "run ran runs", "afraid scared fear frightened")]


def key_words(phrase: str) -> list[list[str]]:
    """For each word that carries a phrase's meaning, the words that would do as well."""
    keys = [word for word in re.findall(r"[a-z]+", phrase) if word not in STOP] or re.findall(r"[a-z]+", phrase)[-1:]
    return [sorted({key}.union(*(same for same in SAME if key in same))) for key in keys]


UNTOLD = [  # a question, and what in a tale might answer it
    ("How old is {hero}?", r"\b(eight|seven|nine|six|five|years?|quarters|birthday)\b"),
    ("What did {hero} eat that morning?", r"\b(eat|ate|breakfast|toast|bread|cake|apple|soup|porridge)"),
    ("What is the name of {his} mother?", r"\b(mother|mom|mum|mama)"),
    ("What color are {his} eyes?", r"\beyes?\b"),
    ("How many windows does {his} house have?", r"window"),
    ("What day of the week is it?", r"day\b(?<!\bday)(?<!to)|birthday"),
    ("Where was {hero} born?", r"\bborn\b"),
    ("Which song does {hero} like best?", r"song|sing|sang|hum"),
    ("How much money did the {object} cost?", r"money|cost|coin|bought|penn|price|paid|pay"),
    ("Who made the {object}?", r"\b(made|make|makes|built|sewed|carved|knitted)\b"),
    ("What does {hero} want for {his} birthday?", r"birthday"),
    ("What is the name of {his} teacher?", r"teacher|school"),
    ("How many brothers does {hero} have?", r"brother|sister|one of five|eleven"),
    ("What did {hero} dream that night?", r"dream|slept|sleep"),
    ("Can {hero} read?", r"\b(read|book|letter|words?)\b"),
    ("What does {hero} wear?", r"coat|shirt|\bw[eo]re?\b|boot|hat|cap|scarf|shoe|sock|trousers|dress|apron|mitten|slipper"),
    ("Who lives next door to {hero}?", r"next door|neighbor|lived|house"),
    ("When did {hero} go to bed?", r"\b(bed|night|slept|sleep|evening)\b"),
    ("How tall is {hero}?", r"\btall|inch"),
    ("What did {hero} drink?", r"drink|drank|\btea\b|milk|\bcup|cocoa|juice|water"),
    ("How many friends does {hero} have?", r"friend"),
    ("What is {his} best number?", r"\b(one|two|three|number)\b"),
]
NOT_TOLD = ("The tale does not say.", "That is not in the tale.", "The tale does not tell us that.",
            "I do not know. The tale does not say.")
DOES_NOT_SAY = ["does not say", "doesn't say", "not in the tale", "not in this tale", "does not tell", "doesn't tell",
                "do not know", "don't know", "not told", "isn't in the tale", "says nothing about", "never says", "not mentioned",
                "doesn't mention", "does not mention"]


def fill(wording: str, slots: dict[str, str]) -> str:
    return re.sub(r"\{([a-z ]+)\}", lambda match: slots[match[1]], wording)


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------- making records

def tale_split(split: str) -> str:
    return "train" if split == "train" else "combinations"


METHODS = {"continue": "continue_", "kind": "kind_", "helper": "helper_", "last-sentence": "end_with"}


def task_of(maker: Maker, family: str) -> Task:
    """What the maker asks in this family."""
    return getattr(Maker, METHODS.get(family, family.replace("-", "_")))(maker)


def record_of(maker: Maker, family: str, task: Task, options: list[str]) -> dict:
    """The task as a record, asked in one of the wordings."""
    instruction = capitalized(fill(choose(maker.rng, options), maker.slots | task.slots))
    facts = {"plan": maker.plan.to_dict(), "must": task.must, "wrong": task.wrong, "most words": task.brief} | task.facts
    return {"family": family, "instruction": instruction, "input": task.input, "output": capitalized(task.output), "facts": facts}


def draw(seed: str, family: str, level: str, split: str) -> dict | None:
    """One record of a family, or None when this seed's plan doesn't suit it or the judge disputes the reference answer."""
    rng = Random(f"instruction {seed}")
    plan = make_plan(f"instruction {seed}", level, tale_split(split))
    maker = Maker(plan, rng, split)
    try:
        task = task_of(maker, family)
    except Unsuitable:
        return None
    part = "held out" if split == "held-out wordings" else "train"
    options = wordings()[family][part]
    if split == "held-out families":                        # all their wordings are new
        options = wordings()[family]["train"] + wordings()[family]["held out"]
    record = {"id": "", **record_of(maker, family, task, options)}
    if family in TALES and judge(record, record["output"]).score < 0.95:     # the other families' answers are right by the plan
        return None
    return record


def make_instructions(n: int, seed: int = 0, level: str = "simple", split: str = "train") -> Iterator[dict]:
    """Stream n records, the split's families in turn; the first of them don't depend on n.

    A record is {"id", "family", "instruction", "input", "output", "facts"}, plain JSON. split "train" asks in the training
    wordings about training tales; "held-out wordings" asks for the same in words, and about combinations of facts, that
    training never has; "held-out families" asks for what training never asks.
    ValueError if n isn't positive or the level or split is unknown.
    """
    if n <= 0:
        raise ValueError(f"number of instructions is {n}; ask for at least 1")
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}; use one of {', '.join(LEVELS)}")
    names = families(split)
    for i in range(n):
        family, attempt = names[i % len(names)], 0
        while (record := draw(f"{level} {split} {seed}/{i}/{attempt}", family, level, split)) is None:
            attempt += 1
            if attempt > 500:
                raise ValueError(f"no plan of level {level!r} suits the family {family!r}; see data/instructions.py")
        yield record | {"id": f"{level}-{split.replace(' ', '-')}-{seed}-{i}"}


# ---------------------------------------------------------------- conversations

ABOUT = ("hero", "object", "place", "helper", "ending", "trait", "why", "find-object", "one-sentence", "title", "not-told",
         "correct", "list-who")                             # the families that ask about one tale


class Interviewer(Maker):
    """Asks about one text again and again."""

    def __init__(self, plan: Plan, rng: Random, text: str):
        super().__init__(plan, rng, "train")
        self.text = text

    def asked_about(self, *facts: list[str]) -> str:
        if all(any(says(self.text, word) for word in words) for words in facts):
            return self.text
        raise Unsuitable


def converse(seed: str, level: str, most: int) -> list[dict]:
    """Up to `most` questions about one tale, each of another family, with their answers; [] if the plan has no such tale."""
    rng, plan = Random(f"conversation {seed}"), make_plan(f"conversation {seed}", level, "train")
    turns: list[dict] = []
    try:
        plan = with_ending(plan, choose(rng, ENDINGS), rng)
        text = telling(plan, rng, "asked about")
    except Unsuitable:
        return turns
    for family in sorted(ABOUT, key=lambda _: rng.random()):
        if len(turns) == most:
            break
        maker = Interviewer(plan, rng, text)
        try:
            task = task_of(maker, family)
        except Unsuitable:
            continue
        if maker.plan == plan:                              # "ending" may have drawn another one than the text has
            turn = record_of(maker, family, task, wordings()[family]["train"])
            turns.append(turn | {"input": "" if turns else text})
    return turns


def make_conversations(n: int, seed: int = 0, level: str = "simple", most: int = 6) -> Iterator[dict]:
    """Stream n conversations: {"id", "turns"}, three to `most` questions about one training tale, in training wordings.

    A turn is a record as `make_instructions` yields them, without "id"; only the first one's input holds the tale.
    ValueError if n isn't positive, `most` is below 3, or the level is unknown.
    """
    if n <= 0 or most < 3:
        raise ValueError(f"{n} conversations of at most {most} questions; ask for at least 1, and for at least 3 questions")
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}; use one of {', '.join(LEVELS)}")
    for i in range(n):
        attempt = 0
        while len(turns := converse(f"{level} {seed}/{i}/{attempt}", level, most)) < 3:
            attempt += 1
        yield {"id": f"{level}-conversation-{seed}-{i}", "turns": turns}


# ---------------------------------------------------------------- the judge

PRICE = {  # how much of the score a missed criterion costs
    "asked": 1.0, "finished": 0.6, "length": 0.7, "one sentence": 0.5, "last sentence": 1.0,                    # visible
    "truthful": 0.8, "coherent": 0.7, "hero": 0.6, "ending": 0.6, "same tale": 0.9, "no repetition": 0.85, "not copied": 0.95,
    "kind": 0.7}                                                                                                # held out
VISIBLE = ("asked", "finished", "length", "one sentence", "last sentence")
RUDE = re.compile(r"\b(stupid|dumb|idiot|fool|shut up|go away|who cares|leave me alone|find it yourself|do it yourself|waste of|"
                  r"nonsense|lazy|i hate|ugly|not my job|bother me)\b", re.I)


COURTESY = re.compile(r"^(gladly|of course|with pleasure|good question|here you are|i am happy to help|certainly|sure)[!.:,]\s+|"
                      r"\s+(i hope you like it|thank you for asking|i hope this helps)[!.]$", re.I)


NEGATION = re.compile(r"\b(not|no|never|nobody|nothing|neither)\b|n't\b", re.I)


@dataclass
class Judgement:
    """An answer's score from 0 to 1 and where it comes from. A reward may look at `visible`; the final score sees the rest, too."""

    score: float
    visible_score: float
    held_out_score: float
    visible: dict[str, float]
    held_out: dict[str, float]
    reasons: list[str]

    @property
    def criteria(self) -> dict[str, float]:
        return self.visible | self.held_out


def says(text: str, phrase: str) -> bool:
    return bool(word_pattern(phrase).search(text))


@cache
def word_pattern(phrase: str) -> re.Pattern:
    """A name is found only with its capital (Rose isn't "rose"); a plural's or possessive's s is let pass."""
    if phrase == "n't":
        return re.compile(phrase)
    return re.compile(rf"(?<![A-Za-z]){re.escape(phrase)}(?:s|'s)?(?![A-Za-z])", 0 if phrase[:1].isupper() else re.I)


def judge(record: dict, answer: str) -> Judgement:
    """Judge an answer to a record of `make_instructions`. ValueError if the record has no facts or the answer is no text.

    Each criterion is a number from 0 to 1. A part's score is the product of 1 - PRICE * (1 - criterion) over its criteria;
    the score is the product of both parts.
    """
    if not isinstance(record.get("facts"), dict) or "plan" not in record["facts"]:
        raise ValueError("this record has no facts to judge by; only records of make_instructions can be judged")
    if not isinstance(answer, str):
        raise ValueError(f"the answer is {type(answer).__name__}; pass a text")
    answer = answer.strip()
    if not re.search(r"\w", answer):
        names = ("asked", "finished", "length"), ("no repetition", "not copied")
        return Judgement(0.0, 0.0, 0.0, dict.fromkeys(names[0], 0.0), dict.fromkeys(names[1], 0.0), ["asked: there is no answer"])
    told = Criteria(record, answer)
    visible, held_out = {}, {}
    for name, value in told.values().items():
        (visible if name in VISIBLE else held_out)[name] = round(value, 4)
    scores = [product(part) for part in (visible, held_out)]
    reasons = [f"{name}: {told.why[name]}" for name, value in (visible | held_out).items() if value < 1]
    return Judgement(round(scores[0] * scores[1], 4), round(scores[0], 4), round(scores[1], 4), visible, held_out, reasons)


def product(criteria: dict[str, float]) -> float:
    result = 1.0
    for name, value in criteria.items():
        result *= 1 - PRICE[name] * (1 - value)
    return result


class Criteria:
    """All criteria of one answer; `why` explains those that aren't met."""

    def __init__(self, record: dict, answer: str):
        answer = COURTESY.sub("", answer)                   # a friendly word before or after is no part of the tale
        self.answer, self.reference, self.input = answer, record["output"], record["input"]
        self.prompt = f"{record['instruction']}\n{record['input']}"
        self.facts, self.level, self.family = record["facts"], record["facts"]["plan"]["level"], record["family"]
        self.words, self.why = re.findall(r"[\w'-]+", answer.lower()), {}

    def values(self) -> dict[str, float]:
        found = {"asked": self.asked(), "finished": self.finished(), "length": self.length()}
        if "one sentence" in self.facts:
            found["one sentence"] = self.one_sentence()
        if "last" in self.facts:
            found["last sentence"] = self.last_sentence()
        found |= {"no repetition": self.no_repetition(), "not copied": self.not_copied(), "kind": self.kind()}
        if self.family in TALES:
            found |= self.as_tale()
            if self.facts["wrong"]:
                found["truthful"] = self.truthful()
        else:
            found |= {"truthful": self.truthful(), "coherent": self.grammar()}
        return found

    # visible

    def asked(self) -> float:
        missing = [words for words in self.facts["must"] if not any(says(self.answer, word) for word in words)]
        self.why["asked"] = "nothing of " + "; ".join("/".join(words[:4]) for words in missing)
        return (1 - len(missing) / len(self.facts["must"])) ** 2 if self.facts["must"] else 1.0

    def finished(self) -> float:
        self.why["finished"] = f"the answer breaks off: ...{self.answer[-30:]!r}"
        return float("no mark" in self.facts or bool(re.search(r'[.!?][")”*’\']*$|\*$', self.answer))
                     or self.answer[-25:] == self.reference[-25:])

    def length(self) -> float:
        n, usual = len(self.words), len(self.reference.split())
        most = self.facts["most words"] or (max(75, 1.7 * usual) if self.level == "simple" else 260)
        least = 0.5 * usual if not self.facts["most words"] else 0
        self.why["length"] = f"{n} words; from {least:.0f} to {most:.0f} are right"
        return max(0.0, min(1.0, 2 - n / most, 1.0 if n >= least else n / least))

    def one_sentence(self) -> float:
        count = len(re.findall(r'[.!?]+(?=["\s]|$)', self.answer)) or 1
        self.why["one sentence"] = f"{count} sentences"
        return float(count == 1)

    def last_sentence(self) -> float:
        wanted = re.findall(r"[\w']+", self.facts["last"].lower())
        got = self.words[-len(wanted):]
        kept = sum(block.size for block in SequenceMatcher(None, wanted, got, autojunk=False).get_matching_blocks())
        self.why["last sentence"] = f"the end is {' '.join(got)!r}"
        return 1.0 if got == wanted else 0.6 * kept / len(wanted)

    # held out

    def truthful(self) -> float:
        known = lexicon(self.level)
        allowed = f"{self.prompt} {self.reference}"
        wrong = [word for word in self.facts["wrong"] if says(self.answer, word) and not says(self.reference, word)]
        if self.family not in TALES:
            names = set(known["names"])
            wrong += [name for name in re.findall(r"[A-Z]\w+", self.answer) if name in names and not says(allowed, name)]
            wrong += [thing for thing in things_in(self.answer, self.level) if not says(allowed, thing)]
            if NEGATION.search(self.answer) and not NEGATION.search(self.reference):
                wrong.append("not")
        self.why["truthful"] = f"it says {', '.join(wrong[:4])}"
        return 0.0 if wrong else 1.0

    def grammar(self) -> float:
        names = self.objections(self.answer) & SKILLS["grammar"] - self.objections(self.reference)
        self.why["coherent"] = ", ".join(sorted(names))
        return max(0.0, 1 - 0.5 * len(names))

    def objections(self, text: str) -> set[str]:
        return {violation.name for violation in read(text, self.level).violations}

    def as_tale(self) -> dict[str, float]:
        """Read the answer, after the beginning if one was given, as a tale, excusing what the checker says of the reference."""
        begun = self.input + "\n\n" if self.family in ("continue", "end-it") else ""
        reading, reference = (read(begun + text, self.level) for text in (self.answer, self.reference))
        excused = {violation.name for violation in reference.violations}
        found = {violation.name: violation.why for violation in reading.violations if violation.name not in excused}
        self.why["coherent"] = "; ".join(f"{name} ({why[:80]})" for name, why in found.items())
        result = {"coherent": max(0.0, 1 - 0.5 * len(found))}
        if self.family != "write-place":
            hero = self.facts.get("hero") or self.facts["plan"]["hero"]
            named = hero if self.family not in ("write-ending", "last-sentence") else reading.hero
            wrong = reading.hero != named
            self.why["hero"] = f"the hero is {reading.hero or 'nobody'}, not {named}" if wrong else "the hero doesn't last"
            result["hero"] = float((reading.hero == named or reading.hero == reference.hero) and bool(reading.hero)
                                   and not SKILLS["hero keeps the name"] & set(found))
        if "mood" in self.facts:
            self.why["ending"] = f"the ending is {reading.ending or 'untold'}, not {self.facts['mood']}"
            result["ending"] = float(reading.ending == self.facts["mood"])
        if self.facts.get("same"):
            ratio = SequenceMatcher(None, self.reference.lower().split(), self.answer.lower().split(), autojunk=False).ratio()
            self.why["same tale"] = f"only {ratio:.0%} is as it was"
            result["same tale"] = max(0.0, min(1.0, (ratio - 0.5) / 0.35))
        return result

    def no_repetition(self) -> float:
        twice = said_twice(self.answer, self.family in TALES) - said_twice(self.reference, self.family in TALES)
        triples = list(zip(self.words, self.words[1:], self.words[2:]))
        share = 1 - len(set(triples)) / len(triples) if len(triples) > 3 else 0.0
        pairs = list(zip(self.words, self.words[1:]))
        stutter = sum(left == right for left, right in pairs) / max(1, len(pairs))
        if len(set(self.words)) <= len(self.words) / 2:
            twice |= {self.answer}
        self.why["no repetition"] = f"said twice: {min(twice)[:50]!r}" if twice else f"{share:.0%} of the word triples come back"
        usual = 0.25 if self.family in TALES else 0.1
        value = 1 - max(0.0, share - usual) / 0.25 - max(0.0, stutter - 0.1) * 2
        return max(0.0, min(value, 0.1 if twice else 1.0))

    def not_copied(self) -> float:
        if "same" in self.facts:                            # the same tale is wanted; truthful and asked see what wasn't changed
            unchanged = " ".join(self.answer.split()) == " ".join(self.input.split())
            self.why["not copied"] = "nothing was changed"
            return float(not unchanged)
        prompt = re.findall(r"[\w']+", self.prompt.lower())
        span = 5 if self.facts["most words"] else 7
        mine, usual = (copied_share(words, prompt, span) for words in (self.words, re.findall(r"[\w']+", self.reference.lower())))
        self.why["not copied"] = f"{mine:.0%} of the answer is copied from the question"
        wholly = mine == 1 and usual < 1
        return 0.0 if wholly else max(0.0, 1 - max(0.0, mine - usual - 0.15) / 0.3)

    def kind(self) -> float:
        rude = [match[0] for match in RUDE.finditer(self.answer) if not says(self.reference, match[0])]
        self.why["kind"] = f"rude: {', '.join(rude[:3])}"
        return 0.0 if rude else 1.0


@lru_cache(maxsize=20_000)
def read(text: str, level: str):
    """read_tale, remembering the reference answers, which are judged against again and again."""
    return read_tale(text, level)


@cache
def thing_pattern(level: str) -> re.Pattern:
    names = sorted(lexicon(level)["objects"], key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")


def things_in(text: str, level: str) -> list[str]:
    return thing_pattern(level).findall(text)


def said_twice(text: str, tale: bool) -> set[str]:
    """The sentences that come back; in a tale, a single word may, but not three times in a row."""
    sentences = [" ".join(re.findall(r"\w+", part.lower())) for part in re.split(r"(?<=[.!?])[\"”]?\s+", text)]
    in_a_row = {a for a, b, c in zip(sentences, sentences[1:], sentences[2:]) if a == b == c}
    return in_a_row | {part for part in sentences if sentences.count(part) > 1 and len(part.split()) > tale}


def copied_share(words: list[str], source: list[str], span: int) -> float:
    """The share of words that stand in runs of at least `span` words which the source has, too."""
    runs = {tuple(source[i:i + span]) for i in range(len(source) - span + 1)}
    copied: set[int] = set()
    for i in range(len(words) - span + 1):
        if tuple(words[i:i + span]) in runs:
            copied.update(range(i, i + span))
    return len(copied) / len(words) if words else 0.0


# ---------------------------------------------------------------- command line

def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write instructions with answers, made from the course's tales.")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--level", default="simple", help="simple (the default) or full")
    parser.add_argument("--split", default="train", help="train, 'held-out wordings' or 'held-out families' (default train)")
    parser.add_argument("--out", type=Path, default=Path("instructions.jsonl"))
    options = parser.parse_args(arguments)
    try:
        count = write_jsonl(options.out, make_instructions(options.count, options.seed, options.level, options.split))
    except ValueError as error:
        parser.exit(2, f"instructions.py: {error}\n")
    print(f"{count} instructions written to {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
