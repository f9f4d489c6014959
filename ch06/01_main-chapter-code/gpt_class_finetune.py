"""Chapter 6 in one file: finetune a GPT into a filter for text messages, and put it to work.

    python gpt_class_finetune.py                                        train on the course's messages, a few minutes
    python gpt_class_finetune.py --data SMSSpamCollection --splits 5    the UCI collection, five random splits
    python gpt_class_finetune.py --data my.csv --lora 8 --out runs/my   a CSV file with columns label and text
    python gpt_class_finetune.py --model runs/filter --text "You have won, call 0909 8790001"
    python gpt_class_finetune.py --model runs/filter --classify inbox.csv --out-file sorted.csv

Everything between the two marks is copied from the notebooks by `python course.py export`; the rest is written here.
"""

import argparse
import csv
import os
import sys
from dataclasses import replace
from itertools import tee
from pathlib import Path

from tqdm import tqdm

# <generated: add_lora, best_threshold, classify, classify_stream, count_parameters, fit_temperature, load_classifier,
#   load_pretrained, merge_lora, MessageDataset, predict_logits, save_classifier, SequenceClassifier, TextClassifier,
#   train_classifier, wilson_interval>
# isort: split
import copy
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pickle import UnpicklingError

import regex
import tiktoken
import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset


# ch02.ipynb, In [3]
def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, every line end a `\\n`. Raises ValueError for a file that isn't UTF-8."""
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{Path(path).name} is not UTF-8: byte {data[error.start]:#04x} at position "
                         f"{error.start} can't be read; save it as UTF-8, or decode it yourself") from None


# ch02.ipynb, In [15]
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]     # bytes with a Latin-1 character
BYTE_OF_ID = bytes([*PRINTABLE, *sorted(set(range(256)) - set(PRINTABLE))])   # 256 bytes; the index is the id
ID_OF_BYTE = bytes(BYTE_OF_ID.index(byte) for byte in range(256))                     # the other way round


# ch02.ipynb, In [16]
def utf8_ids(text: str) -> list[int]:
    """The ids of the text's UTF-8 bytes, in 0..255. Raises ValueError for text that UTF-8 can't write."""
    try:
        return list(text.encode("utf-8").translate(ID_OF_BYTE))
    except UnicodeEncodeError as error:
        raise ValueError(f"the text has a lone surrogate {text[error.start]!a} at position {error.start}, "
                         "half a character; remove it, or read the text with its own encoding") from None


# ch02.ipynb, In [19]
Pair = tuple[int, int]                                             # the ids of two neighbors, for type hints


def merge_pair(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """A copy of `ids` in which every occurrence of `pair`, taken from the left, has become `new_id`."""
    left, right = pair
    merged, i, last = [], 0, len(ids) - 1
    while i <= last:
        if i < last and ids[i] == left and ids[i + 1] == right:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


# ch02.ipynb, In [22]
def token_bytes(merges: Iterable[Pair]) -> list[bytes]:
    """The bytes of every token, 256 single ones and one a merge. Raises ValueError for impossible merges."""
    tokens = [bytes([byte]) for byte in BYTE_OF_ID]
    for left, right in merges:
        if not (0 <= left < len(tokens) and 0 <= right < len(tokens)):
            raise ValueError(f"merge {len(tokens) - 256} joins {left} and {right}, but only tokens 0 to "
                             f"{len(tokens) - 1} exist by then; the merges are damaged or out of order")
        tokens.append(tokens[left] + tokens[right])
    if len(set(tokens)) < len(tokens):
        raise ValueError("two merges make the same token; the merges are damaged")
    return tokens


# ch02.ipynb, In [26]
def apply_merges(ids: list[int], ranks: dict[Pair, int]) -> list[int]:
    """Merge the ids of one chunk, the earliest first, until none applies; `ranks` is {pair: its token}."""
    while len(ids) > 1:
        pair = min(pairwise(ids), key=lambda pair: ranks.get(pair, math.inf))
        if pair not in ranks:
            break
        ids = merge_pair(ids, pair, ranks[pair])
    return ids


# ch02.ipynb, In [33]
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


# ch02.ipynb, In [37]
class BytePairCodec:
    """Text to ids and back by byte-pair encoding (Sennrich et al., 2016; on bytes: Radford et al., 2019).

    `merges[i]` is the pair that makes token 256 + i. The pattern's matches must cover every text.
    """

    def __init__(self, merges: Iterable[Pair], pattern: str = GPT2_PATTERN):
        self.merges, self.pattern = [tuple(pair) for pair in merges], pattern
        self.tokens = token_bytes(self.merges)                                            # id -> bytes
        self.ranks = {pair: 256 + i for i, pair in enumerate(self.merges)}                # pair -> id
        try:
            self._chunks = regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from None
        self._known: dict[str, list[int]] = {}                                      # ids of chunks met before

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of `text`, with no special tokens. Raises ValueError for text that isn't UTF-8."""
        chunks = [match.group() for match in self._chunks.finditer(text)]
        if sum(map(len, chunks)) != len(text):
            raise ValueError(f"the pattern {self.pattern!r} leaves out part of the text; add an alternative")
        return [i for chunk in chunks for i in self._known.get(chunk) or self._encode_chunk(chunk)]

    def _encode_chunk(self, chunk: str) -> list[int]:
        ids = apply_merges(utf8_ids(chunk), self.ranks)
        if len(self._known) < 100_000 and len(chunk) < 100:
            self._known[chunk] = ids
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids stand for. Raises ValueError for an id that isn't in the vocabulary."""
        ids = [int(i) for i in ids]
        if wrong := [i for i in ids if not 0 <= i < len(self.tokens)]:
            raise ValueError(f"token id {wrong[0]} is not in 0..{len(self.tokens) - 1}; is it another one's?")
        return b"".join(self.tokens[i] for i in ids)


# ch02.ipynb, In [46]
class SpecialTokenCodec(BytePairCodec):
    """A byte-pair codec with special tokens, which take the ids after the merges."""

    def __init__(self, merges: Iterable[Pair], special_tokens: Iterable[str] = (), pattern=GPT2_PATTERN):
        super().__init__(merges, pattern)
        special = list(special_tokens)
        self.special_tokens = {token: len(self.tokens) + i for i, token in enumerate(special)}
        self.tokens += [token.encode("utf-8") for token in special]
        self.n_vocab = len(self.tokens)
        if b"" in self.tokens or len(set(self.tokens)) < self.n_vocab:
            raise ValueError(f"special tokens must be different, not empty, not ordinary, got {special}")

    @property
    def eot_token(self) -> int:
        """The id of `<|endoftext|>`. Raises ValueError for a tokenizer that has none."""
        return special_ids("<|endoftext|>", self.special_tokens)["<|endoftext|>"]

    def encode(self, text: str, allowed_special: Iterable[str] | str = ()) -> list[int]:
        """The ids of `text`, with the special tokens that `allowed_special` names ("all": every one).

        Raises ValueError for a name that is no special token, and for one in the text that isn't allowed.
        """
        names = self.special_tokens if allowed_special == "all" else allowed_special
        allowed = special_ids(names, self.special_tokens)
        ids = []
        for part in split_special(text, self.special_tokens):
            if part not in self.special_tokens:
                ids += self.encode_ordinary(part)
            elif part in allowed:
                ids.append(allowed[part])
            else:
                raise ValueError(f"the text contains the special token {part!r}; if that is meant, pass "
                                 f"allowed_special={{{part!r}}}; if it is text, use encode_ordinary()")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; half characters become `\\ufffd`. Raises ValueError for an unknown id."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


# ch02.ipynb, In [47]
def special_ids(names: Iterable[str], special_tokens: dict[str, int]) -> dict[str, int]:
    """The ids of some special tokens. Raises ValueError for a name that isn't one of `special_tokens`."""
    names = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in names if name not in special_tokens]:
        raise ValueError(f"{unknown[0]!r} is no special token here; name one of {list(special_tokens)}")
    return {name: special_tokens[name] for name in names}


# ch02.ipynb, In [48]
def split_special(text: str, special_tokens: Iterable[str]) -> list[str]:
    """The text cut before and after each special token in it; the parts in a row are the text."""
    if not (names := sorted(special_tokens, key=len, reverse=True)):
        return [text]
    return [part for part in regex.split("(" + "|".join(map(regex.escape, names)) + ")", text) if part]


# ch02.ipynb, In [51]
BYTE_CHARACTERS = [*map(chr, PRINTABLE), *map(chr, range(256, 512 - len(PRINTABLE)))]               # by id


def token_names(merges: Iterable[Pair]) -> list[str]:
    """Every token as files write it, a visible character for each byte."""
    names = list(BYTE_CHARACTERS)
    for left, right in merges:
        names.append(names[left] + names[right])
    return names


