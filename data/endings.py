"""Does the tale end happily? A task on which counting words fails, though any child can do it.

    python data/endings.py --count 2000 --measure

Every tale has luck and bad luck in it, joy and tears; only what comes last, what was merely dreamed, or who turned out to be right
decides how it ends. The tales come in pairs, one happy and one sad, made of nearly the same words in another order.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from random import Random

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.cues import MOODS
from data.records import write_jsonl
from data.tales import LEVELS, Plan, Teller, choose, load_world, make_plan, tidy

SPLITS = ("train", "combinations")
HAPPY, SAD = 1, 0

# Bad luck and good luck. Any line of one can come before or after any line of the other.
GONE = (
    "a dog ran off with the {obj}", "someone took the {obj} and ran", "the {obj} was gone", "{n} could not find the {obj}",
    "the {obj} was not in its place", "{n} lost the {obj} in the tall grass", "a big boy took the {obj} away",
    "a crow took the {obj}", "the {obj} fell into the water and sank", "{n} had to give the {obj} away",
    "a goat walked off with the {obj}", "{n} looked and looked, but there was no {obj}",
)
THERE = (
    "an old man came with the {obj} and gave it to {nm}", "{n} held the {obj} in {his} {hands}", "the {obj} was there",
    "{n} found the {obj} behind a tree", "a girl put the {obj} into {his} {hands}", "{n} had the {obj} by {his} bed",
    "a bird came down with the {obj} and put it at {his} feet", "{n} saw the {obj} under a bush and took it home",
    "a teacher came by and had the {obj} for {nm}", "{n} carried the {obj} home", "the {obj} lay in front of {nm}",
    "{n} got the {obj} from a friend",
)
BROKEN = (
    "the {obj} fell down and broke", "the {obj} was in two parts", "a cart rolled over the {obj}, and it broke",
    "a horse stepped on the {obj}, and it broke", "{n} dropped the {obj}, and it broke", "the {obj} broke with a crack",
)
WHOLE = (
    "the {obj} was as good as new", "an old woman worked on the {obj} until it was as good as new",
    "{n} looked at the {obj}, and it was whole", "a farmer took tools and made the {obj} as good as new",
    "the {obj} was whole, with no crack in it", "{n} worked on the {obj} until it was whole",
)
TEARS = ("{who} cried", "{who} was sad", "{who} cried and cried", "{who} was very sad", "{who} sat down and cried",
         "{who} had tears in {his} eyes")
SMILES = ("{who} smiled", "{who} was happy", "{who} laughed and danced", "{who} was so happy", "{who} jumped up and smiled",
          "{who} was full of joy")
LUCK = ((GONE, THERE), (GONE, THERE), (BROKEN, WHOLE))

LOVED = ("{n} loved {a thing} more than anything.", "There was {a thing} that {n} loved.", "The best thing of all was {a thing}.",
         "All that {n} thought of was {a thing}.", "Nothing was better for {n} than {a thing}.")
WHEN = ("Then", "Later", "Soon", "After a while", "Some time after that", "Before long")
AFTER = (  # neither happy nor sad
    "it grew dark {at}", "the moon came up", "it began to rain", "the wind went to sleep", "a cart went by", "the clock struck six",
    "the door was shut for the night", "the lamps were lit", "it was time to go home", "somebody called from far away",
    "a cat walked across the road", "the sky was full of stars",
)
SAID = (("{mom}", "she"), ("an old man", "he"), ("a farmer", "she"), ("the teacher", "she"), ("a wise owl", "she"),
        ("everyone", "they"))
WORRY = {GONE: ("the {obj} was gone", "{n} could not find the {obj}", "nobody knew where the {obj} was"),
         BROKEN: ("the {obj} broke", "the {obj} fell down and broke", "something was wrong with the {obj}")}
GOOD_WORD = {GONE: ("the {obj} would soon come back", "{n} would soon have the {obj} back", "the {obj} would soon be found"),
             BROKEN: ("the {obj} would soon be whole again", "the {obj} could well be made whole", "{n} would soon make it whole")}
BAD_WORD = {
    GONE: ("the {obj} would never come back", "{n} would never have the {obj} back", "the {obj} would never be found"),
    BROKEN: ("the {obj} would never be whole again", "the {obj} could never be made whole", "{n} would never make it whole")}


class Pair:
    """One world for two tales: a hero, a thing, an opening, and the same stock of lines for both endings."""

    def __init__(self, plan: Plan, rng: Random):
        self.plan, self.rng = plan, rng
        child = plan.kind in ("girl", "boy")
        he, him, his = {"she": ("she", "her", "her"), "he": ("he", "him", "his")}[plan.pronoun]
        self.slots = {"n": plan.hero, "nm": plan.hero, "he": he, "him": him, "his": his,
                      "obj": plan.object, "a thing": f"a {plan.look} {plan.object}", "hands": "hands" if child else "paws",
                      "at": load_world(plan.level).places[plan.place].meta["in"], "mom": f"{his} mother"}
        self.opening = self.open()
        self.when = self.draw_three(WHEN)
        self.loss, self.gain = choose(rng, LUCK)
        self.way = choose(rng, ("in turn", "in turn", "dream", "verdict", "verdict"))
        self.bad = self.happening(choose(rng, self.loss), choose(rng, TEARS))
        self.good = self.happening(choose(rng, self.gain), choose(rng, SMILES))
        self.after = self.fill(choose(rng, AFTER))
        self.hint = int(rng.random() * 3)
        self.says, self.they = choose(rng, SAID)
        self.hopeful = rng.random() < 0.5

    def draw_three(self, options: tuple[str, ...]) -> list[str]:
        options = list(options)
        return [options.pop(int(self.rng.random() * len(options))) for _ in range(3)]

    def fill(self, text: str) -> str:
        for slot, value in self.slots.items():
            text = text.replace(f"{{{slot}}}", value)
        return text

    def happening(self, event: str, feeling: str) -> str:
        """An event and how the hero took it; in a dream the hero is "she" or "he", elsewhere named once."""
        dreaming, own = self.way == "dream", event.startswith("{n}")
        if dreaming:
            event = event.replace("{n}", "{he}").replace("{nm}", "{him}")
        return self.fill(f"{event}, and {feeling}".replace("{who}", "{he}" if own else "{n}"))

    def open(self) -> str:
        """How the tales' own teller begins, and the thing."""
        teller = Teller(self.plan, self.rng)
        for _ in range(100):
            if not teller.first and teller.form in ("plain", "brief"):
                break
            teller = Teller(self.plan, self.rng)
        beats = [teller.beat("intro")] if self.plan.level == "simple" else [teller.beat("open"), teller.beat("trait")]
        return " ".join([*beats, self.fill(choose(self.rng, LOVED))])

    def tale(self, label: int) -> str:
        first, last = (self.bad, self.good) if label == HAPPY else (self.good, self.bad)
        when, he, hero = self.when, self.slots["he"], self.slots["n"]
        if self.way == "in turn":
            middle = f"{when[0]} {first}. {when[1]} {last}."
        elif self.way == "dream":
            middle = (f"{when[0]} {hero} slept and dreamed that {first}. "
                      f"{when[1]} {he} woke up from the dream, and {last}.")
        else:
            hopeful = self.hopeful
            word = (GOOD_WORD if hopeful else BAD_WORD)[self.loss][self.hint]
            right = hopeful == (label == HAPPY)
            were = "were" if self.they == "they" else "was"
            middle = (f"{when[0]} {self.fill(WORRY[self.loss][self.hint])}. {self.fill(self.says)} said that {self.fill(word)}. "
                      f"{when[1]} it turned out that {self.they} {were} {'right' if right else 'wrong'}.")
        text = tidy(f"{self.opening} {middle} {when[2]} {self.after}.")
        return re.sub(r"(?<=[.!?] )[a-z]", lambda match: match[0].upper(), " ".join(text.split()))


