"""The real-text bonus: what collect.py finds and cleans, that it keeps nothing twice, and that fetch.py's downloads are whole."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import ROOT, chapter, program

FOLDER = ROOT / "ch05" / "03_bonus_pretraining-on-real-text"


def bonus(name):
    return program(f"ch05/03_bonus_pretraining-on-real-text/{name}.py")


@pytest.fixture
def collect():
    return bonus("collect")


@pytest.fixture
def fetch():
    return bonus("fetch")


# ----------------------------------------------------------------------------------------------------- finding and reading

SOURCE = '''
"""The module says what it is for, in a sentence that is long enough."""
TEXT = """This is not the docstring of anything, but a text that someone assigned."""
def f(x):
    """Return the square of the number that was given to the function.

    More about it follows here, and it is indented like the code around it.
    """
    def inner():
        """This one stands inside another function, and it is found as well."""
class C:
    \'\'\'A class has a docstring too, and so have all of the methods in it.\'\'\'
    async def g(self):
        """Wait for the answer that the server will have sent by then."""
'''


def test_docstrings_come_from_modules_classes_and_functions_only(collect):
    found = list(collect.docstrings(SOURCE))
    assert len(found) == 5 and found[0].startswith("The module") and not any("assigned" in text for text in found)
    assert "\n\nMore about it" in found[1] and found[2].startswith("This one") and found[4].startswith("Wait")
    assert list(collect.docstrings("x = 1")) == list(collect.docstrings('TEXT = """Not a docstring."""')) == []


def test_files_are_found_in_one_order_without_tests_and_licences(collect, tmp_path):
    many = [f"{folder}/{name}.md" for folder in "bcdefg" for name in "klmnop"]
    wanted = ["a.py", *many, "pkg-1.dist-info/METADATA", "r/guide.rst"]
    unwanted = ["LICENSE.txt", "b/COPYING.md", "b/test_x.py", "conftest.py", "tests/c.py", "data.csv", "pkg-1.dist-info/RECORD",
                "_vendor/v.py", "pkg-1.dist-info/top_level.txt", "NOTICE.txt", "licenses/x.txt", "__pycache__/a.py"]
    for name in wanted + unwanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert [path.relative_to(tmp_path).as_posix() for path in collect.find_files(tmp_path)] == wanted


def test_a_file_that_cannot_be_read_gives_nothing(collect, tmp_path):
    for name, data in {"latin.txt": b"\xe9t\xe9", "old.py": b'"""Text."""\nprint "old"', "null.py": b'"""a"""\0'}.items():
        (tmp_path / name).write_bytes(data)
        assert list(collect.passages(tmp_path / name)) == []
    assert list(collect.passages(tmp_path / "missing.txt")) == []


def test_metadata_is_read_from_below_its_fields(collect, tmp_path):
    (tmp_path / "METADATA").write_text("Name: x\nSummary: A thing.\n\nThe long description.\n\nIts end.", encoding="utf-8")
    assert list(collect.passages(tmp_path / "METADATA")) == ["The long description.\n\nIts end."]


# ------------------------------------------------------------------------------------------------------------- cleaning

GOOD = "The function returns what it was given, and it does so for all of the types that are known."


@pytest.mark.parametrize("code", [
    "    x = f(1)\n    and this is the code that is in the block of an example, not a sentence.",
    "This is how the function is called and what it is good for:\n>>> f(1)\nand that is the output of it.",
    "The x_1 and the y_2 of the z[3] and the a(b) is in the c.d of the e_f.",
    "```\nThis is the text that is in a fence, of which nothing is kept.\n\nThis is the rest of it, in the fence as well.\n```",
    "| This is | the cell of a table that is in the text |",
    ".. note:: This is what a directive says to the reader of the text.",
    "Copyright is held by the authors of this file, and all of them are named in it.",
    "Redistribution and use in source and binary forms, with or without changes, are permitted to all of you.",
    "Write to the authors at someone@example.org if you have a question that is not in the list.",
    "Das ist ein Satz auf Deutsch, der nicht hierher und nirgendwo anders hin gehört.",
    "x_1 = y_2 + z[3] for the i in range(n) if (a < b) and {c: d} or 17 * 4.",
    "too short.", "this begins with a small letter and so it is not the beginning of a sentence.",
    "This is a line that has no end, as it is cut off in the middle of the",
])
def test_what_is_not_prose_is_left_out(collect, code):
    assert list(collect.paragraphs(f"{GOOD}\n\n{code}\n\n{GOOD}")) == [GOOD, GOOD]


def test_code_announced_by_two_colons_is_left_out_to_its_end(collect):
    code = "\n\n    This is the text of the code, and it is indented.\n\n    This is more of the code that is in it.\n\n"
    text = f"{GOOD[:-1]}::{code}{GOOD}"
    assert list(collect.paragraphs(text)) == [f"{GOOD[:-1]}:", GOOD]


@pytest.mark.parametrize(("marked", "plain"), [
    (":class:`~numpy.ndarray`", "numpy.ndarray"), ("``None``", "None"), ("`an array`", "an array"), ("`~numpy.sum`", "numpy.sum"),
    ("**bold**", "bold"),
    ("[the guide](https://example.org/guide)", "the guide"), ("`the guide <https://example.org>`_", "the guide"),
    ("<b>this</b>", "this"), ("this [1]_", "this"),
])
def test_markup_is_taken_out(collect, marked, plain):
    sentence = "The caller of the function is told that it takes {} and that it gives it back."
    assert list(collect.paragraphs(sentence.format(marked))) == [sentence.format(plain)]


def test_lines_headings_lists_and_parameters(collect):
    text = """Parameters
