"""Chapter 4 in one file: a GPT-2 from scratch, and a command that lets it write.

    python gpt.py                                                   a small model, random weights, one prompt
    python gpt.py --size gpt2 --prompt "Every effort moves you"     GPT-2's real shape
    python gpt.py --prompt "Once upon a time" "Hello" --seed 7      several prompts of different length at once

The weights are random, so the text is nonsense; chapter 5 trains them. Everything between the two marks is copied from the
notebooks by `python course.py export`; the rest is written here. The file needs torch and tiktoken and nothing else of the course,
except GPT-2's vocabulary, which it finds when it lies inside the course.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

# <generated: GPT2_SIZES, GPTModel, count_parameters, generate, load_tokenizer>
# isort: split
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import regex
import tiktoken
import torch
import torch.nn.functional as F
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


# ch04.ipynb, In [69]
@torch.no_grad()
def generate(model: GPTModel, prompts: Sequence[Sequence[int]], max_new_tokens: int,
             end_id: int | None = None, choose: Callable[[Tensor], Tensor] = greedy) -> list[list[int]]:
    """Continue each prompt by up to `max_new_tokens` ids; returns them with their continuations.

    `choose` turns the next token's logits (B, V) into ids (B,). A row ends after `end_id`, or at its full
    context. Raises ValueError for a prompt that is empty, longer than that, or not of the vocabulary.
    """
    for i, prompt in enumerate(prompts):
        check_prompt(prompt, f"prompt {i}", model.config)
    rows, active, was_training = [list(prompt) for prompt in prompts], range(len(prompts)), model.training
    model.eval()
    for _ in range(max_new_tokens):
        active = [i for i in active if len(rows[i]) < model.config.context_length]
        if not active:
            break
        token_ids, mask = left_pad([rows[i] for i in active], device=model.head.weight.device)   # (B, T) each
        hidden = model.hidden_states(token_ids, None if mask.all() else mask)                    # (B, T, C)
        chosen = choose(model.head(hidden[:, -1])).tolist()                      # (B, C) -> (B, V) -> B ids
        for i, token_id in zip(active, chosen):
            rows[i].append(token_id)
        active = [i for i in active if rows[i][-1] != end_id]
    model.train(was_training)
    return rows


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
# </generated>


VOCABULARY = ("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")   # tiktoken's file names
SMALL = GPTConfig(context_length=128, n_channels=128, n_heads=4, n_layers=4)      # a second's work


def whole(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Let a GPT with random weights continue a prompt: chapter 4's machine, untrained.")
    parser.add_argument("--prompt", nargs="+", metavar="TEXT", default=["Every effort moves you"], help="one or more beginnings")
    parser.add_argument("--size", choices=["small", *GPT2_SIZES], default="small",
                        help="small (4 layers of 128 channels, the default) or a GPT-2, from 124 million to 1.6 billion parameters")
    parser.add_argument("--max-new-tokens", type=whole, default=20, metavar="N", help="how many tokens to add at most (20)")
    parser.add_argument("--tokenizer", default="gpt2", metavar="FOLDER",
                        help="gpt2 (the default), or a folder with a tokenizer that chapter 2 saved")
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="which random weights (0)")
    options = parser.parse_args(arguments)
    options.fail = parser.error
    return options


def find_tokenizer(name_or_folder: str):
    """The tokenizer, without a download. Raises ValueError that says what is missing."""
    if name_or_folder != "gpt2":
        return load_tokenizer(name_or_folder)
    root = next((p for p in Path(__file__).resolve().parents if (p / "course.py").exists()), None)
    if root:
        sys.path.insert(0, str(root))
        import course
        course.setup()                                            # points tiktoken at the vocabulary that the course brings
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR") or ""
    if not folder or not all((Path(folder) / name).exists() for name in VOCABULARY):
        raise ValueError("GPT-2's vocabulary is not at hand: keep gpt.py inside the course, set TIKTOKEN_CACHE_DIR to a folder "
                         "that tiktoken has filled, or pass --tokenizer FOLDER")
    return load_tokenizer("gpt2")


def main(arguments: list[str] | None = None) -> int:
    """Build the model, let it write, say what it took; returns an exit status."""
    options = parse(arguments)
    try:
        tokenizer = find_tokenizer(options.tokenizer)
        prompts = [tokenizer.encode(text) for text in options.prompt]
        config = replace(SMALL if options.size == "small" else GPT2_SIZES[options.size], vocab_size=tokenizer.n_vocab)
        for text, prompt in zip(options.prompt, prompts):
            check_prompt(prompt, f"the prompt {text[:30]!r}", config)
    except (ValueError, OSError) as error:
        options.fail(str(error))
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    torch.manual_seed(options.seed)
    model = GPTModel(config).to(device)
    print(f"{options.size}: {count_parameters(config):,} parameters, random, on {device.type}")
    start = time.perf_counter()
    rows = generate(model, prompts, options.max_new_tokens, end_id=tokenizer.eot_token)
    seconds = time.perf_counter() - start
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")                  # a random token may be no character of this terminal
    for row in rows:
        print("-", tokenizer.decode(row))
    n_new = sum(map(len, rows)) - sum(map(len, prompts))
    print(f"{n_new} tokens in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
