"""Chapter 7 in one file: a model that tells tales learns to answer, and then to answer as annotators prefer.

    python gpt_human_feedback.py --method sft                                  supervised finetuning on instructions
    python gpt_human_feedback.py --method sft --data alpaca.json               your own instructions, in Alpaca's format
    python gpt_human_feedback.py --method reward --start runs/sft              a reward model, from labeled pairs
    python gpt_human_feedback.py --method dpo --start runs/sft                 preferences about the model's own answers
    python gpt_human_feedback.py --method dpo --start runs/sft --data my.jsonl a file with prompt, chosen, rejected
    python gpt_human_feedback.py --method ppo --start runs/sft                 rewards by the model in runs/reward
    python gpt_human_feedback.py --method grpo --start runs/sft --seeds 3      rewards that can be checked, three times

Each stage reads a folder and writes one, and says how well both answer what neither has been trained on; runs/comparison.json
collects what was measured. Everything between the two marks is copied from the notebooks by `python course.py export`; the rest is
written here.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from random import Random

from tqdm import tqdm

# <generated: answer_log_probs, answer_row, answer_text, answers_of, batches_by_length, configure_optimizer,
#   cosine_schedule, dpo_loss, examine, format_prompt, generate_cached, instruction_batch, InstructionBatches,
#   InstructionDataset, load_pretrained, load_reward_model, pair_batches, predict_rewards, PreferenceDataset,
#   RewardModel, right_pad, sample_answers, save_checkpoint, save_reward_model, score_answers, sequence_log_probs,
#   train, train_dpo, train_grpo, train_on, train_ppo, train_reward_model, win_rate, write_files>
# isort: split
import hashlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pickle import UnpicklingError

import numpy as np
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


# ch07.ipynb, In [15]
def answer_row(prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
    """Prompt and answer as (ids, targets), two lists of one length: targets[t] is the id that should follow
    ids[t], or -100 where it isn't part of the answer.
    """
    return (prompt + answer)[:-1], [-100] * (len(prompt) - 1) + answer


# ch07.ipynb, In [17]
class InstructionDataset(Dataset):
    """Records with "instruction", "input" and "output" as rows of `answer_row`, (ids, targets).

    The answer ends with the tokenizer's end token. Raises ValueError for a record that doesn't fit into
    `max_length` tokens.
    """

    def __init__(self, records: Sequence[dict], tokenizer: Tokenizer, max_length: int = 512):
        self.rows = []
        for i, record in enumerate(records):
            prompt = format_prompt(record["instruction"], record["input"], tokenizer)
            answer = [*tokenizer.encode_ordinary(record["output"]), tokenizer.eot_token]
            if len(prompt) + len(answer) - 1 > max_length:
                raise ValueError(f"record {i} has {len(prompt)} + {len(answer)} tokens, at most {max_length} "
                                 "fit; shorten it, or leave it out")
            self.rows.append(answer_row(prompt, answer))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[list[int], list[int]]:
        return self.rows[i]


# ch07.ipynb, In [20]
def instruction_batch(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and targets, (B, T) each, of rows of (ids, targets), padded on the right."""
    token_ids, mask = right_pad([ids for ids, _ in rows])                                # (B, T) each
    targets, _ = right_pad([targets for _, targets in rows])                             # (B, T)
    return token_ids, mask, targets.masked_fill(~mask, -100)


