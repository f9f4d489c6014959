"""Pairs of answers to one instruction, labelled by three simulated annotators who share a rubric and differ in taste.

    python data/preferences.py --count 2000 --level simple --out preferences.jsonl

    for pair in make_preferences(1000, seed=1):
        print(pair["prompt"], pair["chosen"], pair["rejected"], pair["votes"])

One answer of a pair is often spoiled on purpose; sometimes both are decent and only taste decides. Pairs are picked so that the
chosen answer is as often the longer as the shorter one, at every difference of length.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.cues import MOODS
from data.instructions import TALES, Judgement, Unsuitable, judge, make_instructions, says, telling, things_in, with_article
from data.records import write_jsonl
from data.tales import ENDINGS, Plan, choose, load_world

RUBRIC = """\
You see an instruction and two answers, A and B. Which one would you rather have got? Ask in this order.
1. Does it follow the instruction? It tells what was asked for: the hero, the thing, the place, the ending, the true answer.
2. Is it coherent? Names and things stay what they are, it is whole, and it makes sense from the first word to the last.
3. Is it kind? It doesn't scold or mock the one who asks.
4. Does it say everything once? It repeats neither itself nor the question.
Length is no merit and no fault. Say "tie" when you can't tell; don't toss a coin."""


# ---------------------------------------------------------------- annotators

@dataclass(frozen=True)
class Annotator:
    """How much each point of the rubric counts for one person, what they like besides, and how steady their hand is."""

    name: str
    follows: float
    coherent: float
    kind: float
    once: float
    brevity: float = 0.0       # for an answer twice as short as the other
    warmth: float = 0.0        # for dialogue and friendly words
    noise: float = 0.3         # the largest error of a rating
    slips: float = 0.04        # how often they press the wrong key


ANNOTATORS = (
    Annotator("brief", follows=0.4, coherent=0.3, kind=0.15, once=0.15, brevity=0.12),
    Annotator("warm", follows=0.35, coherent=0.25, kind=0.25, once=0.15, warmth=0.12),
    Annotator("strict", follows=0.65, coherent=0.2, kind=0.05, once=0.1),
)
TIE = 0.04                     # two ratings nearer than this can't be told apart
FRIENDLY = re.compile(r"\b(gladly|of course|with pleasure|here you are|thank you|i hope you like it|good question|"
                      r"i am happy to help|hug|hugged|friend)\b|!|\"", re.I)


def rubric_points(judged: Judgement) -> dict[str, float]:
    """The judge's criteria, sorted under the rubric's four points; each from 0 to 1."""
    def worst(*names: str) -> float:
        return min((judged.criteria[name] for name in names if name in judged.criteria), default=1.0)

    follows = worst("truthful", "last sentence", "one sentence", "ending", "same tale")
    return {"follows": judged.criteria.get("asked", 0.0) * follows,
            "coherent": worst("coherent", "finished", "hero", "length"), "kind": worst("kind"),
            "once": worst("no repetition", "not copied")}


def vote(annotator: Annotator, rng: Random, answers: tuple[str, str], points: tuple[dict, dict]) -> str:
    """"A", "B" or "tie"."""
    lengths = [len(answer.split()) + 1 for answer in answers]
    ratings = []
    for i in (0, 1):
        rating = sum(getattr(annotator, name) * value for name, value in points[i].items())
        rating += annotator.brevity * max(-1.0, min(1.0, (lengths[1 - i] - lengths[i]) / min(lengths)))
        rating += annotator.warmth * min(1.0, len(FRIENDLY.findall(answers[i])) / 2)
        ratings.append(rating + annotator.noise * (2 * rng.random() - 1) * rng.random())
    if rng.random() < annotator.slips:
        return choose(rng, ("A", "B", "tie"))
    difference = ratings[0] - ratings[1]
    return "tie" if abs(difference) < TIE else "A" if difference > 0 else "B"


def majority(votes: Sequence[str]) -> str:
    """What more than half of those who decided have voted, "tie" if that is nobody or only one of three."""
    a, b = votes.count("A"), votes.count("B")
    return "A" if a > b and a >= 2 else "B" if b > a and b >= 2 else "tie"


def cohen_kappa(first: Sequence, second: Sequence) -> float:
    """Agreement of two annotators beyond chance (Cohen, 1960): (p_o - p_e) / (1 - p_e).

    p_o is the share of items on which they agree, p_e the share to be expected if each had drawn from their own habits. 1.0 where
    both only ever gave one and the same label. ValueError for lists of different length or without items.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} labels; pass two lists of the same items, at least one")
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second)) / n
    counts = Counter(first), Counter(second)
    expected = sum(count * counts[1][label] for label, count in counts[0].items()) / n ** 2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)