# ch02.ipynb, In [53]
def tokenizer_files(tokenizer: SpecialTokenCodec, settings: dict) -> dict[str, str]:
    """The files that `transformers.AutoTokenizer` and our `load` read, as {name: text}."""
    names = token_names(tokenizer.merges)
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special, pattern = tokenizer.special_tokens, {"Regex": tokenizer.pattern}
    added = [{"id": i, "content": token, "special": True, **off} for token, i in special.items()]
    split = [{"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False},
             {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {name: i for i, name in enumerate(names)} | special,
             "merges": [[names[left], names[right]] for left, right in tokenizer.merges]}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
             "pre_tokenizer": {"type": "Sequence", "pretokenizers": split}, "post_processor": None,
             "decoder": split[1] | {"use_regex": True},
             "model": model}
    roles = (("eos_token", "<|endoftext|>"), ("pad_token", "<|pad|>"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
              **{role: token for role, token in roles if token in special}, **settings}
    return {name: json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            for name, content in (("tokenizer.json", whole), ("tokenizer_config.json", config))}


# ch02.ipynb, In [54]
def write_files(folder: str | Path, files: dict[str, str]) -> None:
    """Write text files into `folder` (made if need be), each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {folder / f"{name}.{os.getpid()}.tmp": folder / name for name in files}
    try:
        for path, content in zip(temporary, files.values(), strict=True):
            path.write_text(content, encoding="utf-8", newline="\n")
        for path, target in temporary.items():
            os.replace(path, target)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


# ch02.ipynb, In [55]
def read_tokenizer_json(path: Path) -> tuple[list[Pair], list[str], str]:
    """Merges, special tokens and pattern of a `tokenizer.json`. Raises ValueError for another kind."""
    try:
        whole = json.loads(read_text(path))
        model, steps = whole["model"], whole["pre_tokenizer"].get("pretokenizers", [whole["pre_tokenizer"]])
        *cuts, last = steps
        kind = (model["type"], last["type"], last["add_prefix_space"], whole["normalizer"])
        if kind != ("BPE", "ByteLevel", False, None):
            raise ValueError("only byte-level BPE on unchanged text is supported")
        if cuts and (len(cuts) > 1 or cuts[0]["behavior"] != "Isolated" or last.get("use_regex", True)):
            raise ValueError("only a single pattern is supported")
        pattern = cuts[0]["pattern"]["Regex"] if cuts else GPT2_PATTERN
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        merges = merges_from_names(pairs)
        added = {token["content"]: token["id"] for token in whole["added_tokens"]}
        expected = {name: i for i, name in enumerate([*token_names(merges), *sorted(added, key=added.get)])}
        if model["vocab"] | added != expected:
            raise ValueError("its vocabulary is not the one that its merges make")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path.name} in {path.parent.name!r} is not a tokenizer that this course can read "
                         f"({type(error).__name__}: {error}); save it again, or download it again") from None
    return merges, sorted(added, key=added.get), pattern


# ch02.ipynb, In [56]
def merges_from_names(pairs: Iterable[Iterable[str]]) -> list[Pair]:
    """Merges as ids, from merges as files write them: ("Ġ", "t"). Raises ValueError for impossible ones."""
    ids, merges = {name: i for i, name in enumerate(BYTE_CHARACTERS)}, []
    for left, right in pairs:
        if left not in ids or right not in ids or left + right in ids:
            raise ValueError(f"merge {len(merges)} can't join {left!r} and {right!r}; the file is damaged")
        merges.append((ids[left], ids[right]))
        ids[left + right] = len(ids)
    return merges


# ch02.ipynb, In [57]
class BytePairTokenizer(SpecialTokenCodec):
    """The course's tokenizer: byte-pair encoding, special tokens, files. Names as in `tiktoken.Encoding`."""

    def save(self, folder: str | Path, **settings) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, the latter with `settings`, if any."""
        write_files(folder, tokenizer_files(self, settings))

    @classmethod
    def load(cls, folder: str | Path) -> "BytePairTokenizer":
        """The tokenizer saved in `folder`. Raises ValueError if there is none, or one of another kind."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"there is no tokenizer.json in {str(folder)!r}; name a saved one's")
        return cls(*read_tokenizer_json(path))

    def to_tiktoken(self, name: str = "from-bytes-to-chat") -> tiktoken.Encoding:
        """A `tiktoken.Encoding` with the same ids, for speed."""
        ordinary = self.tokens[:256 + len(self.merges)]
        return tiktoken.Encoding(name, pat_str=self.pattern, special_tokens=self.special_tokens,
                                 mergeable_ranks={token: i for i, token in enumerate(ordinary)})


# ch02.ipynb, In [58]
def load_tokenizer(name_or_folder: str | Path) -> BytePairTokenizer | tiktoken.Encoding:
    """GPT-2's tokenizer for "gpt2" (all sizes share it), or the one saved in a folder, else ValueError."""
    if str(name_or_folder) in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        return tiktoken.get_encoding("gpt2")
    return BytePairTokenizer.load(name_or_folder)


# ch03.ipynb, In [53]
def query_block_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, block: int = 128) -> Tensor:
    """Causal attention of q, k, v (B, H, T, D), a block of queries at a time, no key behind it read."""
    q, results = q / q.shape[-1] ** 0.5, []                                              # (B, H, T, D)
    for start in range(0, q.shape[-2], block):
        rows = q[:, :, start:start + block]                                              # (B, H, R, D)
        stop = start + rows.shape[-2]
        scores = rows @ k[:, :, :stop].transpose(-2, -1)                                 # (B, H, R, stop)
        scores += torch.full_like(scores[0, 0], -torch.inf).triu(start + 1)              # (R, stop)
        weights = F.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0)       # (B, H, R, stop)
        results.append(weights @ v[:, :, :stop])                                         # (B, H, R, D)
    return torch.cat(results, dim=-2)                                                    # (B, H, T, D)


# ch03.ipynb, In [55]
class MultiHeadAttention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al., 2017), by the fastest kernel at hand.

    One linear layer makes queries, keys and values, in this order along its output, as in GPT-2's `c_attn`.
    Raises ValueError when `n_channels` can't be split evenly over `n_heads`, or `dropout` is no share.
    """

    def __init__(self, n_channels: int, n_heads: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        if n_heads < 1 or n_channels % n_heads:
            raise ValueError(f"n_channels is {n_channels} and n_heads {n_heads}; choose heads that divide it")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, but it is a share: choose at least 0 and less than 1")
        self.n_heads, self.dropout = n_heads, dropout
        self.qkv = nn.Linear(n_channels, 3 * n_channels, bias=bias)
        self.out = nn.Linear(n_channels, n_channels, bias=bias)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Mix x (B, T, C) over time into (B, T, C); `padding_mask` (B, T) is True at real tokens."""
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_heads, C // self.n_heads).transpose(1, 2)  # (B, H, T, D) each
                   for part in self.qkv(x).split(C, dim=-1))                       # (B, T, C) each
        mask = None if padding_mask is None else self.visible(padding_mask, B, T)  # (B, 1, T, T)
        dropout = self.dropout if self.training else 0.0
        if mask is None and x.device.type == "cpu" and q.dtype == torch.bfloat16:
            mixed = query_block_attention(q, k, v, dropout)                        # (B, H, T, D)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
        return self.out(mixed.transpose(1, 2).reshape(B, T, C))                    # (B, H, T, D) -> (B, T, C)

    @staticmethod
    def visible(padding_mask: Tensor, B: int, T: int) -> Tensor:
        """Who may look where (B, 1, T, T): at the real past, and at itself, so that no row is empty."""
        if padding_mask.dtype != torch.bool or padding_mask.shape != (B, T):
            raise ValueError(f"padding_mask is {padding_mask.dtype} of shape {tuple(padding_mask.shape)}; "
                             f"pass booleans of shape {(B, T)}, True at real tokens")
        past = torch.ones(T, T, dtype=torch.bool, device=padding_mask.device).tril() # (T, T)
        itself = torch.eye(T, dtype=torch.bool, device=padding_mask.device)        # (T, T)
        return (past & padding_mask[:, None, None, :]) | itself                    # (B, 1, T, T)


# ch04.ipynb, In [4]
@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT; the defaults are GPT-2 small's (Radford et al., 2019). ValueError if impossible."""

    vocab_size: int = 50_257
    context_length: int = 1_024
    n_channels: int = 768
    n_heads: int = 12
    n_layers: int = 12
    dropout: float = 0.0
    tie_head: bool = True

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "n_channels", "n_heads", "n_layers"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.n_channels % self.n_heads:
            raise ValueError(f"n_channels is {self.n_channels} and n_heads {self.n_heads}; "
                             "make n_channels a multiple of n_heads")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but it is a share: choose 0 or more, and below 1")


# ch04.ipynb, In [6]
GPT2_SIZES = {
    "gpt2": GPTConfig(n_channels=768, n_heads=12, n_layers=12),
    "gpt2-medium": GPTConfig(n_channels=1_024, n_heads=16, n_layers=24),
    "gpt2-large": GPTConfig(n_channels=1_280, n_heads=20, n_layers=36),
    "gpt2-xl": GPTConfig(n_channels=1_600, n_heads=25, n_layers=48),
}


