"""Compute every figure of the data card, and write it into data/README.md, data/card.json and data/sample-tales.md.

    python data/card.py            measures everything, about ten minutes on two cores (needs scikit-learn)
    python data/card.py --check    says, in seconds, whether the data has changed since the figures were computed

In README.md the text between `<!-- figures: NAME -->` and `<!-- /figures -->` is written here; the prose around it holds no
measured number.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from statistics import median

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import measure_checker, measure_tales
from data.endings import load_endings, make_pair, read_ending
from data.endings import measure as measure_endings
from data.instructions import (
    HELD_OUT_FAMILIES,
    SPLITS,
    count_tokens,
    judge,
    make_instructions,
    wordings,
)
from data.messages import load_messages
from data.preferences import ANNOTATORS, DECENT, SPOILED, cohen_kappa, label_pairs, make_preferences
from data.read_tale import read_tale
from data.tales import LEVELS, generate_tales
from data.tales import SPLITS as TALE_SPLITS

HERE = Path(__file__).resolve().parent
CARD, README, SAMPLE = HERE / "card.json", HERE / "README.md", HERE / "sample-tales.md"
PARTIAL = HERE / "card.json.unfinished"
COMMAND = "python data/card.py"
MARKED = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- /figures -->)", re.S)


# ---------------------------------------------------------------- measuring

def fingerprint() -> str:
    """A number that changes when what the programs make, or what the checker says about it, changes."""
    def parts():
        for level in LEVELS:
            for split in TALE_SPLITS:
                for plan, text in generate_tales(25, 11, level, split):
                    yield f"{plan}{text}{read_tale(text, level).violations}"
            for split in SPLITS:
                for record in make_instructions(25, 11, level, split):
                    yield json.dumps(record) + str(judge(record, record["output"] + " " + record["instruction"]))
            yield from (json.dumps(pair) for pair in label_pairs(40, 11, level))
            yield from (str(make_pair(i, level)) for i in range(20))
        yield from (f"{row.label}{row.text}" for row in load_messages(quiet=True).itertuples())

    checksum = 0
    for part in parts():
        checksum = zlib.crc32(part.encode(), checksum)
    return f"{checksum:08x}"


def measure_world(tales: int) -> dict:
    figures = {level: measure_tales.measure(level, tales) for level in LEVELS}
    for level in LEVELS:
        figures[level].pop("tales per second")
    return {"tales": tales, **{level: {name: rounded(value) for name, value in figures[level].items()} for level in LEVELS}}


def rounded(value):
    return round(value, 4) if isinstance(value, float) else value


def measure_the_checker(tales: int, samples: int, training_tales: int) -> dict:
    result = {"tales": tales, "samples": samples, "training tales": training_tales}
    for level in LEVELS:
        result[level] = {"sound": {}, "spoiled": {}}
        for split in TALE_SPLITS:
            told = measure_checker.tales_with_ends(tales, 5, level, split)
            result[level]["sound"][split] = measure_checker.measure_sound(told, level)
            result[level]["sound"][split].pop("tales a second")
            result[level]["spoiled"][split] = measure_checker.measure_spoiled(told, level, 5)
        held_out = [text for _, text in generate_tales(300, 5, level, "combinations")]
        result[level]["5-gram"] = measure_checker.measure_ngram(level, training_tales, samples, 5, held_out)
    return result


def measure_messages() -> dict:
    messages = load_messages(quiet=True)
    return {"messages": len(messages), **{label: int(count) for label, count in messages["label"].value_counts().items()}}


def measure_instructions(count: int) -> dict:
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


def mean(values) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4)


def measure_preferences(count: int) -> dict:
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


def measure_the_endings(train: int, test: int) -> dict:
    result = {"train": train, "test": test}
    for level in LEVELS:
        tales = load_endings(test, 2, level, "combinations")
        mood = [(read_tale(text, level).ending, label) for text, label in tales]
        result[level] = measure_endings(train, test, level) | {
            "labels that can be read": mean(read_ending(text) == label for text, label in tales),
            "tale checker's mood": mean((found in ("happy", "funny")) == label if found else 0.5 for found, label in mood)}
    return result


# ---------------------------------------------------------------- writing tables

def table(head: list[str], rows: list[list]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def number(value) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def tales_table(card: dict) -> str:
    figures = card["tales"]
    rows = [[name, *(number(figures[level][name]) for level in LEVELS)] for name in figures["full"]]
    return f"Measured on {figures['tales']:,} tales of each level, seed 0.\n\n" + table(["", *LEVELS], rows)


def checker_table(card: dict) -> str:
    figures, columns = card["checker"], [(level, split) for level in LEVELS for split in TALE_SPLITS]
    head = ["", *(f"{level}, {split}" for level, split in columns)]

    def row(name, pick):
        return [name, *(percent(pick(figures[level], split)) for level, split in columns)]

    sound = [row("no objection", lambda part, split: part["sound"][split]["pass"])]
    sound += [row(f"{fact} agrees", lambda part, split, fact=fact: part["sound"][split]["facts agree"][fact])
              for fact in measure_checker.FACTS]
    sound += [row(f"{fact} is told at all", lambda part, split, fact=fact: part["sound"][split]["fact told"][fact])
              for fact in ("place", "companion")]
    spoiled = [row(kind, lambda part, split, kind=kind: part["spoiled"][split][kind]["objects"])
               for kind in measure_checker.SPOILERS]
    return (f"Tales as they come, {figures['tales']:,} of each kind: how often the checker has nothing to object to, and how often "
            "what it reads agrees with the plan.\n\n" + table(head, sound) +
            "\n\nThe same tales, spoiled on purpose: how often it objects.\n\n" + table(head, spoiled))


def ngram_table(card: dict) -> str:
    figures = card["checker"]
    skills = figures["full"]["5-gram"]["skills"]
    rows = [[skill, *(percent(figures[level]["5-gram"]["skills"][skill]) for level in LEVELS)] for skill in skills]
    rows.append(["**rejected by the checker**", *(percent(figures[level]["5-gram"]["rejected"]) for level in LEVELS)])
    perplexity = "perplexity per word, held-out combinations"
    rows.append([perplexity, *(number(figures[level]["5-gram"][perplexity]) for level in LEVELS)])
    return (f"{figures['samples']:,} samples of each level from a model that counted {figures['training tales']:,} tales: how "
            "many show each skill.\n\n" + table(["", *LEVELS], rows))


def messages_line(card: dict) -> str:
    figures = card["messages"]
    return f"{figures['messages']:,} messages: {figures['ham']:,} genuine, {figures['spam']:,} spam."


def families_table(card: dict) -> str:
    rows = []
    for family, part in card["instructions"]["families"].items():
        sizes = [f"{part[level]['prompt']:.0f} / {part[level]['answer']:.0f}" for level in LEVELS]
        rows.append([family, part["wordings"], part["held-out wordings"], *sizes, "never trained" if part["never trained"] else ""])
    return ("Sizes are medians of prompt / answer, in words and marks.\n\n" +
            table(["family", "wordings", "held out", *(f"size, {level}" for level in LEVELS), ""], rows))


def judge_table(card: dict) -> str:
    parts = [card["instructions"][f"scores, {level}"] for level in LEVELS]
    names = [name for name in parts[0] if name in parts[1]]
    columns = ("visible", "held out", "score", "over 0.6")
    head = ["kind of answer", *(f"{column}, {level}" for level in LEVELS for column in columns)]
    rows = []
    for name in names:
        cells = [name]
        for part in parts:
            cells += [*(number(part[name][column]) for column in columns[:3]), percent(part[name]["over 0.6"])]
        rows.append(cells)
    return table(head, rows)


def preferences_table(card: dict) -> str:
    figures = card["preferences"]
    rows = [[f"Cohen's κ, *{pair.replace(' and ', '* and *')}*", number(kappa)] for pair, kappa in figures["kappa"].items()]
    rows += [[f"ties given by *{name}*", percent(share)] for name, share in figures["ties"].items()]
    rows += [["pairs without a majority, left out", percent(figures["no majority"])],
             ["unanimous among the rest", percent(figures["unanimous"])],
             ["pairs whose true scores differ", percent(figures["true scores differ"])],
             ["of these, chosen has the higher one", percent(figures["chosen has the higher true score"])],
             ["chosen is the longer answer", percent(figures["chosen is longer"])],
             ["chosen is the shorter answer", percent(figures["chosen is shorter"])],
             ["accuracy of logistic regression on lengths alone", percent(figures["accuracy of lengths"])]]
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in figures["rejected"].items())
    return (f"{figures['pairs']:,} preferences, simple level.\n\n" + table(["", ""], rows) +
            f"\n\nRejected answers by kind: {kinds}.")


def endings_table(card: dict) -> str:
    figures = card["endings"]
    names = {"words, runs up to 1": "bag of words", "words, runs up to 2": "and pairs of words",
             "words, runs up to 3": "and triples",
             "words of the last two sentences": "bag of words, last two sentences only",
             "tale checker's mood": "the tale checker's mood, unsure counted half",
             "labels that can be read": "a reader who knows verdicts and feelings (`read_ending`)"}
    rows = [[title, *(percent(figures[level][name]) for level in LEVELS)] for name, title in names.items()]
    return (f"Held-out accuracy; logistic regression fitted to {figures['train']:,} tales, tested on {figures['test']:,} held-out "
            "combinations. Half of the tales end happily.\n\n" + table(["", *LEVELS], rows))


SECTIONS = {"tales": tales_table, "checker": checker_table, "ngram": ngram_table, "messages": messages_line,
            "families": families_table, "judge": judge_table, "preferences": preferences_table, "endings": endings_table}


def fill_in(readme: str, card: dict) -> str:
    """README's text with every marked part written anew. ValueError for a marker without a section or the other way around."""
    named = [match[2] for match in MARKED.finditer(readme)]
    if sorted(named) != sorted(SECTIONS):
        raise ValueError(f"data/README.md marks the figures {sorted(named)}, data/card.py writes {sorted(SECTIONS)}; "
                         "each needs one `<!-- figures: NAME -->` ... `<!-- /figures -->`")
    return MARKED.sub(lambda match: match[1] + SECTIONS[match[2]](card) + "\n" + match[3], readme)