# ---------------------------------------------------------------- ways to spoil an answer; "" where it can't be done

def sentences_of(text: str) -> list[str]:
    return re.findall(r'\S.*?[.!?]+["”)*]*(?=\s|$)|\S[^.!?]*$', text, re.S)


def other_of(rng: Random, options, text: str) -> str:
    options = [option for option in options if not says(text, option)]
    return choose(rng, options) if options else ""


def is_asked_for(record: dict, name: str) -> bool:
    """Whether the answer must keep to this name: the prompt has it or the right answer is it."""
    return says(prompt_of(record), name) or any(name in words for words in record["facts"]["must"])


def wrong_object(record, rng, other_answer):
    plan = record["facts"]["plan"]
    things = things_in(record["output"], plan["level"])
    other = other_of(rng, sorted(load_world(plan["level"]).objects), record["output"] + record["input"])
    if not things or not other or not is_asked_for(record, things[0]):
        return ""
    text = re.sub(rf"\b{re.escape(things[0])}\b", other, record["output"])
    return re.sub(r"\b([Aa])n? (?=[a-z])(\w+)", lambda m: m[1] + with_article(m[2])[1:], text)


def wrong_hero(record, rng, other_answer):
    plan = record["facts"]["plan"]
    world = load_world(plan["level"])
    hero = record["facts"].get("hero", plan["hero"])
    names = world.names[plan["kind"] if plan["kind"] in world.names else "animal"]
    other = other_of(rng, names, record["output"] + record["input"])
    return re.sub(rf"\b{hero}\b", other, record["output"]) if other and is_asked_for(record, hero) else ""


LAST_LINES = {"happy": ("It was a happy day.", "{} smiled and was happy."),
              "funny": ("{} laughed and laughed.", "Everyone laughed."), "sad": ("{} cried and was very sad.", "It was a sad day.")}


def wrong_ending(record, rng, other_answer):
    mood = record["facts"].get("mood")
    if not mood:
        return ""
    other = choose(rng, [name for name in ENDINGS if name != mood])
    if record["family"] == "ending":
        return re.sub(rf"\b{mood}\b", other, record["output"])
    sentences = sentences_of(record["output"])
    kept = [part for part in sentences[-2:] if not any(says(part, cue) for cue in MOODS[mood])]
    hero = record["facts"]["plan"]["hero"]
    return " ".join([*sentences[:-2], *kept, choose(rng, LAST_LINES[other]).format(hero)])


def repeated(record, rng, other_answer):
    sentences = sentences_of(record["output"])
    i = choose(rng, [i for i, part in enumerate(sentences) if len(part.split()) > 1] or [0])
    return " ".join(sentences[:i + 1] + [sentences[i]] * (1 + (rng.random() < 0.4)) + sentences[i + 1:])


def truncated(record, rng, other_answer):
    words = record["output"].split()
    return " ".join(words[:max(1, int(len(words) * (0.3 + 0.5 * rng.random())))]) if len(words) > 3 else ""


RUDE = ("That is a stupid question.", "Who cares?", "Find it yourself next time.", "What a waste of my time.",
        "Leave me alone with that.", "Do it yourself.", "You are lazy.")
WARM = ("Gladly!", "Of course!", "With pleasure.", "Good question!", "I am happy to help.")
WARM_AFTER = ("I hope you like it.", "Thank you for asking.")
PADDING = ("That is what I think.", "I have looked for it with care, and this is what I found.", "It took me some time to find it.",
           "There is a lot one could say about it.", "As you can see, this is the answer.",
           "I could say more, but I will stop here.")


