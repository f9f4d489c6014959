"""Chapter 5 in one file: pretrain a GPT, on the course's tales or on text of yours, on one device or on many.

    python gpt_train.py                                      a million parameters on simple tales, about five minutes
    python gpt_train.py --data my-books/ --tokens 20e6       any text files, tokenized once and kept on disk
    python gpt_train.py --out runs/tales --resume            go on where a run was stopped, by Ctrl-C or a power cut
    python gpt_train.py --start models/tales-base --seed 2   carry a finished model on, with new text and a new schedule
    torchrun --nproc-per-node 2 gpt_train.py                 several processes (DDP); --fsdp spreads the model as well

Everything between the two marks is copied from the notebooks by `python course.py export`; the rest is written here.
"""

import argparse
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from filelock import FileLock, Timeout
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

# <generated: autocast_dtype, configure_optimizer, cosine_schedule, count_parameters, evaluate_loss, from_tiktoken,
#   generate_cached, GPTModel, load_checkpoint, load_tokenizer, sample_next, save_checkpoint, text_pieces, TokenBatches,
#   TokenShards, train, write_shards>
# isort: split
import hashlib
import json
import math
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pickle import UnpicklingError

import numpy as np
import regex
import tiktoken
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


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


# ch04.ipynb, In [66]
def left_pad(rows: Sequence[Sequence[int]], device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """Rows of ids as a rectangle (B, T), with 0 on the left, and its mask (B, T), True at real tokens."""
    T = max(len(row) for row in rows)
    token_ids = torch.tensor([[0] * (T - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[False] * (T - len(row)) + [True] * len(row) for row in rows], device=device)
    return token_ids, mask


# ch04.ipynb, In [68]
def greedy(logits: Tensor) -> Tensor:
    """The best-scored token of each row: (B, V) to (B,)."""
    return logits.argmax(dim=-1)


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


# ch05.ipynb, In [19]
@torch.no_grad()
def evaluate_loss(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The mean loss of (inputs, targets) batches of one size, in nats a token, with dropout off."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    losses = [model(inputs.to(device), targets=targets.to(device)) for inputs, targets in batches]
    model.train(was_training)
    if not losses:
        raise ValueError("there is no batch to evaluate; pass at least one")
    return torch.stack(losses).mean().item()


# ch05.ipynb, In [22]
class TokenBatches:
    """Batches (inputs, targets), (B, T) each, of windows over `ids`; `batches[step]` is the one of a step.

    A window begins at each position in `starts` (default: one after another, nothing left out). Every epoch
    visits all of them once, in an order that `seed` and the epoch fix: a run resumed at step 700 needs only
    the number 700 to go on with the same data. Raises ValueError for too little text.
    """

    def __init__(self, ids, context_length: int, batch_size: int, seed: int = 0, starts=None):
        starts = range(0, len(ids), context_length) if starts is None else starts
        self.starts = [start for start in starts if start + context_length < len(ids)]
        self.ids, self.context_length, self.batch_size, self.seed = ids, context_length, batch_size, seed
        self.per_epoch, self.epoch = len(self.starts) // batch_size, -1
        if not self.per_epoch:
            raise ValueError(f"{len(ids)} tokens make {len(self.starts)} windows of {context_length}, but a "
                             f"batch needs {batch_size}; use more text, a shorter context or a smaller batch")

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            g = torch.Generator().manual_seed(self.seed + epoch)
            self.order, self.epoch = torch.randperm(len(self.starts), generator=g), epoch
        chosen = self.order[i * self.batch_size:(i + 1) * self.batch_size].tolist()
        begins = [self.starts[n] for n in chosen]
        windows = np.stack([self.ids[begin:begin + self.context_length + 1] for begin in begins])
        windows = torch.from_numpy(windows.astype(np.int64))                     # (B, T + 1)
        return windows[:, :-1], windows[:, 1:]                                   # (B, T) twice


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


# ch05.ipynb, In [34]
def autocast_dtype(device: str | torch.device) -> torch.dtype:
    """The type in which this device multiplies fast: bfloat16 where it has the arithmetic, else float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        found = torch.cpu.get_capabilities()
        fast = any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


# ch05.ipynb, In [35]
def train(model: nn.Module, batches: TokenBatches, optimizer: torch.optim.Optimizer, n_steps: int,
          schedule: Callable[[int], float], start: int = 0, every: int = 10, accumulate: int = 1,
          clip: float = 1.0, dtype: torch.dtype = torch.float32) -> Iterator[tuple[int, float]]:
    """Train from step `start` to `n_steps`; yields (steps done, mean loss since the last time) every `every`.

    `batches[step]` is cut into `accumulate` parts whose gradients add up. Between two yields nothing is read
    back from the device. Raises FloatingPointError when the loss is no longer a number.
    """
    device, recent = next(model.parameters()).device, []
    model.train()
    for step in range(start, n_steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        inputs, targets = (part.chunk(accumulate) for part in batches[step])     # each a tuple of (B/A, T)
        for x, y in zip(inputs, targets):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(x.to(device), targets=y.to(device)) / len(inputs)
            loss.backward()
            recent.append(loss.detach())
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % every == 0 or step + 1 == n_steps:
            mean = torch.stack(recent).sum().item() * len(inputs) / len(recent)
            if not math.isfinite(mean):
                raise FloatingPointError(f"the loss before step {step + 1} is {mean}; lower the learning "
                                         "rate, lengthen the warm-up, or look for broken data")
            recent.clear()
            yield step + 1, mean
            model.train()


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


# ch05.ipynb, In [77]
class CachedAttention(MultiHeadAttention):
    """`MultiHeadAttention` that remembers: earlier keys and values come from outside and are returned."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None,
                past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, T, C) of T new tokens, the mask (B, S) of all S, and the past (B, H, S - T, D) twice."""
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_heads, C // self.n_heads).transpose(1, 2)  # (B, H, T, D) each
                   for part in self.qkv(x).split(C, dim=-1))                     # (B, T, C) each
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)    # (B, H, S, D)
        S = k.shape[2]
        mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)   # (T, S)
        if padding_mask is not None:
            itself = torch.ones_like(mask).triu(S - T) & mask                    # (T, S)
            mask = (mask & padding_mask[:, None, None, :]) | itself              # (B, 1, T, S)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)          # (B, H, T, D)
        return self.out(mixed.transpose(1, 2).reshape(B, T, C)), (k, v)          # (B, T, C)


# ch05.ipynb, In [79]
Cache = list[tuple[Tensor, Tensor]]                    # keys and values, (B, H, S, D) each, of every layer


# ch05.ipynb, In [80]
class CachedGPTModel(GPTModel):
    """`GPTModel` that reads only new tokens and keeps the rest as keys and values: a key-value cache."""

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        for block in self.blocks:
            block.attention = CachedAttention(config.n_channels, config.n_heads)

    @classmethod
    def sharing(cls, model: GPTModel) -> "CachedGPTModel":
        """The same model with a cache; the weights are shared, not copied."""
        with torch.device("meta"):                                               # takes no memory and no time
            cached = cls(model.config)
        cached.load_state_dict(model.state_dict(), assign=True)
        return cached.eval()

    def read(self, token_ids: Tensor, padding_mask: Tensor,
             cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """The vector (B, C) after the last of the new tokens (B, T), and the cache with them in it.

        The mask (B, S) covers all S tokens, old and new, and is True at real ones.
        """
        T = token_ids.shape[1]
        positions = (padding_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -T:]        # (B, T)
        mask = None if padding_mask.all() else padding_mask
        x, grown = self.embed(token_ids, positions), []                          # (B, T, C)
        for block, past in zip(self.blocks, cache or [None] * len(self.blocks)):
            mixed, kept = block.attention(block.norm1(x), mask, past)
            grown.append(kept)
            x = x + mixed
            x = x + block.feed_forward(block.norm2(x))
        return self.final_norm(x[:, -1]), grown


# ch05.ipynb, In [82]
@torch.no_grad()
def generate_cached(model: GPTModel, prompts: Sequence[Sequence[int]], max_new_tokens: int,
                    end_id: int | None = None, choose: Callable[[Tensor], Tensor] = greedy,
                    repetition_penalty: float = 1.0) -> list[list[int]]:
    """The same rows as chapter 4's `generate`, each token read once; see there for arguments and errors.

    `repetition_penalty` above 1 makes tokens that stand in the row already less likely.
    """
    for i, prompt in enumerate(prompts):
        check_prompt(prompt, f"prompt {i}", model.config)
    cached = CachedGPTModel.sharing(model)
    rows, limit = [list(prompt) for prompt in prompts], model.config.context_length
    active = [i for i, row in enumerate(rows) if len(row) < limit]
    device, cache = cached.head.weight.device, None
    if active and max_new_tokens > 0:
        token_ids, mask = left_pad([rows[i] for i in active], device)            # (B, T) each
    for _ in range(max_new_tokens):
        if not active:
            break
        hidden, cache = cached.read(token_ids, mask, cache)                      # (B, C)
        logits = penalize_repetition(cached.head(hidden), [rows[i] for i in active], repetition_penalty)
        chosen = choose(logits)                                                  # (B, V) -> (B,)
        for i, token_id in zip(active, chosen.tolist()):
            rows[i].append(token_id)
        goes_on = [rows[i][-1] != end_id and len(rows[i]) < limit for i in active]
        active = [i for i, on in zip(active, goes_on) if on]
        token_ids, mask = chosen[:, None], F.pad(mask, (0, 1), value=True)       # (B, 1), (B, S + 1)
        if not all(goes_on):
            keep = torch.tensor(goes_on, device=device)
            token_ids, mask = token_ids[keep], mask[keep]
            cache = [(k[keep], v[keep]) for k, v in cache]
    return rows


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


# ch05.ipynb, In [156]
SEPARATOR = "<|endoftext|>"                            # begins every document, in text and as a token


# ch05.ipynb, In [157]
def text_pieces(path: str | Path, size: int = 2**20) -> Iterator[str]:
    """A document's separator, then the text of the UTF-8 file in pieces of about `size` characters.

    It is cut before white space, which changes no token; only where there is none for long, anywhere.
    Raises ValueError if it can't be read or isn't UTF-8.
    """
    yield SEPARATOR
    rest = ""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            while block := stream.read(size):
                rest += block
                cut = regex.search(r"(?r)(?<=\S)(?=\s)", rest)                   # the last one
                if cut or len(rest) > 16 * size:
                    end = cut.start() if cut else len(rest)
                    yield rest[:end]
                    rest = rest[end:]
    except UnicodeDecodeError as error:
        raise ValueError(f"{Path(path).name} is not UTF-8 ({error.reason}); save it as UTF-8, or leave it "
                         "out") from None
    except OSError as error:
        raise ValueError(f"{str(path)!r} can't be read ({error.strerror}); mend that, or leave it "
                         "out") from None
    yield rest


# ch05.ipynb, In [159]
def write_shards(pieces: Iterable[str], tokenizer: Tokenizer, folder: str | Path,
                 shard_size: int = 2**24) -> None:
    """Tokenize text once, into files `00000.npy`, `00001.npy`, ... of at most `shard_size` ids in a row.

    The ids are of type uint16 (uint32 for more than 65,536 tokens), as `numpy.load` reads them. Only one
    shard is in memory at a time. The folder is written whole or not at all.
    """
    kind = np.uint16 if tokenizer.n_vocab <= 2**16 else np.uint32
    encoding = tokenizer.to_tiktoken() if isinstance(tokenizer, BytePairTokenizer) else tokenizer
    shard, filled, n_shards = np.empty(shard_size, kind), 0, 0
    with whole_folder(folder) as temporary:
        for piece in pieces:
            ids = encoding.encode_to_numpy(piece, allowed_special={SEPARATOR}, disallowed_special=())
            ids = ids.astype(kind)
            while len(ids):
                taken = ids[:shard_size - filled]
                shard[filled:filled + len(taken)], ids = taken, ids[len(taken):]
                filled += len(taken)
                if filled == shard_size:
                    np.save(temporary / f"{n_shards:05d}.npy", shard)
                    filled, n_shards = 0, n_shards + 1
        if filled or not n_shards:
            np.save(temporary / f"{n_shards:05d}.npy", shard[:filled])


# ch05.ipynb, In [160]
class TokenShards:
    """What `write_shards` wrote, as one long row of ids that stays on disk; a slice of it is an array."""

    def __init__(self, folder: str | Path):
        self.shards = [np.load(path, mmap_mode="r") for path in sorted(Path(folder).glob("*.npy"))]
        self.ends = list(accumulate(map(len, self.shards)))                      # where each shard ends
        if not self.ends or not self.ends[-1]:
            raise ValueError(f"{str(folder)!r} holds no tokens; name a folder that write_shards has filled")

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        pieces = []
        for i in range(bisect_right(self.ends, start), len(self.ends)):
            begin = self.ends[i] - len(self.shards[i])
            pieces.append(self.shards[i][max(0, start - begin):max(0, stop - begin)])
            if stop <= self.ends[i]:
                break
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def window_starts(self, end_id: int, context_length: int) -> list[int]:
        """Where windows begin: at every document, and every `context_length` tokens inside a long one."""
        found = [np.flatnonzero(shard == end_id) + end - len(shard)
                 for shard, end in zip(self.shards, self.ends)]
        documents = sorted({0, *np.concatenate(found).tolist()})
        return [start for begin, end in pairwise([*documents, len(self)])
                for start in range(begin, end, context_length)]
# </generated>

ROOT = next((p for p in Path(__file__).resolve().parents if (p / "course.py").exists()), Path.cwd())
sys.path.insert(0, str(ROOT))                                     # for the course's tales and their checker


def whole(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", metavar="PATH", type=Path, help="text files, folders of .txt and .md files (default: tales)")
    add("--level", choices=["simple", "full"], default="simple", help="which tales (simple)")
    add("--tokenizer", metavar="FOLDER", help="gpt2, or a folder with a tokenizer (the course's own, models/tokenizer)")
    add("--start", metavar="FOLDER", help="a trained model to carry on with, in its own shape, instead of random weights")
    add("--tokens", type=positive, default=5e6, metavar="N", help="how many tokens to train on (5e6)")
    add("--layers", type=whole, default=4, metavar="N", help="transformer blocks (4)")
    add("--heads", type=whole, default=4, metavar="N", help="attention heads (4)")
    add("--channels", type=whole, default=128, metavar="N", help="size of a token's vector (128)")
    add("--context", type=whole, default=512, metavar="N", help="the longest text that the model can read, in tokens (512)")
    add("--window", type=whole, default=192, metavar="N", help="tokens in a training window (192)")
    add("--batch", type=whole, default=16, metavar="N", help="windows in a step, over all processes (16)")
    add("--accumulate", type=whole, default=1, metavar="N", help="parts that a step's batch is cut into, to save memory (1)")
    add("--learning-rate", type=positive, default=3e-3, metavar="R", help="at its peak (3e-3)")
    add("--warmup", type=int, default=100, metavar="N", help="steps up to the peak (100)")
    add("--weight-decay", type=float, default=0.1, metavar="R", help="on matrices (0.1)")
    add("--dropout", type=float, default=0.0, metavar="R", help="share of values set to zero in training (0)")
    add("--seed", type=int, default=0, metavar="N", help="of weights and order (0)")
    add("--precision", choices=["auto", "float32", "bfloat16", "float64"], default="auto",
        help="type of the arithmetic (auto: bfloat16 where the device has it)")
    add("--out", type=Path, default=ROOT / "runs" / "tales", metavar="FOLDER", help="where checkpoints go (runs/tales)")
    add("--log-every", type=whole, default=10, metavar="N", help="steps between entries in the curve (10)")
    add("--checkpoint-every", type=whole, default=500, metavar="N", help="steps between checkpoints (500)")
    add("--resume", action="store_true", help="go on from the newest checkpoint in --out, if there is one")
    add("--fsdp", action="store_true", help="under torchrun: spread the model over the processes (FSDP2)")
    options = parser.parse_args(arguments)
    options.resume |= os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"        # torchrun has started us again
    return options


def check_options(options: argparse.Namespace, world: int) -> None:
    """Raise ValueError for options that don't fit each other."""
    if options.batch % (world * options.accumulate):
        raise ValueError(f"--batch {options.batch} can't be shared by {world} processes in {options.accumulate} parts each; "
                         f"choose a multiple of {world * options.accumulate}")
    if options.checkpoint_every % options.log_every:
        raise ValueError(f"--checkpoint-every {options.checkpoint_every} is no multiple of --log-every {options.log_every}; "
                         "make it one, so that a resumed run's curve goes on without a seam")
    if options.window > options.context:
        raise ValueError(f"--window {options.window} is longer than --context {options.context}; lengthen the context")
    if options.fsdp and not dist.is_initialized():
        raise ValueError("--fsdp spreads a model over processes, and there is only one; start this with torchrun")


# ---------------------------------------------------------------- processes and data

def meeting_place() -> dist.Store | None:
    """Where the processes find each other's addresses, under names of its own for every attempt; None leaves it to PyTorch.

    torchrun keeps one store over its restarts, with the addresses of the attempt before still in it, and one that reads those is
    refused (github.com/pytorch/pytorch/issues/135712). Restarts are counted on each machine, so this works on one only.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ["GROUP_WORLD_SIZE"] != "1":
        return None
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def join_processes(options: argparse.Namespace) -> tuple[int, int, torch.device]:
    """This process's number, how many there are, and its device; alone it is process 0 of 1."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if device.type == "mps" and options.precision == "float64":
        device = torch.device("cpu")
    if "RANK" not in os.environ:
        return 0, 1, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=meeting_place(),
                            rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
    return dist.get_rank(), dist.get_world_size(), device


def tokenizer_of(options: argparse.Namespace) -> BytePairTokenizer:
    """The tokenizer that --tokenizer names, or that came with --start. Raises ValueError if there is none."""
    if options.tokenizer != "gpt2":
        return load_tokenizer(options.tokenizer or options.start or ROOT / "models" / "tokenizer")
    if (ROOT / "course.py").exists():
        import course
        course.setup()                                            # points tiktoken at the vocabulary that the course brings
    return from_tiktoken(load_tokenizer("gpt2"))


def files_of(paths: list[Path]) -> list[Path]:
    """The text files that --data means. Raises ValueError for one that isn't there, and for a folder without any."""
    files = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"--data {path} is not there; name text files, or folders that hold .txt or .md files")
        files += [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md") and p.is_file())
    if not files or not any(p.stat().st_size for p in files):
        raise ValueError(f"--data {' '.join(map(str, paths))} holds no text; name .txt or .md files, or folders with some")
    return files


TOKENS_PER_TALE = {"simple": 130, "full": 320}          # roughly


def digest(value) -> str:
    """A hash of anything that JSON can write."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def tales_of(n: int, seed: int, level: str, split: str = "train") -> Iterator[str]:
    """The texts of n of the course's tales, each after the separator."""
    from data.tales import generate_tales
    return (SEPARATOR + text for _, text in generate_tales(n, seed, level, split))


def pieces_of(files: list[Path]) -> Iterator[str]:
    """The text of the files in pieces, with progress in bytes."""
    with tqdm(total=sum(p.stat().st_size for p in files), unit="B", unit_scale=True, desc="tokenizing", disable=None) as bar:
        for path in files:
            for piece in text_pieces(path):
                yield piece
                bar.update(len(piece.encode("utf-8", "replace")))


def shards_of(options: argparse.Namespace, tokenizer: BytePairTokenizer, first: bool) -> TokenShards:
    """The tokens to train on. They are made once, by the first process, and kept beside the run, in shards/."""
    if options.data:
        files = files_of(options.data)
        source, pieces = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files], pieces_of(files)
    else:
        n = int(options.tokens / TOKENS_PER_TALE[options.level]) + 1000
        source = ["tales", options.level, n, options.seed]
        pieces = tqdm(tales_of(n, options.seed, options.level), total=n, desc="telling tales", disable=None)
    folder = options.out.resolve().parent / "shards" / digest([source, digest(tokenizer.merges)])[:16]
    if first:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):               # another run may be making the same ones
            if not folder.exists():
                sweep(folder.parent, folder.name)
                write_shards(pieces, tokenizer, folder)
    if dist.is_initialized():
        dist.barrier()
    return TokenShards(folder)


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what a killed process left of a folder that it didn't finish."""
    for kind in ("tmp", "old"):
        for path in folder.glob(f".{name}.*.{kind}"):
            shutil.rmtree(path, ignore_errors=True)