# ch04.ipynb, In [13]
class LayerNorm(nn.Module):
    """Layer normalization over the last axis (Ba, Kiros and Hinton, 2016), then a learned scale and shift."""

    def __init__(self, n_channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


# ch04.ipynb, In [22]
class GELU(nn.Module):
    """The Gaussian error linear unit (Hendrycks and Gimpel, 2016): "tanh" as in GPT-2, "none" for exact."""

    def __init__(self, approximate: str = "tanh"):
        super().__init__()
        if approximate not in ("tanh", "none"):
            raise ValueError(f'approximate is {approximate!r}; choose "tanh" (as GPT-2) or "none" (exact)')
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return F.gelu(x, approximate=self.approximate)


# ch04.ipynb, In [28]
class FeedForward(nn.Module):
    """Two linear layers with GELU between, four times as wide inside: every token for itself."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.expand = nn.Linear(n_channels, 4 * n_channels)
        self.gelu = GELU()
        self.contract = nn.Linear(4 * n_channels, n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        return self.contract(self.gelu(self.expand(x)))      # (B, T, C) -> (B, T, 4C) -> (B, T, C)


# ch04.ipynb, In [34]
class TransformerBlock(nn.Module):
    """Attention, then feed-forward; each reads the residual stream through a norm and adds to it."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.norm1 = LayerNorm(config.n_channels)
        self.attention = MultiHeadAttention(config.n_channels, config.n_heads, config.dropout)
        self.norm2 = LayerNorm(config.n_channels)
        self.feed_forward = FeedForward(config.n_channels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); `padding_mask` (B, T) is True at real tokens."""
        x = x + self.dropout(self.attention(self.norm1(x), padding_mask))
        x = x + self.dropout(self.feed_forward(self.norm2(x)))
        return x


# ch04.ipynb, In [38]
def init_weights(model: nn.Module, n_layers: int) -> None:
    """Start as GPT-2 does: weights of spread 0.02, writers into the stream / √(2 · n_layers), biases 0."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            into_stream = name.endswith(("attention.out", "feed_forward.contract"))
            nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * n_layers) if into_stream else 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


# ch04.ipynb, In [45]
class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ weight.T`; forward also works out the gradients, strip by strip."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, ignore_index, strip, dtype):
        """(N, C), (V, C), (N,) to a scalar. Products are in `dtype`, probabilities at least in float32."""
        (N, V), exact = (len(hidden), len(weight)), torch.promote_types(dtype, torch.float32)
        kept = targets != ignore_index                                           # (N,)
        share = (kept.to(exact) / kept.sum())[:, None]                           # (N, 1) its part in the mean
        targets, w = targets.where(kept, 0), weight.to(dtype)                    # (N,), (V, C)
        logits, product = w.new_empty(min(strip, N), V), torch.empty_like(w)     # scratch paper, narrow
        probs, term = (s if dtype == exact else s.to(exact) for s in (logits, product))       # and exact
        log_probs, loss = torch.empty_like(probs), share.new_zeros(())
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)     # (N, C), (V, C)
        for start in range(0, N, strip):
            rows = slice(start, start + strip)
            h, t = hidden[rows].to(dtype), targets[rows]                         # (R, C), (R,)
            row = torch.arange(len(t), device=t.device)                          # (R,)
            z, p, log_p = (sheet[:len(t)] for sheet in (logits, probs, log_probs))       # (R, V) each
            torch.mm(h, w.T, out=z)                                              # (R, C) @ (C, V) -> (R, V)
            torch.log_softmax(p.copy_(z), dim=-1, out=log_p)
            loss -= (log_p.gather(1, t[:, None]) * share[rows]).sum()
            torch.exp(log_p, out=p)                                              # softmax ...
            p[row, t] -= 1                                                       # ... minus one-hot
            grad_hidden[rows] = (z.copy_(p) @ w) * share[rows]                   # (R, V) @ (V, C) -> (R, C)
            torch.mm(z.T, (h * share[rows]).to(dtype), out=product)              # (V, R) @ (R, C) -> (V, C)
            grad_weight += term.copy_(product)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        """The prepared gradients, times the gradient from above (1, unless more follows after the loss)."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_loss * grad_hidden, grad_loss * grad_weight, None, None, None, None


# ch04.ipynb, In [46]
def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor,
                         ignore_index: int = -100, strip: int | None = None) -> Tensor:
    """The mean of `F.cross_entropy(hidden @ weight.T, targets)`, without ever holding all the logits.

    `hidden` (..., C), `weight` (V, C), `targets` (...) ids; a target of `ignore_index` doesn't count.
    """
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(f"targets have shape {tuple(targets.shape)}, hidden vectors {tuple(hidden.shape)}; "
                         "pass one target for each vector")
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    hidden, targets = hidden.flatten(0, -2), targets.flatten()                   # (N, C), (N,)
    strip = strip or min(2048, max(1, 2**24 // len(weight)))
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
            return LinearCrossEntropy.apply(hidden, weight, targets, ignore_index, strip, dtype)
        w, total = weight.to(dtype), 0
        for h, t in zip(hidden.split(strip), targets.split(strip)):
            logits = (h.to(dtype) @ w.T).to(torch.promote_types(dtype, torch.float32))       # (R, C) @ (C, V)
            total += F.cross_entropy(logits, t, ignore_index=ignore_index, reduction="sum")
        return total / (targets != ignore_index).sum()


# ch04.ipynb, In [53]
class GPTModel(nn.Module):
    """A decoder-only transformer, built as GPT-2 (Radford et al., 2019); `config` gives its shape."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_channels)
        self.position_embedding = nn.Embedding(config.context_length, config.n_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))
        self.final_norm = LayerNorm(config.n_channels)
        self.head = nn.Linear(config.n_channels, config.vocab_size, bias=False)
        if config.tie_head:
            self.head.weight = self.token_embedding.weight
        init_weights(self, config.n_layers)

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Token plus position vectors (B, T, C) of ids (B, T) at positions (T,) or (B, T)."""
        return self.dropout(self.token_embedding(token_ids) + self.position_embedding(positions))

    def hidden_states(self, token_ids: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The vectors (B, T, C) that the head reads; with a mask (B, T), positions count only real tokens."""
        if (T := token_ids.shape[1]) > self.config.context_length:
            raise ValueError(f"the input has {T} tokens, the model's context is "
                             f"{self.config.context_length}; shorten it")
        positions = torch.arange(T, device=token_ids.device)                     # (T,)
        if padding_mask is not None:
            positions = (padding_mask.cumsum(dim=1) - 1).clamp(min=0)            # (B, T)
        x = self.embed(token_ids, positions)                                     # (B, T, C)
        for block in self.blocks:
            x = block(x, padding_mask)
        return self.final_norm(x)

    def forward(self, token_ids: Tensor, padding_mask: Tensor | None = None,
                targets: Tensor | None = None) -> Tensor:
        """The logits (B, T, V); or, given the ids (B, T) that should follow, the mean loss (not of -100)."""
        hidden = self.hidden_states(token_ids, padding_mask)                     # (B, T, C)
        if targets is not None:
            return linear_cross_entropy(hidden, self.head.weight, targets)
        return self.head(hidden)                                                 # (B, T, C) -> (B, T, V)


# ch04.ipynb, In [60]
def count_parameters(config: GPTConfig) -> int:
    """How many parameters `GPTModel(config)` has, by arithmetic."""
    C, V = config.n_channels, config.vocab_size
    embeddings = (V + config.context_length) * C
    blocks = config.n_layers * (12 * C**2 + 13 * C)
    head = 0 if config.tie_head else V * C
    return embeddings + blocks + 2 * C + head


# ch05.ipynb, In [25]
def configure_optimizer(model: nn.Module, learning_rate: float = 1e-3, weight_decay: float = 0.1,
                        betas: tuple[float, float] = (0.9, 0.95)) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) that decays matrices only, not biases and norms' scales."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


# ch05.ipynb, In [28]
def cosine_schedule(step: int, n_steps: int, peak: float, n_warmup: int, floor: float = 0.1) -> float:
    """The learning rate of a step: linear up to `peak`, then half a cosine down to `floor` x peak."""
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    done = min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))              # from 0 to 1
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)


# ch05.ipynb, In [123]
@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` once all of it is written, or vanishes.

    Raises ValueError, what was there intact, when the disk doesn't take it.
    """
    folder = Path(folder)
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.iterdir():
            with open(path, "rb+") as stream:
                os.fsync(stream.fileno())                                      # on the disk, not in its queue
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise ValueError(f"could not write {str(folder)!r} ({error}); make room, or choose another folder; "
                         "what was there before is intact") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


# ch05.ipynb, In [127]
def gpt2_names(config: GPTConfig) -> dict[str, tuple[str, bool]]:
    """Our parameter names, each with GPT-2's name for it and whether the file stores it transposed."""
    names = {"token_embedding.weight": ("wte.weight", False),
             "position_embedding.weight": ("wpe.weight", False)}
    layers = {"norm1": ("ln_1", False), "attention.qkv": ("attn.c_attn", True),
              "attention.out": ("attn.c_proj", True), "norm2": ("ln_2", False),
              "feed_forward.expand": ("mlp.c_fc", True), "feed_forward.contract": ("mlp.c_proj", True)}
    for i in range(config.n_layers):
        for ours, (theirs, transposed) in layers.items():
            names[f"blocks.{i}.{ours}.weight"] = (f"h.{i}.{theirs}.weight", transposed)
            names[f"blocks.{i}.{ours}.bias"] = (f"h.{i}.{theirs}.bias", False)
    names |= {f"final_norm.{kind}": (f"ln_f.{kind}", False) for kind in ("weight", "bias")}
    names = {ours: (f"transformer.{theirs}", transposed) for ours, (theirs, transposed) in names.items()}
    return names | ({} if config.tie_head else {"head.weight": ("lm_head.weight", False)})