def sample_tales() -> str:
    """The first twenty full tales and the first five simple ones of seed 0, as they come."""
    lines = ["# Tales as they come", "", "Nobody chose these: they are the first twenty tales of the full level and the first five "
             "of the simple level, seed 0.", f"Written by `{COMMAND}`.", ""]
    for level, count in (("full", 20), ("simple", 5)):
        lines += [f"## {level.capitalize()} level", ""]
        for i, (plan, text) in enumerate(generate_tales(count, 0, level), start=1):
            lines += [f"### {level.capitalize()} {i}: {plan.title}", "", *(text + "\n").split("\n")]
    return "\n".join(lines).rstrip() + "\n"


def write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def measure_all(quick: bool = False, kept: Path | None = None) -> dict:
    """All figures; `quick` measures little, for tests of this program. Under `kept` finished steps outlive a stopped run."""
    steps = {"tales": lambda: measure_world(60 if quick else 5000),
             "checker": lambda: measure_the_checker(*((20, 20, 200) if quick else (1000, 1000, 20_000))),
             "messages": measure_messages,
             "instructions": lambda: measure_instructions(42 if quick else 630),
             "preferences": lambda: measure_preferences(60 if quick else 3000),
             "endings": lambda: measure_the_endings(*((100, 60) if quick else (4000, 2000)))}
    card = {"command": COMMAND, "fingerprint": fingerprint()}
    if kept and kept.is_file():
        earlier = json.loads(kept.read_text(encoding="utf-8"))
        card = earlier if earlier["fingerprint"] == card["fingerprint"] else card
    for name in [name for name in steps if name not in card]:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        card[name] = steps[name]()
        if kept:
            write(kept, json.dumps(card))
    return {name: card[name] for name in ("command", "fingerprint", *steps)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compute the data card's figures and write them into data/README.md.")
    parser.add_argument("--check", action="store_true", help="only say whether the card is up to date")
    parser.add_argument("--render", action="store_true", help="write README.md from card.json as it is, without measuring")
    options = parser.parse_args(arguments)
    if options.check:
        fresh = CARD.is_file() and json.loads(CARD.read_text(encoding="utf-8"))["fingerprint"] == fingerprint()
        print("the data card is up to date" if fresh else f"the data has changed since the card was written; run `{COMMAND}`")
        return 0 if fresh else 1
    card = json.loads(CARD.read_text(encoding="utf-8")) if options.render else measure_all(kept=PARTIAL)
    text = fill_in(README.read_text(encoding="utf-8"), card)
    write(CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write(README, text)
    write(SAMPLE, sample_tales())
    PARTIAL.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
