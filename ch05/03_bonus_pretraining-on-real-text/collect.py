"""Collect real English that every machine has: what the authors of your Python packages wrote about them.

    python collect.py --out runs/docs                        about ten million characters as text files, cleaned, no passage twice
    python collect.py --out runs/docs --characters 2e6 --vocab-size 1024

Afterwards `python ch05/01_main-chapter-code/gpt_train.py --data runs/docs/text --tokenizer runs/docs/tokenizer` trains on it.
Nothing leaves the machine. The texts keep their authors' licences: train on them, but don't publish the files.
"""

import argparse
import ast
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch05/03_bonus_pretraining-on-real-text")
sys.path.append(str(course.ROOT / "ch02" / "01_main-chapter-code"))
from ch02 import train_bpe, write_files  # noqa: E402

# What has plenty of prose and is installed with the course comes first, so that two machines read nearly the same.
FIRST = ["numpy", "pandas", "matplotlib", "torch", "jupyterlab", "IPython", "traitlets", "ipywidgets", "sympy", "networkx"]
SKIPPED = re.compile(r"test|^(_vendor|vendored|node_modules|__pycache__|licenses?|lib2to3|idlelib|pydoc_data|site-packages)$", re.I)
LEGAL = re.compile(r"licen[cs]e|copying|notice|authors|contributors|patents|third.?party|top_level|entry_points", re.I)

# ---------------------------------------------------------------------------------------------------------------- finding


def documentation_folders() -> list[Path]:
    """The standard library, then the folders of the installed packages, those of FIRST before the others."""
    paths = sysconfig.get_paths()
    packages = sorted({Path(paths[kind]) for kind in ("purelib", "platlib")})
    inside = [path for folder in packages if folder.is_dir() for path in sorted(folder.iterdir()) if path.is_dir()]
    order = {name: i for i, name in enumerate(FIRST)}
    return [Path(paths["stdlib"]), *sorted(inside, key=lambda path: order.get(path.name, len(order)))]


def find_files(folder: Path) -> Iterator[Path]:
    """Python files and plain documents below `folder`, in one order everywhere; neither tests nor licences."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not SKIPPED.search(name))
        for name in sorted(names):
            document = name == "METADATA" or name.endswith((".md", ".rst", ".txt"))
            if (document and not LEGAL.search(name)) or (name.endswith(".py") and not SKIPPED.search(name)):
                yield Path(place, name)


def passages(path: Path) -> Iterator[str]:
    """The texts of one file: of a Python file its docstrings, of any other all of it; nothing if it can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            yield from docstrings(text)
        else:
            yield text.partition("\n\n")[2] if path.name == "METADATA" else text      # the fields before it aren't prose
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):           # of another encoding or Python
        return


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, without their indentation, in the order of the source."""
    if '"""' not in source and "'''" not in source:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                               # of escapes in other people's strings
        tree = ast.parse(source)
    waiting = [tree]
    while waiting:                                                                    # only bodies: twice as fast as ast.walk
        node = waiting.pop()
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            yield inspect.cleandoc(first.value.value)
        waiting += [n for n in reversed(node.body) if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]


# --------------------------------------------------------------------------------------------------------------- cleaning