# ch05.ipynb, In [129]
def gpt2_config(config: GPTConfig, end_id: int | None = None, pad_id: int | None = None) -> dict:
    """`config.json` as `transformers` writes it for GPT-2."""
    return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": config.vocab_size,
            "n_positions": config.context_length, "n_embd": config.n_channels, "n_head": config.n_heads,
            "n_layer": config.n_layers, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
            "attn_pdrop": config.dropout, "embd_pdrop": config.dropout, "resid_pdrop": config.dropout,
            "tie_word_embeddings": config.tie_head, "bos_token_id": end_id, "eos_token_id": end_id,
            "pad_token_id": pad_id, "dtype": "float32"}


# ch05.ipynb, In [130]
def from_tiktoken(encoding: tiktoken.Encoding) -> BytePairTokenizer:
    """Chapter 2's tokenizer with the ids of tiktoken's "gpt2". Raises ValueError for another encoding."""
    if encoding.name != "gpt2":
        raise ValueError(f"the encoding is {encoding.name!r}; only tiktoken's 'gpt2' can be taken over")
    ranks = {}
    for i in range(256, encoding.eot_token):
        single = list(encoding.decode_single_token_bytes(i).translate(ID_OF_BYTE))
        ranks[tuple(apply_merges(single, ranks))] = i
    return BytePairTokenizer(ranks, ["<|endoftext|>"])


# ch05.ipynb, In [132]
def file_digest(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ch05.ipynb, In [134]
Tokenizer = BytePairTokenizer | tiktoken.Encoding              # what `load_tokenizer` returns

CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
                 "{% if message['role'] == 'assistant' %}{{ '<|endoftext|>' }}{% endif %}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")


def save_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int) -> None:
    """Write the tokenizer's files; with a chat template, if it has the tokens for one (chapter 7)."""
    if isinstance(tokenizer, tiktoken.Encoding):
        tokenizer = from_tiktoken(tokenizer)
    chat = {"chat_template": CHAT_TEMPLATE} if "<|assistant|>" in tokenizer.special_tokens else {}
    tokenizer.save(folder, **chat, model_max_length=context_length)


# ch05.ipynb, In [135]
def save_checkpoint(folder: str | Path, model: GPTModel, tokenizer: Tokenizer | None = None,
                    training: dict | None = None, dtype: torch.dtype = torch.float32) -> None:
    """Write `folder`, whole or not at all: weights and settings as `transformers` reads them, the tokenizer,
    and, to go on later, the state of `training`. Raises ValueError, what was there intact, if that fails.
    """
    with whole_folder(folder) as temporary:
        special = {"<|endoftext|>": tokenizer.eot_token} if tokenizer else {}
        special |= getattr(tokenizer, "special_tokens", {})
        config = gpt2_config(model.config, special.get("<|endoftext|>"), special.get("<|pad|>"))
        write_files(temporary, {"config.json": json.dumps(config, indent=1) + "\n"})
        weights = model.state_dict()
        named = {theirs: (weights[ours].T if transposed else weights[ours]).to(dtype).contiguous().cpu()
                 for ours, (theirs, transposed) in gpt2_names(model.config).items()}
        save_file(named, temporary / "model.safetensors", metadata={"format": "pt"})
        if tokenizer:
            save_tokenizer(temporary, tokenizer, model.config.context_length)
        if training is not None:
            save_training(temporary / "training.pt", training)
        digests = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        write_files(temporary, {"checkpoint.json": json.dumps({"sha256": digests}, indent=1) + "\n"})


# ch05.ipynb, In [136]
def save_training(path: Path, training: dict) -> None:
    """Write a state of training. Raises OSError if the disk doesn't take it."""
    with open(path, "wb") as stream:
        try:
            torch.save(training, stream)
        except RuntimeError as error:                                        # PyTorch's word for a full disk
            raise error.__context__ or error from None


# ch05.ipynb, In [139]
def check_digests(folder: Path) -> None:
    """Raise ValueError for the first file of a checkpoint that isn't the one that was written."""
    for name, digest in json.loads(read_text(folder / "checkpoint.json"))["sha256"].items():
        if file_digest(folder / name) != digest:
            raise ValueError(f"{name} is damaged (its sha256 isn't the recorded one); use another checkpoint")


# ch05.ipynb, In [140]
def config_from_gpt2(settings: dict) -> GPTConfig:
    """Our config from `transformers`' settings. Raises ValueError for another kind of model."""
    fixed = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
             "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    for name, value in fixed.items():
        if settings.get(name, None if name == "model_type" else value) != value:
            raise ValueError(f"config.json says {name} = {settings.get(name)!r}, this model has {value!r}; "
                             "only GPT-2's kind can be loaded")
    sizes = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    try:
        return GPTConfig(*(settings[name] for name in sizes), settings.get("resid_pdrop", 0.0),
                         settings.get("tie_word_embeddings", True))
    except KeyError as error:
        raise ValueError(f"config.json lacks {error}") from None


# ch05.ipynb, In [141]
def model_from_gpt2(config: GPTConfig, stored: dict[str, Tensor]) -> GPTModel:
    """Build the model around the stored tensors, in float32 or, if they are finer, as they are.

    Raises ValueError, naming it, for one that is missing or doesn't fit.
    """
    stored = {name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": value
              for name, value in stored.items()}
    with torch.device("meta"):
        model = GPTModel(config)
    wanted, weights = model.state_dict(), {}
    for ours, (theirs, transposed) in gpt2_names(config).items():
        if theirs not in stored:
            raise ValueError(f"model.safetensors lacks {theirs}")
        exact = torch.promote_types(stored[theirs].dtype, torch.float32)
        weights[ours] = (stored[theirs].T if transposed else stored[theirs]).to(exact).contiguous()
        if weights[ours].shape != wanted[ours].shape:
            raise ValueError(f"{theirs} in model.safetensors has shape {tuple(stored[theirs].shape)}, which "
                             "doesn't fit config.json")
    if config.tie_head:
        weights["head.weight"] = weights["token_embedding.weight"]
    model.load_state_dict(weights, assign=True)
    if config.tie_head:
        model.head.weight = model.token_embedding.weight
    return model.eval()


