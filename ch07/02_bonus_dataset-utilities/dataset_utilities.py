"""Three questions to ask of a file of instructions or preferences before anything is trained on it.

    python dataset_utilities.py duplicates train.jsonl                 which records say nearly the same?
    python dataset_utilities.py leakage train.jsonl test.jsonl         which test records stand in the training set, too?
    python dataset_utilities.py balance preferences.jsonl              what else tells the chosen answer from the rejected one?

Files are read by `data/records.py`: Alpaca's `instruction`, `input`, `output`, or `prompt`, `chosen`, `rejected`; .json or .jsonl.
"""

import argparse
import math
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.records import load_instructions, load_preferences  # noqa: E402

PRIME = np.uint64(4_294_967_311)                       # the first above 2**32: with it, a * x + b reorders all 32-bit hashes
ROWS, BANDS = 4, 32                                    # a pair of similarity s meets with 1 - (1 - s**ROWS)**BANDS


# ---------------------------------------------------------------- near-duplicates by MinHash (Broder, 1997)

def shingles(text: str, n: int = 3) -> set[int]:
    """Hashes of the text's runs of n words, in lower case; a shorter text is one run."""
    words = re.findall(r"\w+", text.lower())
    return {zlib.crc32(" ".join(words[i:i + n]).encode()) for i in range(max(1, len(words) - n + 1))}


def jaccard(a: set, b: set) -> float:
    """The share of what two sets have together that both have."""
    return len(a & b) / len(a | b)


def signatures(sets: Sequence[set[int]], size: int = ROWS * BANDS, seed: int = 0) -> np.ndarray:
    """MinHash signatures (N, size): two of them agree in a place with the Jaccard similarity of their sets as probability."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, 2**31, (2, size), dtype=np.uint64)                                     # (size,) each
    result = np.empty((len(sets), size), dtype=np.uint64)
    for i, members in enumerate(sets):
        values = np.fromiter(members, dtype=np.uint64, count=len(members))                       # (M,), each below 2**32
        result[i] = ((values[:, None] * a + b) % PRIME).min(axis=0)                               # (M, size) -> (size,)
    return result


def candidates(signed: np.ndarray) -> set[tuple[int, int]]:
    """Pairs (i, j), i < j, whose signatures agree in all rows of at least one band; only these are looked at closely."""
    found: set[tuple[int, int]] = set()
    for band in np.split(signed, BANDS, axis=1):
        buckets = defaultdict(list)
        for i, key in enumerate(map(bytes, np.ascontiguousarray(band))):
            buckets[key].append(i)
        for members in buckets.values():
            found |= {(i, j) for k, j in enumerate(members) for i in members[:k]}
    return found


def near_duplicates(texts: Sequence[str], threshold: float = 0.7) -> list[tuple[float, int, int]]:
    """Pairs of texts with at least this similarity, (similarity, i, j), the most similar first.

    Of pairs at the threshold 0.7, MinHash misses 1 in 6,500 (see ROWS and BANDS); those it finds are measured exactly. ValueError
    for a threshold that isn't a share, and for one below 0.4, where it would miss one in two.
    """
    if not 0.4 <= threshold <= 1:
        raise ValueError(f"the threshold is {threshold}; choose a share from 0.4 to 1")
    sets = [shingles(text) for text in texts]
    if not sets:
        return []
    pairs = ((jaccard(sets[i], sets[j]), i, j) for i, j in candidates(signatures(sets)))
    return sorted((pair for pair in pairs if pair[0] >= threshold), key=lambda pair: (-pair[0], *pair[1:]))


# ---------------------------------------------------------------- leakage

def leakage(train: Sequence[str], test: Sequence[str], threshold: float = 0.7) -> list[tuple[float, int, int]]:
    """For each test text that has a near-duplicate in the training set, the nearest: (similarity, train index, test index)."""
    nearest: dict[int, tuple[float, int, int]] = {}
    for similarity, i, j in near_duplicates([*train, *test], threshold):
        if i < len(train) <= j:
            nearest.setdefault(j, (similarity, i, j - len(train)))
    return sorted(nearest.values(), key=lambda pair: (-pair[0], pair[2]))


# ---------------------------------------------------------------- balance

STYLES: dict[str, Callable[[str], float]] = {
    "words": lambda text: len(text.split()),
    "sentences": lambda text: len(re.findall(r"[.!?]+", text)),
    "words in a sentence": lambda text: len(text.split()) / max(1, len(re.findall(r"[.!?]+", text))),
    "ends with a mark": lambda text: bool(re.search(r"[.!?][\"')]*\s*$", text)),
    "exclamation marks": lambda text: text.count("!"),
    "question marks": lambda text: text.count("?"),
    "lines": lambda text: text.count("\n"),
    "different words, share": lambda text: len(set(text.lower().split())) / max(1, len(text.split())),
    "capital letters, share": lambda text: sum(c.isupper() for c in text) / max(1, len(text)),
}


@dataclass(frozen=True)
class Balance:
    """How often the answer with more of a property was chosen, of the pairs that differ in it."""

    name: str
    differ: int
    more_chosen: float

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval of that share."""
        return 1.96 * math.sqrt(0.25 / self.differ) if self.differ else 1.0