def rude(record, rng, other_answer):
    line = choose(rng, RUDE)
    return f"{line} {record['output']}" if rng.random() < 0.7 else f"{record['output']} {line}"


def rude_and_short(record, rng, other_answer):
    return choose(rng, RUDE) if rng.random() < 0.4 else ""  # it fits everywhere, so it would be seen too often


def off_topic(record, rng, other_answer):
    return other_answer


def too_long(record, rng, other_answer):
    lines = [choose(rng, PADDING) for _ in range(2 + int(rng.random() * 3))]
    return " ".join([record["output"], *dict.fromkeys(lines), *lines[:1]])


def copied(record, rng, other_answer):
    given = sentences_of(record["input"]) if record["input"] else [record["instruction"]]
    return " ".join(given[:1 + int(rng.random() * 3)])


SPOILED = {"wrong object": wrong_object, "wrong hero": wrong_hero, "wrong ending": wrong_ending, "repeated sentence": repeated,
           "truncated": truncated, "rude": rude, "rude and short": rude_and_short, "off topic": off_topic, "too long": too_long,
           "copied": copied}


# ---------------------------------------------------------------- decent answers

def reference(record, rng, other_answer):
    return record["output"]


def friendly(record, rng, other_answer):
    return f"{choose(rng, WARM)} {record['output']}" if rng.random() < 0.6 else f"{record['output']} {choose(rng, WARM_AFTER)}"


def one_more_fact(record, rng, other_answer):
    """A short answer with another true sentence behind it."""
    plan = record["facts"]["plan"]
    if record["family"] in (*TALES, "happier", "not-told") or record["facts"].keys() & {"no mark", "one sentence"}:
        return ""
    thing = with_article(f"{plan['look']} {plan['object']}")
    options = [f"{plan['hero']} is {with_article(plan['kind'])}.", f"There is {thing} in the tale."]
    return f"{record['output']} {options[plan['hero'] in record['output'] and plan['object'] not in record['output']]}"


def other_telling(record, rng, other_answer):
    if record["family"] not in ("write", "write-ending", "write-place"):
        return ""
    try:
        text = telling(Plan.from_dict(record["facts"]["plan"]), rng, "telling")
    except Unsuitable:
        return ""
    return text if judge(record, text).score > 0.9 else ""


DECENT = {"reference": reference, "friendly": friendly, "one more fact": one_more_fact, "other telling": other_telling}


# ---------------------------------------------------------------- pairs

def prompt_of(record: dict) -> str:
    return record["instruction"] + ("\n\n" + record["input"] if record["input"] else "")


def draw_answer(record: dict, kinds: dict, rng: Random, other_answer: str, besides: tuple[str, ...] = ()) -> tuple[str, str]:
    """The name of a kind of answer and such an answer, unlike those in `besides`."""
    names = list(kinds)
    while names:
        name = names.pop(int(rng.random() * len(names)))
        text = kinds[name](record, rng, other_answer).strip()
        if text and text not in besides:
            return name, text[0].upper() + text[1:]
    return "", ""


def ask_annotators(record: dict, a: str, b: str, rng: Random) -> dict[str, str]:
    """What each annotator says of two answers to a record of `make_instructions`: {name: "A", "B" or "tie"}."""
    points = tuple(rubric_points(judge(record, answer)) for answer in (a, b))
    return {annotator.name: vote(annotator, rng, (a, b), points) for annotator in ANNOTATORS}


