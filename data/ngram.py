"""A language model that only counts: which token followed the last four, the last three, ... how often?

    model = NGram().fit(text for plan, text in generate_tales(20_000, level="simple"))
    print(model.sample(Random(1)), model.perplexity(held_out_texts))

It is the baseline that a neural language model has to beat: its sentences are sound, and after five words it has forgotten who
the hero is. Long contexts are rare, so each order is mixed with the next shorter one in proportion to how often a new token
turned up after that context (Witten & Bell, 1991); the last in line is the uniform distribution. So every token has a
probability above zero, all of them sum to one, and perplexity is defined on any text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from random import Random

START, END = "<|start|>", "<|endoftext|>"


def split_words(text: str) -> list[str]:
    """Words and marks with the space before them, so that "".join gives the text back."""
    return re.findall(r" ?\w+(?:['’-]\w+)*|\s?[^\w\s]|\s", text)


class NGram:
    """Counts of 1 to `order` tokens with interpolation. `encode` turns a text into tokens, `decode` turns them back."""

    def __init__(self, order: int = 5, encode: Callable[[str], Sequence[Hashable]] = split_words,
                 decode: Callable[[list], str] = "".join):
        if order < 1:
            raise ValueError(f"order is {order}; an n-gram model counts at least 1 token")
        self.order, self.encode, self.decode = order, encode, decode
        self.counts: dict[tuple, dict[Hashable, int]] = {}     # context of 0 to order-1 tokens -> what followed, how often
        self.totals: dict[tuple, int] = {}                     # context -> how often it was followed by anything

    def fit(self, texts: Iterable[str]) -> NGram:
        """Count the texts, each from its start to its end token; may be called again with more."""
        found = [Counter() for _ in range(self.order)]         # runs of 1, 2, ... tokens, and how often they occur
        for text in texts:
            tokens = self._framed(text)
            for length, runs in enumerate(found):              # the tokens to count, each with `length` before it
                part = tokens[self.order - 1 - length:]
                runs.update(zip(*(part[i:] for i in range(length + 1))))
        for runs in found:
            for (*context, token), count in runs.items():
                key = tuple(context)
                followers = self.counts.setdefault(key, {})
                followers[token] = followers.get(token, 0) + count
                self.totals[key] = self.totals.get(key, 0) + count
        if not self.counts:
            raise ValueError("no texts to count; pass at least one")
        return self

    def _framed(self, text: str) -> list:
        return [START] * (self.order - 1) + list(self.encode(text)) + [END]

    @property
    def vocabulary(self) -> list:
        if not self.counts:
            raise ValueError("this model hasn't counted anything yet; call fit first")
        return list(self.counts[()])

    def probability(self, token: Hashable, context: Sequence[Hashable] = ()) -> float:
        """P(token | the last order-1 tokens of `context`); tokens never seen share the place of one."""
        p = 1 / (len(self.vocabulary) + 1)
        context = tuple(context)[max(0, len(context) - self.order + 1):]
        for length in range(len(context) + 1):                 # from the empty context to the longest
            key = context[len(context) - length:]
            followers = self.counts.get(key)
            if followers is None:
                break                                          # what wasn't seen after this won't be after more
            new = len(followers)                               # how often a new token turned up here
            p = (followers.get(token, 0) + new * p) / (self.totals[key] + new)
        return p

    def perplexity(self, texts: Iterable[str]) -> float:
        """exp of the mean surprise per token, end tokens included."""
        surprise = tokens_seen = 0
        for text in texts:
            tokens = self._framed(text)
            for i in range(self.order - 1, len(tokens)):
                surprise -= math.log(self.probability(tokens[i], tokens[i - self.order + 1:i]))
            tokens_seen += len(tokens) - self.order + 1
        if not tokens_seen:
            raise ValueError("no texts to measure; pass at least one")
        return math.exp(surprise / tokens_seen)

    def next_token(self, rng: Random, context: Sequence[Hashable]) -> Hashable:
        """Draw a token: keep to the longest known context as often as the mixture says, else forget its oldest token."""
        context = tuple(context)[max(0, len(context) - self.order + 1):]
        for start in range(len(context) + 1):
            followers, total = self.counts.get(context[start:], {}), self.totals.get(context[start:], 0)
            draw = rng.random() * (total + len(followers))
            if draw < total:
                for token, count in followers.items():
                    draw -= count
                    if draw < 0:
                        return token
        words = self.vocabulary
        return words[int(rng.random() * len(words))]

    def sample(self, rng: Random, max_tokens: int = 400) -> str:
        """A text drawn from the model at temperature 1, up to its end token."""
        tokens: list = [START] * (self.order - 1)
        while len(tokens) < max_tokens + self.order - 1:
            token = self.next_token(rng, tokens)
            if token == END:
                break
            tokens.append(token)
        return self.decode(tokens[self.order - 1:])
