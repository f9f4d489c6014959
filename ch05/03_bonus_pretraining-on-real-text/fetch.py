"""Fetch text for pretraining, when you are online: books of Project Gutenberg, or the TinyStories of Eldan and Li (2023).

    python fetch.py gutenberg 11 1342 --out runs/books       Alice's Adventures in Wonderland, Pride and Prejudice
    python fetch.py tinystories --out runs/tinystories       the validation stories, 22 MB; --split train: 2 GB

A download that breaks off goes on where it stopped when you give the same command again. Proxies are taken from HTTPS_PROXY, the
hub's address from HF_ENDPOINT, Gutenberg's from --mirror. Afterwards: gpt_train.py --data runs/books
"""

import argparse
import os
import re
import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch05/03_bonus_pretraining-on-real-text")
sys.path.append(str(course.ROOT / "ch02" / "01_main-chapter-code"))
from ch02 import read_text, write_files  # noqa: E402
from data.download import AGENT, download  # noqa: E402

GUTENBERG, HUB = "https://www.gutenberg.org", "https://huggingface.co"
STORIES = {"train": "TinyStoriesV2-GPT4-train.txt", "valid": "TinyStoriesV2-GPT4-valid.txt"}


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the hub names a file's sha256 in the answer that sends us elsewhere."""

    def redirect_request(self, *arguments):
        return None


def hub_digest(address: str) -> str | None:
    """The sha256 that the hub states for a large file, or None if it states none. ValueError if it can't be asked."""
    try:
        answer = urllib.request.build_opener(Stay).open(urllib.request.Request(address, headers=AGENT, method="HEAD"), timeout=60)
    except HTTPError as error:
        if error.code not in (301, 302, 303, 307, 308):
            raise ValueError(f"{address} answers {error.code} {error.reason}; check HF_ENDPOINT, or try later") from None
        answer = error
    except OSError as error:
        raise ValueError(f"could not reach {address} ({error}); go online, or set HF_ENDPOINT to a mirror") from None
    stated = (answer.headers.get("X-Linked-ETag") or "").strip('W/"')
    return stated if re.fullmatch("[0-9a-f]{64}", stated) else None


def book_of(text: str) -> str:
    """A Project Gutenberg file without the notes before and after the book. Raises ValueError if it isn't such a file."""
    begin = re.search(r"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK.*$", text, re.M)
    end = re.search(r"^\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG EBOOK", text, re.M)
    if not begin or not end or end.start() < begin.end():
        raise ValueError('this is not the plain text of a book: it lacks the lines "*** START OF THE PROJECT GUTENBERG EBOOK" '
                         'and "*** END OF ..."; check the number')
    return text[begin.end():end.start()].strip() + "\n"


def fetch_gutenberg(numbers: list[int], out: Path, mirror: str = GUTENBERG) -> None:
    """The books of these numbers as plain text, one file each. A book that is here is not fetched again."""
    for number in numbers:
        if (out / f"{number}.txt").exists():
            continue
        raw = out / "as-fetched" / f"pg{number}"                                # no .txt: gpt_train.py must not read it
        download(f"{mirror}/cache/epub/{number}/pg{number}.txt", raw)
        write_files(out, {f"{number}.txt": book_of(read_text(raw))})
        raw.unlink()


def fetch_tinystories(split: str, out: Path) -> None:
    """One of the two files of stories, which `<|endoftext|>` separates; checked against the sha256 that the hub states."""
    name = STORIES[split]
    if not (out / name).exists():
        hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        address = f"{hub}/datasets/roneneldan/TinyStories/resolve/main/{name}"
        download(address, out / name, hub_digest(address))


def main(arguments: list[str] | None = None) -> int:
    """Fetch what the command line asks for."""
    parser = argparse.ArgumentParser(description="Fetch books of Project Gutenberg, or the TinyStories.")
    commands = parser.add_subparsers(dest="what", required=True)
    books = commands.add_parser("gutenberg", help="books by their numbers, as in their addresses at gutenberg.org")
    books.add_argument("numbers", type=int, nargs="+")
    books.add_argument("--mirror", default=GUTENBERG, help="another server with the same files")
    stories = commands.add_parser("tinystories", help="short stories with the vocabulary of a small child")
    stories.add_argument("--split", choices=list(STORIES), default="valid")
    for command in (books, stories):
        command.add_argument("--out", type=Path, required=True, help="the folder to fill")
    options = parser.parse_args(arguments)
    try:
        if options.what == "gutenberg":
            fetch_gutenberg(options.numbers, options.out, options.mirror.rstrip("/"))
        else:
            fetch_tinystories(options.split, options.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("fetched: " + ", ".join(f"{path.name} ({path.stat().st_size:,} bytes)" for path in sorted(options.out.glob("*.txt"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