# ch05.ipynb, In [143]
def load_training(path: Path) -> dict:
    """A state of training. Raises ValueError for a damaged one, and for one that would run a program."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError(f"{path.name} holds more than numbers, and loading it could run any program; "
                         "delete it, or ask whoever made it for a safe one") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path.name} is damaged ({type(error).__name__}); use another checkpoint") from None


# ch05.ipynb, In [144]
def load_checkpoint(folder: str | Path) -> tuple[GPTModel, dict | None]:
    """The model in `folder`, in float32 and ready to predict, and its state of training, if it has one.

    Reads what `save_checkpoint` and `transformers` write for GPT-2. Raises ValueError, naming the file, for
    one that is missing, damaged, or of another kind of model.
    """
    folder = Path(folder)
    try:
        config = config_from_gpt2(json.loads(read_text(folder / "config.json")))
        if (folder / "checkpoint.json").exists():
            check_digests(folder)
        model = model_from_gpt2(config, load_file(folder / "model.safetensors"))
        state = folder / "training.pt"
        return model, load_training(state) if state.exists() else None
    except FileNotFoundError as error:
        missing = Path(error.filename or "model.safetensors").name
        raise ValueError(f"{str(folder)!r} is no checkpoint: {missing} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError, OSError) as error:
        raise ValueError(f"the checkpoint {str(folder)!r} can't be used: {error}") from None


# ch05.ipynb, In [148]
def load_pretrained(name_or_folder: str | Path) -> tuple[GPTModel, Tokenizer]:
    """Model and tokenizer: of the course ("tales-small", ...), of GPT-2 ("gpt2" to "gpt2-xl"), or a folder's.

    The course's own need no network, a GPT-2 is downloaded once. Raises ValueError if there is none, and if
    the tokenizer isn't the model's.
    """
    name = str(name_or_folder)
    if name in GPT2_SIZES:
        folder, tokenizer = download_gpt2(name), load_tokenizer(name)
    else:
        folder, tokenizer = bundled_folder(name) if name in BUNDLED else Path(name_or_folder), None
    if not folder.is_dir():
        raise ValueError(f"there is no model {name!r} here; name one of "
                         f"{', '.join((*BUNDLED, *GPT2_SIZES))}, or a folder that holds one")
    model, _ = load_checkpoint(folder)
    tokenizer = tokenizer or load_tokenizer(folder)
    if not 0 <= model.config.vocab_size - tokenizer.n_vocab < 128:             # some pad to a round number
        raise ValueError(f"the tokenizer in {str(folder)!r} has {tokenizer.n_vocab:,} tokens, the model "
                         f"knows {model.config.vocab_size:,}; put the model's own tokenizer there")
    return model, tokenizer


# ch05.ipynb, In [149]
BUNDLED = ("tales-small", "tales-base", "tales-chat")


def bundled_folder(name: str) -> Path:
    """Where the course keeps one of its own models. Raises ValueError outside the course."""
    try:
        from course import ROOT  # not at the top, so that a script works outside the course as well
    except ImportError:
        raise ValueError(f"{name} lies in the course's folder models, not here; pass a folder") from None
    return Path(ROOT, "models", name)


# ch05.ipynb, In [154]
def download_gpt2(name: str) -> Path:
    """The folder with OpenAI's released weights, fetched from the hub the first time, and verified.

    Raises ValueError that says what to do when it is neither here nor to be had, or is damaged.
    """
    try:
        wanted = ["config.json", "model.safetensors"]
        folder = Path(snapshot_download(f"openai-community/{name}", allow_patterns=wanted))
    except Exception as error:                         # whatever network, server or disk may throw
        raise ValueError(f"could not get {name} ({type(error).__name__}); go online, or set HF_ENDPOINT to a "
                         "mirror, or download the folder elsewhere and pass its path") from error
    weights = (folder / "model.safetensors").resolve()                         # its name is its sha256
    if len(weights.name) == 64 and file_digest(weights) != weights.name:
        raise ValueError(f"model.safetensors of {name} is damaged; delete {str(weights)!r} and load it again")
    return folder


# ch06.ipynb, In [19]
def text_rows(texts: Iterable[str], tokenizer: Tokenizer, max_length: int) -> list[list[int]]:
    """Each text as ids between two separators, its beginning only if there are more than `max_length`."""
    if max_length < 3:
        raise ValueError(f"max_length is {max_length}; two places are the separators', so choose at least 3")
    end = tokenizer.eot_token
    return [[end, *tokenizer.encode_ordinary(text)[:max_length - 2], end] for text in texts]


# ch06.ipynb, In [22]
class MessageDataset(Dataset):
    """Texts and their labels as numbers; item i is (ids, index of the label in `names`).

    Raises ValueError for a label that isn't in `names`, for what isn't text, and for no text at all.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str], tokenizer: Tokenizer,
                 names: Sequence[str] = ("ham", "spam"), max_length: int = 256):
        if not len(texts) or len(texts) != len(labels):
            raise ValueError(f"{len(texts)} texts and {len(labels)} labels; pass at least one text, "
                             "each with a label")
        if unknown := sorted(set(labels) - set(names)):
            raise ValueError(f"label {unknown[0]!r} is none of {', '.join(names)}; correct it, or name it")
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise ValueError(f"{wrong[0]!r} is no text but {type(wrong[0]).__name__}; is it another column?")
        self.rows = text_rows(texts, tokenizer, max_length)
        self.labels = torch.tensor([list(names).index(label) for label in labels])       # (N,)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[list[int], int]:
        return self.rows[i], self.labels[i].item()


# ch06.ipynb, In [25]
def right_pad(rows: Sequence[Sequence[int]], device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """Rows of ids as a rectangle (B, T), with 0 on the right, and its mask (B, T), True at real tokens."""
    T = max(len(row) for row in rows)
    token_ids = torch.tensor([list(row) + [0] * (T - len(row)) for row in rows], device=device)
    mask = torch.tensor([[True] * len(row) + [False] * (T - len(row)) for row in rows], device=device)
    return token_ids, mask


# ch06.ipynb, In [28]
def batches_by_length(rows: Sequence[Sequence[int]], batch_size: int,
                      generator: torch.Generator | None = None) -> list[list[int]]:
    """Which rows share a batch: neighbors in length, so that little is padded.

    Without a generator the batches go from short to long. With one, every call draws another order: rows are
    shuffled, sorted within groups of eight batches, and the batches shuffled.
    """
    lengths = torch.tensor([len(row) for row in rows])                                   # (N,)
    if generator is None:
        return [part.tolist() for part in lengths.argsort(stable=True).split(batch_size)]
    batches = []
    for group in torch.randperm(len(rows), generator=generator).split(8 * batch_size):
        group = group[lengths[group].argsort(stable=True)]                             # similar ones together
        batches += group.split(batch_size)
    return [batches[i].tolist() for i in torch.randperm(len(batches), generator=generator)]


# ch06.ipynb, In [34]
class SequenceClassifier(nn.Module):
    """A GPT with a head for classes beside its head for tokens (Radford et al., 2018).

    `reads` names the vector that the head gets: the "last" real token's, the "first" one's, or the "mean".
    Raises ValueError for another name.
    """

    def __init__(self, gpt: GPTModel, n_classes: int = 2, reads: str = "last", dropout: float = 0.1):
        super().__init__()
        if reads not in ("last", "first", "mean"):
            raise ValueError(f"reads is {reads!r}; choose 'last', 'first' or 'mean'")
        self.gpt, self.reads = gpt, reads
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(gpt.config.n_channels, n_classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, K) of rows of ids (B, T), padded on the right; `mask` (B, T) is True at real tokens."""
        hidden = self.gpt.hidden_states(token_ids, mask)                                 # (B, T, C)
        return self.head(self.dropout(self.read(hidden, mask)))                          # (B, C) -> (B, K)

    def read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """One vector a row, (B, C), out of all its vectors (B, T, C)."""
        if self.reads == "first":
            return hidden[:, 0]
        if self.reads == "mean":
            return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        last = mask.sum(dim=1) - 1                                                       # (B,)
        return hidden[torch.arange(len(last), device=last.device), last]


# ch06.ipynb, In [36]
@torch.no_grad()
def predict_logits(classifier: SequenceClassifier, rows: Sequence[Sequence[int]],
                   batch_size: int = 64) -> Tensor:
    """The logits (N, K) of rows of ids, in their order, on the CPU, with dropout off."""
    device, was_training = next(classifier.parameters()).device, classifier.training
    classifier.eval()
    logits = torch.empty(len(rows), classifier.head.out_features)                        # (N, K)
    for batch in batches_by_length(rows, batch_size):
        logits[batch] = classifier(*right_pad([rows[i] for i in batch], device)).float().cpu()
    classifier.train(was_training)
    return logits


# ch06.ipynb, In [44]
def class_weights(labels: Tensor, n_classes: int = 2) -> Tensor:
    """Weights (K,) that make every class count alike in the loss. Raises ValueError if one has no example."""
    counts = torch.bincount(labels, minlength=n_classes)                                 # (K,)
    if (counts == 0).any():
        raise ValueError(f"class {counts.argmin().item()} has no example among {len(labels)}; add some")
    return len(labels) / (n_classes * counts)


# ch06.ipynb, In [46]
def train_epoch(classifier: SequenceClassifier, data: MessageDataset, optimizer: torch.optim.Optimizer,
                rate: Callable[[int], float], batches: list[list[int]], first_step: int,
                weights: Tensor | None = None) -> float:
    """Train on the batches once; returns the mean loss, in nats. `rate(step)` is the learning rate."""
    device, total = next(classifier.parameters()).device, 0.0
    classifier.train()
    for step, batch in enumerate(batches, start=first_step):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        logits = classifier(*right_pad([data.rows[i] for i in batch], device))           # (B, K)
        loss = F.cross_entropy(logits, data.labels[batch].to(device), weight=weights)
        if not loss.isfinite():
            raise FloatingPointError(f"the loss at step {step} is {loss.item()}; lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(data)


# ch06.ipynb, In [48]
def train_classifier(classifier: SequenceClassifier, train_set: MessageDataset,
                     validation_set: MessageDataset,
                     n_epochs: int = 6, learning_rate: float = 1e-3, batch_size: int = 32, patience: int = 2,
                     weight_decay: float = 0.1, balance: bool = True, seed: int = 0) -> list[dict]:
    """Finetune in place, and keep the weights of the epoch with the lowest validation loss.

    Stops early after `patience` epochs without a lower one. With `balance`, each class counts alike. Returns
    a row an epoch: its losses, in nats, and its validation accuracy. Raises FloatingPointError for a loss
    that isn't a number.
    """
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)                                                              # of dropout
    device = next(classifier.parameters()).device
    weights = class_weights(train_set.labels).to(device) if balance else None
    optimizer = configure_optimizer(classifier, learning_rate, weight_decay)
    per_epoch = -(-len(train_set) // batch_size)
    rate = partial(cosine_schedule, n_steps=n_epochs * per_epoch, peak=learning_rate, n_warmup=per_epoch // 2)
    history, best = [], None
    for epoch in range(n_epochs):
        batches = batches_by_length(train_set.rows, batch_size, g)
        loss = train_epoch(classifier, train_set, optimizer, rate, batches, epoch * per_epoch, weights)
        logits = predict_logits(classifier, validation_set.rows)                         # (N, K)
        held_out = F.cross_entropy(logits, validation_set.labels).item()
        accuracy = (logits.argmax(dim=1) == validation_set.labels).float().mean().item()
        history.append({"epoch": epoch + 1, "train": loss, "validation": held_out, "accuracy": accuracy})
        if best is None or held_out < best[0]:
            best = (held_out, epoch, copy.deepcopy(classifier.state_dict()))
        elif epoch - best[1] >= patience:
            break
    classifier.load_state_dict(best[2])
    return history


# ch06.ipynb, In [63]
def wilson_interval(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of the share `right` of `n` (Wilson, 1927). Raises ValueError if it's no share."""
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"{right} of {n} is no share; pass 0 <= right <= n and n of at least 1")
    share, spread = right / n, z**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = (spread * share * (1 - share) + spread**2 / 4) ** 0.5 / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


