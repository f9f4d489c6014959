"""Compute the figures of the data card and write them into data/README.md, data/card.json and data/sample-tales.md.

    python data/card.py            measures what the data has outgrown, ten minutes if it is everything (needs scikit-learn)
    python data/card.py checker    measures one part in any case: tales, checker, messages, instructions, preferences or endings
    python data/card.py --check    says within seconds whether the data has changed since the figures were computed
    python data/card.py --render   writes the pages anew from card.json

In README.md the text between `<!-- figures: NAME -->` and `<!-- /figures -->` is written here; the prose around it holds no
measured number. The measuring itself is done by the programs that the card names beside each table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):                                # run as a script: make `data` importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import measure_checker, measure_feedback, measure_tales
from data.endings import make_pair
from data.instructions import SPLITS, judge, make_instructions
from data.messages import load_messages
from data.preferences import label_pairs
from data.read_tale import read_tale
from data.tales import LEVELS, generate_tales
from data.tales import SPLITS as TALE_SPLITS

HERE = Path(__file__).resolve().parent
CARD, README, SAMPLE = HERE / "card.json", HERE / "README.md", HERE / "sample-tales.md"
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


def measure_world() -> dict:
    """The figures of data/measure_tales.py, less the speed, which depends on the machine."""
    figures = {level: measure_tales.measure(level) for level in LEVELS}
    return {level: {name: round(value, 4) for name, value in part.items() if name != "tales per second"}
            for level, part in figures.items()}


def measure_the_checker() -> dict:
    figures = {level: measure_checker.measure(level) for level in LEVELS}
    for level in LEVELS:
        for split in TALE_SPLITS:
            figures[level]["sound"][split].pop("tales a second")
    return figures


def measure_messages() -> dict:
    messages = load_messages(quiet=True)
    return {"messages": len(messages), **{label: int(count) for label, count in messages["label"].value_counts().items()}}


MEASURES: dict[str, Callable[[], dict]] = {
    "tales": measure_world, "checker": measure_the_checker, "messages": measure_messages, **measure_feedback.MEASURES}


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
    return table(["5,000 tales of each level, seed 0", *LEVELS], rows)


def by_split(card: dict, first: str, rows: dict[str, Callable[[dict, str], float]]) -> str:
    """A table with one column for each level and split; each row picks a share out of a level's figures."""
    columns = [(level, split) for level in LEVELS for split in TALE_SPLITS]
    shares = {name: [percent(pick(card["checker"][level], split)) for level, split in columns] for name, pick in rows.items()}
    return table([first, *(f"{level}, {split}" for level, split in columns)], [[name, *cells] for name, cells in shares.items()])


def checker_table(card: dict) -> str:
    rows = {"no objection": lambda part, split: part["sound"][split]["pass"],
            "all facts agree": lambda part, split: part["sound"][split]["all facts agree"]}
    rows |= {f"{fact} agrees": lambda part, split, fact=fact: part["sound"][split]["facts agree"][fact]
             for fact in measure_checker.FACTS}
    rows |= {f"{fact} is found": lambda part, split, fact=fact: part["sound"][split]["fact found"][fact]
             for fact in ("kind", "pronoun", "companion", "place")}
    return by_split(card, "tales as they come", rows)


def spoiled_table(card: dict) -> str:
    kinds = card["checker"]["full"]["spoiled"]["train"]
    return by_split(card, "objects to", {
        kind: lambda part, split, kind=kind: part["spoiled"][split][kind]["objects"] for kind in kinds})


def ngram_table(card: dict) -> str:
    models = {level: card["checker"][level]["5-gram"] for level in LEVELS}
    rows = [[skill, *(percent(models[level]["skills"][skill]) for level in LEVELS)] for skill in models["full"]["skills"]]
    rows.append(["**rejected by the checker**", *(percent(models[level]["rejected"]) for level in LEVELS)])
    perplexity = "perplexity per word, held-out combinations"
    rows.append([perplexity, *(number(models[level][perplexity]) for level in LEVELS)])
    samples = [f"The first sample of the {level} level, as it came:\n\n> " + models[level]["first sample"].replace("\n", "\n> ")
               for level in LEVELS]
    return "\n\n".join([table(["share of 1,000 samples that show the skill", *LEVELS], rows), *samples])


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


SECTIONS = {"tales": tales_table, "checker": checker_table, "spoiled": spoiled_table, "ngram": ngram_table,
            "messages": messages_line, "families": families_table, "judge": judge_table, "preferences": preferences_table,
            "endings": endings_table}


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


def brought_up_to_date(card: dict, wanted: list[str], keep: Callable[[dict], None] = lambda card: None) -> dict:
    """The card with the wanted parts, and those whose data has changed, measured anew; `keep` is called after each."""
    now = fingerprint()
    for name, measure in MEASURES.items():
        if name in wanted or card.get(name, {}).get("of data") != now:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            card = {**card, name: {"of data": now, **measure()}}
            keep(card)
    return {name: card[name] for name in MEASURES}


def read_card() -> dict:
    return json.loads(CARD.read_text(encoding="utf-8")) if CARD.is_file() else {}


def write_card(card: dict) -> None:
    write(CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compute the data card's figures and write them into data/README.md.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"measured in any case: {', '.join(MEASURES)}")
    parser.add_argument("--check", action="store_true", help="only say whether the card is up to date")
    parser.add_argument("--render", action="store_true", help="write the pages from card.json as it is, without measuring")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(MEASURES):
        parser.exit(2, f"card.py: unknown part {sorted(unknown)}; choose from {', '.join(MEASURES)}\n")
    card = read_card()
    if options.check:
        now = fingerprint()
        old = [name for name in MEASURES if card.get(name, {}).get("of data") != now]
        print(f"measured before the data changed: {', '.join(old)}; run `{COMMAND}`" if old else "the data card is up to date")
        return 1 if old else 0
    if not options.render:
        card = brought_up_to_date(card, options.parts, write_card)
    write(README, fill_in(README.read_text(encoding="utf-8"), card))
    write(SAMPLE, sample_tales())
    return 0


if __name__ == "__main__":
    sys.exit(main())
