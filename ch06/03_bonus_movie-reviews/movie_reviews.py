"""The Large Movie Review Dataset (Maas et al., 2011): fetch it, read it as it is distributed, and train a classifier on it.

    python movie_reviews.py fetch --out runs/imdb                                       84 MB, only when you are online
    python movie_reviews.py train --data runs/imdb/aclImdb_v1.tar.gz --out runs/reviews --reviews 2000 --pretrained gpt2
    python movie_reviews.py train --data fixtures --any-size --out runs/tiny             the forty reviews that come with the course

The archive is read in a stream and never unpacked. A folder with the unpacked files is read as well.
"""

import argparse
import gzip
import re
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch06/03_bonus_movie-reviews")
from ch06 import (  # noqa: E402
    MessageDataset,
    SequenceClassifier,
    TextClassifier,
    load_pretrained,
    predict_logits,
    save_classifier,
    train_classifier,
    wilson_interval,
)
from data.download import download  # noqa: E402

ADDRESS = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
MOODS, SPLITS, PER_FOLDER = ("neg", "pos"), ("train", "test"), 12_500
RATINGS = {"neg": range(1, 5), "pos": range(7, 11)}                           # stars of ten; what lies between is in neither
MOST_BYTES = 2**20                                                            # of a review; the longest real one has under 14,000
PLACE = re.compile(r"(?:\./)?aclImdb/(train|test)/(neg|pos)/([^/]*\.txt)")    # the whole name, so that none can lead elsewhere
NAME = re.compile(r"(\d{1,9})_(\d{1,2})\.txt")


def fetch_reviews(folder: Path, address: str = ADDRESS, sha256: str = SHA256) -> Path:
    """The archive in `folder`, downloaded if it isn't there. Raises ValueError that says what went wrong and what to do."""
    path = folder / "aclImdb_v1.tar.gz"
    if not path.exists():
        download(address, path, sha256)
    return path