# ch06.ipynb, In [81]
def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number, from 0.1 to 10, by which to divide logits (N, K) so that they fit the labels (N,).

    Raises ValueError for no example, for sizes that don't match, and for a label that is no class.
    (Guo et al., 2017.)
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; "
                         f"pass (N, K) and (N,), with N of at least 1")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels go from {labels.min()} to {labels.max()}; "
                         f"the {logits.shape[1]} classes are 0 to {logits.shape[1] - 1}")
    candidates = torch.logspace(-1, 1, 201)                              # 0.1 to 10
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in candidates])
    return candidates[losses.argmin()].item()


# ch06.ipynb, In [92]
def best_threshold(probabilities: Tensor, labels: Tensor, false_alarm: float = 1.0,
                   miss: float = 1.0) -> float:
    """The probability (N,) from which to say "class 1" so that the errors on labels (N,) cost least.

    Of several that cost the same, the lowest. Raises ValueError for no example, sizes that don't match,
    probabilities outside of 0 to 1, labels other than 0 and 1, and costs below 0.
    """
    p, labels = probabilities.cpu().double(), labels.cpu()
    if p.dim() != 1 or p.shape != labels.shape or not len(p):
        raise ValueError(f"probabilities are {tuple(p.shape)} and labels {tuple(labels.shape)}; pass (N,) of "
                         f"each, with N of at least 1")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"probabilities go from {p.min():.3g} to {p.max():.3g}; pass softmax(logits)[:, 1]")
    if wrong := set(labels.tolist()) - {0, 1}:
        raise ValueError(f"label {min(wrong)} is neither 0 nor 1; pass the class numbers")
    if not min(false_alarm, miss) >= 0:
        raise ValueError(f"costs are {false_alarm} and {miss}; neither may be below 0")
    edges = torch.cat((p.new_zeros(1), p.unique(), p.new_ones(1)))       # sorted
    candidates = (edges[1:] + edges[:-1]) / 2                            # half-way between neighbors
    ham, spam = p[labels == 0].sort().values, p[labels == 1].sort().values
    alarms = len(ham) - torch.searchsorted(ham, candidates)              # genuine, at or above the candidate
    misses = torch.searchsorted(spam, candidates)                        # spam below it
    return candidates[(false_alarm * alarms + miss * misses).argmin()].item()


# ch06.ipynb, In [103]
@dataclass
class TextClassifier:
    """A trained classifier and what it takes to use it: text in, probability of `labels[1]` out.

    The probability is the logits' softmax at `temperature`; from `threshold` on the verdict is `labels[1]`.
    A text of more than `max_length` tokens is read in pieces; the piece with the highest probability counts.
    """

    classifier: SequenceClassifier
    tokenizer: Tokenizer
    labels: tuple[str, str] = ("ham", "spam")
    temperature: float = 1.0
    threshold: float = 0.5
    max_length: int = 256

    def probabilities(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """The probability of `labels[1]` for each text, (N,). Raises ValueError for what isn't text."""
        rows, owners, end, size = [], [], self.tokenizer.eot_token, self.max_length - 2
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text {i} is {text!r}, of type {type(text).__name__}; pass a string")
            # half a character, which text from outside may hold, becomes a question mark
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            ids = self.tokenizer.encode_ordinary(whole)
            pieces = [ids[start:start + size] for start in range(0, max(1, len(ids)), size)]
            rows += [[end, *piece, end] for piece in pieces]
            owners += [i] * len(pieces)
        if not rows:
            return torch.zeros(0)
        p = (predict_logits(self.classifier, rows, batch_size) / self.temperature).softmax(dim=1)[:, 1]
        return torch.zeros(len(texts)).scatter_reduce(0, torch.tensor(owners), p, "amax")       # (N,)


# ch06.ipynb, In [125]
class LoRALinear(nn.Module):
    """A frozen linear layer plus a product of two thin matrices that learns (LoRA; Hu et al., 2021).

    The product B A is scaled by alpha / rank, and B starts at zero, so that at first nothing changes.
    Raises ValueError for a rank or alpha that can't be.
    """

    def __init__(self, linear: nn.Linear, rank: int = 8, alpha: float = 16.0):
        super().__init__()
        if type(rank) is not int or not 1 <= rank <= min(linear.weight.shape):
            raise ValueError(f"rank is {rank!r}; for a matrix of {tuple(linear.weight.shape)} choose a whole "
                             f"number from 1 to {min(linear.weight.shape)}")
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha is {alpha!r}; it scales what is learned, choose a number above 0")
        self.linear, self.scale = linear.requires_grad_(False), alpha / rank
        like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.a = nn.Parameter(torch.randn(rank, linear.in_features, **like) / linear.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, **like))

    def forward(self, x: Tensor) -> Tensor:
        low = x @ self.a.T                                                      # (..., C) -> (..., R)
        return self.linear(x) + self.scale * (low @ self.b.T)                   # (..., R) -> (..., C_out)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One linear layer that does the same."""
        merged = copy.deepcopy(self.linear)
        merged.weight += self.scale * (self.b @ self.a)                         # (C_out, R) @ (R, C)
        return merged


# ch06.ipynb, In [127]
def add_lora(gpt: GPTModel, rank: int = 8, alpha: float = 16.0) -> GPTModel:
    """Freeze a GPT, in place, and put a LoRA beside every linear layer of its blocks.

    Raises ValueError if it has them already, or for a rank or alpha that can't be.
    """
    if any(isinstance(module, LoRALinear) for module in gpt.modules()):
        raise ValueError("the model has LoRA layers already; merge them first")
    places = [(module, name) for module in gpt.blocks.modules()
              for name, child in module.named_children() if isinstance(child, nn.Linear)]
    layers = [LoRALinear(getattr(module, name), rank, alpha) for module, name in places]
    gpt.requires_grad_(False)
    for (module, name), layer in zip(places, layers):
        setattr(module, name, layer)
    return gpt


# ch06.ipynb, In [132]
def merge_lora(gpt: GPTModel) -> GPTModel:
    """Put one plain linear layer, in place, where `add_lora` had put two, and unfreeze the model."""
    for module in list(gpt.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoRALinear):
                setattr(module, name, child.merged())
    return gpt.requires_grad_(True)


# ch06.ipynb, In [163]
def save_classifier(folder: str | Path, reader: TextClassifier) -> None:
    """Write `folder`, whole or not at all: the GPT as chapter 5 saves it, LoRA merged, head, settings."""
    classifier = reader.classifier
    settings = {"labels": list(reader.labels), "reads": classifier.reads, "temperature": reader.temperature,
                "threshold": reader.threshold, "max_length": reader.max_length}
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.head.state_dict().items()}
    with whole_folder(folder) as temporary:
        save_checkpoint(temporary, merge_lora(copy.deepcopy(classifier.gpt)), reader.tokenizer)
        save_file(head, temporary / "classifier.safetensors", metadata={"format": "pt"})
        record = json.loads(read_text(temporary / "checkpoint.json"))
        record["sha256"]["classifier.safetensors"] = file_digest(temporary / "classifier.safetensors")
        write_files(temporary, {"classifier.json": json.dumps(settings, indent=1) + "\n",
                                "checkpoint.json": json.dumps(record, indent=1) + "\n"})


# ch06.ipynb, In [165]
def check_settings(labels: Sequence[str], temperature: float, threshold: float, max_length: int,
                   longest: int) -> None:
    """Raise ValueError for a setting that a `TextClassifier` can't have; its GPT reads `longest` ids."""
    if len(labels) != 2 or labels[0] == labels[1] or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"labels are {labels!r}; there have to be two different ones, both text")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature!r}; it has to be above 0")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold!r}; it is a probability, so choose 0 to 1")
    if not 3 <= max_length <= longest:
        raise ValueError(f"max_length is {max_length!r}; the model reads 3 to {longest} tokens")


