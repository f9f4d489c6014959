"""Chapter 8 in one file: a model of the course behind an address that other programs understand, with a page to chat.

    python gpt_serve.py                                  then open http://127.0.0.1:8000/ in a browser
    python gpt_serve.py --model runs/chat --port 8001    your own model, or one of the course by its name
    python gpt_serve.py --int8                           weights in eight bits
    python gpt_serve.py --slots 4 --waiting 0            four texts at once; a fifth is told to come back

Programs that speak OpenAI's protocol find it at http://127.0.0.1:8000/v1: chat/completions, completions, embeddings, models.
/health says whether it works, /metrics how much, in Prometheus' format. It listens on this machine only, and the page asks for
nothing from elsewhere. Everything between the two marks is copied from the notebooks by `python course.py export`; the rest is
written here.
"""

import argparse
import asyncio
import base64
import hashlib
import queue
import signal
import socket
import sys
import threading
import time
import uuid
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import prometheus_client as prometheus
import uvicorn
from fastapi import FastAPI
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

# <generated: cancel, check_prompt, Constraint, embed_texts, Engine, format_prompt, json_pattern, load_pretrained,
#   PackedInt8Linear, quantized, Request, sampler, TextStream>
# isort: split
import codecs
import copy
import json
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pickle import UnpicklingError

import regex
import tiktoken
import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


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


# ch04.ipynb, In [70]
def check_prompt(prompt: Sequence[int], name: str, config: GPTConfig) -> None:
    """Raise ValueError, naming the prompt, unless it has 1 to `context_length` ids, all of the vocabulary."""
    if isinstance(prompt, int):
        raise ValueError(f"{name} is the number {prompt}; pass a list of lists of ids, such as [[1, 2]]")
    if not len(prompt):
        raise ValueError(f"{name} is empty; begin it with a token, such as the one that separates texts")
    if len(prompt) > config.context_length:
        raise ValueError(f"{name} has {len(prompt)} tokens, the model's context is {config.context_length}; "
                         "shorten it")
    if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
        strange = min(prompt) if min(prompt) < 0 else max(prompt)
        raise ValueError(f"{name} holds the id {strange}, the vocabulary ends at {config.vocab_size - 1}; "
                         "use the tokenizer that the model was made for")


# ch05.ipynb, In [62]
def check_sampling(temperature: float, top_k: int | None, top_p: float, min_p: float) -> None:
    """Raise ValueError, naming it, for a setting of `sample_next` that makes no sense."""
    for name, value, fits, choice in (
            ("temperature", temperature, 0 <= temperature < math.inf, "0 (always the best token) or more"),
            ("top_k", top_k, top_k is None or (type(top_k) is int and top_k > 0),
             "None (all) or a whole number from 1"),
            ("top_p", top_p, 0 < top_p <= 1, "a share above 0, up to 1 (all)"),
            ("min_p", min_p, 0 <= min_p <= 1, "a share from 0 (all) to 1")):
        if not fits:
            raise ValueError(f"{name} is {value}; choose {choice}")


# ch05.ipynb, In [63]
def sample_next(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0,
                min_p: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
    """Draw a token from each row of logits: (B, V) to (B,). Temperature 0 takes the best.

    `top_k` keeps the best k; of those, `top_p` keeps the fewest that hold this share of their probability
    (Holtzman et al., 2020), and `min_p` those with at least that of the best one's (Nguyen et al., 2024).
    """
    check_sampling(temperature, top_k, top_p, min_p)
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float()
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature          # (B, V), the best at 0
    probs, order = scaled.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)     # (B, V) twice
    probs = probs[:, :top_k]                                                     # (B, K)
    drop = probs < min_p * probs[:, :1]
    if top_p < 1:
        before = probs.cumsum(dim=-1) - probs                                    # what better tokens hold
        drop |= before >= top_p * probs.sum(dim=-1, keepdim=True)
    drop[:, 0] = False                                                           # the best always stays
    drawn = torch.multinomial(probs.masked_fill(drop, 0), 1, generator=generator)        # (B, 1)
    return order.gather(1, drawn)[:, 0]


# ch05.ipynb, In [69]
def penalize_repetition(logits: Tensor, rows: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Logits (B, V) with those of ids in each row divided (if positive) or multiplied (Keskar et al., 2019).

    A penalty of 1 changes nothing. Raises ValueError for one that isn't above 0.
    """
    if not 0 < penalty < math.inf:
        raise ValueError(f"the penalty is {penalty}; choose 1 (none) or more, such as 1.2")
    if penalty == 1:
        return logits
    logits = logits.clone()
    for i, row in enumerate(rows):
        seen = torch.tensor(sorted(set(row)), dtype=torch.long, device=logits.device)
        scores = logits[i, seen]                                                 # those that stand in the row
        logits[i, seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits


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


# ch07.ipynb, In [8]
def format_prompt(instruction: str, input: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a request as the model meets it: <|user|>, the text, <|assistant|>.

    The text is encoded as text: a special token typed into it stays characters. For a tokenizer without the
    two tokens, such as GPT-2's, the roles are headings. Raises ValueError for an empty instruction.
    """
    if not instruction.strip():
        raise ValueError("the instruction is empty; say what is wanted")
    special = getattr(tokenizer, "special_tokens", {})
    if not {"<|user|>", "<|assistant|>"} <= set(special):
        return [tokenizer.eot_token, *tokenizer.encode_ordinary(with_headings(instruction, input))]
    text = instruction + ("\n\n" + input if input else "")
    return [special["<|user|>"], *tokenizer.encode_ordinary(text), special["<|assistant|>"]]


# ch07.ipynb, In [11]
def with_headings(instruction: str, input: str) -> str:
    """A request whose roles are headings, as in Alpaca's files."""
    parts = [("Instruction", instruction), *([("Input", input)] if input else [])]
    return "".join(f"### {name}:\n{text}\n\n" for name, text in parts) + "### Response:\n"


# ch08.ipynb, In [11]
def attend_in_place(attention: nn.Module, x: Tensor, keys: Tensor, values: Tensor, positions: Tensor,
                    mask: Tensor | None) -> Tensor:
    """Attention of new tokens x (B, T, C), written into keys and values (B, H, S, D) at `positions`.

    `positions` is (B, T), and `mask` (B, 1, T, S) is True where a token may look; None lets all look at all.
    """
    B, T, C = x.shape
    q, k, v = (part.view(B, T, attention.n_heads, -1) for part in attention.qkv(x).split(C, dim=-1))
    row = torch.arange(B, device=x.device)[:, None]                              # (B, 1), beside (B, T)
    keys[row, :, positions], values[row, :, positions] = k, v                    # (B, T, H, D) each
    mixed = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, mask)            # (B, H, T, D)
    return attention.out(mixed.transpose(1, 2).reshape(B, T, C))                 # (B, T, C)


