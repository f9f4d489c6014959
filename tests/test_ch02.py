"""Chapter 2: the tokenizer against the field's libraries, windows and loader, bad input, and the checks of the exercises."""

import json
import math
import os
import pickle
import random
import sys
from collections import Counter
from itertools import pairwise

import pytest
import regex
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from exercises import verdict
from tests.support import ROOT, chapter

ch02 = chapter("ch02")
CHECKS = chapter("ch02", "exercise_checks").CHECKS
STORY = ch02.read_text(ROOT / "data" / "the-lamplighters-ledger.txt")
SPECIAL = ch02.SPECIAL_TOKENS
OURS = ch02.train_bpe([STORY], 1024, SPECIAL)
RUST = OURS.to_tiktoken()

# Everything but surrogates; for comparisons, everything that this Python's Unicode knows (libraries may know newer letters).
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KNOWN_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"])) | st.text(
    "Zoë lamp'snt's 19\n\t—é🕯ﷺ字\u200d\u0301\x00  ", max_size=60)


def clear_merges(words, n_merges, min_frequency=2):
    """The chapter's clear version, written anew: count everything, smallest ids win a tie."""
    merges = []
    while len(merges) < n_merges:
        counts = Counter(pair for word, times in words for pair in pairwise(word) for _ in range(times))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < min_frequency:
            break
        words = [(ch02.merge_pair(word, best, 256 + len(merges)), times) for word, times in words]
        merges.append(best)
    return merges


def trained_by_library(texts, n_merges, pattern=None):
    """The merges that the `tokenizers` library learns, as pairs of names."""
    library = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern or ch02.GPT2_PATTERN), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    library.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=256 + n_merges, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return [tuple(pair) for pair in json.loads(library.to_str())["model"]["merges"]]


def names_of(merges):
    names = ch02.token_names(merges)
    return [(names[left], names[right]) for left, right in merges]


# --- training --------------------------------------------------------------------------------------------------------

def test_merges_equal_the_tokenizers_library():
    merges = OURS.merges
    assert len(merges) == 1024 - 256 - 4
    assert names_of(merges) == trained_by_library([STORY], len(merges))


def test_merges_equal_the_library_until_pairs_run_out():
    ours = ch02.train_bpe(STORY, 10_000)
    assert names_of(ours.merges) == trained_by_library([STORY], 10_000 - 256)
    assert ours.n_vocab < 2048


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcab é—🕯'1 \n", max_size=40), max_size=6), st.integers(0, 40))
def test_fast_training_equals_clear_training(texts, n_merges):
    chunks = Counter(chunk for text in texts for chunk in regex.findall(ch02.GPT2_PATTERN, text))
    words = [(ch02.utf8_ids(chunk), times) for chunk, times in chunks.items()]
    assert ch02.train_merges(chunks, n_merges) == clear_merges(words, n_merges)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("aab c", max_size=60), min_size=1, max_size=4))
def test_fast_training_equals_the_library_on_runs_and_overlaps(texts):
    assert names_of(ch02.train_bpe(texts, 300).merges) == trained_by_library(texts, 44)


def test_ties_go_to_the_smallest_ids():
    merges = ch02.train_merges(Counter({"ba": 3, "ab": 3, "AB": 3}), 3)
    assert ch02.token_bytes(merges)[256:] == [b"AB", b"ab", b"ba"]


def test_training_does_not_depend_on_how_texts_are_cut_into_a_list():
    whole = "the lamp\nthe damp\nthe lamp\n"
    assert ch02.train_bpe(whole, 270).merges == ch02.train_bpe([whole], 270).merges == ch02.train_bpe(iter([whole]), 270).merges


# --- encoding --------------------------------------------------------------------------------------------------------

@settings(deadline=None)
@given(ANY_TEXT)
def test_decoding_undoes_encoding(text):
    assert OURS.decode(OURS.encode_ordinary(text)) == text


@settings(max_examples=300, deadline=None)
@given(KNOWN_TEXT)
def test_ids_equal_tiktoken(text):
    assert OURS.encode_ordinary(text) == RUST.encode_ordinary(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*SPECIAL, "<|", "lamp", " ", "|>", "<|endoftext", "é"])).map("".join))
