"""The figures of chapter 6. `python course.py figures` draws them again."""

import math
from random import Random

from images.kit import COLORS, INK, MUTED, Figure, figure, number

# ---------------------------------------------------------------- the chapter, 6.1 to 6.4


@figure("overview")
def overview():
    f = Figure(760, 470)
    f.box(30, 26, 330, 46, '"You have 1 new voicemail. Listen: vmail.test/x9"', color="white", size=11.5)
    f.arrow(195, 72, 195, 100, label="")
    f.tokens(30, 104, ["<|end|>", "You", "have", "1", "...", "/x9", "<|end|>"],
             ["yellow", "white", "white", "white", "white", "white", "yellow"], size=10, gap=4, height=28)
    f.arrow(195, 134, 195, 160)
    f.box(30, 164, 330, 76, "", color="blue")
    f.text(195, 192, "the model of chapter 5", bold=True)
    f.text(195, 216, "four blocks, trained on tales", size=13)
    f.text(30, 264, "one vector for each token; the last real one is read", size=11.5, color=MUTED, anchor="start")
    f.arrow(347, 240, 347, 282, 410, 282, 410, 202, 440, 202, color=COLORS["green"][1], width=2.4)
    f.box(444, 40, 120, 76, "", color="gray", dashed=True)
    f.text(504, 64, "old head", size=13, color=MUTED)
    f.text(504, 88, "2,048 tokens", size=12, color=MUTED)
    f.line(452, 48, 556, 108, color="red", width=2.4)
    f.line(452, 108, 556, 48, color="red", width=2.4)
    f.box(444, 164, 120, 76, "new head", color="green", bold=True)
    f.text(504, 222, "2 classes", size=12)
    f.arrow(564, 202, 596, 202)
    f.box(600, 164, 130, 76, "P(spam)\n0.97", color="purple", size=14)
    f.arrow(665, 240, 665, 276, label="")
    f.text(610, 258, "threshold", size=12, color=MUTED)
    f.box(615, 280, 100, 40, "spam", color="orange", bold=True)
    f.line(30, 348, 730, 348, color=MUTED, width=1.2, dashed=True)
    questions = ["better than\ncounting words?", "does it mean the\nprobability it states?", "what did\npretraining add?",
                 "which tokens\nmoved it?", "what\nfools it?"]
    for i, question in enumerate(questions):
        f.box(30 + i * 142, 368, 132, 72, question, color="sky", size=12)
    return f