def members(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Name, size and content of each review in an archive, in its order; content is empty for one that is too long.

    One file after the other passes through memory, nothing is written anywhere, and links and devices are passed over. Raises
    ValueError for an archive that is damaged or ends too early, which may turn out only after the last whole review.
    """
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            while (member := archive.next()) is not None:
                archive.members = []                                          # else it would remember all hundred thousand
                if member.isreg() and PLACE.fullmatch(member.name):
                    data = archive.extractfile(member).read() if member.size <= MOST_BYTES else b""
                    yield member.name, member.size, data
            while stream.read(2**16):                                         # gzip compares its checksum at the very end
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or not whole ({error}); delete it and fetch it again") from None


def files(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """The same of a folder that holds aclImdb, or is it."""
    root = path / "aclImdb" if (path / "aclImdb").is_dir() else path
    for file in sorted(root.glob("*/*/*.txt")):
        name = "/".join(("aclImdb", *file.relative_to(root).parts))
        if PLACE.fullmatch(name) and file.is_file():
            size = file.stat().st_size
            yield name, size, file.read_bytes() if size <= MOST_BYTES else b""


def clean(text: str) -> str:
    """A review without HTML's line breaks: `<br />` becomes a line's end, two of them become an empty line, no more."""
    text = re.sub(r"[ \t]*<br\s*/?>[ \t]*", "\n", text, flags=re.I)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def parse(name: str, size: int, data: bytes) -> tuple[str, str, int, int, str]:
    """Split, label, number, rating and text of one review. Raises ValueError for anything that isn't as it should be."""
    split, label, file = PLACE.fullmatch(name).groups()
    if not (numbers := NAME.fullmatch(file)):
        raise ValueError(f"{name} isn't named ID_RATING.txt, such as 12_8.txt; is it part of the data set?")
    number, rating = map(int, numbers.groups())
    if rating not in RATINGS[label]:
        allowed = RATINGS[label]
        raise ValueError(f"{name} has the rating {rating}; in the folder {label} it is {allowed[0]} to {allowed[-1]}")
    if size > MOST_BYTES:
        raise ValueError(f"{name} has {size:,} bytes, a review at most {MOST_BYTES:,}; this isn't the data set as it is "
                         f"distributed")
    try:
        text = clean(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} isn't UTF-8 at byte {error.start}; fetch the archive again") from None
    if not text:
        raise ValueError(f"{name} is empty; fetch the archive again")
    return split, label, number, rating, text


def load_reviews(path: str | Path, split: str = "train", per_folder: int | None = None) -> pd.DataFrame:
    """The reviews of one split, as columns label ("neg" or "pos"), rating (1 to 10), number and text, in the order of these.

    `path` is the archive as it is distributed or a folder with its content. With `per_folder`, each of the two moods must have so
    many (12,500 in the whole data set). Raises ValueError, with the name of the file, for a damaged archive, a wrong name, rating,
    encoding or size, a review that is there twice, and a mood that is missing.
    """
    path = Path(path)
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose 'train' or 'test'")
    if not path.exists():
        raise ValueError(f"there is nothing at {path}; fetch the data set first: python movie_reviews.py fetch --out runs/imdb")
    rows, seen = [], set()
    for name, size, data in files(path) if path.is_dir() else members(path):
        where, label, number, rating, text = parse(name, size, data)
        if (where, label, number) in seen:
            raise ValueError(f"{name}: there is another review {number} in {where}/{label}; keep one of them")
        seen.add((where, label, number))
        if where == split:
            rows.append((label, rating, number, text))
    frame = pd.DataFrame(rows, columns=["label", "rating", "number", "text"]).sort_values(["label", "number"], ignore_index=True)
    counts = {label: int((frame["label"] == label).sum()) for label in MOODS}
    for label, count in counts.items():
        if count == 0 or count != (per_folder or count):
            wanted = f"{per_folder:,}" if per_folder else "some"
            raise ValueError(f"{path} has {count:,} reviews in {split}/{label}, where {wanted} are expected; is it complete?")
    return frame


# --------------------------------------------------------------------------------------------------------------- training


def draw(frame: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """`n` reviews, as many of each mood, in random order; all of them if there are no more."""
    half = [group.sample(min(len(group), n // 2), random_state=seed) for _, group in frame.groupby("label")]
    return pd.concat(half).sample(frac=1, random_state=seed).reset_index(drop=True)


def as_sets(frames, tokenizer, max_length: int) -> list[MessageDataset]:
    """Chapter 6's data sets of frames of reviews."""
    return [MessageDataset(list(frame["text"]), list(frame["label"]), tokenizer, MOODS, max_length) for frame in frames]


def counted_words(train: pd.DataFrame, test: pd.DataFrame) -> float:
    """The accuracy of words and pairs of words with logistic regression, the rival that has read the same reviews."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    rival = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1_000))
    return rival.fit(train["text"], train["label"]).score(test["text"], test["label"])


def train_on(options: argparse.Namespace) -> None:
    """Train on a part of the reviews, measure on a part of the others, beside a rival, and save."""
    per_folder = None if options.any_size else PER_FOLDER
    drawn = draw(load_reviews(options.data, "train", per_folder), options.reviews, options.seed)
    test = draw(load_reviews(options.data, "test", per_folder), options.test_reviews, options.seed)
    held_out = max(2, len(drawn) // 10)
    validation, train = drawn[:held_out], drawn[held_out:]
    torch.manual_seed(options.seed)
    gpt, tokenizer = load_pretrained(options.pretrained)
    length = min(options.max_length, gpt.config.context_length)
    sets = as_sets((train, validation, test), tokenizer, length)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    classifier = SequenceClassifier(gpt).to(device)
    for row in train_classifier(classifier, *sets[:2], n_epochs=options.epochs, learning_rate=options.learning_rate,
                                batch_size=options.batch):
        print(f"epoch {row['epoch']}: loss {row['train']:.3f}, on validation {row['validation']:.3f}, accuracy "
              f"{row['accuracy']:.1%}")
    right = int((predict_logits(classifier, sets[2].rows).argmax(dim=1) == sets[2].labels).sum())
    low, high = wilson_interval(right, len(test))
    print(f"{len(test):,} reviews of films that are in no training review: {right / len(test):.1%} right (95 % interval "
          f"{low:.1%} to {high:.1%}); words and pairs, counted: {counted_words(drawn, test):.1%}")
    save_classifier(options.out, TextClassifier(classifier.eval(), tokenizer, MOODS, max_length=length))
    print(f"saved in {options.out}")


def main(arguments: list[str] | None = None) -> int:
    """Fetch, or train."""
    parser = argparse.ArgumentParser(description="The Large Movie Review Dataset: fetch it, or train a classifier on it.")
    commands = parser.add_subparsers(dest="what", required=True)
    fetch = commands.add_parser("fetch", help="download the archive, 84 MB; goes on where it broke off")
    fetch.add_argument("--out", type=Path, required=True, help="the folder that gets it")
    fetch.add_argument("--mirror", default=ADDRESS, metavar="ADDRESS", help="another address of the same file")
    train = commands.add_parser("train", help="finetune a model on a part of the reviews")
    train.add_argument("--data", type=Path, required=True, help="the archive, or a folder with its content")
    train.add_argument("--out", type=Path, required=True, help="the folder that gets the classifier")
    train.add_argument("--pretrained", default="tales-small", help="tales-small, tales-base, gpt2, ..., or a folder")
    train.add_argument("--reviews", type=int, default=2_000, help="how many to train on, a tenth of them for validation")
    train.add_argument("--test-reviews", type=int, default=1_000, help="how many to measure on")
    train.add_argument("--max-length", type=int, default=512, help="tokens of a review that are read, from its beginning")
    train.add_argument("--epochs", type=int, default=3)
    train.add_argument("--batch", type=int, default=16)
    train.add_argument("--learning-rate", type=float, default=5e-4, help="at its peak; about 5e-5 for gpt2")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--any-size", action="store_true", help="don't insist on 12,500 reviews in every folder")
    options = parser.parse_args(arguments)
    try:
        if options.what == "fetch":
            path = fetch_reviews(options.out, options.mirror)
            print(f"{path}: {path.stat().st_size:,} bytes, as they should be")
        else:
            train_on(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