# ch07.ipynb, In [26]
class InstructionBatches:
    """`batches[step]` is (ids, targets), (B, T) each, of rows similar in length; each epoch has its order."""

    def __init__(self, data: InstructionDataset, batch_size: int, seed: int = 0):
        self.data, self.batch_size, self.seed, self.epoch = data, batch_size, seed, -1
        self.per_epoch = -(-len(data) // batch_size)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            g = torch.Generator().manual_seed(self.seed + epoch)
            self.order = batches_by_length([ids for ids, _ in self.data.rows], self.batch_size, g)
            self.epoch = epoch
        token_ids, _, targets = instruction_batch([self.data[i] for i in self.order[i]])
        return token_ids, targets                                                # (B, T) each


# ch07.ipynb, In [29]
def answer_text(ids: Iterable[int], tokenizer: Tokenizer) -> str:
    """What an answer's ids say, without the end token."""
    return tokenizer.decode([i for i in ids if i != tokenizer.eot_token]).strip()


# ch07.ipynb, In [30]
def answers_of(model: GPTModel, tokenizer: Tokenizer, requests: Sequence[dict], max_new_tokens: int = 64,
               batch_size: int = 84) -> list[str]:
    """The model's greedy answers to records with "instruction" and "input"."""
    prompts = [format_prompt(r["instruction"], r["input"], tokenizer) for r in requests]
    answers: list[str] = []
    for i in range(0, len(prompts), batch_size):
        part = prompts[i:i + batch_size]
        rows = generate_cached(model, part, max_new_tokens, tokenizer.eot_token)
        answers += [answer_text(row[len(p):], tokenizer) for row, p in zip(rows, part, strict=True)]
    return answers


# ch07.ipynb, In [56]
def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """The mean of -ln sigmoid(chosen - rejected - margin) over B pairs, in nats (Bradley and Terry, 1952).

    Rewards (B,) twice; a margin, one for all or (B,), is the lead that is asked for (Touvron et al., 2023).
    Raises ValueError for rewards that don't pair up, and FloatingPointError for one that isn't a number.
    """
    if chosen.shape != rejected.shape or not chosen.numel():
        raise ValueError(f"rewards of shape {tuple(chosen.shape)} and {tuple(rejected.shape)}; pass one of a "
                         "chosen and one of a rejected answer for each pair, at least one pair")
    if not (chosen.isfinite().all() and rejected.isfinite().all()):
        raise FloatingPointError("a reward is infinite or not a number; lower the learning rate, or look for "
                                 "broken data")
    return -F.logsigmoid(chosen - rejected - margin).mean()


# ch07.ipynb, In [93]
def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """A fingerprint of a vocabulary: the sha256 of the bytes of every token, in the order of the ids."""
    digest = hashlib.sha256()
    for i in range(tokenizer.n_vocab):
        token = tokenizer.decode_bytes([i])
        digest.update(len(token).to_bytes(4, "big") + token)
    return digest.hexdigest()


# ch07.ipynb, In [95]
class RewardModel(nn.Module):
    """A GPT that gives an answer one number, read at its last token (Stiennon et al., 2020).

    The model is used, not copied. `check_tokenizer` raises ValueError for any vocabulary but its own.
    """

    def __init__(self, gpt: GPTModel, tokenizer: Tokenizer):
        super().__init__()
        self.scorer = SequenceClassifier(gpt, n_classes=1, reads="last", dropout=0.0)
        self.digest = tokenizer_digest(tokenizer)

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """The rewards (B,) of rows (B, T): request, answer and end token, padded on the right."""
        return self.scorer(token_ids, mask)[:, 0]                                        # (B, 1) -> (B,)

    def check_tokenizer(self, digest: str) -> None:
        """Raise ValueError unless this is the `tokenizer_digest` of the tokenizer it was made with."""
        if digest != self.digest:
            raise ValueError("these ids come from another tokenizer than the reward model's own, to which "
                             "they mean other words; encode the texts with the tokenizer that belongs to it")


# ch07.ipynb, In [97]
class PreferenceDataset(Dataset):
    """Records with "prompt", "chosen" and "rejected"; item i is two rows of (ids, targets), chosen one first.

    The rows are InstructionDataset's. Raises ValueError for a record without two different answers, or with
    one that doesn't fit into `max_length` tokens, and for no records.
    """

    def __init__(self, records: Sequence[dict], tokenizer: Tokenizer, max_length: int = 512):
        if not len(records):
            raise ValueError("there are no preferences; pass at least one")
        for i, record in enumerate(records):
            for key in ("prompt", "chosen", "rejected"):
                if not isinstance(text := record.get(key), str) or not text.strip():
                    raise ValueError(f"preference {i} has {text!r} as {key!r}; a pair needs a prompt and two "
                                     "answers, each a text, so complete it or leave it out")
            if record["chosen"].strip() == record["rejected"].strip():
                raise ValueError(f"preference {i}: both answers are {record['chosen'][:40]!r}; leave it out")
        self.chosen, self.rejected = (InstructionDataset(
            [{"instruction": r["prompt"], "input": "", "output": r[side]} for r in records], tokenizer,
            max_length).rows for side in ("chosen", "rejected"))
        self.digest = tokenizer_digest(tokenizer)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> tuple[tuple, tuple]:
        return self.chosen[i], self.rejected[i]

    def whole_rows(self) -> tuple[list[list[int]], list[list[int]]]:
        """Request, answer and end token in one row of ids: all chosen ones, all rejected ones."""
        return tuple([ids + targets[-1:] for ids, targets in rows] for rows in (self.chosen, self.rejected))


# ch07.ipynb, In [99]
def train_on(model: nn.Module, batches: Sequence[list[int]], loss_of: Callable[[list[int]], Tensor],
             learning_rate: float = 1e-3, weight_decay: float = 0.1,
             every: int = 20) -> Iterator[tuple[int, float]]:
    """Train a step on each batch of indices, with `loss_of(batch)` as its loss, in place.

    Yields (steps done, mean loss since the last time) every `every` steps. Raises FloatingPointError for a
    loss that isn't a number.
    """
    optimizer = configure_optimizer(model, learning_rate, weight_decay)
    recent = []
    model.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = cosine_schedule(step, len(batches), learning_rate, n_warmup=len(batches) // 10 + 1)
        loss = loss_of(batch)
        if not loss.isfinite():
            raise FloatingPointError(f"the loss at step {step} is {loss.item()}; lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.detach())
        if (step + 1) % every == 0 or step + 1 == len(batches):
            yield step + 1, torch.stack(recent).mean().item()
            recent.clear()
            model.train()


# ch07.ipynb, In [100]
def pair_batches(data: PreferenceDataset, batch_size: int, n_epochs: int = 1,
                 seed: int = 0) -> list[list[int]]:
    """Which pairs share a batch, for all epochs in a row: neighbors by the length of their longer answer."""
    g = torch.Generator().manual_seed(seed)
    longer = [max(chosen[0], rejected[0], key=len) for chosen, rejected in data]
    return [batch for _ in range(n_epochs) for batch in batches_by_length(longer, batch_size, g)]


# ch07.ipynb, In [101]
def train_reward_model(model: RewardModel, data: PreferenceDataset, n_epochs: int = 1,
                       learning_rate: float = 1e-3, batch_size: int = 16, margin: float = 0.0,
                       seed: int = 0) -> Iterator[tuple[int, float]]:
    """Train on pairs in place; yields (steps, mean loss). Raises ValueError for another tokenizer's ids."""
    model.check_tokenizer(data.digest)
    chosen, rejected = data.whole_rows()
    device = next(model.parameters()).device

    def loss_of(batch: list[int]) -> Tensor:
        rows = [chosen[i] for i in batch] + [rejected[i] for i in batch]
        rewards = model(*right_pad(rows, device))                                        # (2B,)
        return bradley_terry_loss(*rewards.chunk(2), margin)

    yield from train_on(model, pair_batches(data, batch_size, n_epochs, seed), loss_of, learning_rate)


# ch07.ipynb, In [103]
def predict_rewards(model: RewardModel, rows: Sequence[Sequence[int]], batch_size: int = 64) -> Tensor:
    """The rewards (N,) of whole rows of ids. Raises FloatingPointError if one isn't a number."""
    rewards = predict_logits(model.scorer, rows, batch_size)[:, 0]                       # (N, 1) -> (N,)
    if not rewards.isfinite().all():
        raise FloatingPointError(f"the reward of row {rewards.isfinite().int().argmin().item()} is "
                                 "no number; the reward model is broken, so train it again with a lower rate")
    return rewards


# ch07.ipynb, In [114]
def save_reward_model(folder: str | Path, model: RewardModel, tokenizer: Tokenizer) -> None:
    """Write `folder`, whole or not at all: the GPT as chapter 5 saves it, the head in reward.safetensors."""
    model.check_tokenizer(tokenizer_digest(tokenizer))
    head = {name: part.detach().cpu().contiguous() for name, part in model.scorer.head.state_dict().items()}
    with whole_folder(folder) as temporary:
        save_checkpoint(temporary, model.scorer.gpt, tokenizer)
        save_file(head, temporary / "reward.safetensors", metadata={"format": "pt"})


# ch07.ipynb, In [115]
def load_reward_model(folder: str | Path, tokenizer: Tokenizer) -> RewardModel:
    """The reward model in `folder`, for answers encoded by `tokenizer`.

    Raises ValueError if there is none, if it is damaged, or if it was made with another tokenizer.
    """
    path = Path(folder) / "reward.safetensors"
    if not path.is_file():
        raise ValueError(f"there is no reward model in {str(folder)!r} (no {path.name}); train one first")
    model = RewardModel(*load_pretrained(folder))
    model.check_tokenizer(tokenizer_digest(tokenizer))
    try:
        model.scorer.head.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} in {str(folder)!r} can't be used: {error}") from None
    return model.eval()


# ch07.ipynb, In [124]
def dpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor,
             reference_rejected: Tensor, beta: float = 0.1, kind: str = "sigmoid") -> Tensor:
    """Direct preference optimization: the loss of log-probabilities (B,) of whole answers, in nats.

    `kind` is "sigmoid" (Rafailov et al., 2023) or "ipo" (Azar et al., 2023); for a length-normalized loss,
    pass means over the answers' tokens instead of sums. Raises ValueError for a `beta` that isn't positive,
    another kind, numbers that don't pair up and a reference that learns, FloatingPointError for one that is
    no number.
    """
    four = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    if len({t.shape for t in four}) > 1 or not policy_chosen.numel():
        raise ValueError(f"log-probabilities of shapes {[tuple(t.shape) for t in four]}; pass one of each "
                         "kind a pair")
    if not 0 < beta < math.inf:
        raise ValueError(f"beta is {beta}; choose a number above 0, such as 0.1")
    if reference_chosen.requires_grad or reference_rejected.requires_grad:
        raise ValueError("the reference's log-probabilities carry a gradient, so it would be trained as well;"
                         " compute them once, before training, under torch.no_grad()")
    lead = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)   # (B,)
    if not lead.isfinite().all():
        raise FloatingPointError("a log-probability is infinite or not a number; lower the learning rate")
    if kind == "sigmoid":
        return -F.logsigmoid(beta * lead).mean()
    if kind == "ipo":
        return (lead - 1 / (2 * beta)).square().mean()
    raise ValueError(f"kind is {kind!r}; choose 'sigmoid' or 'ipo'")