def label_pairs(n: int, seed: int = 0, level: str = "simple", split: str = "train") -> Iterator[dict]:
    """Stream n pairs as the annotators saw them, ties included: {"id", ..., "a", "b", "kinds", "votes", "label"}."""
    previous = ""
    for i, record in enumerate(make_instructions(n, f"preferences {seed}", level, split)):
        rng = Random(f"pair {level} {split} {seed}/{i}")
        draw, other_answer = rng.random(), previous or "I like soup."
        previous = record["output"]
        first = "reference", record["output"]
        if draw >= 0.6:
            first = draw_answer(record, DECENT if draw < 0.85 else SPOILED, rng, other_answer)
        second = draw_answer(record, DECENT if 0.6 <= draw < 0.85 else SPOILED, rng, other_answer, (first[1],))
        if not second[1] or not first[1] or first[1] == second[1]:
            continue
        (kind_a, a), (kind_b, b) = (first, second) if rng.random() < 0.5 else (second, first)
        votes = ask_annotators(record, a, b, rng)
        yield {"id": f"pair-{level}-{split.replace(' ', '-')}-{seed}-{i}", "family": record["family"], "prompt": prompt_of(record),
               "instruction": record["instruction"], "input": record["input"], "a": a, "b": b, "kinds": {"a": kind_a, "b": kind_b},
               "votes": votes, "label": majority(list(votes.values())), "reference": record["output"], "facts": record["facts"]}


BUCKETS = (0, 1, 2, 4, 8, 16, 32, 1000)                    # differences of length, in words


def make_preferences(n: int, seed: int = 0, level: str = "simple", split: str = "train") -> Iterator[dict]:
    """Stream n preferences: {"id", "family", "prompt", "instruction", "input", "chosen", "rejected", "kinds", "votes",
    "reference", "facts"}. With its reference as "output" a pair is a record that `judge` can judge any answer to.

    Pairs on which the annotators found no majority are left out, and so are pairs that would let length win: at each difference of
    length the longer answer is the chosen one about as often as the rejected one. ValueError if n isn't positive.
    """
    if n <= 0:
        raise ValueError(f"number of preferences is {n}; ask for at least 1")
    lead = dict.fromkeys(BUCKETS, 0)                        # chosen longer minus chosen shorter, so far
    made = 0
    for pair in label_pairs(1_000_000_000, seed, level, split):
        if pair["label"] == "tie":
            continue
        best, worst = ("a", "b") if pair["label"] == "A" else ("b", "a")
        difference = len(pair[best].split()) - len(pair[worst].split())
        bucket = min(limit for limit in BUCKETS if abs(difference) <= limit)
        sign = (difference > 0) - (difference < 0)
        if abs(lead[bucket] + sign) > 1:
            continue
        lead[bucket] += sign
        votes = {name: {"A": "chosen" if best == "a" else "rejected", "B": "chosen" if best == "b" else "rejected"}.get(cast, "tie")
                 for name, cast in pair["votes"].items()}
        yield {**{key: pair[key] for key in ("id", "family", "prompt", "instruction", "input")}, "chosen": pair[best],
               "rejected": pair[worst], "kinds": {"chosen": pair["kinds"][best], "rejected": pair["kinds"][worst]}, "votes": votes,
               "reference": pair["reference"], "facts": pair["facts"]}
        made += 1
        if made == n:
            return


def own_label(pair_id: str, prompt: str, a: str, b: str, label: str, annotator: str = "") -> dict:
    """A reader's own label as load_preferences reads it; one JSON object a line. ValueError for a label that isn't one."""
    if label not in ("A", "B", "tie", "skip"):
        raise ValueError(f"unknown label {label!r}; labels are 'A', 'B', 'tie' and 'skip'")
    row = {"id": pair_id, "prompt": prompt, "a": a, "b": b, "label": label}
    return row | ({"annotator": annotator} if annotator else {})


# ---------------------------------------------------------------- command line

def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write preferences: prompt, chosen, rejected and three annotators' votes.")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--level", default="simple", help="simple (the default) or full")
    parser.add_argument("--split", default="train", help="train, 'held-out wordings' or 'held-out families' (default train)")
    parser.add_argument("--out", type=Path, default=Path("preferences.jsonl"))
    options = parser.parse_args(arguments)
    try:
        count = write_jsonl(options.out, make_preferences(options.count, options.seed, options.level, options.split))
    except ValueError as error:
        parser.exit(2, f"preferences.py: {error}\n")
    print(f"{count} preferences written to {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
