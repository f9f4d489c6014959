"""Let a pretrained GPT write: one of the course's own, OpenAI's GPT-2, or any folder with a checkpoint.

    python gpt_generate.py                                                 a tale, from its first word
    python gpt_generate.py --prompt "Once upon a time" "The old lamp"      one continuation each
    python gpt_generate.py --model gpt2 --top-p 0.9 --max-new-tokens 50    downloads GPT-2 the first time (0.5 GB)
    python gpt_generate.py --model runs/tales/model --samples 3            a model that gpt_train.py made

Every prompt is read after the separator `<|endoftext|>`, as in training, and may hold special tokens. The text appears as it is
written. Everything between the two marks is copied from the notebooks by `python course.py export`; the rest is written here.
"""

import argparse
import codecs
import sys
import time
from functools import partial
from pathlib import Path

# <generated: check_prompt, generate_cached, load_pretrained, sample_next>
# isort: split
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
# </generated>


ROOT = next((p for p in Path(__file__).resolve().parents if (p / "course.py").exists()), None)
if ROOT:
    sys.path.insert(0, str(ROOT))                                 # for its models, and GPT-2's vocabulary


def whole(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="tales-base", metavar="NAME",
        help=f"{', '.join(BUNDLED)}, {', '.join(GPT2_SIZES)}, or a folder (tales-base)")
    add("--prompt", nargs="+", metavar="TEXT", default=[""], help="one or more beginnings (an empty one)")
    add("--samples", type=whole, default=1, metavar="N", help="how many continuations of each (1)")
    add("--max-new-tokens", type=whole, default=300, metavar="N", help="how many tokens to add at most (300)")
    add("--temperature", type=float, default=0.8, metavar="R", help="0 takes the likeliest token, 1 draws as the model says (0.8)")
    add("--top-k", type=whole, metavar="N", help="draw from the N likeliest tokens only")
    add("--top-p", type=float, default=1.0, metavar="R", help="draw from the fewest tokens that together have this probability (1)")
    add("--min-p", type=float, default=0.0, metavar="R", help="leave out tokens below this share of the likeliest one's (0)")
    add("--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1: makes tokens that were there less likely (1)")
    add("--seed", type=int, default=0, metavar="N", help="of the random draws (0)")
    options = parser.parse_args(arguments)
    if not 0 < options.repetition_penalty < float("inf"):
        parser.error(f"--repetition-penalty {options.repetition_penalty} must be above 0; 1 changes nothing")
    return options


class Stream:
    """Prints the text of one token after another, a character only when all of its bytes are there."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.decoder = tokenizer, codecs.getincrementaldecoder("utf-8")(errors="replace")

    def show(self, ids: list[int], last: bool = False) -> None:
        """Print these tokens, without the separator."""
        data = self.tokenizer.decode_bytes([i for i in ids if i != self.tokenizer.eot_token])
        print(self.decoder.decode(data, last), end="", flush=True)


def write(model: GPTModel, tokenizer: Tokenizer, prompt: list[int], options: argparse.Namespace, choose) -> int:
    """Continue a prompt before the reader's eyes; returns how many tokens are new."""
    stream = Stream(tokenizer)
    stream.show(prompt)

    def choose_and_show(logits: Tensor) -> Tensor:
        chosen = choose(logits)                                   # (1, V) -> (1,)
        stream.show(chosen.tolist())
        return chosen

    row, = generate_cached(model, [prompt], options.max_new_tokens, tokenizer.eot_token, choose_and_show,
                           options.repetition_penalty)
    stream.show([], last=True)
    print(flush=True)
    return len(row) - len(prompt)


def prepare(options: argparse.Namespace):
    """Model, tokenizer, prompts, and the way to choose. Raises ValueError for what doesn't fit."""
    if ROOT:
        import course
        course.setup()                                            # points tiktoken at the vocabulary that the course brings
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    choose = partial(sample_next, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p)
    choose(torch.zeros(1, 2))                                     # refuses what it can't do before the model is loaded
    choose = partial(choose, generator=torch.Generator(device).manual_seed(options.seed))
    model, tokenizer = load_pretrained(options.model)
    prompts = [[tokenizer.eot_token, *tokenizer.encode(text, allowed_special="all")] for text in options.prompt]
    for text, prompt in zip(options.prompt, prompts):
        check_prompt(prompt, f"the prompt {text[:30]!r}", model.config)
    return model.to(device), tokenizer, prompts, choose


def main(arguments: list[str] | None = None) -> int:
    """The whole script; returns an exit status."""
    options = parse(arguments)
    try:
        model, tokenizer, prompts, choose = prepare(options)
    except (ValueError, OSError) as error:
        print(f"gpt_generate.py: {error}", file=sys.stderr)
        return 2
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")                  # a terminal may lack some of a model's characters
    start, n_new = time.perf_counter(), 0
    try:
        for i, prompt in enumerate(prompt for prompt in prompts for _ in range(options.samples)):
            print("\n" if i else "", end="")
            n_new += write(model, tokenizer, prompt, options, choose)
    except KeyboardInterrupt:
        print()
        return 130
    print(f"{n_new} tokens, {n_new / (time.perf_counter() - start):.0f} a second", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
