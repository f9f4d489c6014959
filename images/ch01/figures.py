"""The figures of chapter 1."""

import re
from collections import Counter
from pathlib import Path

from images.kit import MUTED, Figure, figure

STORY = Path(__file__).resolve().parents[2] / "data" / "the-lamplighters-ledger.txt"


def words_after(word: str) -> Counter:
    """How often each word follows `word` in the course's short story."""
    words = re.findall(r"[\w'’-]+", STORY.read_text(encoding="utf-8").lower())
    return Counter(after for before, after in zip(words, words[1:], strict=False) if before == word)


@figure("next-word")
def next_word():
    f = Figure(720, 270)
    after = words_after("the")
    common, total = after.most_common(6), sum(after.values())
    f.text(30, 34, f"In our short story “the” stands {total} times. What comes next?", size=16, anchor="start", bold=True)
    f.tokens(40, 120, ["the"], height=40, size=18)
    f.arrow(112, 140, 186, 140)
    labels, values = [w for w, _ in common], [n / total for _, n in common]
    f.bars(210, 210, values, labels, width=52, gap=14, height=120, format="{:.1%}", color="blue")
    rest = len(after) - len(common)
    f.text(664, 160, f"… and\n{rest}\nothers", size=13, color=MUTED)
    f.text(
        30, 250, "A language model is a function from a text to such a list of probabilities.", size=14, anchor="start", color=MUTED
    )
    return f


@figure("one-token-at-a-time")
def one_token_at_a_time():
    f = Figure(720, 300)
    rows = [(["Once", " upon"], " a"), (["Once", " upon", " a"], " time"), (["Once", " upon", " a", " time"], ",")]
    for i, (text, new) in enumerate(rows):
        y = 36 + 84 * i
        left = 316 - sum(len(word) * 15 * 0.61 + 22 for word in text)
        f.tokens(left, y, text, "blue", height=38, size=15)
        f.arrow(330, y + 19, 388, y + 19)
        f.box(392, y - 6, 130, 50, "the model", "orange")
        f.arrow(522, y + 19, 580, y + 19)
        x = f.tokens(586, y, [new], "green", height=38, size=15)[0]
        if i < 2:
            end = 316 - (len(new) * 15 * 0.61 + 22) / 2 - 3
            f.arrow(x, y + 38, x, y + 61, end, y + 61, end, y + 82, color=MUTED, dashed=True)
    f.text(360, 282, "The token that comes out is appended to what goes in, and the model is asked again.", size=14, color=MUTED)
    return f


@figure("stages")
def stages():
    f = Figure(760, 330)
    columns = [
        ("Pretraining", "orange", "tales, any tales", "continues\na text", "what language is like"),
        ("Finetuning", "blue", "questions\nwith good answers", "answers\na request", "what is wanted of it"),
        ("Human feedback", "green", "which of two answers\npeople prefer", "answers\nas people like it", "what people value"),
    ]
    for i, (name, color, data, does, learns) in enumerate(columns):
        x = 20 + 250 * i
        f.text(x + 110, 28, f"{i + 1}  {name}", size=17, bold=True)
        f.box(x + 20, 52, 180, 56, data, "gray", size=14)
        f.arrow(x + 110, 108, x + 110, 142, label="")
        f.text(x + 122, 125, "teaches", size=12, anchor="start", color=MUTED)
        f.box(x, 144, 220, 78, "the same model:\n" + does.replace("\n", " "), color, size=14)
        if i < 2:
            f.arrow(x + 220, 183, x + 248, 183)
        f.text(x + 110, 250, "It learns", size=13, color=MUTED)
        f.text(x + 110, 272, learns, size=14)
    f.text(
        380, 312, "One set of weights passes through all three stages; only the text it learns from changes.", size=14, color=MUTED
    )
    return f


@figure("inside")
def inside():
    f = Figure(760, 250)
    steps = [
        ("bytes", "what a file holds", "gray", "2"),
        ("tokens", "pieces of words,\neach with a number", "blue", "2"),
        ("vectors", "a list of numbers\nfor each token", "blue", "2"),
        ("attention", "every token looks\nback at the others", "orange", "3"),
        ("blocks", "attention and\narithmetic, stacked", "orange", "4"),
        ("probabilities", "one for every\ntoken there is", "green", "4"),
    ]
    for i, (name, text, color, where) in enumerate(steps):
        x = 16 + 124 * i
        f.box(x, 60, 106, 50, name, color, bold=True, size=13)
        f.text(x + 53, 142, text, size=11.5)
        f.text(x + 53, 186, f"chapter {where}", size=12, color=MUTED)
        if i < 5:
            f.arrow(x + 106, 85, x + 123, 85, width=1.6)
    f.text(20, 30, "The way of a text through the model", size=16, bold=True, anchor="start")
    f.text(
        20,
        226,
        "Chapter 5 turns the knobs inside until the probabilities fit real text. Nothing else is learning.",
        size=13.5,
        anchor="start",
        color=MUTED,
    )
    return f