class Share:
    """Of every batch, the rows that fall to this process."""

    def __init__(self, batches: TokenBatches, rank: int, world: int):
        self.batches, self.rank, self.world = batches, rank, world

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return tuple(part[self.rank::self.world] for part in self.batches[step])


def batches_of(options, tokenizer, rank: int, world: int) -> tuple[Share, dict[str, list]]:
    """The batches to train on, and a few to evaluate on, by name: for tales those of the held-out splits, else the text's end."""
    ids = shards_of(options, tokenizer, rank == 0)
    starts = ids.window_starts(tokenizer.eot_token, options.window)
    if options.data:                                              # its last hundredth, but at least 8 windows, is held out
        starts = [s for s in starts if s + options.window < len(ids)]
        last = starts[-max(8, len(starts) // 100):]
        starts = [s for s in starts if s + options.window < last[0]] if last else []
    train_batches = TokenBatches(ids, options.window, options.batch, options.seed, starts)
    if options.data:
        held_out = {"held-out text": TokenBatches(ids, options.window, min(8, len(last)), starts=last)}
    else:
        held_out = {split: held_out_tales(tokenizer, options, split) for split in ("combinations", "skeletons")}
    return Share(train_batches, rank, world), {name: [b[i] for i in range(min(8, b.per_epoch))] for name, b in held_out.items()}


def held_out_tales(tokenizer: BytePairTokenizer, options, split: str) -> TokenBatches:
    """Windows that begin with a tale that training never sees."""
    text = "".join(tales_of(200, options.seed + 1, options.level, split))
    ids = tokenizer.to_tiktoken().encode(text, allowed_special={SEPARATOR})
    starts = [i for i, token_id in enumerate(ids) if token_id == tokenizer.eot_token]
    return TokenBatches(ids, options.window, 8, starts=starts)


# ---------------------------------------------------------------- a run

class Run:
    """A run in its folder: model, optimizer, curve, and the checkpoints from which it goes on."""

    def __init__(self, options, tokenizer: BytePairTokenizer, rank: int, world: int, device: torch.device):
        self.options, self.tokenizer, self.rank, self.world, self.device = options, tokenizer, rank, world, device
        self.n_steps = max(1, int(options.tokens / (options.batch * options.window)))
        self.dtype = {"auto": autocast_dtype(device), "bfloat16": torch.bfloat16}.get(options.precision, torch.float32)
        self.stored = torch.float64 if options.precision == "float64" else torch.float32
        torch.manual_seed(options.seed)
        model = self.first_model()
        self.config = model.config
        self.model = spread(model.to(device, self.stored), device, options.fsdp)
        self.optimizer = configure_optimizer(self.model, options.learning_rate, options.weight_decay)
        self.start, self.curve = 0, []
        if options.resume and (newest := max(options.out.glob("step-*"), default=None)):
            self.restore(newest)

    def first_model(self) -> GPTModel:
        """The model before the first step: random, or the one that --start names. Raises ValueError if that doesn't fit."""
        o, n_vocab = self.options, self.tokenizer.n_vocab
        if not o.start:
            return GPTModel(GPTConfig(n_vocab, o.context, o.channels, o.heads, o.layers, o.dropout))
        stored, _ = load_checkpoint(o.start)
        if load_tokenizer(o.start).merges != self.tokenizer.merges:
            raise ValueError(f"--start {o.start} was trained with another tokenizer than {o.tokenizer}'s; leave --tokenizer out")
        if o.window > stored.config.context_length:
            raise ValueError(f"--window {o.window} is longer than {o.start}'s context, {stored.config.context_length}; shorten it")
        model = GPTModel(replace(stored.config, dropout=o.dropout))
        model.load_state_dict(stored.state_dict())
        return model

    def settings(self) -> dict:
        """What has to be the same for a run to go on."""
        names = ("level", "start", "tokens", "window", "batch", "learning_rate", "warmup", "weight_decay", "seed", "precision")
        data = [str(p) for p in self.options.data or []]
        return {**{name: getattr(self.options, name) for name in names}, "data": data, "tokenizer": digest(self.tokenizer.merges)}

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint. Raises ValueError if it is damaged, or belongs to a run with other settings."""
        try:
            stored, state = load_checkpoint(folder)
        except ValueError as error:
            raise ValueError(f"{error}; remove that folder, and --resume goes on from the one before") from None
        if state is None:
            raise ValueError(f"{folder} holds a model but no state of training; nothing can go on from there")
        if state["settings"]["tokenizer"] != self.settings()["tokenizer"]:
            raise ValueError(f"{folder} was trained with another tokenizer than {self.options.tokenizer or 'the course'}'s; "
                             f"pass --tokenizer {folder}, or another --out")
        for name, value in self.settings().items():
            if state["settings"].get(name) != value:
                raise ValueError(f"{folder} belongs to a run with {name} {state['settings'].get(name)!r}, not {value!r}; "
                                 "use the same settings, or another --out")
        if stored.config != self.config:
            raise ValueError(f"{folder} holds a model of shape {stored.config}, not {self.config}; use the same, or another --out")
        set_state_dict(self.model, self.optimizer, model_state_dict=stored.state_dict(), optim_state_dict=state["optimizer"],
                       options=StateDictOptions(full_state_dict=True))
        self.start, self.curve = state["step"], state["curve"]
        if len(state["random"]) == self.world:
            torch.set_rng_state(state["random"][self.rank])
            if self.device.type != "cpu" and state.get("device_random"):
                torch.get_device_module(self.device).set_rng_state(state["device_random"][self.rank])
        else:                                                     # another number of processes: fresh dropout, the same data
            torch.manual_seed(self.options.seed + self.start + self.rank)

    def save(self, step: int) -> None:
        """Write a checkpoint, then remove those before the last two."""
        weights, optimizer = get_state_dict(self.model, self.optimizer,
                                            options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        training = {"step": step, "settings": self.settings(), "optimizer": optimizer, "curve": self.curve,
                    "random": gather(torch.get_rng_state())}
        if self.device.type != "cpu":
            training["device_random"] = gather(torch.get_device_module(self.device).get_rng_state())
        if self.rank:
            return
        with torch.device("meta"):
            whole_model = GPTModel(self.config)
        whole_model.load_state_dict(weights, assign=True)
        save_checkpoint(self.options.out / f"step-{step:08d}", whole_model, self.tokenizer, training, self.stored)
        for folder in sorted(self.options.out.glob("step-*"))[:-2]:
            shutil.rmtree(folder)

    def fit(self, batches: Share, held_out: dict[str, list]) -> None:
        """Train to the end, with a checkpoint now and then, each with the losses on what is held out."""
        o = self.options
        bar = tqdm(total=self.n_steps, initial=self.start, unit=" steps", disable=None if self.rank == 0 else True)
        steps = train(self.model, batches, self.optimizer, self.n_steps, self.rate, self.start, o.log_every, o.accumulate,
                      dtype=self.dtype)
        begun = time.perf_counter()
        for step, loss in steps:
            loss = sum(gather(loss)) / self.world
            row = {"step": step, "tokens": step * o.batch * o.window, "loss": loss}
            bar.update(step - bar.n)
            bar.set_postfix_str(f"loss {loss:.3f}")
            self.curve.append(row)
            if step % o.checkpoint_every == 0 or step == self.n_steps:
                row |= {name: evaluate_loss(self.model, batches) for name, batches in held_out.items()}
                losses = {name: value for name, value in row.items() if isinstance(value, float)}
                if not all(map(math.isfinite, losses.values())):  # the weights are broken: they must not become a checkpoint
                    raise FloatingPointError(f"the losses at step {step} are {losses}; lower --learning-rate, or lengthen --warmup")
                speed = (step - self.start) * o.batch * o.window / (time.perf_counter() - begun)
                text = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
                self.say(f"step {step}: {text}; {speed:,.0f} tokens/s")
                self.save(step)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return cosine_schedule(step, self.n_steps, self.options.learning_rate, self.options.warmup)

    def say(self, text: str) -> None:
        """Print, if this is the first process."""
        if self.rank == 0:
            tqdm.write(text)
            sys.stdout.flush()

    def finish(self) -> None:
        """Put the finished model beside its checkpoints; for tales, let the checker read 200 of its own."""
        out = self.options.out
        model, _ = load_checkpoint(max(out.glob("step-*")))
        save_checkpoint(out / "model", model, self.tokenizer)
        write_files(out, {"curve.json": json.dumps(self.curve, indent=0) + "\n"})
        self.say(f"the model is in {out / 'model'}")
        if not self.options.data:
            for skill, share in pass_rates(sample_tales(model, self.tokenizer, 200), self.options.level).items():
                self.say(f"{share:7.1%}  {skill}")


def spread(model: GPTModel, device: torch.device, fsdp: bool) -> torch.nn.Module:
    """The model as torchrun's processes share it: a copy each (DDP), or a part each (FSDP2); alone it stays as it is."""
    if not dist.is_initialized():
        return model
    if not fsdp:
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def gather(value) -> list:
    """The value of every process, in order."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def sample_tales(model: GPTModel, tokenizer: BytePairTokenizer, n: int) -> list[str]:
    """n tales of the model's, from the separator on, at temperature 0.8 and seed 0."""
    g, texts = torch.Generator().manual_seed(0), []
    for _ in range(0, n, 50):
        prompts = [[tokenizer.eot_token]] * 50
        rows = generate_cached(model, prompts, model.config.context_length, tokenizer.eot_token,
                               lambda logits: sample_next(logits, 0.8, generator=g))
        texts += [tokenizer.decode([i for i in row if i != tokenizer.eot_token]) for row in rows]
    return texts[:n]


def pass_rates(texts: list[str], level: str) -> dict[str, float]:
    """The share of texts that keep all of the checker's skills, "all of them", and of those that keep each."""
    from data.read_tale import skills
    found = [skills(text, level) for text in texts]
    return {"all of them": sum(all(f.values()) for f in found) / len(found),
            **{skill: sum(f[skill] for f in found) / len(found) for skill in found[0]}}


def work(options: argparse.Namespace, rank: int, world: int, device: torch.device) -> None:
    """Prepare, train, say what was reached. Raises filelock's Timeout if another run is in the same folder."""
    check_options(options, world)
    tokenizer = tokenizer_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    with FileLock(options.out / ".lock", timeout=0, thread_local=False) if rank == 0 else nullcontext():
        if rank == 0:
            sweep(options.out)
        if not options.resume and any(options.out.glob("step-*")):
            raise ValueError(f"{options.out} holds a run already; pass --resume to go on with it, or another --out")
        batches, held_out = batches_of(options, tokenizer, rank, world)
        run = Run(options, tokenizer, rank, world, device)
        run.say(f"{count_parameters(run.config):,} parameters, {run.n_steps:,} steps, {world} x {device.type}, {run.dtype}")
        run.fit(batches, held_out)
        if rank == 0:
            run.finish()


def main(arguments: list[str] | None = None) -> int:
    """The whole script; returns an exit status."""
    options, rank, world = parse(arguments), 0, 1
    try:
        rank, world, device = join_processes(options)
        work(options, rank, world, device)
        return 0
    except Timeout:
        problem = f"another run is writing to {options.out}; wait for it, or pass another --out"
    except (ValueError, OSError, FloatingPointError) as error:
        problem = str(error)
    except RuntimeError as error:
        if world == 1:
            raise
        problem = f"process {rank} of {world} lost the others ({str(error).splitlines()[0]})"
    except KeyboardInterrupt:
        problem = "stopped; --resume goes on from the last checkpoint"
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    print(f"gpt_train.py: {problem}", file=sys.stderr, flush=True)
    return 2


def leave(status: int) -> None:
    """End this process. One of several leaves without Python's tidying up: caches of FSDP's keep gloo's threads alive after the
    process group is gone, and now and then they abort a run that has finished."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "RANK" in os.environ:
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
