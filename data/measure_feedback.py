"""Measure what chapters 6 and 7 are taught with: instructions and their judge, preferences and their annotators, endings.

    python data/measure_feedback.py instructions        or: preferences, endings (which needs scikit-learn), or nothing for all

Prints the figures that the data card quotes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from statistics import median

if __package__ in (None, ""):                                # run as a script: make `data` importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import endings
from data.instructions import HELD_OUT_FAMILIES, count_tokens, judge, make_instructions, wordings
from data.preferences import ANNOTATORS, DECENT, SPOILED, cohen_kappa, label_pairs, make_preferences
from data.read_tale import read_tale
from data.tales import LEVELS


def mean(values) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4)


def measure_instructions(count: int = 630) -> dict:
    families, result = {}, {"records": count}
    records = {level: [*make_instructions(count, 21, level, "held-out wordings"),
                       *make_instructions(count // 5, 21, level, "held-out families")] for level in LEVELS}
    for family, parts in wordings().items():
        families[family] = {"never trained": family in HELD_OUT_FAMILIES, "wordings": len(parts["train"]),
                            "held-out wordings": len(parts["held out"])}
        for level in LEVELS:
            mine = [record for record in records[level] if record["family"] == family]
            families[family][level] = {
                "prompt": median(count_tokens(record["instruction"] + " " + record["input"]) for record in mine),
                "answer": median(count_tokens(record["output"]) for record in mine),
                "longest answer": max(count_tokens(record["output"]) for record in mine)}
    result["families"] = families
    for level in LEVELS:
        scores, rng = defaultdict(list), Random(3)
        for i, record in enumerate(records[level]):
            for name, make in {**DECENT, **SPOILED}.items():
                answer = make(record, rng, records[level][i - 1]["output"])
                if answer and (answer != record["output"] or name == "reference"):
                    judged = judge(record, answer)
                    scores[name].append((judged.score, judged.visible_score, judged.held_out_score))
        result[f"scores, {level}"] = {
            name: {"answers": len(found), "score": mean(s for s, _, _ in found), "visible": mean(v for _, v, _ in found),
                   "held out": mean(h for _, _, h in found), "over 0.6": mean(s > 0.6 for s, _, _ in found)}
            for name, found in scores.items()}
    return result


def measure_preferences(count: int = 3000) -> dict:
    labelled, preferred = list(label_pairs(count, 31)), list(make_preferences(count, 32))
    names = [annotator.name for annotator in ANNOTATORS]
    votes = {name: [pair["votes"][name] for pair in labelled] for name in names}
    differences = [len(pair["chosen"].split()) - len(pair["rejected"].split()) for pair in preferred]
    truth = []
    for pair in preferred:
        scores = [judge(pair | {"output": pair["reference"]}, pair[side]).score for side in ("chosen", "rejected")]
        if scores[0] != scores[1]:
            truth.append(scores[0] > scores[1])
    kappa = {f"{a} and {b}": round(cohen_kappa(votes[a], votes[b]), 4) for i, a in enumerate(names) for b in names[i + 1:]}
    return {"pairs": count, "labelled": len(labelled), "kappa": kappa,
            "ties": {name: mean(vote == "tie" for vote in votes[name]) for name in names},
            "no majority": mean(pair["label"] == "tie" for pair in labelled),
            "unanimous": mean(set(pair["votes"].values()) == {"chosen"} for pair in preferred),
            "chosen has the higher true score": mean(truth), "true scores differ": round(len(truth) / len(preferred), 4),
            "chosen is longer": mean(d > 0 for d in differences), "chosen is shorter": mean(d < 0 for d in differences),
            "accuracy of lengths": length_accuracy(preferred),
            "rejected": dict(Counter(pair["kinds"]["rejected"] for pair in preferred).most_common())}


def length_accuracy(pairs: list[dict]) -> float:
    """What logistic regression gets right that sees only which answer is longer, and by how much: fitted to one half of the
    pairs, tested on the other."""
    from sklearn.linear_model import LogisticRegression

    rows, labels, rng = [], [], Random(5)
    for pair in pairs:
        lengths = [len(pair[side].split()) for side in ("chosen", "rejected")]
        flip = rng.random() < 0.5
        d = (lengths[1] - lengths[0]) if flip else (lengths[0] - lengths[1])
        sign = (d > 0) - (d < 0)
        rows.append([d, sign, *(sign * (abs(d) > limit) for limit in (2, 4, 8, 16, 32))])
        labels.append(not flip)
    half = len(rows) // 2
    return round(float(LogisticRegression(max_iter=1000).fit(rows[:half], labels[:half]).score(rows[half:], labels[half:])), 4)


def measure_endings(train: int = 4000, test: int = 2000) -> dict:
    result = {"train": train, "test": test}
    for level in LEVELS:
        tales = endings.load_endings(test, 2, level, "combinations")
        mood = [(read_tale(text, level).ending, label) for text, label in tales]
        result[level] = endings.measure(train, test, level) | {
            "labels that can be read": mean(endings.read_ending(text) == label for text, label in tales),
            "tale checker's mood": mean((found in ("happy", "funny")) == label if found else 0.5 for found, label in mood)}
    return result


MEASURES = {"instructions": measure_instructions, "preferences": measure_preferences, "endings": measure_endings}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure instructions, preferences and endings.")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"which of {', '.join(MEASURES)} (default: all)")
    options = parser.parse_args(arguments)
    if unknown := set(options.sets) - set(MEASURES):
        parser.exit(2, f"measure_feedback.py: unknown set {sorted(unknown)}; choose from {', '.join(MEASURES)}\n")
    for name in options.sets or MEASURES:
        print(name, json.dumps(MEASURES[name](), indent=1, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