BLOCKS = re.compile(r"^(```|~~~).*?^\1[^\n]*$|<!--.*?-->|<(pre|code|style|script)\b.*?</\2>", re.S | re.M)
MARKUP = [  # what to put in place of a reference, a link, emphasis
    (re.compile(r"\[!\[.*?\]\(.*?\)\]\(.*?\)|!\[.*?\]\(.*?\)"), ""),                  # pictures
    (re.compile(r"\[([^\]]+)\]\([^)]*\)|\[([^\]]+)\]\[[^\]]*\]"), r"\1\2"),           # [text](address)
    (re.compile(r"`([^`<]+?)\s*<[^>`]*>`_*"), r"\1"),                                 # `text <address>`_
    (re.compile(r":[\w:+-]+:`~?([^`]+)`"), r"\1"),                                    # :class:`Name`
    (re.compile(r"`{1,2}~?([^`]+)`{1,2}_*|\*{1,2}([^*\s][^*]*)\*{1,2}"), r"\1\2"),      # ``code``, *emphasis*
    (re.compile(r"</?\w[^>]*>"), ""),                                                 # HTML tags
    (re.compile(r"\s*\[[\w#*]+\]_"), ""),                                             # [1]_
]
NOT_PROSE = re.compile(r"^\s*(>>>|\.\.\.|\$ |\.\. |\||\+[-=]|[-=~^*#\"]{4,}|:\w[^:]*:|@|#!)", re.M)
HEADING = re.compile(r"^#{1,6} .*$|^.*\n[-=~^*\"'`#+]{3,}$", re.M)
FIELD = re.compile(r"^[\w*.\[\]'\", ]+ ?: ?[^.]*$|^\w+ *-- .*$")                        # "axis : int, optional"
BULLET = re.compile(r"^\s*([-*+•]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+", re.M)
LICENCE = re.compile(r"copyright|licen[cs]|warrant|redistribut|permission is|liab(le|ility)|all rights|\bSPDX\b|[\w.]+@\w+\.", re.I)
WORD = re.compile(r"[\"'(]?[A-Za-z]+(?:['’-][A-Za-z]+)*[\"')]?[.,;:!?]?[\"')]?")
COMMON = frozenset(re.findall(r"\w+", """
    the of a to and is in that it for be this with as are not or if by from an on can will which have has was at but all when you we
    its any use used your only one no than so other their then"""))


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of `text` that are English prose, each on one line, without markup; code and tables are left out."""
    text, indent_of_code = HEADING.sub("", BLOCKS.sub("", text.expandtabs())), None
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.split("\n") if line.strip()]
        if not lines:
            continue
        indent = len(lines[0]) - len(lines[0].lstrip())
        if indent_of_code is not None and indent > indent_of_code:                    # still inside what "::" announced
            continue
        indent_of_code = indent if lines[-1].rstrip().endswith("::") else None
        for item in re.split(r"\n(?=\s*(?:[-*+•]|\d{1,2}[.)])\s)", "\n".join(lines)):   # every point of a list by itself
            for part in described(item):
                if not NOT_PROSE.search(part):
                    part = tidy(part)
                    if is_prose(part):
                        yield part


def described(block: str) -> Iterator[str]:
    """`block`; or, where it lists parameters ("axis : int" and below it, further in, what that is), what is said of each."""
    said, lines = [], block.split("\n")
    base = min(len(line) - len(line.lstrip()) for line in lines)
    for line, after in zip(lines, [*lines[1:], ""]):
        indent, next_indent = (len(x) - len(x.lstrip()) for x in (line, after))
        if indent == base and after and next_indent > indent and FIELD.match(line.strip()):
            yield "\n".join(said)
            said = []
        else:
            said.append(line)
    yield "\n".join(said)


def tidy(block: str) -> str:
    """One line of plain text: markup, bullets and line breaks taken out."""
    block = BULLET.sub("", block)
    for pattern, plain in MARKUP:
        block = pattern.sub(plain, block)
    return re.sub(r"::$", ":", " ".join(block.split()))


def is_prose(line: str) -> bool:
    """Whether a line is an English sentence or several: by its ends, its words, and the commonest words of the language."""
    words = line.split()
    if not 8 <= len(words) <= 300 or not re.match(r"[A-Z\"'(]", line) or not re.search(r"[.!?:][\"')]*$", line):
        return False
    if LICENCE.search(line) or "://" in line or not line.isprintable():
        return False
    plain = sum(bool(WORD.fullmatch(word)) for word in words)
    common = sum(word.strip("\"'(),.;:").lower() in COMMON for word in words)
    return plain >= 0.85 * len(words) and common >= 0.25 * len(words)


# ---------------------------------------------------------------------------------------------------------- deduplication


class Deduplicator:
    """Remembers what it let pass, and refuses a paragraph that was there, or of which most was.

    "Was there" is judged by shingles, every run of five words: in a paragraph that was copied and edited, most of them are old.
    At the size of the web one keeps a sketch of them instead (MinHash: Broder, 1997; Lee and others, 2022).
    """

    def __init__(self, length: int = 5, most: float = 0.5):
        self.length, self.most, self.seen, self.counts = length, most, set(), Counter()

    def is_new(self, paragraph: str) -> bool:
        """Whether at most the share `most` of the paragraph is known already; if so, all of it is known from now on."""
        words = re.findall(r"\w+", paragraph.lower())
        shingles = {hash(tuple(words[i:i + self.length])) for i in range(max(1, len(words) - self.length + 1))}
        old = len(shingles & self.seen) / len(shingles)
        kind = "kept" if old <= self.most else "exact copies" if old == 1 else "near copies"
        self.counts[kind] += 1
        if kind == "kept":
            self.seen |= shingles
        return kind == "kept"


def collect(folders: Iterable[Path], characters: float = 1e7) -> tuple[list[str], Counter]:
    """Documents, one a file, of about `characters` in all, and how many files and paragraphs were met on the way.

    Raises ValueError if the folders hold no English prose.
    """
    documents, size, new = [], 0, Deduplicator()
    for path in (path for folder in folders for path in find_files(folder)):
        if size >= characters:
            break
        new.counts["files"] += 1
        kept = [line for text in passages(path) for line in paragraphs(text) if new.is_new(line)]
        if kept:
            documents.append("\n\n".join(kept))
            size += len(documents[-1])
    if not documents:
        raise ValueError("no English prose in the given folders; name one with Python packages or .md, .rst or .txt files")
    return documents, new.counts


def main(arguments: list[str] | None = None) -> int:
    """Write text files of a thousand documents each, and a tokenizer for them."""
    parser = argparse.ArgumentParser(description="Collect the documentation of the installed Python packages as training text.")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the text files and the tokenizer")
    parser.add_argument("--folder", type=Path, action="append", help="search here instead (may be given several times)")
    parser.add_argument("--characters", type=float, default=1e7, help="stop after so many (default: ten million)")
    parser.add_argument("--vocab-size", type=int, default=2_048, help="tokens of the tokenizer (default: 2048)")
    options = parser.parse_args(arguments)
    try:
        documents, counts = collect(options.folder or documentation_folders(), options.characters)
        files = {f"{i // 1_000:03d}.txt": "\n<|endoftext|>\n".join(documents[i:i + 1_000]) + "\n"
                 for i in range(0, len(documents), 1_000)}
        (options.out / "text").mkdir(parents=True, exist_ok=True)
        write_files(options.out / "text", files)
        train_bpe(documents, options.vocab_size, ["<|endoftext|>"]).save(options.out / "tokenizer")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{sum(map(len, documents)):,} characters of {len(documents):,} documents in {options.out}; " +
          ", ".join(f"{n:,} {kind}" for kind, n in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
