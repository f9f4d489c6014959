"""Text of any size into shards: no token changes, little memory, and windows that don't see the seams."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import ROOT, chapter

ch05 = chapter("ch05")
TALES = ch05.load_tokenizer(ROOT / "models" / "tokenizer")
SEPARATOR = "<|endoftext|>"


def written(tmp_path, text: str, **options):
    """The shards of one file with this text."""
    (tmp_path / "text.txt").write_text(text, encoding="utf-8", newline="")
    pieces = ch05.text_pieces(tmp_path / "text.txt", size=options.pop("size", 2**20))
    ch05.write_shards(pieces, TALES, tmp_path / "shards", **options)
    return ch05.TokenShards(tmp_path / "shards")


PROSE = st.text(st.sampled_from("ab'sdt  \n\n\t.,19éß字🙂\u00a0\u3000"), max_size=300)


@settings(max_examples=150, deadline=None)
@given(PROSE, st.integers(1, 40))
def test_a_cut_changes_no_token(tmp_path_factory, text, size):
    path = tmp_path_factory.getbasetemp() / "cut.txt"
    path.write_text(text, encoding="utf-8", newline="")
    first, *pieces = ch05.text_pieces(path, size)
    assert first == SEPARATOR
    assert "".join(pieces) == text
    ids = [i for piece in pieces for i in TALES.encode_ordinary(piece)]
    if max(map(len, pieces), default=0) <= 16 * size:                        # it found white space in time
        assert ids == TALES.encode_ordinary(text)


def test_without_white_space_it_is_cut_all_the_same(tmp_path):
    """A megabyte of letters in a row must not be gathered in memory."""
    path = tmp_path / "long.txt"
    path.write_text("ab" * 50_000, encoding="utf-8")
    _, *pieces = ch05.text_pieces(path, size=1_000)
    assert "".join(pieces) == "ab" * 50_000
    assert max(map(len, pieces)) <= 17_000


def test_line_ends_and_a_byte_order_mark(tmp_path):
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert "".join(ch05.text_pieces(tmp_path / "windows.txt", 4)) == SEPARATOR + "one\ntwo\n"


@pytest.mark.parametrize("shard_size", [1, 7, 100, 10_000])
def test_shards_are_one_row(tmp_path, shard_size):
    text = "Once upon a time, there was a lamp.\n\n" * 20
    shards = written(tmp_path, text, shard_size=shard_size, size=50)
    row = [TALES.eot_token, *TALES.encode_ordinary(text)]
    assert len(shards) == len(row)
    assert shards[:].tolist() == row
    assert all(len(shard) == shard_size for shard in shards.shards[:-1])
    for start in range(0, len(row), 13):
        for length in (0, 1, 5, 150):
            assert shards[start:start + length].tolist() == row[start:start + length]


def test_a_last_shard_that_is_just_full(tmp_path):
    text = "a b c d e f g"
    n = 1 + len(TALES.encode_ordinary(text))
    assert [len(shard) for shard in written(tmp_path, text, shard_size=n).shards] == [n]


def test_the_stored_format_is_numpys(tmp_path):
    written(tmp_path, "Once upon a time.")
    stored = np.load(tmp_path / "shards" / "00000.npy")
    assert stored.dtype == np.uint16
    big = ch05.BytePairTokenizer(chapter("ch02").train_bpe("abab" * 10, 258).merges, ["<|endoftext|>"])
    big.n_vocab = 70_000                                                     # as a large vocabulary would say
    ch05.write_shards(["ab"], big, tmp_path / "large")
    assert np.load(tmp_path / "large" / "00000.npy").dtype == np.uint32


def test_windows_begin_at_documents(tmp_path):
    for name, words in {"a.txt": 5, "b.txt": 40, "c.txt": 3}.items():
        (tmp_path / name).write_text("lamp " * words, encoding="utf-8")
    pieces = (piece for name in ("a.txt", "b.txt", "c.txt") for piece in ch05.text_pieces(tmp_path / name))
    ch05.write_shards(pieces, TALES, tmp_path / "shards", shard_size=11)
    shards = ch05.TokenShards(tmp_path / "shards")
    row = shards[:].tolist()
    documents = [i for i, token_id in enumerate(row) if token_id == TALES.eot_token]
    starts = shards.window_starts(TALES.eot_token, 16)
    assert len(documents) == 3
    assert set(documents) <= set(starts)
    assert all(later - earlier <= 16 for earlier, later in zip(starts, starts[1:], strict=False))
    assert sorted(starts) == starts


def test_what_was_there_stays_if_the_text_breaks_off(tmp_path):
    shards = written(tmp_path, "Once upon a time.")
    before = shards[:].tolist()

    def pieces():
        yield "The lamp "
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        ch05.write_shards(pieces(), TALES, tmp_path / "shards")
    assert ch05.TokenShards(tmp_path / "shards")[:].tolist() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shards", "text.txt"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def no_room(*arguments):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(ch05.np, "save", no_room)
    with pytest.raises(ValueError, match="could not write .*No space left on device.*make room, or choose another folder"):
        ch05.write_shards(["a lamp"], TALES, tmp_path / "shards")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", ["no folder", "an empty folder", "no tokens"])
def test_no_shards_are_named(tmp_path, make):
    folder = tmp_path / "shards"
    if make == "an empty folder":
        folder.mkdir()
    if make == "no tokens":
        ch05.write_shards([], TALES, folder)
    with pytest.raises(ValueError, match="holds no tokens; name a folder that write_shards has filled"):
        ch05.TokenShards(folder)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.txt' can't be read \(No such file or directory\)"):
        list(ch05.text_pieces(tmp_path / "gone.txt"))


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import course
course.setup("ch05/01_main-chapter-code")
from pathlib import Path
from ch05 import TokenBatches, TokenShards, load_tokenizer, text_pieces, write_shards
path, tokenizer = Path(sys.argv[2]), load_tokenizer(Path(sys.argv[1], "models", "tokenizer"))
write_shards((piece for part in sorted(path.glob("*.txt")) for piece in text_pieces(part)), tokenizer, path / "shards")
shards = TokenShards(path / "shards")
batches = TokenBatches(shards, 512, 16, starts=shards.window_starts(tokenizer.eot_token, 512))
for step in range(20):
    batches[step]
status = Path("/proc/self/status")                    # on Linux getrusage counts what the test's process held at the fork
peak = (int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024 if status.exists() else
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20)
print(peak, len(shards))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="reads the peak of memory from POSIX's getrusage")
@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [50, pytest.param(1_000, marks=pytest.mark.full)])
def test_memory_is_bounded(tmp_path, megabytes):
    """Two files read, tokenized, written, and batches taken, in under 1 GB whatever the size; torch itself takes 0.3 to 0.4."""
    from data.tales import generate_tales
    block = (SEPARATOR + SEPARATOR.join(text for _, text in generate_tales(2_000, seed=1))).encode()
    for name in ("a.txt", "b.txt"):
        with open(tmp_path / name, "wb") as stream:
            for _ in range(megabytes * 500_000 // len(block) + 1):
                stream.write(block)
    size = sum(p.stat().st_size for p in tmp_path.glob("*.txt"))
    assert size >= megabytes * 10**6
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(MEMORY), str(ROOT), str(tmp_path)], capture_output=True, text=True,
                          timeout=3_000)
    assert done.returncode == 0, done.stderr
    peak, n_tokens = map(int, done.stdout.split())
    assert n_tokens > size / 8
    assert peak < (600 if megabytes < 100 else 1_000), f"{peak} MB"