# ch08.ipynb, In [13]
class ServingModel:
    """A GPT with room for the keys and values of `n_rows` texts; how much of each has been read is its state.

    The weights are those of `model`, which is put into evaluation mode and otherwise left alone. Its linear
    layers may be quantized, or have LoRA. Raises ValueError unless `n_rows` is 1 or more.
    """

    def __init__(self, model: GPTModel, n_rows: int = 1):
        if n_rows < 1:
            raise ValueError(f"n_rows is {n_rows}; a model serves at least 1 text")
        self.model, self.config = model.eval(), model.config
        H, D = self.config.n_heads, self.config.n_channels // self.config.n_heads
        like = model.final_norm.weight
        shape = (self.config.n_layers, n_rows, H, self.config.context_length, D)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)    # (N, R, H, L, D) each
        self.lengths = torch.zeros(n_rows, dtype=torch.long, device=like.device) # (R,)

    @torch.no_grad()
    def read(self, token_ids: Tensor, first_row: int = 0) -> Tensor:
        """Read new tokens (B, T) of B rows, from `first_row` on; the vectors (B, T, C) that the head reads.

        They go after what each row has read. Raises ValueError if a row has no room for them.
        """
        B, T = token_ids.shape
        rows = slice(first_row, first_row + B)
        positions = self.lengths[rows, None] + torch.arange(T, device=self.lengths.device)   # (B, T)
        if (S := int(positions.max()) + 1) > self.config.context_length:
            raise ValueError(f"a row would have {S} tokens, the context is {self.config.context_length}")
        visible = torch.arange(S, device=positions.device) <= positions[:, :, None]          # (B, T, S)
        mask = None if visible.all() else visible[:, None]                                   # (B, 1, T, S)
        x = self.model.embed(token_ids, positions)                                           # (B, T, C)
        for block, keys, values in zip(self.model.blocks, self.keys, self.values):
            x = x + attend_in_place(block.attention, block.norm1(x), keys[rows, :, :S], values[rows, :, :S],
                                    positions, mask)
            x = x + block.feed_forward(block.norm2(x))
        self.lengths[rows] += T
        return self.model.final_norm(x)


