"""Measure the checker: on tales as they come, on tales spoiled on purpose, and on what the 5-gram model writes.

    python data/measure_checker.py --level simple

Prints the figures that the data card quotes, as JSON; about two minutes for each level.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import tales  # noqa: E402
from data.ngram import NGram  # noqa: E402
from data.read_tale import SKILLS, check_tale, passes, read_tale, skills  # noqa: E402

FACTS = ("hero", "kind", "pronoun", "trait", "companion", "place", "object", "helper", "ending")


# ---------------------------------------------------------------- tales with their endings marked

class Recorder(tales.Teller):
    """A teller that remembers which words were the ending's, and who told it."""

    last_end = ""

    def beat(self, name: str) -> str:
        text = super().beat(name)
        if name == "end":
            Recorder.last_end = Ending(tales.tidy(text))
            Recorder.last_end.first = self.first
        return text


class Ending(str):
    """An ending's words; `first` says whether the hero tells it."""

    first = False


def tales_with_ends(n: int, seed: int, level: str, split: str) -> list[tuple[tales.Plan, str, str]]:
    told, original = [], tales.Teller
    tales.Teller = Recorder
    try:
        for plan, text in tales.generate_tales(n, seed, level, split):
            told.append((plan, text, Recorder.last_end))
    finally:
        tales.Teller = original
    return told


# ---------------------------------------------------------------- seven ways to spoil a tale

def sentences_of(text: str) -> list[str]:
    return re.findall(r'\S.*?[.!?*]+["”)*]*(?=\s|$)|\S[^.!?]*$', text)