@figure("split")
def split():
    f = Figure(760, 372)
    rng = Random(6)
    order = list(range(40))
    rng.shuffle(order)
    shuffled, hashed = ("shuffle and cut", "28, 4 and 8 of the 40 copies"), ("split by a hash of the key", "all 40 in one part")
    for y, (title, rule) in ((24, shuffled), (206, hashed)):
        f.text(30, y, title, bold=True, anchor="start")
        f.text(30, y + 22, rule, size=13, color=MUTED, anchor="start")
        f.box(30, y + 44, 172, 62, "WIN £500 now! ...\nWIN £501 now! ...\nWIN £502 now! ...", color="white", size=11.5, mono=True)
    for x, w, name, n in ((420, 170, "train", 28), (598, 56, "val.", 4), (662, 70, "test", 8)):
        f.box(x, 52, w, 92, color="white")
        f.text(x + w / 2, 36, name, size=13)
        f.box(x, 236, w, 92, color="white")
        f.text(x + w / 2, 220, name, size=13)
        columns = 7 if n > 10 else 2
        for i in range(n):
            f.circle(x + 22 + (i % columns) * 21, 68 + (i // columns) * 20, 6, color="red")
    for i in range(40):
        f.circle(672 + (i % 5) * 12.6, 244 + (i // 5) * 11, 4.4, color="red")
    f.arrow(206, 98, 412, 98, label="by chance")
    f.arrow(206, 282, 252, 282)
    f.box(256, 258, 100, 48, "win 0 now\n...", color="yellow", size=12, mono=True)
    f.text(306, 322, "one key", size=12, color=MUTED)
    f.arrow(356, 282, 412, 282, label="hash")
    f.text(576, 160, "the model is judged by what it has learned by heart", size=12.5, color=COLORS["red"][1])
    f.text(576, 346, "it has never seen what it is judged by", size=12.5, color=COLORS["green"][1])
    return f


@figure("right-padding")
def right_padding():
    f = Figure(760, 236)
    end = "<|end|>"
    rows = (["k"], ["are", "you", "home"], ["are", "you", "home", "y", "et", "?"])
    f.text(278, 22, "token ids", bold=True)
    f.text(640, 22, "mask", bold=True)
    for i, words in enumerate(rows):
        y, row = 44 + i * 58, [end, *words, end]
        for j in range(8):
            x = 24 + j * 64
            if j < len(row):
                last = j == len(row) - 1
                f.box(x, y, 58, 38, row[j], color="green" if last else "yellow" if row[j] == end else "blue", size=12, mono=True,
                      radius=4, edge=3.4 if last else 1.4)
            else:
                f.box(x, y, 58, 38, "0", color="gray", size=12, mono=True, radius=4, dashed=True)
        f.grid(556, y + 6, [[1 if j < len(row) else 0 for j in range(8)]], cell=22, height=26, shade=None,
               colors=[["blue" if j < len(row) else "gray" for j in range(8)]], size=12)
    f.text(278, 220, "thick edge: the last real token, the one that will be read", size=13, color=MUTED)
    return f


@figure("by-length")
def by_length():
    f = Figure(760, 256)
    rng = Random(3)
    mixed = [9, 42, 21, 60, 33, 14, 52, 27]
    alike = [37, 39, 40, 40, 42, 43, 44, 46]
    rng.shuffle(alike)
    for x, lengths, title in ((40, mixed, "as they come"), (420, alike, "neighbors in length")):
        widest = max(lengths)
        f.text(x + 150, 24, title, bold=True)
        for i, n in enumerate(lengths):
            f.box(x, 44 + i * 22, n * 5, 18, color="blue", radius=1, edge=1)
            if n < widest:
                f.box(x + n * 5, 44 + i * 22, (widest - n) * 5, 18, color="gray", radius=1, edge=1, dashed=True)
        share = 1 - sum(lengths) / (widest * len(lengths))
        f.text(x + 150, 236, f"{share:.0%} padding", size=14, color=MUTED)
    return f


@figure("head-swapped")
def head_swapped():
    f = Figure(760, 380)
    for x, title in ((40, "chapter 5: which token comes next?"), (420, "chapter 6: ham or spam?")):
        f.text(x + 150, 24, title, bold=True, size=14)
        words = ["<|end|>", "WIN", "now", "<|end|>"]
        for j, word in enumerate(words):
            f.box(x + j * 76, 330, 70, 32, word, color="yellow" if "<" in word else "white", size=12, mono=True, radius=4)
            f.arrow(x + 35 + j * 76, 328, x + 35 + j * 76, 296)
            f.arrow(x + 35 + j * 76, 230, x + 35 + j * 76, 208)
            f.box(x + 14 + j * 76, 180, 42, 26, color="purple", radius=3)
        f.box(x, 232, 298, 62, "four blocks", color="blue", bold=True)
    f.text(380, 193, "vectors,\n128 numbers", size=11.5, color=MUTED)
    for j in range(4):
        f.arrow(75 + j * 76, 178, 75 + j * 76, 146)
    f.box(40, 92, 298, 52, "head 128 × 2,048", color="orange", bold=True)
    f.text(189, 66, "2,048 logits over each token", size=13, color=MUTED)
    f.arrow(683, 178, 683, 146, color=COLORS["green"][1], width=2.6)
    f.box(636, 92, 94, 52, "head\n128 × 2", color="green", bold=True, size=13)
    f.text(683, 66, "2 logits", size=13, color=MUTED)
    f.box(420, 92, 200, 52, "", color="none", dashed=True)
    f.text(520, 118, "read by nobody", size=12.5, color=MUTED, italic=True)
    return f


@figure("who-has-seen")
def who_has_seen():
    f = Figure(760, 270)
    words = ["<|end|>", "WIN", "cash", "now", "!", "<|end|>", "0"]
    seen = [0, 1, 2, 3, 4, 4, None]
    f.text(20, 26, "how much of the message has each vector seen?", bold=True, anchor="start", size=14)
    for j, (word, n) in enumerate(zip(words, seen, strict=True)):
        x = 30 + j * 102
        color = "gray" if n is None else "green" if j == 5 else "yellow" if j == 0 else "blue"
        f.box(x, 182, 88, 36, word, color=color, mono=True, size=14, radius=4, dashed=n is None, edge=3.4 if j == 5 else 1.6)
        if n is None:
            f.line(x + 14, 74, x + 74, 166, color="red", width=3)
            f.line(x + 14, 166, x + 74, 74, color="red", width=3)
            continue
        for k in range(4):
            word, color = (words[k + 1], "blue") if k < n else ("", "white")
            f.box(x + 20, 150 - k * 26, 48, 22, word, color=color, mono=True, size=11, radius=2, edge=1, dashed=k >= n)
    for j, note in ((0, '"first":\nnothing'), (5, '"last" real one:\nall of it'), (6, "position -1:\nno message")):
        f.text(74 + j * 102, 242, note, size=12, color=MUTED)
    return f


@figure("early-stopping")
def early_stopping():
    f = Figure(760, 320)
    x0, y0, step = 80, 262, 92
    f.line(x0 - 20, y0, x0 + 6.6 * step, y0, width=1.4)
    f.line(x0 - 20, y0, x0 - 20, 34, width=1.4)
    f.text(x0 - 44, 148, "loss", size=13, color=MUTED)
    for e in range(1, 7):
        f.text(x0 + (e - 0.5) * step, y0 + 18, str(e), size=13, color=INK if e < 6 else MUTED)
    f.text(x0 + 3 * step, y0 + 42, "epoch", size=13, color=MUTED)

    def curve(values, **style):
        f.line(*(c for e, v in values for c in (x0 + (e - 0.5) * step, y0 - v * 230)), **style)

    training = [(e, 0.84 * math.exp(-0.42 * (e - 1))) for e in range(1, 7)]
    held_out = [(1, 0.86), (2, 0.62), (3, 0.47), (4, 0.53), (5, 0.64), (6, 0.79)]
    curve(training[:5], color="blue", width=3)
    curve(training[4:], color=MUTED, width=2, dashed=True)
    curve(held_out[:5], color="orange", width=3)
    curve(held_out[4:], color=MUTED, width=2, dashed=True)
    for e, v in held_out[:5]:
        f.circle(x0 + (e - 0.5) * step, y0 - v * 230, 6, color="orange")
    for e, v in training[:5]:
        f.box(x0 + (e - 0.5) * step - 5, y0 - v * 230 - 5, 10, 10, color="blue", radius=0)
    f.text(x0 + 3.6 * step, y0 - 0.72 * 230, "validation", size=14, color="orange", bold=True)
    f.text(x0 + 1.35 * step, y0 - 0.42 * 230, "training", size=14, color="blue", bold=True)
    flag = x0 + 2.5 * step
    f.line(flag, y0 - 0.47 * 230 - 8, flag, 44, color="green", width=2.4)
    f.box(flag, 34, 150, 32, "these are kept", color="green", size=13, bold=True, radius=2)
    f.line(x0 + 4.75 * step, y0, x0 + 4.75 * step, 74, color="red", width=2, dashed=True)
    f.text(x0 + 4.8 * step, 60, "patience 2 is used up: stop", size=13, color="red", anchor="start")
    f.brace(flag + 0.75 * step, flag + 2.08 * step, 154, "two epochs, none lower", size=12)
    return f


# ---------------------------------------------------------------- 6.8 to 6.10: pretraining, freezing, LoRA


def pieces(f: Figure, x: float, y: float, texts: list[tuple[str, str, float]], height: float = 40) -> None:
    """A tale as a row of pieces: (text, color, width) each."""
    for text, color, width in texts:
        f.box(x, y, width, height, text, color=color, size=11.5, radius=4, edge=1.2)
        x += width + 4


@figure("twin-tales")
def twin_tales():
    f = Figure(760, 412)
    bad = ("a horse stepped on the hat,\nand Anna cried", "red", 196)
    lost = ("a crow took the balloon,\nand Milo was sad", "red", 172)
    good = ("it was as good as new,\nand Anna laughed", "green", 196)
    found = ("a girl brought the balloon,\nand Milo danced", "green", 180)
    then, later = ("then", "gray", 50), ("later", "gray", 50)
    sleep, wake = ("Milo dreamed", "gray", 92), ("he woke, and", "gray", 92)
    said, turned = ("the teacher said that it", "gray", 156), ("it turned out that she was", "gray", 176)
    rows = {
        "in turn": ([then, bad, later, good], [then, good, later, bad]),
        "dream": ([sleep, lost, wake, found], [sleep, found, wake, lost]),
        "verdict": ([said, ("would never\ncome back", "red", 106), turned, ("wrong", "red", 70)],
                    [said, ("would never\ncome back", "red", 106), turned, ("right", "green", 70)]),
    }
    for i, (way, twins) in enumerate(rows.items()):
        y = 26 + i * 126
        f.text(20, y + 42, way, bold=True, anchor="start")
        for j, (label, twin) in enumerate(zip(("happy", "sad"), twins)):
            pieces(f, 104, y + j * 46, twin)
            f.arrow(652, y + j * 46 + 20, 682, y + j * 46 + 20, width=1.4)
            f.text(690, y + j * 46 + 20, label, size=14, anchor="start")
        if i < 2:
            f.line(20, y + 108, 740, y + 108, color=MUTED, width=0.8, dashed=True)
    f.text(380, 394, "green: good luck, red: bad luck; twins hold the same pieces in another order, or differ in one word",
           size=12.5, color=MUTED)
    return f


@figure("freeze")
def freeze():
    f = Figure(760, 446)
    regimes = {"head only": ["head"], "last block": ["head", "norm", "block 4"],
               "LoRA": ["head"], "everything": ["head", "norm", "block 4", "block 3", "block 2", "block 1", "embeddings"]}
    numbers = {"head only": "258", "last block": "198,786", "LoRA": "65,794 at rank 8", "everything": "1,121,282"}
    parts = [("head", 30), ("norm", 22), ("block 4", 40), ("block 3", 40), ("block 2", 40), ("block 1", 40), ("embeddings", 34)]
    for i, (regime, trained) in enumerate(regimes.items()):
        x, y = 36 + i * 180, 56
        f.text(x + 74, 28, regime, bold=True)
        for part, height in parts:
            thin = regime == "LoRA" and part.startswith("block")
            color = "orange" if part in trained else "gray"
            f.box(x, y, 112 if thin else 148, height, part, color=color, size=13, dashed=color == "gray", radius=4)
            if thin:
                f.box(x + 117, y, 31, height, "A, B", color="orange", size=11, radius=4)
            y += height + 8
        f.text(x + 74, y + 14, numbers[regime], size=14, bold=True, color="orange")
        f.text(x + 74, y + 34, "numbers trained", size=12, color=MUTED)
    f.text(380, 426, "orange, solid edge: trained; gray, dashed edge: frozen", size=12.5, color=MUTED)
    return f


@figure("lora")
def lora():
    f = Figure(760, 380)
    f.box(20, 150, 66, 66, "x", color="blue", bold=True, size=17)
    f.text(53, 232, "C = 128", size=12, color=MUTED)
    f.arrow(86, 172, 140, 108)
    f.arrow(86, 194, 140, 286)
    f.box(150, 24, 280, 150, "", color="gray", dashed=True)
    f.text(290, 84, "W, frozen", bold=True, size=17)
    f.text(290, 112, "512 × 128 = 65,536 numbers", size=13, color=MUTED)
    f.box(150, 264, 150, 30, "A", color="orange", bold=True)
    f.text(225, 312, "R × C = 8 × 128 = 1,024", size=12, color=MUTED)
    f.arrow(300, 279, 394, 279, label="R = 8", size=12)
    f.box(400, 206, 30, 146, "B", color="orange", bold=True)
    f.text(440, 330, "512 × R = 4,096,\nzero at first", size=12, color=MUTED, anchor="start")
    f.arrow(430, 279, 478, 279)
    f.box(482, 258, 78, 42, "× α / R", color="white", size=14)
    f.arrow(430, 100, 604, 176)
    f.arrow(560, 262, 606, 216)
    f.circle(622, 194, 24, "+", color="white", size=22)
    f.arrow(646, 194, 682, 194)
    f.text(690, 194, "512", size=15, anchor="start", bold=True)
    f.text(560, 40, "what was learned before", size=13, color=MUTED)
    f.text(636, 300, "what finetuning adds", size=13, color="orange")
    return f


# ---------------------------------------------------------------- 6.5 to 6.7 intervals, calibration, the threshold

@figure("calibration")
def calibration():
    f = Figure(760, 286)
    for x, claim, spam, verdict in ((30, 0.9, 3, "0.3 too high"), (400, 0.2, 1, "fits")):
        f.text(x + 165, 28, f"five messages, each claimed {claim}", bold=True)
        for i in range(5):
            f.box(x + 4 + 66 * i, 50, 58, 40, "spam" if i < spam else "ham", color="red" if i < spam else "blue", size=14)
        for y, name, value, color in ((118, "claimed", claim, "gray"), (158, "spam", spam / 5, "red")):
            f.text(x + 62, y + 13, name, size=14, anchor="end")
            f.box(x + 72, y, 256, 26, color="white", radius=2, edge=1)
            f.box(x + 72, y, 256 * value, 26, color=color, radius=2)
            f.text(x + 72 + 256 * value - 8 if value > 0.5 else x + 72 + 256 * value + 8, y + 13, f"{value:.1f}", size=14,
                   anchor="end" if value > 0.5 else "start")
        f.text(x + 200, 208, verdict, size=14, bold=True)
    f.line(380, 20, 380, 220, color=MUTED, width=1, dashed=True)
    f.text(380, 256, "calibration error: half of the messages × 0.3 + half of them × 0 = 0.15", size=15)
    return f


@figure("confusion")
def confusion():
    f = Figure(760, 320)
    f.text(220, 28, "the filter says ham", bold=True)
    f.text(450, 28, "the filter says spam", bold=True)
    f.text(92, 94, "it is\nham", bold=True, anchor="end")
    f.text(92, 194, "it is\nspam", bold=True, anchor="end")
    cells = ((110, 50, "delivered", "as it should be", "green"), (340, 50, "false alarm",
              "a friend's message in\nthe spam folder", "red"),
             (110, 150, "miss", "spam in the inbox", "orange"), (340, 150, "caught", "as it should be", "green"))
    for x, y, name, meaning, color in cells:
        f.box(x, y, 220, 88, color=color)
        f.text(x + 110, y + 24, name, bold=True, size=16)
        f.text(x + 110, y + 57, meaning, size=13)
    f.brace(342, 558, 246, "")
    f.text(450, 284, "precision: which share of\nthis column was caught?", size=14)
    f.line(568, 152, 576, 152, 576, 236, 568, 236, color=MUTED, width=1.4)
    f.text(588, 194, "recall: which\nshare of this row\nwas caught?", size=14, anchor="start")
    return f


def heap(x: float, middle: float, spread: float) -> float:
    return math.exp(-((x - middle) ** 2) / (2 * spread**2))


@figure("threshold")
def threshold():
    f = Figure(760, 330)
    left, base, width, tall, at = 60, 220, 640, 150, 0.56
    xs = [i / 100 for i in range(101)]
    ham = [(left + width * x, base - tall * heap(x, 0.3, 0.16)) for x in xs]
    spam = [(left + width * x, base - tall * heap(x, 0.72, 0.15)) for x in xs]
    for points, keep, color in ((ham, lambda x: x >= at, "red"), (spam, lambda x: x <= at, "orange")):
        part = [p for x, p in zip(xs, points) if keep(x)]
        corners = [(part[0][0], base), *part, (part[-1][0], base)]
        f._add("polygon", points=" ".join(f"{number(x)},{number(y)}" for x, y in corners), fill=COLORS[color][0],
               stroke=COLORS[color][1], stroke_width=1)
    f.line(*[c for p in ham for c in p], color="blue", width=2.4)
    f.line(*[c for p in spam for c in p], color="purple", width=2.4, dashed=True)
    f.line(left - 6, base, left + width + 6, base, width=1.4)
    slider = left + width * at
    f.line(slider, 40, slider, base + 34, width=2.4)
    f.circle(slider, base + 42, 9, color="white")
    f.line(left, base + 42, slider - 10, base + 42, color=MUTED, width=3)
    f.line(slider + 10, base + 42, left + width, base + 42, color=MUTED, width=3)
    f.text(slider, 26, "threshold", bold=True)
    f.text(left + width * 0.27, 56, "genuine messages", size=14, color="blue")
    f.text(left + width * 0.85, 56, "spam", size=14, color="purple")
    f.text(left + width * 0.485, base - 16, "misses", size=14, bold=True)
    f.text(left + width * 0.68, base - 52, "false alarms", size=14, bold=True)
    f.arrow(left + width * 0.66, base - 42, left + width * 0.6, base - 14, width=1.4)
    f.text(left, base + 68, "0", size=13, color=MUTED)
    f.text(left + width, base + 68, "1", size=13, color=MUTED)
    f.text(380, base + 68, "claimed probability of spam", size=13, color=MUTED)
    f.text(380, 312, "to the right: fewer false alarms, more misses; no place is without errors", size=13, color=MUTED)
    return f


# ---------------------------------------------------------------- 6.11, 6.12: shares of a verdict, disguises

@figure("tangent")
def tangent():
    f = Figure(760, 310)
    bent, top = [math.tanh(4 * i / 50) for i in range(51)], math.tanh(4)
    straight = [i / 50 for i in range(51)]
    for x, title, ys, kept in ((60, "a sum", straight, "the whole step"), (440, "a curve", bent, "hardly anything")):
        base, width, tall = 240, 260, 170
        f.text(x + 130, 28, title, bold=True)
        f.line(x, base, x + width + 20, base, width=1.4)
        f.line(x, base, x, base - tall - 20, width=1.4)
        f.line(*[c for i, y in enumerate(ys) for c in (x + width * i / 50, base - tall * y)], color="blue", width=3)
        back = 0 if title == "a sum" else tall * 0.985 * top
        f.line(x + width, base - tall * ys[-1], x, base - back, color="orange", width=2.4, dashed=True)
        f.circle(x + width, base - tall * ys[-1], 6, color="blue")
        f.circle(x, base - back, 6, color="orange")
        f.circle(x, base, 4, color="blue")
        f.text(x, base + 20, "without it", size=12.5, color=MUTED)
        f.text(x + width, base + 20, "as it is", size=12.5, color=MUTED)
        f.text(x + 130, base + 50, f"gradient × input: {kept}", size=14)
        f.text(x - 12, base - tall / 2, "score", size=12.5, color=MUTED, anchor="end")
    f.text(380, 120, "the slope\nat the input", size=12.5, color="orange")
    return f


@figure("disguises")
def disguises():
    f = Figure(760, 318)
    rows = (("as it is", "free", ["f", "ree"], []), ("spaced", "f r e e", ["f", "·r", "·e", "·e"], []),
            ("look-alike", "fr\u0435e", ["f", "r", "D0", "B5", "e"], [2, 3]),
            ("invisible", "free", ["f", *["E2", "80", "8B", "r"], *["E2", "80", "8B", "e"], *["E2", "80", "8B", "e"]],
             [1, 2, 3, 5, 6, 7, 9, 10, 11]))
    f.text(180, 26, "what a person sees", bold=True)
    f.text(520, 26, "what the model reads", bold=True)
    for i, (name, seen, tokens, odd) in enumerate(rows):
        y = 48 + 60 * i
        f.text(110, y + 19, name, size=13, color=MUTED, anchor="end")
        f.box(124, y, 112, 38, seen, color="white", size=17)
        f.arrow(240, y + 19, 276, y + 19)
        colors = ["red" if j in odd else "blue" for j in range(len(tokens))]
        f.tokens(284, y + 3, tokens, colors, size=12, gap=4, height=32, width=32)
    f.text(380, 300, "red: single bytes of a character that a person reads as an e, or doesn't see", size=13, color=MUTED)
    return f