# ch08.ipynb, In [20]
def window(row: Sequence[int], context_length: int) -> list[int]:
    """What a text that fills its context keeps: all, or else its newest half."""
    return list(row) if len(row) <= context_length else list(row[-(context_length // 2):])


# ch08.ipynb, In [26]
@dataclass(eq=False)
class Request:
    """One text to be written: a prompt of ids, at most `max_new_tokens` more, up to `end_id` if there is one.

    `choose` picks the next id from the logits (V,); None takes the best. `new_ids` grows while the text is
    written; `finished` is "" until it has ended: "stop", "length", or "cancelled".
    """

    prompt: list[int]
    max_new_tokens: int = 64
    end_id: int | None = None
    choose: Callable[[Tensor], int] | None = None
    new_ids: list[int] = field(default_factory=list)
    finished: str = ""


# ch08.ipynb, In [27]
def move_row(serving: ServingModel, source: int, target: int) -> None:
    """Let what row `source` has read stand in row `target` too."""
    n = int(serving.lengths[source])
    for memory in (serving.keys, serving.values):
        memory[:, target, :, :n] = memory[:, source, :, :n]
    serving.lengths[target] = n


# ch08.ipynb, In [28]
class Seats:
    """Which requests have which rows of a model's memory; the busy rows are the first ones, in order.

    With `roll`, a text that fills the context goes on with its newest half (`window`); else it ends there.
    """

    def __init__(self, model: GPTModel, n_rows: int = 8, roll: bool = False):
        self.serving, self.n_rows, self.roll = ServingModel(model, n_rows), n_rows, roll
        self.active: list[Request] = []

    def begin(self, i: int) -> None:
        """Read all but the last token of active text i into its row, or of what the window has left of it."""
        request = self.active[i]
        kept = window(request.prompt + request.new_ids, self.serving.config.context_length)
        self.serving.lengths[i] = 0
        if len(kept) > 1:
            self.serving.read(torch.tensor([kept[:-1]], device=self.serving.lengths.device), first_row=i)

    def settle(self, i: int) -> None:
        """See whether active text i has ended, and if so give its row to the last one."""
        request = self.active[i]
        n_tokens, full = len(request.prompt) + len(request.new_ids), self.serving.config.context_length
        if request.finished:
            pass
        elif request.new_ids[-1] == request.end_id:
            request.finished = "stop"
        elif len(request.new_ids) >= request.max_new_tokens or (n_tokens >= full and not self.roll):
            request.finished = "length"
        elif self.serving.lengths[i] >= full:
            self.begin(i)
        if request.finished:
            last = self.active.pop()
            if last is not request:
                move_row(self.serving, len(self.active), i)
                self.active[i] = last


# ch08.ipynb, In [30]
class Engine(Seats):
    """Writes up to `n_rows` texts at once; they join when a row is free and leave when they have ended.

    Not safe for several threads: one of them should own it.
    """

    def __init__(self, model: GPTModel, n_rows: int = 8, roll: bool = False):
        super().__init__(model, n_rows, roll)
        self.waiting: deque[Request] = deque()

    def submit(self, request: Request) -> Request:
        """Let a request wait for a row. ValueError for a prompt that can't be read, or nothing to write."""
        check_prompt(request.prompt, "the prompt", self.serving.config)
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {request.max_new_tokens}; ask for at least 1")
        self.waiting.append(request)
        return request

    @torch.no_grad()
    def step(self) -> list[Request]:
        """Fill free rows, then write one token in each text; returns the requests that got one."""
        while self.waiting and len(self.active) < self.n_rows:
            self.active.append(self.waiting.popleft())
            self.begin(len(self.active) - 1)
        if not self.active:
            return []
        newest = torch.tensor([[(r.new_ids or r.prompt)[-1]] for r in self.active])          # (B, 1)
        hidden = self.serving.read(newest.to(self.serving.lengths.device))                   # (B, 1, C)
        logits = self.serving.model.head(hidden[:, -1])                                      # (B, V)
        written = list(self.active)
        for request, row, best in zip(written, logits, logits.argmax(dim=-1).tolist()):
            request.new_ids.append(best if request.choose is None else int(request.choose(row)))
        for i in reversed(range(len(written))):
            self.settle(i)
        return written


# ch08.ipynb, In [32]
def run(engine: Engine) -> None:
    """Write until nobody waits and nothing is left to write."""
    while engine.waiting or engine.active:
        engine.step()


def cancel(engine: Engine, request: Request) -> None:
    """End a request that nobody waits for any more; its row is free from the next step on."""
    request.finished = request.finished or "cancelled"
    if request in engine.waiting:
        engine.waiting.remove(request)
    elif request in engine.active:
        engine.settle(engine.active.index(request))


# ch08.ipynb, In [40]
def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (C_out, C) as whole numbers of -127 to 127, int8, and a scale (C_out, 1) for each row.

    Symmetric rounding to the nearest. Raises ValueError for a weight that isn't a finite matrix.
    """
    if weight.dim() != 2 or not weight.isfinite().all():
        raise ValueError(f"the weight, {tuple(weight.shape)}, must be a matrix of finite numbers")
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127        # (C_out, 1)
    return (weight / scale).round().to(torch.int8), scale


# ch08.ipynb, In [45]
def quantized(model: GPTModel, layer: Callable[[nn.Linear], nn.Module]) -> GPTModel:
    """A copy for inference whose linear layers, the head included, are made anew by `layer`.

    The model itself stays as it is. Raises ValueError if there is no linear layer left to replace.
    """
    found = {id(m): m for m in model.modules() if isinstance(m, nn.Linear)}
    if not found:
        raise ValueError("the model has no plain linear layer left; a model is quantized once")
    memo = {id(p): p for p in model.parameters()} | {i: layer(m) for i, m in found.items()}
    return copy.deepcopy(model, memo).eval()


# ch08.ipynb, In [54]
class PackedInt8Linear(nn.Module):
    """`Int8Linear` through PyTorch's packed kernel, which rounds the input too, to 7 bits with one scale.

    For inference on the CPU. Raises RuntimeError where PyTorch has no such kernel.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        whole, scale = quantize_int8(linear.weight.detach().float())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantized tensor creation.*")
            weight = torch._make_per_channel_quantized_tensor(whole, scale[:, 0].double(),
                                                              torch.zeros(len(scale), dtype=torch.long), 0)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.packed = torch.ops.quantized.linear_prepack(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C_out)."""
        return torch.ops.quantized.linear_dynamic(x, self.packed, reduce_range=True)


# ch08.ipynb, In [66]
class TextStream:
    """Turns ids into text as they come: never half a character, and nothing from a stop string on."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        if "" in stop:
            raise ValueError("a stop string is empty; leave it out")
        self.tokenizer, self.stop = tokenizer, list(stop)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.stopped = "", False

    def push(self, token_id: int, last: bool = False) -> str:
        """The text that may be shown now that this id has come; `last` says that no other will."""
        return self.release(self.decoder.decode(self.tokenizer.decode_bytes([token_id]), final=last), last)

    def close(self) -> str:
        """What was held back, when the text has ended without another id."""
        return self.release(self.decoder.decode(b"", final=True), last=True)

    def release(self, text: str, last: bool) -> str:
        """Add text; return what can't be part of a stop string any more."""
        if self.stopped:
            return ""
        self.held += text
        whole = [(at + len(s), at) for s in self.stop if (at := self.held.find(s)) >= 0]     # (end, start)
        if whole:
            self.stopped, shown, self.held = True, self.held[:min(whole)[1]], ""
            return shown
        begun = [0, *(n for s in self.stop for n in range(1, len(s)) if self.held.endswith(s[:n]))]
        at = len(self.held) - (0 if last else max(begun))
        shown, self.held = self.held[:at], self.held[at:]
        return shown


# ch08.ipynb, In [68]
def sampler(temperature: float = 1.0, top_p: float = 1.0, top_k: int | None = None, min_p: float = 0.0,
            seed: int | None = None, bias: dict[int, float] | None = None, repetition_penalty: float = 1.0,
            seen: Sequence[int] = ()) -> Callable[[Tensor], int]:
    """A function from logits (V,) to the next id, for `Request.choose`; settings as in `sample_next`.

    `bias` is added to the logits of its ids, and ids in `seen` and those it has chosen are penalized. Raises
    ValueError for a setting that can't be.
    """
    check_sampling(temperature, top_k, top_p, min_p)
    generator, chosen = torch.Generator(), list(seen)
    generator.seed() if seed is None else generator.manual_seed(seed)

    def choose(logits: Tensor) -> int:
        logits = logits[None].float().cpu().clone()                              # (1, V)
        logits = penalize_repetition(logits, [chosen], repetition_penalty)
        for token_id, value in (bias or {}).items():
            logits[0, token_id] += value
        chosen.append(int(sample_next(logits, temperature, top_k, top_p, min_p, generator)))
        return chosen[-1]
    return choose


# ch08.ipynb, In [77]
class Constraint:
    """A `Request.choose` that writes only texts that match a regular expression, and ends when one is whole.

    `choose` (None: the best) gets the logits of ids that don't fit at minus infinity. A tokenizer has
    all 256 single bytes and can write any text, so there's always a way on.
    """

    def __init__(self, pattern: str, tokenizer: Tokenizer, choose: Callable[[Tensor], int] | None = None):
        self.pattern, self.text = regex.compile(pattern.encode("utf-8")), b""
        self.end_id, self.choose = tokenizer.eot_token, choose or (lambda logits: int(logits.argmax()))
        special = {*getattr(tokenizer, "special_tokens", {}).values(), self.end_id}
        self.pieces = {i: tokenizer.decode_bytes([i]) for i in range(tokenizer.n_vocab) if i not in special}

    def begins(self, text: bytes) -> bool:
        """Whether some text that matches begins like this."""
        return self.pattern.fullmatch(text, partial=True) is not None

    def allowed(self) -> list[int]:
        """The ids that may come next; the end token if the text is whole."""
        first = {byte for byte in range(256) if self.begins(self.text + bytes([byte]))}
        ids = [i for i, piece in self.pieces.items() if piece[0] in first and self.begins(self.text + piece)]
        return ids + [self.end_id] * bool(self.pattern.fullmatch(self.text))

    def __call__(self, logits: Tensor) -> int:
        """The next id, chosen among those that may come."""
        ids = self.allowed()
        if not ids:
            raise ValueError(f"nothing can follow {self.text!r}, and it isn't whole; look at the pattern")
        masked = torch.full_like(logits, -math.inf)                              # (V,)
        masked[ids] = logits[ids]
        token_id = self.choose(masked)
        self.text += self.pieces.get(token_id, b"")
        return token_id


# ch08.ipynb, In [78]
def json_pattern(schema: dict) -> str:
    """A regular expression for the JSON texts, without spaces between parts, that fit a schema.

    Knows enum, string (maxLength, default 40; printable ASCII), integer (up to nine digits), boolean, null,
    array (items, minItems, maxItems, default 8), object (all its properties, in order). Else ValueError.
    """
    def exactly(value) -> str:
        return regex.escape(json.dumps(value, ensure_ascii=False), special_only=True)

    if schema.get("enum"):
        return "(?:" + "|".join(exactly(value) for value in schema["enum"]) + ")"
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties", {})
        parts = [exactly(name) + ":" + json_pattern(part) for name, part in properties.items()]
        return r"\{" + ",".join(parts) + r"\}"
    if kind == "array":
        item, low = json_pattern(schema.get("items", {})), schema.get("minItems", 0)
        high = schema.get("maxItems", max(8, low))
        if not 0 <= low <= high:
            raise ValueError(f"an array has minItems {low} and maxItems {high}; the second can't be less")
        more = f"(?:{item}(?:,{item}){{{max(low - 1, 0)},{high - 1}}})" + "?" * (low == 0) if high else ""
        return r"\[" + more + r"\]"
    plain = {"integer": "-?(?:0|[1-9][0-9]{0,8})", "boolean": "(?:true|false)", "null": "null",
             "string": rf'"[ !#-\[\]-~]{{0,{schema.get("maxLength", 40)}}}"'}
    if kind not in plain:
        raise ValueError(f"a schema has the type {kind!r}; known are object, array, {', '.join(plain)}")
    return plain[kind]


# ch08.ipynb, In [101]
@torch.no_grad()
def embed_texts(model: GPTModel, rows: Sequence[list[int]]) -> Tensor:
    """A vector (N, C) of length 1 for each text of ids: the mean, over its tokens, of what the head reads."""
    vectors = []
    for start in range(0, len(rows), 32):
        part = [torch.tensor(row) for row in rows[start:start + 32]]
        ids = pad_sequence(part, batch_first=True)                               # (B, T)
        ends = torch.tensor([len(row) for row in part])[:, None]                 # (B, 1)
        mask = torch.arange(ids.shape[1]) < ends                                 # (B, T)
        hidden = model.hidden_states(ids, mask) * mask[:, :, None]               # (B, T, C), 0 at padding
        vectors.append(hidden.sum(dim=1) / ends)
    return F.normalize(torch.cat(vectors), dim=-1)
# </generated>

ROOT = next((p for p in Path(__file__).resolve().parents if (p / "course.py").exists()), None)
PAGE = Path(__file__).resolve().with_name("chat.html")
MOST_BYTES, MOST_SECONDS, MOST_CHOICES, MOST_TEXTS = 2**20, 30, 16, 64        # of one request
LOCAL = {"127.0.0.1", "localhost", "[::1]"}
UNKNOWN = ("tools", "tool_choice", "functions", "function_call", "audio", "suffix", "echo", "best_of", "dimensions",
           "presence_penalty", "frequency_penalty")                           # of OpenAI's protocol, and not built here


class Refused(Exception):
    """A request that can't be answered: the HTTP status, a sentence that says what to do, and which field is meant."""

    def __init__(self, status: int, sentence: str, param: str | None = None, code: str | None = None, **headers: str):
        super().__init__(sentence)
        kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.body = {"error": {"message": sentence, "type": kind, "param": param, "code": code}}


# ---------------------------------------------------------------- what may be asked
# Fields, names and defaults are those of OpenAI's API reference; top_k, min_p and repetition_penalty are this server's own

Ids = Annotated[list[int], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1)]
Texts = str | Ids | Annotated[list[str] | list[Ids], Field(min_length=1, max_length=MOST_TEXTS)]


class Fields(BaseModel):
    """Fields of a request; null is the default. What isn't known here is left aside, except UNKNOWN."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    model: str | None = None

    def model_post_init(self, context) -> None:
        """Refuse what would change the answer if it were left aside."""
        for name in UNKNOWN:
            if (self.model_extra or {}).get(name):
                raise Refused(400, f"{name} isn't built into this server; leave it out", name)


class StreamOptions(Fields):
    include_usage: bool | None = None


class Writing(Fields):
    """What requests for chats and completions share."""

    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-2**63, lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(BaseModel):
    type: Literal["text", "json_schema"]
    json_schema: dict | None = None


class ChatAsked(Writing):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None


class CompletionAsked(Writing):
    prompt: Texts
    logprobs: int | None = Field(None, ge=0, le=5)


class EmbeddingsAsked(Fields):
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None


def chat_ids(messages: list[Message], tokenizer) -> list[int]:
    """The ids of a conversation, as chapter 7 trains on them; a system message goes before what the user says next."""
    ids, before = [], []
    for message in messages:
        if message.role == "assistant":
            ids += [*tokenizer.encode_ordinary(message.text), tokenizer.eot_token]
        elif message.role == "user":
            ids += format_prompt("\n\n".join([*before, message.text]), "", tokenizer)
            before = []
        else:
            before.append(message.text)
    if messages[-1].role != "user":
        raise ValueError(f"the last message is from {messages[-1].role!r}; end with what the user says")
    return ids


# ---------------------------------------------------------------- the texts that are being written

class Job:
    """One text on its way from the engine to a client: what comes out of it goes to `pieces`, with its number `index`."""

    def __init__(self, prompt: list[int], limit: int, index: int, pieces: asyncio.Queue, tokenizer, stops: list[str], choose,
                 n_top: int | None):
        self.tokenizer, self.index, self.pieces, self.error = tokenizer, index, pieces, None
        self.stream, self.n_top, self.notes, self.ended = TextStream(tokenizer, stops), n_top, [], False
        self.has_role, self.offset = False, 0                                 # of what was sent: who speaks, how many characters
        self.choose = choose or (lambda logits: int(logits.argmax()))
        plain = choose is None and n_top is None                              # then the engine takes the best of all rows at once
        self.request = Request(prompt, limit, tokenizer.eot_token, None if plain else self.choose_and_note)

    def choose_and_note(self, logits) -> int:
        """The next id. An error ends this text, and no other."""
        try:
            token_id = self.choose(logits)
            if self.n_top is not None and token_id != self.tokenizer.eot_token:
                self.notes.append(self.note(logits.float().log_softmax(dim=-1), token_id))
            return token_id
        except Exception as error:
            self.error = error
            return self.tokenizer.eot_token

    def note(self, log_probs, token_id: int) -> dict:
        """A token with its log-probability, before temperature and limits, and the most probable ones beside it."""
        def entry(i: int) -> dict:
            piece = self.tokenizer.decode_bytes([i])
            return {"token": piece.decode("utf-8", "replace"), "logprob": log_probs[i].item(), "bytes": list(piece)}
        best = log_probs.topk(min(self.n_top, len(log_probs))).indices.tolist()
        return entry(token_id) | {"top_logprobs": [entry(i) for i in best]}

    def advance(self) -> dict:
        """What to tell the client after a step."""
        request, newest = self.request, self.request.new_ids[-1]
        if newest == request.end_id:
            text = self.stream.close()
        else:
            text = self.stream.push(newest, last=bool(request.finished))
        ended = "error" if self.error else "stop" if self.stream.stopped else request.finished
        notes, self.notes = self.notes, []
        return {"index": self.index, "text": text, "notes": notes, "finish": ended, "error": self.error}


class Worker(threading.Thread):
    """Owns the engine: takes jobs and cancellations from a queue, steps, and hands what was written to the event loop."""

    def __init__(self, make_engine, loop: asyncio.AbstractEventLoop):
        super().__init__(daemon=True)
        self.make_engine, self.loop, self.engine = make_engine, loop, make_engine()
        self.commands, self.jobs, self.n_open = queue.SimpleQueue(), {}, 0

    def submit(self, job: Job) -> None:
        """For the event loop: begin a job."""
        self.n_open += 1
        self.commands.put(("begin", job))

    def drop(self, job: Job) -> None:
        """For the event loop: nobody waits for this job any more."""
        if not job.ended:
            self.commands.put(("drop", job))

    def run(self) -> None:
        """Work until the command "leave"."""
        while True:
            command, job = self.commands.get() if not self.jobs else ("", None)
            while command or not self.commands.empty():
                command, job = (command, job) if command else self.commands.get()
                if command == "leave":
                    return
                self.obey(command, job)
                command = ""
            self.step()

    def obey(self, command: str, job: Job) -> None:
        """Begin or drop a job."""
        if command == "begin":
            self.jobs[job.request] = job
            self.engine.submit(job.request)
        elif job.request in self.jobs:
            cancel(self.engine, job.request)
            del self.jobs[job.request]
            self.tell([(job, {"index": job.index, "text": "", "notes": [], "finish": "cancelled", "error": None})])

    def step(self) -> None:
        """One token for each text in the engine. If that fails, these texts end, and a new engine goes on."""
        try:
            told = [(self.jobs[request], self.jobs[request].advance()) for request in self.engine.step()]
        except Exception as error:
            self.engine = self.make_engine()
            told = [(job, {"index": job.index, "text": "", "notes": [], "finish": "error", "error": error})
                    for job in self.jobs.values()]
        for job, piece in told:
            if piece["finish"]:
                cancel(self.engine, self.jobs.pop(job.request).request)
        if told:
            self.tell(told)

    def tell(self, told: list[tuple[Job, dict]]) -> None:
        """Let the event loop hand pieces to those who wait for them."""
        with suppress(RuntimeError):                                          # a loop that has closed: nobody waits
            self.loop.call_soon_threadsafe(self.deliver, told)

    def deliver(self, told: list[tuple[Job, dict]]) -> None:
        """On the event loop: into the jobs' queues."""
        for job, piece in told:
            if piece["finish"]:
                job.ended, self.n_open = True, self.n_open - 1
            job.pieces.put_nowait(piece)


class Order:
    """The jobs of one request, and what their clients are to get."""

    def __init__(self, service: "Service", asked: Writing, prompts: list[list[int]], limit: int | None, n_top: int | None,
                 pattern: str | None = None):
        tokenizer, context, n = service.tokenizer, service.model.config.context_length, asked.n or 1
        best = asked.temperature == 0 and not asked.logit_bias and not asked.repetition_penalty
        for prompt in prompts:
            if len(prompt) >= context:
                raise Refused(400, f"the prompt has {len(prompt)} tokens, the model's context is {context}; shorten it", None,
                              "context_length_exceeded")
            check_prompt(prompt, "the prompt", service.model.config)
        self.service, self.prompts, self.begun = service, prompts, time.perf_counter()
        self.pieces, self.jobs = asyncio.Queue(), []
        for index in range(len(prompts) * n):
            prompt, seed = prompts[index // n], None if asked.seed is None else (asked.seed + index % n) % 2**63
            choose = service.sampler_of(asked, prompt, seed) if not best else None
            choose = Constraint(pattern, tokenizer, choose) if pattern else choose
            self.jobs.append(Job(prompt, min(limit or context, context - len(prompt)), index, self.pieces, tokenizer, asked.stops,
                                 choose, n_top))
        service.admit(len(self.jobs))
        for job in self.jobs:
            service.worker.submit(job)

    @property
    def usage(self) -> dict:
        """How many tokens were read and written."""
        read = sum(map(len, self.prompts))
        written = sum(len(job.request.new_ids) for job in self.jobs)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    async def batches(self):
        """What comes, several pieces at once when several are there, until all texts have ended."""
        left, first = len(self.jobs), True
        while left:
            batch = [await self.pieces.get()]
            while not self.pieces.empty():
                batch.append(self.pieces.get_nowait())
            left -= sum(bool(piece["finish"]) for piece in batch)
            if first:
                self.service.first_token.observe(time.perf_counter() - self.begun)
                first = False
            yield batch

    def close(self) -> None:
        """Count what was used; and where a client has left, stop writing for it."""
        self.service.count_tokens(self.usage)
        for job in self.jobs:
            self.service.worker.drop(job)


# ---------------------------------------------------------------- the service

class Service:
    """A model, its worker and its figures."""

    def __init__(self, model, tokenizer, name: str, slots: int, waiting: int):
        self.model, self.tokenizer, self.name, self.begun = model, tokenizer, name, int(time.time())
        self.slots, self.waiting, self.worker = slots, waiting, None
        prometheus.disable_created_metrics()
        self.registry = prometheus.CollectorRegistry()
        new = {"registry": self.registry}
        self.requests = prometheus.Counter("chat_requests", "Requests answered", ["path", "status"], **new)
        self.tokens = prometheus.Counter("chat_tokens", "Tokens read and written", ["kind"], **new)
        self.first_token = prometheus.Histogram("chat_first_token_seconds", "From a request to its first token", **new)
        self.seconds = prometheus.Histogram("chat_request_seconds", "From a request to the end of its answer", ["path"], **new)
        prometheus.Gauge("chat_active", "Texts being written", **new).set_function(lambda: len(self.worker.engine.active))
        prometheus.Gauge("chat_waiting", "Texts that wait for a row", **new).set_function(lambda: len(self.worker.engine.waiting))

    def count_tokens(self, usage: dict) -> None:
        """Add to the counters what a request has used."""
        self.tokens.labels("prompt").inc(usage["prompt_tokens"])
        self.tokens.labels("completion").inc(usage.get("completion_tokens", 0))

    def admit(self, n: int) -> None:
        """Refuse n more texts if there is no place for them to wait."""
        places = self.slots + self.waiting
        if n > places:
            raise Refused(400, f"this asks for {n} texts, the server takes {places} at a time; ask for fewer", "n")
        if self.worker.n_open + n > places:
            raise Refused(429, f"{self.worker.n_open} texts are being written or wait; come back in a second", None, "busy",
                          Retry_After="1")

    def sampler_of(self, asked: Writing, prompt: list[int], seed: int | None):
        """The function that chooses ids as asked."""
        bias = {}
        for key, value in (asked.logit_bias or {}).items():
            if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < self.model.config.vocab_size):
                last = self.model.config.vocab_size - 1
                raise Refused(400, f"logit_bias has the key {key!r:.40}; ids are 0 to {last}", "logit_bias")
            bias[int(key)] = value
        given = {"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k, "min_p": asked.min_p,
                 "repetition_penalty": asked.repetition_penalty}
        return sampler(**{name: value for name, value in given.items() if value is not None}, seed=seed, bias=bias, seen=prompt)

    def rows(self, texts: Texts) -> list[list[int]]:
        """The ids of one text or several, given as text or as ids."""
        several = texts if isinstance(texts, list) and not isinstance(texts[0], int) else [texts]
        end = self.tokenizer.eot_token
        return [[end, *self.tokenizer.encode_ordinary(one)] if isinstance(one, str) else one for one in several]

    def pattern_of(self, wanted: ResponseFormat | None) -> str | None:
        """The regular expression that an answer has to match."""
        if wanted is None or wanted.type == "text":
            return None
        schema = (wanted.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise Refused(400, "response_format has no json_schema.schema; give the schema there", "response_format")
        try:
            return json_pattern(schema)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise Refused(400, f"this schema can't be used: {error}", "response_format") from None


# ---------------------------------------------------------------- OpenAI's protocol

class Answer:
    """How a kind of answer looks: whole, or as the chunks of a stream. The subclasses are the two kinds."""

    prefix, whole, chunk = "", "", ""

    def __init__(self, order: Order, name: str):
        self.order, self.head = order, {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}

    def collect(self, pieces: list[dict]) -> dict:
        """The whole answer."""
        choices = []
        for job in self.order.jobs:
            own = [piece for piece in pieces if piece["index"] == job.index]
            text, notes = "".join(piece["text"] for piece in own), [note for piece in own for note in piece["notes"]]
            choices.append(self.choice(job, text, notes) | {"index": job.index, "finish_reason": own[-1]["finish"]})
        return self.head | {"object": self.whole, "choices": choices, "usage": self.order.usage}

    def part(self, piece: dict) -> dict:
        """One chunk."""
        job = self.order.jobs[piece["index"]]
        choice = self.delta(job, piece["text"], piece["notes"])
        choice |= {"index": job.index, "finish_reason": piece["finish"] or None}
        return self.head | {"object": self.chunk, "choices": [choice]}


class ChatAnswer(Answer):
    """chat/completions."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, job: Job, text: str, notes: list[dict]) -> dict:
        """A choice of a whole answer."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": self.logprobs(job, notes)}

    def delta(self, job: Job, text: str, notes: list[dict]) -> dict:
        """A choice of a chunk; the first one says who speaks."""
        who = {} if job.has_role else {"role": "assistant"}
        job.has_role = True
        return {"delta": who | ({"content": text} if text or who else {}), "logprobs": self.logprobs(job, notes)}

    def logprobs(self, job: Job, notes: list[dict]) -> dict | None:
        """What is said of the tokens' probabilities."""
        return None if job.n_top is None else {"content": notes, "refusal": None}


class CompletionAnswer(Answer):
    """completions."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def choice(self, job: Job, text: str, notes: list[dict]) -> dict:
        """A choice, of a whole answer or of a chunk."""
        if job.n_top is None:
            return {"text": text, "logprobs": None}
        offsets, at = [], job.offset
        for note in notes:
            offsets.append(at)
            at += len(note["token"])
        job.offset = at
        best = [{other["token"]: other["logprob"] for other in note["top_logprobs"]} for note in notes]
        return {"text": text, "logprobs": {"tokens": [note["token"] for note in notes], "text_offset": offsets,
                                           "token_logprobs": [note["logprob"] for note in notes], "top_logprobs": best}}

    delta = choice


class EventStream(StreamingResponse):
    """Server-sent events of an order; whatever ends the sending, the order ends with it."""

    def __init__(self, answer: Answer, with_usage: bool):
        self.answer, self.with_usage = answer, with_usage
        super().__init__(self.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answer.order.close()

    async def events(self):
        """A chunk for each piece, those that are there together in one go."""
        order = self.answer.order
        async for batch in order.batches():
            parts = []
            for piece in batch:
                if piece["error"]:
                    refused = failure(piece["error"])
                    yield event(refused.body)
                    return
                if piece["text"] or piece["notes"] or piece["finish"]:
                    parts.append(event(self.answer.part(piece)))
            if parts:
                yield "".join(parts)
        if self.with_usage:
            yield event(self.answer.head | {"object": self.answer.chunk, "choices": [], "usage": order.usage})
        yield "data: [DONE]\n\n"


def event(data: dict) -> str:
    """One server-sent event."""
    return f"data: {JSONResponse(data).body.decode()}\n\n"


@contextmanager
def asking():
    """What is wrong with a request is the client's to mend."""
    try:
        yield
    except ValueError as error:
        raise Refused(400, str(error)) from None


def failure(error: Exception) -> Refused:
    """What a client is told of an error in a text."""
    print(f"a text has failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    if isinstance(error, ValueError):
        return Refused(400, str(error))
    return Refused(500, "the server failed at this text; its own output says why")


async def answered(answer: Answer, request: HTTPRequest, asked: Writing) -> Response:
    """The answer, whole or as a stream. A client that leaves ends it."""
    if asked.stream:
        return EventStream(answer, bool(asked.stream_options and asked.stream_options.include_usage))

    async def everything() -> list[dict]:
        return [piece async for batch in answer.order.batches() for piece in batch]

    async def until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(everything()), asyncio.create_task(until_gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            return Response(status_code=499)                                  # nobody reads this
        pieces = tasks[0].result()
    finally:
        answer.order.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for piece in pieces:
        if piece["error"]:
            raise failure(piece["error"])
    return JSONResponse(answer.collect(pieces))


def protocol(app: FastAPI, service: Service) -> None:
    """The addresses of OpenAI's protocol."""

    @app.post("/v1/chat/completions")
    async def chat_completions(asked: ChatAsked, request: HTTPRequest):
        if asked.top_logprobs and not asked.logprobs:
            raise Refused(400, "top_logprobs needs logprobs to be true", "top_logprobs")
        with asking():
            prompt, pattern = chat_ids(asked.messages, service.tokenizer), service.pattern_of(asked.response_format)
            order = Order(service, asked, [prompt], asked.max_completion_tokens or asked.max_tokens,
                          (asked.top_logprobs or 0) if asked.logprobs else None, pattern)
        return await answered(ChatAnswer(order, service.name), request, asked)

    @app.post("/v1/completions")
    async def completions(asked: CompletionAsked, request: HTTPRequest):
        with asking():
            order = Order(service, asked, service.rows(asked.prompt), asked.max_tokens or 16, asked.logprobs)
        return await answered(CompletionAnswer(order, service.name), request, asked)

    @app.post("/v1/embeddings")
    async def embeddings(asked: EmbeddingsAsked):
        rows = service.rows(asked.input)
        with asking():
            for row in rows:
                check_prompt(row, "the input", service.model.config)
        vectors = (await asyncio.to_thread(embed_texts, service.model, rows)).float()        # (N, C)
        as_text = asked.encoding_format == "base64"
        data = [{"object": "embedding", "index": i,
                 "embedding": base64.b64encode(v.numpy().astype("<f4").tobytes()).decode() if as_text else v.tolist()}
                for i, v in enumerate(vectors)]
        usage = {"prompt_tokens": sum(map(len, rows)), "total_tokens": sum(map(len, rows))}
        service.count_tokens(usage)
        return JSONResponse({"object": "list", "data": data, "model": service.name, "usage": usage})

    card = {"id": service.name, "object": "model", "created": service.begun, "owned_by": "you"}

    @app.get("/v1/models")
    async def models():
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str):
        if name != service.name:
            raise Refused(404, f"there is no model {name!r:.60} here; this server has {service.name!r}", "model", "model_not_found")
        return card


# ---------------------------------------------------------------- around it

class Guard:
    """What stands before the app: who may ask, how much, for how long; and what every answer carries."""

    def __init__(self, app, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, known = time.perf_counter(), {"/", "/health", "/metrics", "/v1/models"} | {
            f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings")}
        path, status = scope["path"] if scope["path"] in known else "other", 499

        async def send_safely(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self.app(scope, await self.checked(scope, receive), send_safely)
        except Refused as refused:
            await JSONResponse(refused.body, refused.status, refused.headers)(scope, receive, send_safely)
        except ConnectionError:
            pass                                                              # the client has gone
        finally:
            self.service.requests.labels(path, str(status)).inc()
            self.service.seconds.labels(path).observe(time.perf_counter() - begun)

    async def checked(self, scope, receive):
        """A `receive` that begins with the whole body. Raises Refused for a stranger's request, or one too large or too slow."""
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        if host.rsplit(":", 1)[0] not in LOCAL:                               # a page elsewhere, whose name leads here
            raise Refused(403, f"this server answers to 127.0.0.1 and localhost, not to {host!r:.60}")
        body, n_bytes, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(MOST_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError("the client left before its request was whole")
                    n_bytes, more = n_bytes + len(message.get("body", b"")), message.get("more_body", False)
                    if n_bytes <= MOST_BYTES:
                        body += message.get("body", b"")
        except TimeoutError:
            sentence = f"the request wasn't whole after {MOST_SECONDS} seconds; send it faster"
            raise Refused(408, sentence, Connection="close") from None
        if n_bytes > MOST_BYTES:                                              # read to its end, since only then a client listens
            raise Refused(413, f"the request has {n_bytes:,} bytes, this server reads {MOST_BYTES:,}; shorten it")
        first = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay():
            return first.pop() if first else await receive()
        return replay


def policy(page: str) -> str:
    """What a browser may do with the page: run its own script and style, known by their hashes, and ask this server."""
    rules = ["default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'",
             "frame-ancestors 'none'"]
    for tag in ("script", "style"):
        own = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0].encode()
        rules.append(f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(own).digest()).decode()}'")
    return "; ".join(rules)


def make_app(service: Service) -> FastAPI:
    """The application. While it runs, a worker writes."""

    @asynccontextmanager
    async def lifespan(app):
        service.worker = Worker(lambda: Engine(service.model, service.slots), asyncio.get_running_loop())
        service.worker.start()
        yield
        service.worker.commands.put(("leave", None))
        await asyncio.to_thread(service.worker.join)

    app = FastAPI(title="From Bytes to Chat", docs_url=None, redoc_url=None, lifespan=lifespan)   # their pages load from elsewhere
    app.add_middleware(Guard, service=service)
    protocol(app, service)
    page = PAGE.read_text(encoding="utf-8")

    @app.get("/")
    async def chat_page():
        headers = {"Content-Security-Policy": policy(page), "Cache-Control": "no-store"}
        return Response(page, media_type="text/html", headers=headers)

    @app.get("/health")
    async def health():
        if not service.worker.is_alive():
            raise Refused(503, "the thread that writes has ended; start the server again")
        return {"status": "ok", "model": service.name, "slots": service.slots, "texts": service.worker.n_open}

    @app.get("/metrics")
    async def metrics():
        return Response(prometheus.generate_latest(service.registry), media_type="text/plain; version=0.0.4")

    @app.exception_handler(Refused)
    async def refuse(request, refused):
        return JSONResponse(refused.body, refused.status, refused.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request, error):
        first = error.errors()[0]
        if first["type"] == "json_invalid" or len(first["loc"]) < 2:
            return await refuse(request, Refused(400, "the body isn't a JSON object, or isn't declared as one; send an object with "
                                                      "Content-Type: application/json"))
        where = str(first["loc"][1])
        return await refuse(request, Refused(400, f"{where:.60}: {first['msg']}", where[:60]))

    @app.exception_handler(HTTPException)
    async def not_here(request, error):
        what = f"{request.method} {request.url.path:.100}: {error.detail}"
        refused = Refused(error.status_code, f"{what}; what there is stands at the top of gpt_serve.py")
        return JSONResponse(refused.body, refused.status, error.headers)
    return app


class Server(uvicorn.Server):
    """Ends with status 0 on Ctrl+C and SIGTERM, when what was being written is finished; a second one ends it at once."""

    @contextmanager
    def capture_signals(self):
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        address = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        print(f"open {address}/ in a browser, or point a program at {address}/v1; Ctrl+C ends it", flush=True)


def at_least(least: int):
    """A whole number, for argparse."""
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)
    return number


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl+C or SIGTERM; returns an exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="tales-chat", metavar="NAME", help="a bundled model, gpt2, or a folder (tales-chat)")
    add("--port", type=at_least(0), default=8000, metavar="N", help="the port to serve on (8000; 0: any that is free)")
    add("--slots", type=at_least(1), default=16, metavar="N", help="how many texts are written at once (16)")
    add("--waiting", type=at_least(0), default=64, metavar="N", help="how many more may wait; what comes then gets 429 (64)")
    add("--int8", action="store_true", help="hold the weights in eight bits")
    options = parser.parse_args(arguments)
    if ROOT:
        sys.path.insert(0, str(ROOT))
        import course

        course.setup()
    in_course = ROOT and not Path(options.model).exists() and (ROOT / options.model).is_dir()
    try:
        model, tokenizer = load_pretrained(ROOT / options.model if in_course else options.model)
    except ValueError as error:
        parser.error(str(error))
    if options.int8:
        model = quantized(model, PackedInt8Linear)
    app = make_app(Service(model, tokenizer, Path(options.model).name, options.slots, options.waiting))
    try:
        listener = socket.create_server(("127.0.0.1", options.port))
    except (OSError, OverflowError) as error:
        parser.error(f"port {options.port} can't be used ({error}); choose another with --port")
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=60)
    Server(config).run([listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