def make_pair(seed: int | str, level: str = "simple", split: str = "train") -> tuple[str, str]:
    """A happy tale and its sad twin. In "verdict" pairs the twins differ in one word, else in the order of the same words."""
    pair = Pair(make_plan(f"endings {seed}", level, split), Random(f"endings {level} {split} {seed}"))
    return pair.tale(HAPPY), pair.tale(SAD)


def load_endings(n: int, seed: int = 0, level: str = "simple", split: str = "train") -> list[tuple[str, int]]:
    """n tales with 1 for a happy end and 0 for a sad one, half of each, shuffled; twins are both in the list.

    Use another seed, or split "combinations", for tales to test on. ValueError for an odd or non-positive n, an unknown level
    or an unknown split.
    """
    if n <= 0 or n % 2:
        raise ValueError(f"number of tales is {n}; ask for an even number above 0, as they come in pairs")
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}; use one of {', '.join(LEVELS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    tales = []
    for i in range(n // 2):
        happy, sad = make_pair(f"{seed}/{i}", level, split)
        tales += [(happy, HAPPY), (sad, SAD)]
    rng = Random(f"shuffle {seed}")
    return [tales.pop(int(rng.random() * len(tales))) for _ in range(n)]


def read_ending(text: str) -> int | None:
    """Read the answer out of a tale: who was right, or else the feeling told last; None where the tale tells neither.

    A check on the labels that knows the words for feelings and how a verdict is told, but not how the tale was made.
    """
    verdict = re.search(r"said that ([^.]*)\. [^.]*turned out that [^.]*\b(right|wrong)\.", text)
    if verdict:
        return HAPPY if ("never" not in verdict[1]) == (verdict[2] == "right") else SAD
    feelings = [word for word in re.findall(r"[a-z]+", text.lower()) if word in MOODS["sad"] | MOODS["happy"] | MOODS["funny"]]
    return None if not feelings else SAD if feelings[-1] in MOODS["sad"] else HAPPY


# ---------------------------------------------------------------- what counting words achieves

def word_count_accuracy(train: list[tuple[str, int]], test: list[tuple[str, int]], longest: int = 1) -> float:
    """Held-out accuracy of logistic regression on counts of runs of up to `longest` words (needs scikit-learn)."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = CountVectorizer(ngram_range=(1, longest), token_pattern=r"(?u)\b\w+\b")
    counts = vectorizer.fit_transform([text for text, _ in train])
    model = LogisticRegression(max_iter=1000).fit(counts, [label for _, label in train])
    return float(model.score(vectorizer.transform([text for text, _ in test]), [label for _, label in test]))


def last_sentences(tales: list[tuple[str, int]], count: int) -> list[tuple[str, int]]:
    from data.preferences import sentences_of
    return [(" ".join(sentences_of(text)[-count:]), label) for text, label in tales]


def measure(train_tales: int = 4000, test_tales: int = 2000, level: str = "simple") -> dict[str, float]:
    """Held-out accuracy of word counts: of the whole tale in runs of 1, 2 and 3 words, and of its last two sentences alone."""
    train, test = load_endings(train_tales, 1, level), load_endings(test_tales, 2, level, "combinations")
    result = {f"words, runs up to {k}": round(word_count_accuracy(train, test, k), 4) for k in (1, 2, 3)}
    ends = [last_sentences(tales, 2) for tales in (train, test)]
    return result | {"words of the last two sentences": round(word_count_accuracy(*ends), 4)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write tales with happy and sad endings that word counts can't tell apart.")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="how many, an even number (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--level", default="simple", help="simple (the default) or full")
    parser.add_argument("--out", type=Path, help="a JSONL file of text and label; without it nothing is written")
    parser.add_argument("--measure", action="store_true", help="print what word counts achieve (needs scikit-learn)")
    options = parser.parse_args(arguments)
    try:
        tales = load_endings(options.count, options.seed, options.level)
        if options.out:
            write_jsonl(options.out, ({"text": text, "label": label} for text, label in tales))
    except ValueError as error:
        parser.exit(2, f"endings.py: {error}\n")
    if options.measure:
        print(json.dumps(measure(level=options.level), indent=1))
    elif not options.out:
        for text, label in tales[:10]:
            print(f"{'happy' if label else 'sad':5s}  {text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