def test_special_tokens_equal_tiktoken(text):
    assert OURS.encode(text, allowed_special="all") == RUST.encode(text, allowed_special="all")
    assert OURS.decode(OURS.encode(text, allowed_special="all")) == text
    assert not set(OURS.special_tokens.values()) & set(OURS.encode_ordinary(text))


def test_of_special_tokens_where_one_begins_another_the_longer_is_read():
    ours = ch02.BytePairTokenizer([], ["<s>", "<s>>", "<s>>>"])
    for text in ("<s>>>", "<s>>", "a<s>b<s>>>>"):
        assert ours.decode(ours.encode(text, allowed_special="all")) == text
    assert ours.encode("<s>>>", allowed_special="all") == [258]


def test_gpt2_from_its_merges():
    lines = ch02.read_text(ROOT / "data" / "gpt2" / "vocab.bpe").split("\n")[1:-1]
    ours = ch02.BytePairTokenizer(ch02.merges_from_names(line.split(" ") for line in lines), ["<|endoftext|>"])
    gpt2 = ch02.load_tokenizer("gpt2")
    assert isinstance(gpt2, tiktoken.Encoding) and ch02.load_tokenizer("gpt2-medium") is gpt2
    assert (ours.n_vocab, ours.eot_token) == (gpt2.n_vocab, gpt2.eot_token) == (50_257, 50_256)
    rng = random.Random(0)
    for text in [STORY, *("".join(rng.choices(STORY + "字🕯 \t\n", k=50)) for _ in range(200))]:
        assert ours.encode(text) == gpt2.encode(text)


def test_encoding_does_not_depend_on_what_was_encoded_before(monkeypatch):
    monkeypatch.setitem(sys.modules, "ch02", ch02)                            # pickle looks there
    first, second = (ch02.BytePairTokenizer(OURS.merges) for _ in range(2))
    second.encode(STORY)
    ids = first.encode(" lamplighter lamp")
    ids.append(7)                                    # a caller may change the list that it got
    assert first.encode(" lamplighter lamp") == second.encode(" lamplighter lamp") == ids[:-1]
    assert pickle.loads(pickle.dumps(second)).encode(STORY) == second.encode(STORY)


def test_long_chunks_are_encoded_in_reasonable_time():
    text = "lamplighter" * 3000
    assert OURS.encode(text) == RUST.encode(text)


def test_tensors_decode():
    ids = OURS.encode("Good evening, Zoë")
    assert OURS.decode(torch.tensor(ids)) == RUST.decode(ids) == "Good evening, Zoë"
    assert OURS.decode(OURS.encode("Zoë"[:-1]) + OURS.encode("ë")[:1])[:2] == "Zo"


# --- files -----------------------------------------------------------------------------------------------------------

def test_saving_and_loading(tmp_path):
    OURS.save(tmp_path / "new" / "folder", chat_template="{{ messages }}")
    again = ch02.load_tokenizer(tmp_path / "new" / "folder")
    assert (again.merges, again.special_tokens, again.pattern) == (OURS.merges, OURS.special_tokens, OURS.pattern)
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["tokenizer.json", "tokenizer_config.json"]
    before = (tmp_path / "new" / "folder" / "tokenizer.json").read_bytes()
    again.save(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "tokenizer.json").read_bytes() == before
    assert b"\r" not in before