def balance(pairs: Sequence[dict]) -> list[Balance]:
    """For each property in STYLES, whether it gives the chosen answer away; the strongest lean first."""
    rows = []
    for name, measure in STYLES.items():
        differences = [measure(pair["chosen"]) - measure(pair["rejected"]) for pair in pairs]
        differ = [d for d in differences if d]
        rows.append(Balance(name, len(differ), sum(d > 0 for d in differ) / len(differ) if differ else 0.5))
    return sorted(rows, key=lambda row: (-abs(row.more_chosen - 0.5) / row.half_width, row.name))


# ---------------------------------------------------------------- command line

def texts_of(path: Path) -> list[str]:
    """Each record of a file as one text; preferences count once, with their prompt and both answers."""
    try:
        return ["\n".join((r["instruction"], r["input"], r["output"])) for r in load_instructions(path)]
    except ValueError as first:
        try:
            return ["\n".join((r["prompt"], r["chosen"], r["rejected"])) for r in load_preferences(path)]
        except ValueError as second:
            raise ValueError(f"neither instructions ({first}) nor preferences ({second})") from None


def shown(text: str, most: int = 100) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most - 3] + "..."


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """The lines that a command prints."""
    if arguments.command == "balance":
        pairs = load_preferences(arguments.file)
        yield f"{len(pairs):,} pairs; of those that differ, how often the answer with more of it was chosen:"
        for row in balance(pairs):
            lean = "  <- gives it away" if abs(row.more_chosen - 0.5) > row.half_width else ""
            yield f"  {row.name:24s} {row.more_chosen:6.1%} of {row.differ:6,}  (chance: 50 % +- {row.half_width:.1%}){lean}"
        return
    texts = texts_of(arguments.file)
    if arguments.command == "duplicates":
        pairs = near_duplicates(texts, arguments.threshold)
        yield f"{len(pairs):,} pairs of {len(texts):,} records are at least {arguments.threshold:.0%} alike"
        for similarity, i, j in pairs[:arguments.most]:
            yield f"\n{similarity:.0%}  {i + 1}: {shown(texts[i])}\n{'':4s}  {j + 1}: {shown(texts[j])}"
        return
    test = texts_of(arguments.test)
    pairs = leakage(texts, test, arguments.threshold)
    yield (f"{len(pairs):,} of {len(test):,} test records ({len(pairs) / len(test):.1%}) have one in the training set that is at "
           f"least {arguments.threshold:.0%} alike")
    for similarity, i, j in pairs[:arguments.most]:
        yield f"\n{similarity:.0%}  test  {j + 1}: {shown(test[j])}\n{'':4s}  train {i + 1}: {shown(texts[i])}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["duplicates", "leakage", "balance"])
    parser.add_argument("file", type=Path)
    parser.add_argument("test", type=Path, nargs="?", help="for leakage: the set to test with")
    parser.add_argument("--threshold", type=float, default=0.7, help="how alike, from 0.4 to 1 (0.7)")
    parser.add_argument("--most", type=int, default=5, help="how many pairs are shown (5)")
    options = parser.parse_args(arguments)
    if (options.command == "leakage") != (options.test is not None):
        parser.error("leakage takes two files, the other commands one")
    try:
        for line in report(options):
            print(line)
        return 0
    except (ValueError, OSError) as error:
        print(f"dataset_utilities.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