def second_half(text: str, change: Callable[[str], str]) -> str:
    """Change what comes after the sentence end nearest the middle."""
    ends = [m.end() for m in re.finditer(r'[.!?]["”]?(?=\s)', text)]
    cut = min(ends, key=lambda end: abs(end - len(text) // 2), default=len(text) // 2)
    return text[:cut] + change(text[cut:])


def rename_hero(plan, text, end, rng, pool):
    names = tales.load_world(plan.level).names
    group = plan.kind if plan.kind in names else "animal"
    other = tales.choose(rng, [name for name in names[group] if name not in text])
    return second_half(text, lambda half: re.sub(rf"\b{re.escape(plan.hero)}\b", other, half))


def swap_object(plan, text, end, rng, pool):
    other = tales.choose(rng, [name for name in tales.load_world(plan.level).objects if name not in text])
    return second_half(text, lambda half: re.sub(rf"\b{re.escape(plan.object)}\b", other, half))


def shuffle(plan, text, end, rng, pool):
    return " ".join(sorted(sentences_of(text), key=lambda _: rng.random()))


def end_of_another(plan, text, end, rng, pool):
    other = tales.choose(rng, pool)
    mine, theirs = sentences_of(text), sentences_of(other[1])
    return " ".join(mine[:-max(2, len(mine) // 4)] + theirs[-max(2, len(theirs) // 4):]) if other[0].hero != plan.hero else text


def end_of_other_mood(plan, text, end, rng, pool):
    """The ending that this very tale would have had, had it ended the other way; the outcome stays as it was."""
    other = replace(plan, ending="happy" if plan.ending == "sad" else "sad")
    tellers = (tales.Teller(other, rng) for _ in range(50))
    teller = next((teller for teller in tellers if teller.first == end.first), None)
    return text.replace(end, tales.tidy(teller.beat("end"))) if teller and end else text


def truncate(plan, text, end, rng, pool):
    words = list(re.finditer(r"\S+", text))
    return text[:words[int(len(words) * (0.3 + 0.6 * rng.random()))].end()]


def repeat_sentence(plan, text, end, rng, pool):
    sentences = sentences_of(text)
    long = [i for i, sentence in enumerate(sentences) if len(sentence.split()) > 3]
    i = tales.choose(rng, long)
    j = i + int(rng.random() * (len(sentences) - i))
    return " ".join(sentences[:j + 1] + [sentences[i]] + sentences[j + 1:])


def flip_pronouns(plan, text, end, rng, pool):
    """From the middle on, the hero is called by the other pronoun. Only where the helper's differs: else whose would it be?"""
    swap = {"he": "she", "him": "her", "his": "her", "himself": "herself"} if plan.pronoun == "he" else \
        {"she": "he", "herself": "himself", "her": "his"}
    told = "".join(text.split('"')[::2])
    if tales.load_world(plan.level).helpers[plan.helper].meta["he"] == plan.pronoun or re.search(r"\bI\b", told):
        return text

    def flip(match):
        word, after = match[0], match.string[match.end():]
        objective = word.lower() == "her" and re.match(r"[.,!?;]|$| (and|to|in|on|at|up|with|about|from|the|a)\b", after)
        new = "him" if objective else swap[word.lower()]
        return new.capitalize() if word[0].isupper() else new

    def flip_hero(half):
        """Flip in sentences that name the hero, or go straight on from one with a pronoun; nobody else's pronouns."""
        pieces, quoted, about_hero = re.split(r'((?<=[.!?])["”]?\s+|")', half), False, False
        for i, piece in enumerate(pieces):
            quoted ^= piece.count('"') % 2 == 1
            if i % 2 == 0 and piece and not quoted:
                about_hero = plan.hero in piece or (about_hero and bool(re.match(r"(he|she|his|her)\b", piece, re.I)))
                if about_hero:
                    pieces[i] = re.sub(rf"\b({'|'.join(swap)})\b", flip, piece, flags=re.I)
        return "".join(pieces)

    return second_half(text, flip_hero)


SPOILERS = {"hero renamed half-way": rename_hero, "object swapped half-way": swap_object, "sentences shuffled": shuffle,
            "ending of another tale": end_of_another, "ending of the other mood": end_of_other_mood, "truncated": truncate,
            "a sentence repeated": repeat_sentence, "pronouns flipped half-way": flip_pronouns}


# ---------------------------------------------------------------- figures

def share(hits: int, of: int) -> float:
    return round(hits / of, 4) if of else float("nan")


def measure_sound(told, level: str) -> dict:
    start = time.process_time()
    readings = [read_tale(text, level) for _, text, _ in told]
    seconds = time.process_time() - start
    differing = [{v.name for v in check_tale(text, plan) if v.name.startswith("wrong ")} for plan, text, _ in told]
    wrong = Counter(name for names in differing for name in names)
    named = Counter(v.name for reading in readings for v in reading.violations)
    return {"pass": share(sum(not reading.violations for reading in readings), len(told)), "violations": dict(named.most_common()),
            "facts agree": {fact: share(len(told) - wrong[f"wrong {fact}"], len(told)) for fact in FACTS},
            "all facts agree": share(differing.count(set()), len(told)),
            "fact found": {fact: share(sum(bool(getattr(r, fact)) for r in readings), len(told)) for fact in FACTS},
            "tales a second": round(len(told) / seconds)}


def measure_spoiled(told, level: str, seed: int) -> dict:
    result = {}
    for kind, spoil in SPOILERS.items():
        rng = Random(f"{kind} {seed}")
        spoiled = [(text, spoil(plan, text, end, rng, told)) for plan, text, end in told]
        changed = [new for text, new in spoiled if " ".join(new.split()) != " ".join(text.split())]
        result[kind] = {"objects": share(sum(not passes(new, level) for new in changed), len(changed)), "tales": len(changed)}
        if kind == "ending of the other mood":
            result[f"{kind}, read with the plan"] = against_plans(told, [new for _, new in spoiled])
    return result


def against_plans(told, spoiled: list[str]) -> dict:
    """How often the spoiled tale's ending, as read, contradicts the plan. By itself a happy end after a loss may be meant so.

    A funny tale that now ends happily or sadly counts as well; of tales as they come the same reading errs as often as
    "facts agree" says of "ending"."""
    pairs = [(plan, new) for (plan, text, _), new in zip(told, spoiled) if " ".join(new.split()) != " ".join(text.split())]
    found = sum(any(v.name in ("wrong ending", "ending missing") for v in check_tale(new, plan)) for plan, new in pairs)
    return {"objects": share(found, len(pairs)), "tales": len(pairs)}


def measure_ngram(level: str, training_tales: int, samples: int, seed: int, held_out: list[str]) -> dict:
    model = NGram().fit(text for _, text in tales.generate_tales(training_tales, seed + 1, level))
    rng = Random(seed)
    texts = [model.sample(rng) for _ in range(samples)]
    kept = Counter(skill for text in texts for skill, shown in skills(text, level).items() if shown)
    rejected = sum(not passes(text, level) for text in texts)
    return {"training tales": training_tales, "first sample": texts[0], "rejected": share(rejected, samples),
            "samples": samples, "perplexity per word, held-out combinations": round(model.perplexity(held_out), 3),
            "skills": {skill: share(kept[skill], samples) for skill in SKILLS}}


def measure(level: str, n: int = 1000, samples: int = 1000, ngram_tales: int = 20_000, seed: int = 5) -> dict:
    """All figures of one level: of n tales of each split, sound and spoiled, and of `samples` texts by the 5-gram model."""
    result = {"tales of each split": n, "sound": {}, "spoiled": {}}
    for split in tales.SPLITS:
        told = tales_with_ends(n, seed, level, split)
        result["sound"][split], result["spoiled"][split] = measure_sound(told, level), measure_spoiled(told, level, seed)
    if ngram_tales:
        held_out = [text for _, text in tales.generate_tales(300, seed, level, "combinations")]
        result["5-gram"] = measure_ngram(level, ngram_tales, samples, seed, held_out)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the tale checker.")
    parser.add_argument("--level", default="full", choices=tales.LEVELS)
    parser.add_argument("--tales", type=int, default=1000, help="of each split (default 1000)")
    parser.add_argument("--ngram-tales", type=int, default=20_000, help="that the 5-gram model counts; 0 leaves it out")
    parser.add_argument("--samples", type=int, default=1000, help="drawn from the 5-gram model (default 1000)")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args(arguments)
    print(json.dumps(measure(options.level, options.tales, options.samples, options.ngram_tales, options.seed), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