# ch07.ipynb, In [127]
def answer_log_probs(model: GPTModel, token_ids: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """The log-probability (B, T) that the model gives each token of the answers; 0 where targets are -100."""
    hidden, learned = model.hidden_states(token_ids, mask), targets != -100              # (B, T, C), (B, T)
    logits = model.head(hidden[learned])                                                 # (N, V): of N tokens
    result = hidden.new_zeros(targets.shape)                                             # (B, T)
    result[learned] = -F.cross_entropy(logits, targets[learned], reduction="none")
    return result


# ch07.ipynb, In [128]
@torch.no_grad()
def sequence_log_probs(model: GPTModel, rows: Sequence[tuple[list[int], list[int]]],
                       batch_size: int = 32) -> Tensor:
    """The log-probability (N,), on the CPU, of the whole answer in each row of (ids, targets)."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    sums = torch.empty(len(rows))                                                        # (N,)
    for batch in batches_by_length([ids for ids, _ in rows], batch_size):
        parts = [part.to(device) for part in instruction_batch([rows[i] for i in batch])]        # (B, T) each
        sums[batch] = answer_log_probs(model, *parts).sum(dim=1).cpu()
    model.train(was_training)
    return sums


# ch07.ipynb, In [130]
def sample_answers(model: GPTModel, prompts: Sequence[list[int]], end_id: int, generator: torch.Generator,
                   max_new_tokens: int = 64, temperature: float = 1.0,
                   batch_size: int = 64) -> list[list[int]]:
    """One sampled answer to each prompt, as ids; its end token is the last of them if it came to an end."""
    answers = [None] * len(prompts)
    for batch in batches_by_length(prompts, batch_size):
        rows = generate_cached(model, [prompts[i] for i in batch], max_new_tokens, end_id,
                               partial(sample_next, temperature=temperature, generator=generator))
        for i, row in zip(batch, rows):
            answers[i] = row[len(prompts[i]):]
    return answers


# ch07.ipynb, In [133]
def train_dpo(model: GPTModel, data: PreferenceDataset, reference: tuple[Tensor, Tensor], beta: float = 0.1,
              kind: str = "sigmoid", n_epochs: int = 1, learning_rate: float = 2e-4, batch_size: int = 8,
              seed: int = 0) -> Iterator[tuple[int, float]]:
    """Train a policy on pairs in place; yields (steps done, mean loss).

    `reference` holds the reference's log-probabilities (N,) of the chosen and of the rejected answers.
    """
    device = next(model.parameters()).device

    def loss_of(batch: list[int]) -> Tensor:
        rows = [data.chosen[i] for i in batch] + [data.rejected[i] for i in batch]
        parts = [part.to(device) for part in instruction_batch(rows)]                    # (2B, T) each
        policy = answer_log_probs(model, *parts).sum(dim=1)                              # (2B,)
        return dpo_loss(*policy.chunk(2), *(side[batch].to(device) for side in reference), beta, kind)

    batches = pair_batches(data, batch_size, n_epochs, seed)
    yield from train_on(model, batches, loss_of, learning_rate, weight_decay=0.0)


# ch07.ipynb, In [135]
def win_rate(after: Tensor, before: Tensor) -> tuple[float, float]:
    """How often scores (N,) beat others, ties counted half, and half the width of its 95 % interval."""
    results = (after > before).double() + 0.5 * (after == before).double()               # (N,): 1, 1/2 or 0
    return results.mean().item(), 1.96 * results.std().item() / len(results) ** 0.5


# ch07.ipynb, In [136]
def examine(policy: GPTModel, reference: GPTModel, tokenizer: Tokenizer, requests: Sequence[dict],
            score_of: Callable[[dict, str], float], max_new_tokens: int = 64, temperature: float = 1.0,
            seed: int = 5) -> dict:
    """Sampled answers to records of instructions, and what can be said of them: "ids" and "texts" of the
    answers, "scores" (N,) by `score_of(record, text)`, "kl" in nats an answer, estimated from them,
    "distinct", the share of their word triples that occur only once.
    """
    prompts = [format_prompt(r["instruction"], r["input"], tokenizer) for r in requests]
    g = torch.Generator().manual_seed(seed)
    ids = sample_answers(policy, prompts, tokenizer.eot_token, g, max_new_tokens, temperature)
    rows = [answer_row(prompt, answer) for prompt, answer in zip(prompts, ids, strict=True)]
    kl = (sequence_log_probs(policy, rows) - sequence_log_probs(reference, rows)).mean().item()
    texts = [answer_text(answer, tokenizer) for answer in ids]
    scores = torch.tensor([score_of(r, text) for r, text in zip(requests, texts, strict=True)])
    triples = Counter(three for words in map(str.split, texts) for three in zip(words, words[1:], words[2:]))
    distinct = sum(n == 1 for n in triples.values()) / max(1, triples.total())
    return {"ids": ids, "texts": texts, "scores": scores, "kl": kl, "distinct": distinct}


# ch07.ipynb, In [137]
def score_answers(reward_model: RewardModel, prompts: Sequence[list[int]], answers: Sequence[list[int]],
                  end_id: int, unfinished: float = -3.0) -> Tensor:
    """The rewards (N,) of answers (ids); `unfinished` for one that lacks the end token."""
    rewards = torch.full((len(answers),), unfinished)
    done = [i for i, answer in enumerate(answers) if answer and answer[-1] == end_id]
    if done:
        rewards[done] = predict_rewards(reward_model, [prompts[i] + answers[i] for i in done])
    return rewards


# ch07.ipynb, In [147]
def generalized_advantages(rewards: Tensor, values: Tensor, learned: Tensor,
                           lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (B, T) each, of tokens (Schulman et al., 2016), without discount.

    `rewards` and `values` (B, T) belong to the tokens where `learned` is True, one run of them in a row;
    elsewhere both results are 0. A return is what `values` should have said.
    """
    values, rewards = values * learned, rewards * learned
    advantages, after = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        following = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(after)
        after = (rewards[:, t] + following - values[:, t] + lam * after) * learned[:, t]         # (B,)
        advantages[:, t] = after
    return advantages, (advantages + values) * learned


# ch07.ipynb, In [149]
def clipped_gain(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    """What tokens gain (B, T), with no incentive to leave the ratio 1 ± clip (Schulman et al., 2017)."""
    ratio = (log_probs - old_log_probs).exp()                                            # (B, T)
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


# ch07.ipynb, In [150]
def ppo_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, learned: Tensor,
             clip: float = 0.2) -> Tensor:
    """Minus the mean clipped gain of the tokens where `learned` is True; everything is (B, T), in nats."""
    return -clipped_gain(log_probs, old_log_probs, advantages, clip)[learned].mean()


# ch07.ipynb, In [153]
@dataclass
class Rollouts:
    """Answers that a policy gave, as rows of `answer_row`; all tensors are (B, T)."""

    token_ids: Tensor
    mask: Tensor                                             # True at real tokens
    targets: Tensor                                          # the answer's tokens, -100 elsewhere
    log_probs: Tensor                                        # what the policy gave each of them, else 0
    reference: Tensor                                        # what the reference gives each of them, else 0

    @property
    def learned(self) -> Tensor:
        """True (B, T) where a token of the answer is chosen."""
        return self.targets != -100

    def part(self, i: Tensor) -> "Rollouts":
        """Some of the rows, by their indices."""
        every = (self.token_ids, self.mask, self.targets, self.log_probs, self.reference)
        return Rollouts(*(tensor[i] for tensor in every))


# ch07.ipynb, In [154]
@torch.no_grad()
def roll_out(policy: GPTModel, reference: GPTModel, prompts: Sequence[list[int]],
             answers: Sequence[list[int]]) -> Rollouts:
    """The rollouts of answers (ids) to prompts (ids), just given by the policy."""
    device = next(policy.parameters()).device
    rows = [answer_row(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    parts = [part.to(device) for part in instruction_batch(rows)]                        # (B, T) each
    return Rollouts(*parts, answer_log_probs(policy, *parts), answer_log_probs(reference, *parts))


# ch07.ipynb, In [155]
def token_rewards(rollouts: Rollouts, rewards: Tensor, beta: float) -> Tensor:
    """The rewards (B, T) of single tokens: each pays for its distance, the last gets the answer's (B,)."""
    per_token = -beta * (rollouts.log_probs - rollouts.reference)                        # (B, T)
    last = rollouts.mask.sum(dim=1) - 1                                                  # (B,)
    per_token[torch.arange(len(last)), last] += rewards.to(per_token.device)
    return per_token


# ch07.ipynb, In [156]
def expected_rewards(value_model: RewardModel, token_ids: Tensor, mask: Tensor) -> Tensor:
    """What a value model expects (B, T) after each of the ids (B, T): the reward that is still to come."""
    return value_model.scorer.head(value_model.scorer.gpt.hidden_states(token_ids, mask))[..., 0]


# ch07.ipynb, In [157]
def update_policy(policy: GPTModel, rollouts: Rollouts, loss_of: Callable[[Tensor, Tensor], Tensor],
                  optimizer: torch.optim.Optimizer, n_epochs: int, batch_size: int, kl_limit: float,
                  generator: torch.Generator) -> dict[str, float]:
    """Steps on one round's rollouts: `loss_of(indices, log_probs)` is a batch's loss; in place.

    Stops when a token's probability has moved by more than `kl_limit` nats in the mean. Raises
    FloatingPointError for a loss that isn't a number. Returns the mean loss and the number of steps.
    """
    losses, parameters = [], [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(n_epochs):
        for i in torch.randperm(len(rollouts.mask), generator=generator).split(batch_size):
            part = rollouts.part(i)
            log_probs = answer_log_probs(policy, part.token_ids, part.mask, part.targets)        # (b, T)
            drift = (log_probs.detach() - part.log_probs)[part.learned]
            if losses and (drift.exp() - drift - 1).mean() > kl_limit:
                return {"loss": sum(losses) / len(losses), "steps": len(losses)}
            loss = loss_of(i, log_probs)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()}; lower the learning rate")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
    return {"loss": sum(losses) / len(losses), "steps": len(losses)}


# ch07.ipynb, In [158]
def standardize(reward_model: RewardModel, rewards: Tensor) -> RewardModel:
    """A copy that gives answers with the rewards (N,) new ones, of mean 0 and spread 1."""
    model, spread = copy.deepcopy(reward_model), rewards.std().clamp(min=0.1).item()
    with torch.no_grad():
        model.scorer.head.weight /= spread
        model.scorer.head.bias.copy_((model.scorer.head.bias - rewards.mean().item()) / spread)
    return model


# ch07.ipynb, In [159]
def whiten(values: Tensor, learned: Tensor) -> Tensor:
    """Values (B, T), shifted and scaled to mean 0 and spread 1 where `learned` is True."""
    chosen = values[learned]
    return (values - chosen.mean()) / (chosen.std() + 1e-8)


# ch07.ipynb, In [160]
def train_ppo(policy: GPTModel, reference: GPTModel, reward_model: RewardModel, tokenizer: Tokenizer,
              prompts: Sequence[list[int]], n_rounds: int, per_round: int = 32, beta: float = 0.05,
              lam: float = 0.95, learning_rate: float = 2e-4, n_epochs: int = 1, batch_size: int = 8,
              kl_limit: float = 0.05, max_new_tokens: int = 64, seed: int = 0) -> Iterator[dict[str, float]]:
    """Train a policy in place to please a reward model; yields each round's figures, means over its answers:
    "reward" (of the reference's answers: 0, with spread 1), "kl" from the reference in nats, "value loss",
    "loss", and the number of "steps". Raises ValueError for a reward model of another tokenizer.
    """
    reward_model.check_tokenizer(tokenizer_digest(tokenizer))
    g, end = torch.Generator().manual_seed(seed), tokenizer.eot_token
    usual = sample_answers(reference, prompts[:per_round], end, g, max_new_tokens)
    judged = standardize(reward_model, score_answers(reward_model, prompts[:per_round], usual, end))
    value_model = copy.deepcopy(judged).requires_grad_(True)
    optimizer = configure_optimizer(nn.ModuleList([policy, value_model]), learning_rate, weight_decay=0.0)

    def loss_of(rollouts: Rollouts, advantages: Tensor, returns: Tensor, i: Tensor,
                log_probs: Tensor) -> Tensor:
        part, learned = rollouts.part(i), rollouts.learned[i]
        expected = expected_rewards(value_model, part.token_ids, part.mask)              # (b, T)
        value_loss = (expected - returns[i])[learned].square().mean()
        return ppo_loss(log_probs, part.log_probs, advantages[i], learned) + 0.5 * value_loss

    for turn in range(n_rounds):
        asked = [prompts[i % len(prompts)] for i in range(turn * per_round, (turn + 1) * per_round)]
        answers = sample_answers(policy, asked, end, g, max_new_tokens)
        rewards = score_answers(judged, asked, answers, end)                             # (B,)
        rollouts = roll_out(policy, reference, asked, answers)
        with torch.no_grad():
            values = expected_rewards(value_model, rollouts.token_ids, rollouts.mask)    # (B, T)
        learned, paid = rollouts.learned, token_rewards(rollouts, rewards, beta)         # (B, T) each
        advantages, returns = generalized_advantages(paid, values, learned, lam)
        loss = partial(loss_of, rollouts, whiten(advantages, learned), returns)
        figures = update_policy(policy, rollouts, loss, optimizer, n_epochs, batch_size, kl_limit, g)
        yield {"reward": rewards.mean().item(),
               "kl": (rollouts.log_probs - rollouts.reference).sum(dim=1).mean().item(),
               "value loss": (values - returns)[learned].square().mean().item(), **figures}


# ch07.ipynb, In [165]
def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """The advantages (G, K) of K answers to each of G requests (Shao et al., 2024); rows add up to 0.

    `scale=False` leaves out the division by a group's spread (Liu et al., 2025). ValueError if K is below 2.
    """
    if rewards.shape[1] < 2:
        raise ValueError(f"a group has {rewards.shape[1]} answer; compare at least two")
    centered = rewards - rewards.mean(dim=1, keepdim=True)                               # (G, K)
    return centered / (rewards.std(dim=1, keepdim=True) + 1e-4) if scale else centered


# ch07.ipynb, In [168]
def grpo_loss(log_probs: Tensor, old_log_probs: Tensor, reference: Tensor, advantages: Tensor,
              learned: Tensor, clip: float = 0.2, beta: float = 0.04, per: str = "answer") -> Tensor:
    """Group relative policy optimization (Shao et al., 2024), of answers with advantages (B,).

    All else is (B, T), log-probabilities in nats; `learned` is True at the answers' tokens. Takes the mean
    `per` "answer" and then over answers, or over all tokens at once ("token"). ValueError for another word.
    """
    if per not in ("answer", "token"):
        raise ValueError(f"per is {per!r}; choose 'answer' or 'token'")
    d = reference - log_probs                                                            # (B, T)
    losses = beta * (d.exp() - d - 1) - clipped_gain(log_probs, old_log_probs, advantages[:, None], clip)
    if per == "token":
        return losses[learned].mean()
    return ((losses * learned).sum(dim=1) / learned.sum(dim=1)).mean()


# ch07.ipynb, In [170]
def train_grpo(policy: GPTModel, reference: GPTModel, tokenizer: Tokenizer, records: Sequence[dict],
               reward_of: Callable[[dict, str], float], n_rounds: int, n_groups: int = 8, group_size: int = 8,
               beta: float = 0.04, scale: bool = True, per: str = "answer", learning_rate: float = 3e-4,
               n_epochs: int = 1, batch_size: int = 32, kl_limit: float = 0.05, max_new_tokens: int = 64,
               seed: int = 0) -> Iterator[dict[str, float]]:
    """Train a policy in place on rewards of its own answers to records of instructions.

    `reward_of(record, answer)` is a number; FloatingPointError if it isn't finite. Yields each round's
    figures, means over its answers: "reward", "kl" from the reference in nats, "mixed" (the share of groups
    with different rewards), "loss", and the number of "steps".
    """
    g, end = torch.Generator().manual_seed(seed), tokenizer.eot_token
    optimizer = configure_optimizer(policy, learning_rate, weight_decay=0.0)

    def loss_of(rollouts: Rollouts, advantages: Tensor, i: Tensor, log_probs: Tensor) -> Tensor:
        part = rollouts.part(i)
        return grpo_loss(log_probs, part.log_probs, part.reference, advantages[i].to(log_probs.device),
                         part.learned, beta=beta, per=per)

    for turn in range(n_rounds):
        asked = [records[i % len(records)] for i in range(turn * n_groups, (turn + 1) * n_groups)]
        asked = [record for record in asked for _ in range(group_size)]                  # (G * K)
        prompts = [format_prompt(r["instruction"], r["input"], tokenizer) for r in asked]
        answers = sample_answers(policy, prompts, end, g, max_new_tokens)
        rewards = torch.tensor([reward_of(record, answer_text(answer, tokenizer))
                                for record, answer in zip(asked, answers, strict=True)])
        if not rewards.isfinite().all():
            at = rewards.isfinite().int().argmin().item()
            raise FloatingPointError(f"the reward of {answer_text(answers[at], tokenizer)!r:.60} is "
                                     f"{rewards[at].item()}; mend the function that computes it")
        grouped = rewards.view(n_groups, group_size)                                     # (G, K)
        advantages = group_advantages(grouped, scale).flatten()                          # (B,)
        rollouts = roll_out(policy, reference, prompts, answers)
        figures = update_policy(policy, rollouts, partial(loss_of, rollouts, advantages), optimizer, n_epochs,
                                batch_size, kl_limit, g)
        mixed = grouped.amax(dim=1) > grouped.amin(dim=1)                                # (G,)
        distance = (rollouts.log_probs - rollouts.reference).sum(dim=1).mean()
        yield {"reward": rewards.mean().item(), "kl": distance.item(), "mixed": mixed.float().mean().item(),
               **figures}
# </generated>

ROOT = next((p for p in Path(__file__).resolve().parents if (p / "course.py").exists()), None)
sys.path.insert(0, str(ROOT))                                     # for its data, its models, and GPT-2's vocabulary
LIMIT = {"simple": 72, "full": 360}                               # tokens of an answer
RECORDS = {"sft": 30_000, "reward": 2_000, "dpo": 2_000, "ppo": 640, "grpo": 480}
CONVERSATIONS = 12_000
RATES = {"sft": 2e-3, "reward": 1e-3, "dpo": 1e-4, "ppo": 2e-4, "grpo": 1e-4}
EPOCHS = {"sft": 1, "reward": 1, "dpo": 3, "ppo": 1, "grpo": 1}
BATCHES = {"sft": 8, "reward": 16, "dpo": 32, "ppo": 32, "grpo": 128}
LEASHES = {"dpo": 0.1, "ppo": 0.05, "grpo": 0.04}


def whole(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def shown(defaults: dict) -> str:
    """Each method's default, for the help."""
    return ", ".join(f"{method} {value:,}" for method, value in defaults.items())


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, with the method's defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--method", choices=[*RECORDS], required=True, help="what to do: see above")
    add("--start", default="tales-small", metavar="NAME", help="the model to begin with: a bundled one, gpt2, or a folder")
    add("--data", type=Path, metavar="FILE", help="instructions (sft) or preferences (reward, dpo), .json or .jsonl")
    add("--reward", type=Path, metavar="FOLDER", help="a reward model: ppo learns from it (runs/reward), others report its opinion")
    add("--level", choices=[*LIMIT], default="simple", help="of the tales that are asked about (simple)")
    add("--records", type=whole, metavar="N", help="how many instructions, pairs or requests (" + shown(RECORDS) + ")")
    add("--conversations", type=int, default=CONVERSATIONS, metavar="N", help=f"sft: of several questions each ({CONVERSATIONS:,})")
    add("--epochs", type=whole, metavar="N", help="times through the data (1; dpo 3)")
    add("--batch", type=whole, metavar="N", help="records in a step, or answers in a round (" + shown(BATCHES) + ")")
    add("--learning-rate", type=positive, metavar="R", help="at its peak, a tenth for a large model (" + shown(RATES) + ")")
    add("--beta", type=positive, metavar="R", help="the price of a nat from the start (" + shown(LEASHES) + ")")
    add("--test-records", type=whole, default=120, metavar="N", help="held-out requests that are answered in the end (120)")
    add("--seed", type=int, default=1, metavar="N", help="of the data and of sampling (1)")
    add("--seeds", type=whole, default=1, metavar="N", help="run it N times, with this seed and those after it (1)")
    add("--out", type=Path, metavar="FOLDER", help="where the model goes (runs/ and the method's name)")
    o = parser.parse_args(arguments)
    if not ROOT:
        parser.error("the course's data folder isn't above this file, and its judge is needed; run it in the course's own folder")
    if o.seeds > 1 and o.method in ("sft", "reward"):
        parser.error("--seeds repeats dpo, ppo and grpo; train sft and reward once, or change --seed")
    if o.data and o.method in ("ppo", "grpo"):
        parser.error(f"{o.method} takes no --data: it learns from the model's own answers")
    o.records, o.batch, o.epochs = (given or usual[o.method] for given, usual in (
        (o.records, RECORDS), (o.batch, BATCHES), (o.epochs, EPOCHS)))
    o.beta = o.beta or LEASHES.get(o.method)
    o.out = o.out or ROOT / "runs" / o.method
    if o.method == "ppo":
        o.reward = o.reward or ROOT / "runs" / "reward"
    return o


def requests_of(o: argparse.Namespace, n: int, seed: int, split: str = "train") -> list[dict]:
    """Instructions about tales."""
    from data.instructions import make_instructions
    return list(tqdm(make_instructions(n, seed, o.level, split), total=n, desc="requests", disable=None))


def say(text: str) -> None:
    """Print at once, above a progress bar."""
    tqdm.write(text)
    sys.stdout.flush()


def watch(steps, n_steps: int) -> list[dict]:
    """Follow a training, which yields (step, loss) or a round's figures, to its end; returns them as rows."""
    curve = []
    with tqdm(total=n_steps, desc="training", disable=None) as bar:
        for i, row in enumerate(steps, 1):
            row = row if isinstance(row, dict) else {"step": row[0], "loss": row[1]}
            curve.append({key: round(value, 4) for key, value in ({"step": i} | row).items()})
            bar.update(curve[-1]["step"] - bar.n)
            bar.set_postfix(curve[-1])
    name = "reward" if "reward" in curve[0] else "loss"
    say(f"{n_steps:,} steps; {name} {curve[0][name]:.3f} at first, {curve[-1][name]:.3f} in the end")
    return curve


# ---------------------------------------------------------------- the methods
# each trains in place and returns the curve, and each gets the same, whether it needs the start or a reward model or not

def conversation_row(turns: list[dict], tokenizer) -> tuple[list[int], list[int]]:
    """Ids and targets of a conversation, in which every answer is learned: exercise 7.1."""
    ids, targets = [], []
    for turn in turns:
        prompt = format_prompt(turn["instruction"], turn["input"], tokenizer)
        answer = [*tokenizer.encode_ordinary(turn["output"]), tokenizer.eot_token]
        ids, targets = ids + prompt + answer, targets + [-100] * len(prompt) + answer
    return ids[:-1], targets[1:]


def finetune(o: argparse.Namespace, model, start, tokenizer, reward_model) -> list[dict]:
    """Supervised finetuning on instructions and, unless they come from a file, on conversations about tales."""
    from data.instructions import make_conversations
    from data.records import load_instructions
    limit = model.config.context_length
    data = InstructionDataset(load_instructions(o.data) if o.data else requests_of(o, o.records, o.seed), tokenizer, limit)
    if not o.data and o.conversations:
        made = tqdm(make_conversations(o.conversations, o.seed, o.level), total=o.conversations, desc="conversations", disable=None)
        rows = [conversation_row(record["turns"], tokenizer) for record in made]
        data.rows += [row for row in rows if len(row[0]) <= limit]
    batches = InstructionBatches(data, o.batch, o.seed)
    n_steps = o.epochs * batches.per_epoch
    optimizer = configure_optimizer(model, o.learning_rate)
    return watch(train(model, batches, optimizer, n_steps, lambda step: cosine_schedule(step, n_steps, o.learning_rate, 20),
                       every=min(25, n_steps)), n_steps)


def own_pairs(requests: list[dict], model, tokenizer, limit: int, seed: int) -> list[dict]:
    """Two sampled answers to each request, and what the majority of the simulated annotators chose."""
    from data.preferences import ask_annotators, majority, prompt_of
    prompts = [format_prompt(r["instruction"], r["input"], tokenizer) for r in requests]
    g = torch.Generator().manual_seed(seed)
    first, second = ([answer_text(ids, tokenizer) for ids in sample_answers(model, prompts, tokenizer.eot_token, g, limit)]
                     for _ in range(2))
    pairs = []
    for i, (r, a, b) in enumerate(zip(requests, first, second, strict=True)):
        votes = ask_annotators(r, a, b, Random(f"{seed} {i}")) if a and b and a != b else {}
        if (label := majority(list(votes.values()))) != "tie":
            chosen, rejected = (a, b) if label == "A" else (b, a)
            pairs.append({"prompt": prompt_of(r), "chosen": chosen, "rejected": rejected})
    say(f"{len(pairs):,} pairs with a majority, of {len(requests):,} requests that were answered twice")
    return pairs


def prefer(o: argparse.Namespace, model, start, tokenizer, reward_model) -> list[dict]:
    """Direct preference optimization, on a file of preferences or on the model's own answers."""
    from data.records import load_preferences
    pairs = load_preferences(o.data) if o.data else own_pairs(requests_of(o, o.records, o.seed + 10), start, tokenizer,
                                                              LIMIT[o.level], o.seed)
    data = PreferenceDataset(pairs, tokenizer, model.config.context_length)
    reference = sequence_log_probs(start, data.chosen), sequence_log_probs(start, data.rejected)
    return watch(train_dpo(model, data, reference, o.beta, n_epochs=o.epochs, learning_rate=o.learning_rate, batch_size=o.batch,
                           seed=o.seed), o.epochs * -(-len(data) // o.batch))


def please(o: argparse.Namespace, model, start, tokenizer, reward_model) -> list[dict]:
    """Proximal policy optimization, towards a reward model."""
    requests = requests_of(o, o.records, o.seed + 20)
    Random(o.seed).shuffle(requests)
    prompts = [format_prompt(r["instruction"], r["input"], tokenizer) for r in requests]
    n_rounds = o.epochs * -(-len(prompts) // o.batch)
    return watch(train_ppo(model, start, reward_model, tokenizer, prompts, n_rounds, o.batch, o.beta, learning_rate=o.learning_rate,
                           max_new_tokens=LIMIT[o.level], seed=o.seed), n_rounds)


def check_answers(o: argparse.Namespace, model, start, tokenizer, reward_model) -> list[dict]:
    """Group relative policy optimization, on the part of the judgment that a program can check."""
    from data.instructions import judge
    requests, n_groups = requests_of(o, o.records, o.seed + 20), max(1, o.batch // 8)
    Random(o.seed).shuffle(requests)
    n_rounds = o.epochs * -(-len(requests) // n_groups)
    return watch(train_grpo(model, start, tokenizer, requests, lambda r, text: judge(r, text).visible_score, n_rounds, n_groups,
                            beta=o.beta, learning_rate=o.learning_rate, max_new_tokens=LIMIT[o.level], seed=o.seed), n_rounds)


METHODS = {"sft": finetune, "dpo": prefer, "ppo": please, "grpo": check_answers}


# ---------------------------------------------------------------- measuring

def measure(o: argparse.Namespace, before, after, tokenizer, reward_model, requests: list[dict]) -> dict:
    """How both answer held-out requests: greedily, and drawn; how often the second wins, and how far it has gone."""
    from data.instructions import judge
    limit, result, scores = LIMIT[o.level], {}, {}
    for name, model in (("before", before), ("after", after)):
        seen = examine(model, before, tokenizer, requests, lambda r, text: judge(r, text).score, limit, seed=o.seed + 30)
        greedy = answers_of(model, tokenizer, requests, limit)
        verdicts = [judge(r, text) for r, text in zip(requests, seen["texts"], strict=True)]
        scores[name] = {"drawn": seen["scores"],
                        "greedy": torch.tensor([judge(r, text).score for r, text in zip(requests, greedy, strict=True)])}
        result[name] = {how: round(s.mean().item(), 4) for how, s in scores[name].items()} | {
            "visible": round(sum(v.visible_score for v in verdicts) / len(verdicts), 4),
            "held out": round(sum(v.held_out_score for v in verdicts) / len(verdicts), 4),
            "distinct": round(seen["distinct"], 4), "kl": round(seen["kl"], 3)}
        if reward_model:
            prompts = [format_prompt(r["instruction"], r["input"], tokenizer) for r in requests]
            result[name]["reward"] = round(score_answers(reward_model, prompts, seen["ids"], tokenizer.eot_token).mean().item(), 4)
    for how in ("drawn", "greedy"):
        pair = scores["before"][how], scores["after"][how]
        result[f"wins {how}"], half_width = (round(x, 4) for x in win_rate(pair[1], pair[0]))
        result[f"half width {how}"] = half_width
        spreads = [1.96 * s.std().item() / len(s) ** 0.5 for s in pair]
        say(f"{how:6s} true score before {pair[0].mean():.3f} +- {spreads[0]:.3f}, after {pair[1].mean():.3f} +- {spreads[1]:.3f}; "
            f"wins {result[f'wins {how}']:.3f} +- {half_width:.3f} of the comparisons, ties counted half")
    say(f"visible part {result['before']['visible']:.3f} -> {result['after']['visible']:.3f}, held-out part "
        f"{result['before']['held out']:.3f} -> {result['after']['held out']:.3f}, {result['after']['kl']:.2f} nats an answer")
    return result


def compare(folder: Path, method: str, seed: int, result: dict) -> None:
    """Put a run's results into the comparison beside its folder."""
    path = folder / "comparison.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows.setdefault(method, {})[str(seed)] = result
    write_files(folder, {path.name: json.dumps(rows, indent=1) + "\n"})


# ---------------------------------------------------------------- the whole

def learn_rewards(o: argparse.Namespace, start, tokenizer, device: torch.device) -> None:
    """A reward model from labeled pairs: train, save, measure."""
    from data.preferences import make_preferences
    from data.records import load_preferences
    begun = time.perf_counter()
    pairs = load_preferences(o.data) if o.data else list(tqdm(make_preferences(o.records, o.seed, o.level), total=o.records,
                                                              desc="pairs", disable=None))
    data = PreferenceDataset(pairs, tokenizer, start.config.context_length)
    model = RewardModel(copy.deepcopy(start).requires_grad_(True), tokenizer).to(device)
    n_steps = o.epochs * -(-len(data) // o.batch)
    curve = watch(train_reward_model(model, data, o.epochs, o.learning_rate, o.batch, seed=o.seed), n_steps)
    minutes = (time.perf_counter() - begun) / 60
    save_reward_model(o.out, model, tokenizer)
    write_record(o, curve, minutes, device, {})
    held_out = PreferenceDataset(list(make_preferences(300, o.seed + 1, o.level, "held-out wordings")), tokenizer)
    chosen, rejected = (predict_rewards(model, rows) for rows in held_out.whole_rows())
    say(f"right in {(chosen > rejected).double().mean():.3f} of {len(held_out)} held-out pairs")


def write_record(o: argparse.Namespace, curve: list[dict], minutes: float, device: torch.device, result: dict) -> None:
    """run.json: the settings, what it ran on, the curve, what was measured."""
    settings = {k: v.as_posix() if isinstance(v, Path) else v for k, v in vars(o).items()}
    settings |= {"minutes": round(minutes, 1), "device": device.type, "threads": torch.get_num_threads()}
    write_files(o.out, {"run.json": json.dumps({"settings": settings, "result": result, "curve": curve}, indent=1) + "\n"})
    say(f"{minutes:.1f} minutes; the model is in {o.out}")


def run(o: argparse.Namespace) -> None:
    """One stage: train, save, measure, once for each seed."""
    start, tokenizer = load_pretrained(o.start)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    start = start.to(device).requires_grad_(False).eval()
    n = sum(p.numel() for p in start.parameters())
    o.learning_rate = o.learning_rate or RATES[o.method] / (10 if n > 50e6 else 1)
    say(f"{o.method} of {o.start}: {n:,} parameters, on {device.type}")
    torch.manual_seed(o.seed)
    if o.method == "reward":
        learn_rewards(o, start, tokenizer, device)
        return
    reward_model = load_reward_model(o.reward, tokenizer).to(device) if o.reward else None
    requests = requests_of(o, o.test_records, 2, "held-out wordings")
    for seed in range(o.seed, o.seed + o.seeds):
        out = o.out if o.seeds == 1 else o.out.with_name(f"{o.out.name}-{seed}")
        this = argparse.Namespace(**vars(o) | {"seed": seed, "out": out})
        torch.manual_seed(seed)
        model, begun = copy.deepcopy(start).requires_grad_(True), time.perf_counter()
        curve = METHODS[o.method](this, model, start, tokenizer, reward_model)
        minutes = (time.perf_counter() - begun) / 60
        save_checkpoint(this.out, model, tokenizer)
        result = measure(this, start, model, tokenizer, reward_model, requests) | {"minutes": round(minutes, 1)}
        write_record(this, curve, minutes, device, result)
        compare(o.out.parent, o.method, seed, result)


def main(arguments: list[str] | None = None) -> int:
    """The whole script; returns an exit status."""
    options = parse(arguments)
    import course
    course.setup()                                                # points tiktoken at the vocabulary that the course brings
    try:
        run(options)
        return 0
    except (ValueError, OSError, FloatingPointError) as error:
        problem = str(error)
    except KeyboardInterrupt:
        problem = "stopped; nothing half-written is left behind"
    print(f"gpt_human_feedback.py: {problem}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