# ch06.ipynb, In [167]
def load_classifier(folder: str | Path) -> TextClassifier:
    """The classifier that `save_classifier` wrote. Raises ValueError if there is none, or it is damaged."""
    folder = Path(folder)
    if not (folder / "classifier.json").is_file():
        raise ValueError(f"there is no classifier in {str(folder)!r} (no classifier.json); train and save "
                         "one first")
    gpt, tokenizer = load_pretrained(folder)
    try:
        settings = json.loads(read_text(folder / "classifier.json"))
        reads = settings.pop("reads")
        check_settings(**settings, longest=gpt.config.context_length)
        settings["labels"] = tuple(settings["labels"])
        classifier = SequenceClassifier(gpt, len(settings["labels"]), reads)
        classifier.head.load_state_dict(load_file(folder / "classifier.safetensors"))
        return TextClassifier(classifier.eval(), tokenizer, **settings)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, OSError) as error:
        raise ValueError(f"the classifier in {str(folder)!r} can't be used: {error}") from None


# ch06.ipynb, In [171]
def classify(text: str, reader: TextClassifier) -> tuple[str, float]:
    """The label of a text and the probability of `reader.labels[1]`."""
    p = reader.probabilities([text]).item()
    return reader.labels[p >= reader.threshold], p


# ch06.ipynb, In [175]
def classify_stream(texts: Iterable[str], reader: TextClassifier,
                    chunk: int = 512) -> Iterator[tuple[str, float]]:
    """Label and probability of each of any number of texts, in their order, `chunk` of them at a time."""
    texts = iter(texts)
    while part := list(islice(texts, chunk)):
        for p in reader.probabilities(part).tolist():
            yield reader.labels[p >= reader.threshold], p
# </generated>

ROOT = next((p for p in Path(__file__).resolve().parents if (p / "course.py").exists()), None)
if ROOT:
    sys.path.insert(0, str(ROOT))                                 # for its messages, its models, and GPT-2's vocabulary
LABELS = ("ham", "spam")
WORDS = "words, TF-IDF, logistic regression"
RATES = {"all": 2e-3, "last": 2e-3, "head": 1e-2, "lora": 3e-3}   # learning rates that suit what is trained


def whole(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    """A number from 0 up to, but not, 1, for argparse."""
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; choose 0 or more, and below 1")
    return value


def number(text: str) -> float:
    """A finite number, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("training").add_argument
    add("--data", type=Path, metavar="PATH",
        help="a CSV file with columns label and text, or the UCI collection's file or folder (default: the course's messages)")
    add("--pretrained", default="tales-small", metavar="NAME",
        help="tales-small, tales-base, gpt2, ..., a folder, or none: random weights in the shape of tales-small (tales-small)")
    add("--reads", choices=["last", "mean", "first"], default="mean", help="the vector that the head reads (mean)")
    add("--train", choices=["all", "last", "head"], default="all", help="all weights, last block and head, or the head (all)")
    add("--lora", type=whole, metavar="RANK", help="train low-rank changes of this rank, and the head, instead of the weights")
    add("--epochs", type=whole, default=8, metavar="N", help="at most so many times through the data (8)")
    add("--patience", type=whole, default=3, metavar="N", help="stop after so many epochs without a better one (3)")
    add("--batch", type=whole, default=32, metavar="N", help="messages in a step (32)")
    rates = ", ".join(f"{name} {rate:g}" for name, rate in RATES.items())
    add("--learning-rate", type=positive, metavar="R", help=f"at its peak ({rates}; a tenth for a large model)")
    add("--weight-decay", type=share, default=0.1, metavar="R", help="on matrices (0.1)")
    add("--dropout", type=share, default=0.1, metavar="R", help="share of values set to zero in training, in the GPT as well (0.1)")
    add("--hide", type=share, default=0.15, metavar="R", help="share of tokens hidden in training (0.15)")
    add("--max-length", type=whole, default=256, metavar="N", help="tokens of a message that are read in training (256)")
    add("--precision", type=share, metavar="R", help="choose the threshold on validation for this precision of spam (0.98)")
    add("--false-alarm", type=positive, metavar="R", help="or choose it by cost: that of a lost message, if a missed spam's is 1")
    add("--seed", type=int, default=0, metavar="N", help="of weights and order (0)")
    add("--splits", type=whole, default=1, metavar="N", help="train on N splits and compare; the first is the course's (1)")
    add("--out", type=Path, metavar="FOLDER", help="where the filter goes, that of the first split (runs/filter)")
    add = parser.add_argument_group("use").add_argument
    add("--model", type=Path, metavar="FOLDER", help="a filter that this script has trained")
    add("--text", nargs="+", metavar="TEXT", help="print the label and the probability of spam of one message or more")
    add("--classify", type=Path, metavar="CSV", help="a CSV file of any size with a column text")
    add("--out-file", type=Path, metavar="CSV", help="gets every column of that file, and predicted and probability")
    return parser.parse_args(arguments)


def check_options(o: argparse.Namespace) -> None:
    """Raise ValueError for options that don't fit each other."""
    if (o.text or o.classify) and not o.model:
        raise ValueError("--text and --classify need a filter; pass --model FOLDER with one that this script has trained")
    if o.model and not (o.text or o.classify):
        raise ValueError(f"--model {o.model} names a filter but no message; add --text, or --classify and --out-file")
    if bool(o.classify) != bool(o.out_file):
        raise ValueError("--classify and --out-file go together: the file to read, and the file to write")
    if o.classify and o.classify.resolve() == o.out_file.resolve():
        raise ValueError(f"--out-file {o.out_file} is the file that --classify reads; choose another name")
    if o.lora and o.train != "all":
        raise ValueError(f"--lora trains changes in every block, --train {o.train} leaves blocks alone; choose one of them")
    if o.precision is not None and o.false_alarm is not None:
        raise ValueError("--precision and --false-alarm are two ways to choose the threshold; choose one of them")
    if o.max_length < 3:
        raise ValueError(f"--max-length {o.max_length} leaves no room for a message between its two separators; choose 3 or more")


def reader_of_messages():
    """The course's module that reads files of messages. Raises ValueError where there is none."""
    try:
        from data import messages
    except ImportError as error:
        raise ValueError(f"the course's data/messages.py can't be used here ({error}); run this script inside the course, or put "
                         "that folder beside it and install what it needs") from None
    return messages


# ---------------------------------------------------------------- training

class HiddenRows(list):
    """Rows of ids that, when training takes one, hide some of its tokens and move a progress bar."""

    def __init__(self, rows: list[list[int]], share: float, hidden_id: int, seed: int, bar: tqdm):
        super().__init__(rows)
        self.share, self.hidden_id, self.bar = share, hidden_id, bar
        self.generator = torch.Generator().manual_seed(seed)

    def __getitem__(self, i: int) -> list[int]:
        self.bar.update()
        row = list.__getitem__(self, i)
        hide = (torch.rand(len(row) - 2, generator=self.generator) < self.share).tolist()   # never the separators
        return [row[0], *(self.hidden_id if h else token for h, token in zip(hide, row[1:-1])), row[-1]]


def first_model(o: argparse.Namespace):
    """The classifier before training, its tokenizer, and its learning rate."""
    gpt, tokenizer = load_pretrained("tales-small" if o.pretrained == "none" else o.pretrained)
    if o.max_length > gpt.config.context_length:
        raise ValueError(f"--max-length {o.max_length} is longer than the model's context, {gpt.config.context_length}; shorten it")
    torch.manual_seed(o.seed)
    model = GPTModel(replace(gpt.config, dropout=o.dropout))
    if o.pretrained != "none":
        model.load_state_dict(gpt.state_dict())
    if o.lora:
        add_lora(model, o.lora)
    elif o.train != "all":
        model.requires_grad_(False)
        if o.train == "last":
            model.blocks[-1].requires_grad_(True)
            model.final_norm.requires_grad_(True)
    rate = o.learning_rate or RATES["lora" if o.lora else o.train] / (10 if count_parameters(gpt.config) > 50e6 else 1)
    return SequenceClassifier(model, len(LABELS), o.reads, o.dropout), tokenizer, rate


def fit(o: argparse.Namespace, parts: list) -> tuple[TextClassifier, Tensor]:
    """A filter trained on the first part, calibrated on the second; and its probabilities (N,) of spam there."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    classifier, tokenizer, rate = first_model(o)
    train_set, validation_set = (MessageDataset(part["text"].tolist(), part["label"].tolist(), tokenizer, LABELS, o.max_length)
                                 for part in parts[:2])
    trained = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
    say(f"{sum(p.numel() for p in classifier.parameters()):,} parameters, {trained:,} of them trained, on {device.type}")
    with tqdm(total=o.epochs * len(train_set), unit=" messages", desc="training", disable=None) as bar:
        hidden_id = getattr(tokenizer, "special_tokens", {}).get("<|pad|>", tokenizer.eot_token)
        train_set.rows = HiddenRows(train_set.rows, o.hide, hidden_id, o.seed, bar)
        history = train_classifier(classifier.to(device), train_set, validation_set, o.epochs, rate, o.batch, o.patience,
                                   o.weight_decay, seed=o.seed)
    for row in history:
        say(f"epoch {row['epoch']}: loss {row['train']:.3f}, on validation {row['validation']:.3f}, accuracy {row['accuracy']:.1%}")
    merge_lora(classifier.gpt)
    logits = predict_logits(classifier, validation_set.rows)                                # (N, K)
    reader = TextClassifier(classifier.eval(), tokenizer, LABELS, fit_temperature(logits, validation_set.labels),
                            max_length=o.max_length)
    return reader, reader.probabilities(parts[1]["text"].tolist())


def fit_words(parts: list):
    """The baseline: words, weighted by TF-IDF, with logistic regression; None where scikit-learn isn't installed."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        say("scikit-learn isn't installed, so the baseline of words is left out; pip install scikit-learn")
        return None
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=2000))
    model.fit(parts[0]["text"], parts[0]["label"])
    return lambda texts: torch.tensor(model.predict_proba(texts)[:, 1])                     # (N,)


