"""Train the tokenizer that all bundled models share: chapter 2's byte-pair encoding, 2,048 tokens, on both levels of tales.

    python models/make_tokenizer.py                     writes models/tokenizer (about half a minute)
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

course.setup("ch02/01_main-chapter-code")
from ch02 import SPECIAL_TOKENS, train_bpe  # noqa: E402
from data.tales import generate_tales  # noqa: E402

TALES = {"full": 20_000, "simple": 5_000}


def main() -> None:
    """Write the tokenizer's two files."""
    parser = argparse.ArgumentParser(description="Train the tokenizer of the bundled models.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tokenizer", metavar="FOLDER")
    options = parser.parse_args()
    texts = (text for level, n in TALES.items() for _, text in generate_tales(n, seed=1, level=level))
    tokenizer = train_bpe(texts, 2_048, SPECIAL_TOKENS)
    tokenizer.save(options.out)
    print(f"{tokenizer.n_vocab} tokens in {options.out}")


if __name__ == "__main__":
    main()