def test_another_pattern_is_saved_with_the_tokenizer(tmp_path):
    ours = ch02.train_bpe([STORY], 400, ["<|end|>"], pattern=r"\p{N}{1,3}| ?\p{L}+|\s+|.")
    ours.save(tmp_path)
    again, library = ch02.load_tokenizer(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "In 1984, 12345 lamps — Zoë!\n\n"
    assert again.encode(text) == ours.encode(text) == library.encode(text).ids == ours.to_tiktoken().encode(text)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    OURS.save(folder)
    return folder


def test_ids_equal_the_tokenizers_library(saved):
    library = Tokenizer.from_file(str(saved / "tokenizer.json"))
    assert library.get_vocab_size() == OURS.n_vocab

    @settings(max_examples=300, deadline=None)
    @given(KNOWN_TEXT)
    def equal(text):
        assert library.encode(text).ids == OURS.encode(text, allowed_special="all")
        assert library.decode(OURS.encode_ordinary(text), skip_special_tokens=False) == text
    equal()


@pytest.mark.parametrize("with_config", [False, True])
def test_transformers_reads_the_folder(saved, tmp_path, with_config, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    for name in os.listdir(saved):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    if with_config:                                  # as in a checkpoint folder
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = STORY[:3000] + "<|endoftext|> Zoë 🕯  x<|user|>"
    assert auto(text)["input_ids"] == OURS.encode(text, allowed_special="all")
    assert auto.decode(OURS.encode(text, allowed_special="all")) == text
    assert (auto.eos_token_id, auto.pad_token_id) == (OURS.eot_token, OURS.special_tokens["<|pad|>"])


def test_a_failed_save_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch):
    OURS.save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    smaller = ch02.train_bpe([STORY], 300)
    with pytest.raises(TypeError):
        smaller.save(tmp_path, chat_template=object())                        # not JSON
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    def full(self, text, **kwargs):
        self.touch()
        raise OSError("no space left on device")
    monkeypatch.setattr(type(tmp_path), "write_text", full)
    with pytest.raises(OSError, match="no space"):
        smaller.save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# --- bad input -------------------------------------------------------------------------------------------------------

def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("Zoë".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt is not UTF-8: byte 0xeb at position 2"):
        ch02.read_text(path)
    for broken in (lambda: OURS.encode("a\ud800"), lambda: ch02.train_bpe(["\udfff"], 300), lambda: ch02.utf8_ids("\ud800")):
        with pytest.raises(ValueError, match="lone surrogate"):
            broken()


def test_line_ends_and_byte_order_mark(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes("\ufeffZoë\r\nlamp\r\n".encode())
    assert ch02.read_text(path) == "Zoë\nlamp\n"


@pytest.mark.parametrize(("size", "special"), [(255, ()), (0, ()), (-1, ()), (259, SPECIAL)])
def test_a_vocabulary_too_small(size, special):
    with pytest.raises(ValueError, match=f"vocab_size is {size}.*{256 + len(special)}"):
        ch02.train_bpe([STORY], size, special)


def test_the_smallest_vocabulary_and_no_text_at_all():
    assert ch02.train_bpe([STORY], 260, SPECIAL).merges == []
    assert ch02.train_bpe([], 1000).n_vocab == 256
    assert ch02.train_bpe([""], 256).decode([]) == ""


def test_special_tokens_that_make_no_sense():
    for wrong in (["<a>", "<a>"], [""], ["!"]):
        with pytest.raises(ValueError, match="special tokens must be"):
            ch02.BytePairTokenizer([], wrong)
    with pytest.raises(ValueError, match="is no special token"):
        OURS.encode("lamp", allowed_special={"<|system|>"})
    with pytest.raises(ValueError, match="allowed_special="):
        OURS.encode("lamp<|user|>", allowed_special={"<|pad|>"})
    with pytest.raises(ValueError, match="no special token"):
        _ = ch02.BytePairTokenizer([]).eot_token


def test_ids_of_another_tokenizer():
    for wrong in ([1024], [-1], [50_000]):
        with pytest.raises(ValueError, match=f"token id {wrong[0]} is not in"):
            OURS.decode(wrong)


def test_merges_that_are_none():
    for wrong in ([(0, 256)], [(-1, 0)], [(0, 1), (0, 1)]):
        with pytest.raises(ValueError, match="damaged"):
            ch02.BytePairTokenizer(wrong)


def test_patterns_that_do_not_cut():
    with pytest.raises(ValueError, match="not a regular expression"):
        ch02.BytePairTokenizer([], pattern="(")
    with pytest.raises(ValueError, match="leaves out part"):
        ch02.BytePairTokenizer([], pattern=r"\p{L}+").encode("a b")
    grouped = ch02.train_bpe(["a b a b"], 260, pattern=r"( ?)(\p{L}+)|\s")      # groups are no trap
    assert grouped.decode(grouped.encode("a b")) == "a b"


def damaged(change):
    """The saved tokenizer.json with one thing changed."""
    whole = json.loads(ch02.tokenizer_files(OURS, {})["tokenizer.json"])
    change(whole)
    return json.dumps(whole)


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", "{}", '{"model": 3}', '{"model": {"type": "WordPiece"}, "pre_tokenizer": {"type": "Whitespace"}}',
    damaged(lambda w: w["model"].update(type="Unigram")),
    damaged(lambda w: w["model"]["merges"].pop(5)),
    damaged(lambda w: w["model"]["merges"].reverse()),
    damaged(lambda w: w["model"]["vocab"].update({"!": 1, '"': 0})),
    damaged(lambda w: w["model"]["vocab"].pop("Ġthe")),
    damaged(lambda w: w["added_tokens"][0].update(id=3)),
    damaged(lambda w: w.update(normalizer={"type": "NFC"})),
    damaged(lambda w: w.update(pre_tokenizer=None)),
    damaged(lambda w: w["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True)),
    damaged(lambda w: w["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed")),
], ids=lambda c: c[:30])
def test_a_file_that_is_no_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="is not a tokenizer that this course can read"):
        ch02.load_tokenizer(tmp_path)


def test_no_tokenizer_there(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer.json"):
        ch02.load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="not UTF-8"):
        ch02.load_tokenizer(tmp_path)


def test_gpt2s_own_tokenizer_json_can_be_read(tmp_path):
    """The older spelling of the same format: merges as strings, the pattern inside ByteLevel, special tokens in the vocabulary."""
    lines = ch02.read_text(ROOT / "data" / "gpt2" / "vocab.bpe").split("\n")[1:-1]
    names = ch02.token_names(ch02.merges_from_names(line.split(" ") for line in lines))
    whole = {"added_tokens": [{"id": 50256, "content": "<|endoftext|>"}], "normalizer": None,
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
             "model": {"type": "BPE", "vocab": {n: i for i, n in enumerate([*names, "<|endoftext|>"])}, "merges": lines}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    assert ch02.load_tokenizer(tmp_path).encode(STORY) == ch02.load_tokenizer("gpt2").encode(STORY)


# --- windows ---------------------------------------------------------------------------------------------------------

@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 15))
def test_windows_are_slices_and_targets_are_moved_by_one(n, context_length, stride):
    if n < context_length + 1:
        with pytest.raises(ValueError, match="the text has"):
            ch02.TokenWindows(range(n), context_length, stride)
        return
    windows = list(ch02.TokenWindows(range(n), context_length, stride))
    starts = [s for s in range(n) if s % stride == 0 and s + context_length < n]
    assert [x.tolist() for x, _ in windows] == [list(range(s, s + context_length)) for s in starts]
    assert all(torch.equal(y, x + 1) for x, y in windows)


def test_with_the_default_stride_every_token_is_a_target_once():
    targets = torch.cat([y for _, y in ch02.TokenWindows(range(101), 10)])
    assert targets.tolist() == list(range(1, 101))


def test_small_integers_take_little_memory_and_come_out_as_int64():
    windows = ch02.TokenWindows(torch.tensor(range(100), dtype=torch.uint16), 8)
    assert windows.ids.dtype == torch.uint16 and windows[0][0].dtype == windows[-1][1].dtype == torch.int64
    with pytest.raises(IndexError):
        windows[len(windows)]


@pytest.mark.parametrize(("arguments", "message"), [
    ((list(range(8)), 8), "the text has 8 tokens.*need 9"), (([], 4), "0 tokens"), ((range(9), 0), "at least 1"),
    ((range(9), 4, 0), "at least 1"), ((torch.zeros(3, 3, dtype=torch.long), 2), "one row of"), (([0.5] * 9, 4), "whole numbers"),
])
def test_windows_of_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        ch02.TokenWindows(*arguments)


def test_loader_shapes_order_and_seed():
    loader = ch02.create_dataloader(range(1000), context_length=8, batch_size=4, seed=1)
    first, again = (torch.cat([x for x, _ in loader]) for loader in (loader, ch02.create_dataloader(range(1000), 8, 4, seed=1)))
    assert first.shape == (124, 8) and torch.equal(first, again)
    assert not torch.equal(first, torch.cat([x for x, _ in ch02.create_dataloader(range(1000), 8, 4, seed=2)]))
    assert not torch.equal(first, torch.cat([x for x, _ in loader]))            # another epoch, another order
    plain = torch.cat([x for x, _ in ch02.create_dataloader(range(1000), 8, 4, shuffle=False, drop_last=False)])
    assert torch.equal(plain, torch.arange(992).view(124, 8))


def test_a_loader_without_a_batch():
    with pytest.raises(ValueError, match="2 windows don't fill one batch of 4"):
        ch02.create_dataloader(range(17), context_length=8, batch_size=4)
    assert len(ch02.create_dataloader(range(17), context_length=8, batch_size=4, drop_last=False)) == 1


# --- exercises: the solutions pass (their notebook runs them), and wrong answers get the right hint -------------------

def longest(data, vocabulary, order=max, ids=True):
    out, i = [], 0
    while i < len(data):
        end = order(e for e in range(i + 1, len(data) + 1) if data[i:e] in vocabulary)
        out.append(vocabulary[data[i:end]] if ids else data[i:end])
        i = end
    return out


def first_in_dictionary(data, vocabulary):
    out, i = [], 0
    while i < len(data):
        token = next(t for t in vocabulary if data.startswith(t, i))
        out.append(vocabulary[token])
        i += len(token)
    return out


def shuffle_and_cut(texts, share, seed):
    texts = list(texts)
    random.Random(seed).shuffle(texts)
    n = round(len(texts) * share)
    return texts[n:], texts[:n]


def by_different(texts, share, seed, swap=False, keep=True, shuffle=True):
    different = sorted(set(texts))
    if shuffle:
        random.Random(seed).shuffle(different)
    held = set(different[:round(len(different) * share)])
    sides = [t for t in texts if t not in held], [t for t in texts if t in held][0 if keep else 3:]
    return sides[::-1] if swap else sides


def one_hot(ids, weight, shift=0):
    return torch.nn.functional.one_hot((ids + shift) % len(weight), len(weight)).to(weight.dtype) @ weight


def rotation(k, C, sign=1, speeds=True, halves=False):
    M = torch.zeros(C, C, dtype=torch.float64)
    for i in range(0, C, 2):
        b = k * (10000 ** (-i / C) if speeds else 1)
        s, c = (i // 2, i // 2 + C // 2) if halves else (i, i + 1)
        M[s, s] = M[c, c] = math.cos(b)
        M[s, c], M[c, s] = -sign * math.sin(b), sign * math.sin(b)
    return M


def dropout(ids, ranks, p, rng, mode="right"):
    ids = list(ids)
    if mode == "kinds":
        ranks = {pair: new for pair, new in ranks.items() if rng.random() >= p}
        return ch02.apply_merges(ids, ranks)
    while candidates := [(ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]:
        alive = [x for x in candidates if rng.random() >= p]
        if not alive and (mode != "stubborn" or p == 1):
            break
        if alive:
            new_id, i = min(alive)
            ids[i:i + 2] = [new_id]
    return [i for i in ids if rng.random() >= p / 4] if mode == "tokens" and p < 1 else ids


ANSWERS = {
    "2.1": (lambda w, v: sum(x not in v for x in w) / len(w), {
        "share of the words that are known": lambda w, v: sum(x in v for x in w) / len(w),
        "each different word once": lambda w, v: len(set(w) - v) / len(set(w)),
        "divide by the number": lambda w, v: 100 * sum(x not in v for x in w) / len(w),
        "One word of six": lambda w, v: len(set(w) - v) / len(v),
    }),
    "2.2": (lambda d: sum(b & 0xC0 != 0x80 for b in d), {
        "number of bytes": len,
        "decode() fails": lambda d: len(d.decode("utf-8")),
        "of one byte only": lambda d: sum(b < 128 for b in d),
        "not ASCII": lambda d: sum(b >= 128 for b in d),
        "continue a character, those that begin": lambda d: sum(b & 0xC0 == 0x80 for b in d),
    }),
    "2.3": (longest, {
        "shortest": lambda d, v: longest(d, v, order=min),
        "tokens themselves": lambda d, v: longest(d, v, ids=False),
        "first token in the dictionary": first_in_dictionary,
        "rest of the text": lambda d, v: longest(d, v)[:1],
    }),
    "2.4": (lambda e, t: len(t.encode()) / len(e(t)), {
        "turn the fraction around": lambda e, t: len(e(t)) / len(t.encode()),
        "one character and two bytes": lambda e, t: len(t) / len(e(t)),
        "words by tokens": lambda e, t: len(t.split()) / len(e(t)),
        "passed in": lambda e, t: len(t.encode()) / len(t),
    }),
    "2.5": (lambda n, T, s: (n - T - 1) // s + 1, {
        "nothing in it": lambda n, T, s: math.ceil(n / s),
        "leave room for the target": lambda n, T, s: (n - T) // s + 1 if n > 9 else 1,
        "leave out the stride": lambda n, T, s: n - T if s != T else (n - 1) // s,
        "17 tokens hold two": lambda n, T, s: (n - T - 1) // s or 1,
        "exactly one window": lambda n, T, s: (n - T - 1) // s,
    }),
    "2.6": (by_different, {
        "same side": shuffle_and_cut,
        "swapped": lambda t, s, seed: by_different(t, s, seed, swap=True),
        "neither side": lambda t, s, seed: by_different(t, s, seed, keep=False),
        "Another seed": lambda t, s, seed: by_different(t, s, seed, shuffle=False),
    }),
    "2.7": (one_hot, {
        "look-up itself": lambda ids, w: w[ids],
        "changed places": lambda ids, w: one_hot(ids.T, w),
        "off by one row": lambda ids, w: one_hot(ids, w, shift=-1),
        "RuntimeError": lambda ids, w: torch.nn.functional.one_hot(ids, len(w)) @ w,
        "Return a tensor": lambda ids, w: one_hot(ids, w).tolist(),
    }),
    "2.8": (rotation, {
        "moves back": lambda k, C: rotation(k, C, sign=-1),
        "own speed": lambda k, C: rotation(k, C, speeds=False),
        "all sines came before": lambda k, C: rotation(k, C, halves=True),
        "changes nothing": lambda k, C: torch.eye(C),
        "wrong for k = 2": lambda k, C: rotation(5, C),
    }),
    "2.9": (dropout, {
        "should be that of apply_merges": lambda ids, r, p, rng: dropout(ids, r, 1 - p, rng),
        "bytes come back": lambda ids, r, p, rng: ch02.apply_merges(ids, r),
        "try again until": lambda ids, r, p, rng: dropout(ids, r, p, rng, "stubborn"),
        "every occurrence": lambda ids, r, p, rng: dropout(ids, r, p, rng, "kinds"),
        "no longer the text": lambda ids, r, p, rng: dropout(ids, r, p, rng, "tokens"),
    }),
}


def test_every_exercise_has_answers():
    assert set(ANSWERS) == set(CHECKS) and all(len(wrong) >= 3 for _, wrong in ANSWERS.values())


@pytest.mark.parametrize("number", ANSWERS)
def test_a_right_answer_is_right_and_a_stub_not_attempted(number):
    assert verdict(number, ANSWERS[number][0], CHECKS).startswith(f"Exercise {number}: right.")
    assert verdict(number, ..., CHECKS).endswith("not attempted yet")


@pytest.mark.parametrize(("number", "hint"), [(n, hint) for n, (_, wrong) in ANSWERS.items() for hint in wrong])
def test_a_wrong_answer_gets_its_hint(number, hint):
    said = verdict(number, ANSWERS[number][1][hint], CHECKS)
    assert said.startswith(f"Exercise {number}: not yet.")
    assert hint in said, said


# --- the story -------------------------------------------------------------------------------------------------------

def test_the_story_is_the_text_that_its_page_describes():
    raw = (ROOT / "data" / "the-lamplighters-ledger.txt").read_bytes()
    assert 20_000 < len(raw) < 30_000 and not raw.startswith(b"\xef\xbb\xbf")
    assert set(STORY) - set(map(chr, range(32, 127))) == set("\néèë—")
    assert not regex.search(r" $|\n\n\n|  ", STORY, regex.M) and STORY.endswith("\n")