----------
axis : int, optional
    The axis along which the sum is taken, or all of them if it is not given.
out : array
    The place where the result is put, if the caller has one for it.

# A heading that is long enough to be a sentence of the text.

- The first point of the list, which
  goes on in a second line of it.
- The second point of the list is on a line by itself."""
    assert list(collect.paragraphs(text)) == [
        "The axis along which the sum is taken, or all of them if it is not given.",
        "The place where the result is put, if the caller has one for it.",
        "The first point of the list, which goes on in a second line of it.",
        "The second point of the list is on a line by itself."]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="aA .\n:`*<>[]()-#|_~>1é\t\"'", max_size=200))
def test_any_text_can_be_cleaned(text):
    module = bonus("collect")
    for line in module.paragraphs(text):
        assert "\n" not in line and line == line.strip() and module.is_prose(line)


# -------------------------------------------------------------------------------------------------------- deduplication

WORDS = [f"{a}{b}" for a in "bdfgkl" for b in ("a", "e", "i", "o", "ar", "en", "ut")]


def shingles(text):
    words = text.lower().split()
    return {tuple(words[i:i + 5]) for i in range(max(1, len(words) - 4))}


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join), max_size=12), st.randoms())
def test_no_paragraph_that_is_kept_was_mostly_there_before(texts, rng):
    texts = texts + [rng.choice(texts) for _ in texts[:4]]
    new, kept = bonus("collect").Deduplicator(), []
    for text in texts:
        known = set().union(*map(shingles, kept))
        share = len(shingles(text) & known) / len(shingles(text))
        assert new.is_new(text) == (share <= 0.5)
        if share <= 0.5:
            kept.append(text)
    assert not any(new.is_new(text) for text in kept) and sum(new.counts.values()) == len(texts) + len(kept)


def test_copies_are_counted_by_their_kind(collect):
    new = collect.Deduplicator()
    edited = GOOD.replace("returns", "hands back")
    assert [new.is_new(text) for text in (GOOD, GOOD.upper(), edited, "A sentence that has nothing to do with it at all.")] == [
        True, False, False, True]
    assert new.counts == {"kept": 2, "exact copies": 1, "near copies": 1}


def test_collect_stops_when_it_has_enough_and_complains_of_nothing(collect, tmp_path):
    for i, word in enumerate(("apple", "pear", "plum")):
        text = f"The {word} is what the {word} of the {word} said to all of the others in the {word}."
        (tmp_path / f"{i}.md").write_text(f"{text}\n\n{GOOD}\n", encoding="utf-8")
    documents, counts = collect.collect([tmp_path])
    assert [text.count("\n\n") for text in documents] == [1, 0, 0] and counts["exact copies"] == 2 and counts["files"] == 3
    assert len(collect.collect([tmp_path], characters=10)[0]) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no English prose in the given folders; name one with Python packages"):
        collect.collect([tmp_path / "empty"])


def test_this_machine_has_documentation(collect):
    documents, counts = collect.collect(collect.documentation_folders(), characters=20_000)
    assert sum(map(len, documents)) >= 20_000 and counts["kept"] > 100
    assert not any(str(ROOT) in text or ">>>" in text for text in documents)


def test_the_command_writes_text_and_a_tokenizer_for_it(collect, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for i, word in enumerate(("apple", "pear", "plum")):
        text = f"The {word} is what the {word} of the {word} said to all of the {word}."
        (tmp_path / "in" / f"{i}.md").write_text(text, encoding="utf-8")
    assert collect.main(["--folder", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--vocab-size", "300"]) == 0
    text = (tmp_path / "out" / "text" / "000.txt").read_text(encoding="utf-8")
    assert text.count("\n<|endoftext|>\n") == 2
    tokenizer = chapter("ch02").load_tokenizer(tmp_path / "out" / "tokenizer")
    assert tokenizer.decode(tokenizer.encode(text, allowed_special="all")) == text
    assert "3 documents" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        collect.main(["--folder", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert "no English prose" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- downloading

BOOK = ("\ufeffThe Project Gutenberg eBook of A Small Book\r\n\r\nThis eBook is for the use of anyone.\r\n\r\n"
        "*** START OF THE PROJECT GUTENBERG EBOOK A SMALL BOOK ***\r\n\r\n\r\nCHAPTER I.\r\n\r\nIt was a small book.\r\n\r\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK A SMALL BOOK ***\r\n\r\nUpdated editions will replace it.\r\n").encode()
STORIES = "\n<|endoftext|>\n".join(f"Once upon a time there was a cat. It had {n} toys." for n in range(9_000)).encode()
STORIES_AT = "/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-valid.txt"


class Library(BaseHTTPRequestHandler):
    """A server with Gutenberg's and the hub's files on loopback, which can break off, ignore ranges, or send damaged bytes."""

    files = {"/cache/epub/11/pg11.txt": BOOK, "/cache/epub/12/pg12.txt": b"<html>no book</html>", "/cdn/stories": STORIES}
    break_after = ranges = damaged = None
    asked: list = []

    def do_HEAD(self):
        self.answer(b"")

    def do_GET(self):
        self.answer(self.files.get(self.path))

    def answer(self, data):
        kind, wanted = type(self), self.headers.get("Range")
        kind.asked.append((self.command, self.path, wanted))
        if self.path == STORIES_AT:                                            # as the hub: the digest, and go elsewhere
            self.send_response(302)
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(STORIES).hexdigest()}"')
            self.send_header("Location", "/cdn/stories")
            self.end_headers()
            return
        if data is None:
            self.send_error(404)
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and kind.ranges else 0
        if first >= len(data) > 0:
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if kind.damaged:
            data = data[:-5] + b"?????"
        self.wfile.write(data[first:kind.break_after])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def library(monkeypatch):
    kind = type("Library", (Library,), {"asked": [], "ranges": True})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", kind.address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield kind
    server.shutdown()
    server.server_close()


def test_a_book_comes_without_what_stands_around_it(fetch, library, tmp_path, capsys):
    command = ["gutenberg", "11", "--out", str(tmp_path), "--mirror", library.address]
    assert fetch.main(command) == 0 and "11.txt" in capsys.readouterr().out
    assert (tmp_path / "11.txt").read_bytes() == b"CHAPTER I.\n\nIt was a small book.\n"
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["11.txt"]
    assert fetch.main(command) == 0 and len(library.asked) == 1                    # not fetched again


def test_what_is_no_book_or_not_there_is_refused(fetch, library, tmp_path):
    with pytest.raises(ValueError, match="not the plain text of a book.*check the number"):
        fetch.fetch_gutenberg([12], tmp_path, library.address)
    with pytest.raises(ValueError, match=r"pg13\.txt answers 404.*check the name or number"):
        fetch.fetch_gutenberg([13], tmp_path, library.address)
    assert not list(tmp_path.glob("*.txt"))


def test_stories_are_checked_against_the_hubs_digest(fetch, library, tmp_path):
    assert fetch.main(["tinystories", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "TinyStoriesV2-GPT4-valid.txt").read_bytes() == STORIES
    assert [command for command, _, _ in library.asked] == ["HEAD", "GET", "GET"]


def test_a_damaged_file_is_removed(fetch, library, tmp_path):
    library.damaged = True
    with pytest.raises(ValueError, match="is damaged: its sha256 is .*give the same command again"):
        fetch.fetch_tinystories("valid", tmp_path)
    assert not any(tmp_path.iterdir())
    library.damaged = False
    fetch.fetch_tinystories("valid", tmp_path)
    assert (tmp_path / "TinyStoriesV2-GPT4-valid.txt").read_bytes() == STORIES


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on(fetch, library, tmp_path, ranges):
    library.ranges, library.break_after = ranges, 100_000
    with pytest.raises(ValueError, match=r"broke off after 100,000 of .* bytes; give the same command again to go on"):
        fetch.fetch_tinystories("valid", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["TinyStoriesV2-GPT4-valid.txt.part"]
    library.break_after = None
    fetch.fetch_tinystories("valid", tmp_path)
    assert library.asked[-1][2] == "bytes=100000-"
    assert [path.name for path in tmp_path.iterdir()] == ["TinyStoriesV2-GPT4-valid.txt"]
    assert (tmp_path / "TinyStoriesV2-GPT4-valid.txt").read_bytes() == STORIES


def test_a_whole_part_is_not_fetched_again(fetch, library, tmp_path):
    (tmp_path / "TinyStoriesV2-GPT4-valid.txt.part").write_bytes(STORIES)
    fetch.fetch_tinystories("valid", tmp_path)
    assert (tmp_path / "TinyStoriesV2-GPT4-valid.txt").read_bytes() == STORIES


def test_no_server_is_one_sentence(fetch, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(SystemExit):
        fetch.main(["tinystories", "--out", str(tmp_path)])
    assert "could not reach http://127.0.0.1:9/" in (message := capsys.readouterr().err) and "HF_ENDPOINT" in message
    with pytest.raises(ValueError, match=r"could not fetch .*it goes on after the 0 bytes that are here"):
        fetch.download("http://127.0.0.1:9/x", tmp_path / "x")


def test_the_page_names_the_commands():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for command in ("collect.py --out", "fetch.py gutenberg", "fetch.py tinystories", "gpt_train.py --data"):
        assert command in page
