"""Measure the tales: how varied they are, how far the held-out splits lie from train, how hard they are to read.

    python data/measure_tales.py --tales 5000

Every figure about the tales in the data card comes from `measure`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

if __package__ in (None, ""):                                # run as a script: make `data` importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.phrases import LEVELS, load_world
from data.tales import SPLITS, generate_tales

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
SENTENCE = re.compile(r"(?<=[.!?])[\"*]*\s+")


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def four_grams(tokens: list[str]) -> list[tuple[str, ...]]:
    return list(zip(tokens, tokens[1:], tokens[2:], tokens[3:]))


def count_patterns(level: str = "full") -> int:
    """Distinct hand-written sentence patterns in the phrase banks of a level; a choice such as [red|blue] counts once."""
    world = load_world(level)
    tables = (world.objects, world.places, world.helpers, world.traits, world.plots, {"common": world.common})
    patterns = set()
    for block in (block for table in tables for block in table.values()):
        for kind, sections in block.sections.items():
            if kind != "layout":
                patterns |= {sentence.strip() for section in sections for line in section.lines
                             for sentence in SENTENCE.split(line.text)}
    return len(patterns)


def count_world(level: str = "full") -> dict[str, int]:
    """The size of the world: names, objects, places, helpers, plots (and how many of them are held out), patterns."""
    world = load_world(level)
    held_out = sum(plot.meta.get("split") == "skeletons" for plot in world.plots.values())
    return {"names": sum(map(len, world.names.values())), "objects": len(world.objects), "places": len(world.places),
            "helpers": len(world.helpers), "plots": len(world.plots), "plots held out": held_out,
            "patterns": count_patterns(level)}


def syllables(word: str) -> int:
    """Vowel groups, less a silent final e: right for about nine words in ten, which is enough for an average."""
    groups = len(re.findall(r"[aeiouy]+", word))
    return max(1, groups - (word.endswith("e") and not word.endswith(("le", "ee"))))


def reading_grade(texts: list[str]) -> float:
    """Flesch-Kincaid grade (Kincaid et al., 1975): the school year in which the text can be read."""
    sentences = sum(len(re.findall(r"[.!?]+", text)) for text in texts)
    tokens = [word for text in texts for word in words(text)]
    return 0.39 * len(tokens) / sentences + 11.8 * sum(map(syllables, tokens)) / len(tokens) - 15.59


def nearest_overlap(train: list[str], held_out: list[str]) -> tuple[float, float]:
    """For each held-out tale the share of its 4-grams that stand in the one most similar training tale: (mean, largest)."""
    where: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, text in enumerate(train):
        for gram in set(four_grams(words(text))):
            where[gram].append(i)
    shares = []
    for text in held_out:
        grams = set(four_grams(words(text)))
        hits = Counter(i for gram in grams for i in where.get(gram, ()))
        shares.append(max(hits.values(), default=0) / len(grams))
    return sum(shares) / len(shares), max(shares)


def measure(level: str = "full", n: int = 5000, seed: int = 0) -> dict[str, float]:
    """All figures of the data card for one level."""
    start = time.process_time()
    texts = [text for _, text in generate_tales(n, seed, level)]
    seconds = time.process_time() - start
    joined = "\n".join(texts)
    tokens = words(joined)
    first = four_grams(tokens[:200_000])
    lengths = sorted(len(text.split()) for text in texts)
    raw = joined.encode()
    figures = {**count_world(level), "tales per second": n / seconds, "words, shortest": lengths[0],
               "words, median": lengths[n // 2], "words, longest": lengths[-1], "distinct words": len(set(tokens)),
               "distinct 4-grams": len(set(first)) / len(first), "gzip ratio": len(raw) / len(gzip.compress(raw, 9)),
               "reading grade": reading_grade(texts), "identical tales": n - len(set(texts))}
    for split in SPLITS:
        others = [text for _, text in generate_tales(200, seed + 1, level, split)]
        mean, largest = nearest_overlap(texts, others)
        figures[f"nearest overlap, {split}, mean"], figures[f"nearest overlap, {split}, largest"] = mean, largest
    return figures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the variety and the difficulty of the tales.")
    parser.add_argument("--tales", type=int, default=5000, metavar="N", help="how many to measure (default 5000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args(arguments)
    try:
        figures = {level: measure(level, options.tales, options.seed) for level in LEVELS}
    except ValueError as error:
        parser.exit(2, f"measure_tales.py: {error}\n")
    if options.json:
        print(json.dumps(figures, indent=1))
        return 0
    print(f"{'':38}" + "".join(f"{level:>10}" for level in LEVELS))
    for name in figures["full"]:
        print(f"{name:38}" + "".join(f"{figures[level][name]:10.3g}" if isinstance(figures[level][name], float)
                                     else f"{figures[level][name]:10,}" for level in LEVELS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