def threshold_for(p: Tensor, labels: Tensor, o: argparse.Namespace) -> float:
    """The threshold that the options ask for, from probabilities (N,) and labels (N,) of validation messages.

    For a precision: the lowest from which on at least that share of the verdicts "spam" is right. If none reaches
    it, the highest probability seen.
    """
    if o.false_alarm is not None:
        return best_threshold(p, labels, false_alarm=o.false_alarm)
    wanted = 0.98 if o.precision is None else o.precision
    order = p.argsort(descending=True)
    precision = labels[order].cumsum(0) / torch.arange(1, len(p) + 1)                       # (N,), of the n likeliest
    last_of_equals = torch.cat((p[order][1:] < p[order][:-1], torch.tensor([True])))        # they get one verdict
    good = ((precision >= wanted) & last_of_equals).nonzero().flatten()
    return p[order][good[-1] if len(good) else 0].item()


def measure(p: Tensor, labels: Tensor, threshold: float) -> dict[str, float]:
    """Accuracy, and precision and recall on spam, of probabilities (N,) cut at a threshold."""
    spam, right = p >= threshold, ((p >= threshold) == (labels == 1)).sum().item()
    hits = (spam & (labels == 1)).sum().item()
    return {"right": right, "n": len(p), "accuracy": right / len(p), "recall": hits / max(1, (labels == 1).sum().item()),
            "precision": hits / spam.sum().item() if spam.any() else float("nan")}


def line(name: str, m: dict[str, float]) -> str:
    """A row of the table of results."""
    low, high = wilson_interval(m["right"], m["n"])
    columns = f"{m['accuracy']:6.1%} ({low:5.1%} to {high:5.1%})   {m['recall']:6.1%}   {m['precision']:6.1%}"
    return f"{name.replace('words', WORDS):<50} {columns}".replace("nan%", "none")


def one_split(o: argparse.Namespace, messages, number: int) -> tuple[TextClassifier, dict[str, dict[str, float]]]:
    """Train on one split of the messages; returns the filter, and what it and the baselines reach on its test part."""
    parts = reader_of_messages().split_messages(messages, salt=str(number) if number else "")
    shares = ", ".join(f"{len(part):,} {name} ({(part['label'] == 'spam').mean():.0%} spam)"
                       for part, name in zip(parts, ("to train", "to validate", "to test"), strict=True))
    say(f"split {number + 1} of {o.splits}: {shares}")
    for part, name in zip(parts, ("training", "validation", "test"), strict=True):
        if part["label"].nunique() < 2:
            raise ValueError(f"all {len(part)} messages of the {name} part are {part['label'].iloc[0]!r}; "
                             "bring more of the other class")
    labels = [torch.tensor([LABELS.index(label) for label in part["label"]]) for part in parts]
    reader, p_validation = fit(o, parts)
    reader.threshold = threshold_for(p_validation, labels[1], o)
    p = reader.probabilities(parts[2]["text"].tolist())                                     # (N,)
    results = {f"always {LABELS[labels[0].mode().values]}": measure(torch.ones(len(p)) * labels[0].mode().values, labels[2], 0.5)}
    if words := fit_words(parts):
        q = words(parts[2]["text"])                                                         # (N,)
        threshold = threshold_for(words(parts[1]["text"]), labels[1], o)
        results |= {"words": measure(q, labels[2], 0.5), "words, own threshold": measure(q, labels[2], threshold)}
    results |= {"this filter": measure(p, labels[2], 0.5), "this filter, own threshold": measure(p, labels[2], reader.threshold)}
    say(f"temperature {reader.temperature:.2f}, threshold {reader.threshold:.3f}")
    say(f"{'on the test part':<50} accuracy (95% interval)      recall   precision of spam")
    for name, m in results.items():
        say(line(name, m))
    return reader, results


def compare(all_results: list[dict[str, dict[str, float]]]) -> None:
    """What several splits say together."""
    say(f"means of {len(all_results)} splits")
    for name in all_results[0]:
        means = {key: sum(r[name][key] for r in all_results) / len(all_results) for key in ("accuracy", "recall", "precision")}
        spread = torch.tensor([r[name]["accuracy"] for r in all_results]).std().item()
        columns = f"{means['accuracy']:6.2%} (spread {spread:.2%})      {means['recall']:6.1%}   {means['precision']:6.1%}"
        say(f"{name.replace('words', WORDS):<50} {columns}".replace("nan%", "none"))
    if "words" in all_results[0]:
        from scipy.stats import t  # comes with scikit-learn

        lead = torch.tensor([r["this filter"]["accuracy"] - r["words"]["accuracy"] for r in all_results], dtype=torch.float64)
        half = t.ppf(0.975, len(lead) - 1) * lead.std().item() / len(lead) ** 0.5
        say(f"lead over words: {lead.mean():+.2%}, 95% interval {lead.mean() - half:+.2%} to {lead.mean() + half:+.2%}")


def train_and_save(o: argparse.Namespace) -> None:
    """Train on every split, compare, keep the first filter."""
    out = o.out or (ROOT or Path.cwd()) / "runs" / "filter"
    messages = reader_of_messages().load_messages(o.data)
    say(f"{len(messages):,} messages, {(messages['label'] == 'spam').mean():.1%} spam")
    found = []
    for number in range(o.splits):
        reader, results = one_split(o, messages, number)
        found.append(results)
        if number == 0:
            out.parent.mkdir(parents=True, exist_ok=True)
            save_classifier(out, reader)
            say(f"the filter is in {out}")
    if len(found) > 1:
        compare(found)


def say(text: str) -> None:
    """Print at once, above a progress bar."""
    tqdm.write(text)
    sys.stdout.flush()


# ---------------------------------------------------------------- use

def classify_file(source: Path, target: Path, reader: TextClassifier) -> None:
    """Write the rows of a CSV file with two more columns; `target` appears whole or not at all.

    Raises ValueError and OSError, with file, line and remedy, for a file that can't be read or written.
    """
    if not target.resolve().parent.is_dir():
        raise ValueError(f"there is no folder for --out-file {target}; make it first, or choose another place")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    new = ("predicted", "probability")
    with reader_of_messages().open_rows(source) as rows:
        if taken := [name for name in rows.header if name.strip().lower() in new]:
            raise ValueError(f"{source}, line {rows.line}: there is a column {taken[0]!r} already; rename it or take it out")
        try:
            with (open(temporary, "w", encoding="utf-8", newline="") as stream,
                  tqdm(total=rows.n_bytes, unit="B", unit_scale=True, desc="classifying", disable=None) as bar):
                table = csv.writer(stream, lineterminator="\n")
                table.writerow([*rows.header, *new])
                for_reading, for_writing = tee(rows)
                answers = classify_stream((cells[rows.text] for cells in for_reading), reader)
                for cells, (label, p) in zip(for_writing, answers, strict=True):
                    table.writerow([*cells, label, f"{p:.6f}"])
                    bar.update(rows.bytes_read - bar.n)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def use(o: argparse.Namespace) -> None:
    """Classify texts, or a file."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    reader = load_classifier(o.model)
    reader.classifier.to(device)
    for text in o.text or []:
        label, p = classify(text, reader)
        print(f"{label}\t{p:.4f}\t{text}")
    if o.classify:
        classify_file(o.classify, o.out_file, reader)
        say(f"the answers are in {o.out_file}")


def main(arguments: list[str] | None = None) -> int:
    """The whole script; returns an exit status."""
    options = parse(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")                  # a terminal may lack some of a message's characters
    if ROOT:
        import course
        course.setup()                                            # points tiktoken at the vocabulary that the course brings
    try:
        check_options(options)
        (use if options.model else train_and_save)(options)
        return 0
    except (ValueError, OSError, FloatingPointError) as error:
        problem = str(error)
    except KeyboardInterrupt:
        problem = "stopped; nothing half-written is left behind"
    print(f"gpt_class_finetune.py: {problem}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
