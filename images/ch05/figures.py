"""The figures of chapter 5. `python course.py figures` draws them again."""

import math

from images.kit import MUTED, Figure, figure

# ---------------------------------------------------------------- 5.6 sampling, 5.7 the cache

@figure("dart")
def dart():
    f = Figure(760, 210)
    x, width = 60, 640
    f.text(x + 0.62 * width, 26, "a random number: 0.62", size=14, bold=True)
    f.arrow(x + 0.62 * width, 38, x + 0.62 * width, 82, color="red", width=2.6)
    for word, p, color in (("cat", 0.5, "blue"), ("fox", 0.3, "orange"), ("boat", 0.15, "green"), ("umbrella", 0.05, "purple")):
        f.box(x, 86, p * width, 56, color=color, radius=2)
        if p > 0.1:
            f.text(x + p * width / 2, 105, word, mono=True, bold=True)
            f.text(x + p * width / 2, 126, f"{p}", size=13)
        else:
            f.text(x + p * width / 2 + 18, 62, f"{word}\n{p}", size=13)
            f.line(x + p * width / 2, 78, x + p * width / 2, 86, color=MUTED, width=1.2)
        x += p * width
    for end in (0, 0.5, 0.8, 0.95, 1):
        f.line(60 + end * width, 146, 60 + end * width, 154, width=1.4)
        f.text(60 + end * width, 166, str(end), size=13, color=MUTED)
    f.text(380, 193, "greedy always takes the widest piece; a dart takes each piece as often as it is wide", size=13, color=MUTED)
    return f


@figure("temperature")
def temperature():
    f = Figure(760, 260)
    words, logits = ("cat", "fox", "boat", "bell", "mud"), (3.0, 2.2, 1.6, 0.9, 0.0)
    for x, t in ((40, 0.5), (290, 1.0), (540, 2.0)):
        powers = [math.exp(z / t) for z in logits]
        f.text(x + 88, 24, f"temperature {t:g}", bold=True)
        f.bars(x, 200, [p / sum(powers) for p in powers], list(words), width=30, gap=8, height=150, top=0.85,
               color="blue", size=12)
    f.text(380, 242, "the order of the bars never changes; only their distances do", size=13, color=MUTED)
    return f


@figure("filters")
def filters():
    f = Figure(760, 420)
    decided = [0.86, 0.06, 0.03, 0.02, 0.01, 0.01, 0.006, 0.004]
    undecided = [0.20, 0.17, 0.15, 0.13, 0.12, 0.10, 0.06, 0.04, 0.02, 0.01]
    f.text(100, 118, "decided", bold=True, anchor="end")
    f.text(100, 300, "open", bold=True, anchor="end")
    for x, rule in ((120, "top_k = 3"), (335, "top_p = 0.85"), (550, "min_p = 0.25")):
        f.text(x + 90, 24, rule, mono=True, bold=True)
        for base, probs in ((180, decided), (362, undecided)):
            before, best, kept = 0.0, probs[0], 0
            for i, p in enumerate(probs):
                keeps = {"k": i < 3, "p": before < 0.85, "n": p >= 0.25 * best}[rule[4] if rule[0] == "t" else "n"]
                before, kept = before + p, kept + keeps
                f.bars(x + i * 18, base, [p], width=14, gap=0, height=118, top=best, color="blue" if keeps else "gray", format="")
            if rule[0] == "m":
                f.line(x - 6, base - 29.5, x + 180, base - 29.5, color="red", width=1.6, dashed=True)
            f.text(x + 90, base + 18, f"keeps {kept}", size=14, bold=True, color="blue")
    f.text(380, 406, "blue is kept, gray is cut; each row has its own scale", size=13, color=MUTED)
    return f


def looks(f: Figure, x: float, y: float, n: int, color_of, cell: float = 44) -> None:
    """The triangle of who looks at whom, n tokens, each cell in the color that `color_of(row, column)` says."""
    for row in range(n):
        f.text(x - 22, y + (row + 0.5) * cell, str(row + 1), size=14)
        f.text(x + (row + 0.5) * cell, y - 14, str(row + 1), size=14)
        for column in range(n):
            f.box(x + column * cell, y + row * cell, cell, cell, color=color_of(row, column), radius=0, edge=1)


@figure("cache")
def cache():
    f = Figure(760, 392)
    f.text(202, 24, "without a cache", bold=True)
    f.text(560, 24, "with a cache", bold=True)
    looks(f, 92, 92, 5, lambda row, column: "white" if column > row else "blue" if row == 4 else "red")
    looks(f, 450, 92, 5, lambda row, column: "white" if row < 4 else "blue" if column == 4 else "green")
    for x in (202, 560):
        f.text(x, 58, "keys and values of token", size=13, color=MUTED)
    f.text(32, 202, "query\nof\ntoken", size=13, color=MUTED)
    f.text(202, 346, "red: computed again, as at every step before\nblue: new", size=13)
    f.text(560, 346, "green: kept keys and values, only looked at\nblue: the new token's own", size=13)
    return f


@figure("cache-mask")
def cache_mask():
    f = Figure(760, 340)
    looks(f, 120, 56, 6, lambda row, column: ("gray" if row < 4 else "blue") if column <= row else "white", cell=40)
    f.text(240, 322, "keys: S = 6 tokens in all", size=14, color=MUTED)
    f.text(40, 136, "read\nbefore", size=14, color=MUTED)
    f.text(40, 256, "new,\nT = 2", size=14, bold=True, color="blue")
    f.arrow(376, 256, 440, 256)
    f.text(580, 184, "the mask", bold=True)
    f.grid(460, 216, [["1", "1", "1", "1", "1", "0"], ["1"] * 6], cell=40, size=14,
           colors=[["blue"] * 5 + ["white"], ["blue"] * 6])
    f.text(580, 322, "ones(T, S).tril(S - T)", size=14, mono=True)
    return f


# ---------------------------------------------------------------- 5.11 to 5.14

@figure("checkpoint")
def checkpoint():
    f = Figure(760, 388)
    f.text(190, 30, "what the next step depends on", size=14, bold=True)
    rows = (("weights", "4 bytes a parameter", "blue", 66), ("optimizer's two moments", "8 bytes a parameter", "orange", 96),
            ("steps done", "one number", "green", 40), ("state of the random numbers", "5 kB", "purple", 40))
    y = 52
    for name, size, color, height in rows:
        f.box(40, y, 300, height, name, color=color)
        f.text(352, y + height / 2, size, size=13, color=MUTED, anchor="start")
        f.arrow(500, y + height / 2, 574, y + height / 2)
        y += height + 14
    f.box(582, 52, 150, y - 66, "", color="white", radius=10)
    f.text(657, 192, "checkpoint", bold=True)
    f.text(657, 222, "one folder,\nwhole or not at all", size=13)
    f.text(40, y + 12, "from the steps done follow the learning rate and the batch: neither has to be stored", size=13, color=MUTED,
           anchor="start")
    return f


def flash(f: Figure, x: float, y: float) -> None:
    """An interruption: a small bolt of lightning."""
    f.line(x + 6, y - 20, x - 5, y, x + 5, y, x - 6, y + 20, color="red", width=3)


@figure("whole-or-not")
def whole_or_not():
    f = Figure(760, 330)
    f.arrow(40, 250, 730, 250, color=MUTED)
    f.text(718, 236, "time", size=13, color=MUTED)
    stages = ((50, "old folder", "blue", None), (230, "old folder", "blue", ".new.tmp grows"),
              (410, "old folder", "blue", ".new.tmp, whole"), (590, "new folder", "green", None))
    for x, name, color, temporary in stages:
        f.box(x, 60, 130, 56, name, color=color, bold=True)
        if temporary:
            f.box(x, 136, 130, 56, temporary, color="gray", dashed=True, size=14)
    for x, label in ((205, "write"), (385, "fsync"), (565, "rename")):
        f.line(x, 40, x, 258, color=MUTED, dashed=True)
        f.text(x, 26, label, size=14, mono=True)
    for x in (295, 475, 655):
        flash(f, x, 226)
    f.text(385, 288, "interrupted here: the old one is intact,\nthe unfinished one is swept away", size=13)
    f.text(655, 288, "interrupted here:\nthe new one is complete", size=13)
    return f


@figure("shards")
def shards():
    f = Figure(760, 380)
    f.text(30, 28, "text files, gigabytes", size=14, bold=True, anchor="start")
    for i in range(10):
        f.box(30 + 70 * i, 44, 70, 34, "", color="orange" if i == 4 else "gray", radius=2)
    f.text(345, 61, "piece", size=14, bold=True)
    f.box(230, 104, 400, 98, "", color="white", dashed=True, radius=10)
    f.text(644, 153, "in memory", size=14, anchor="start", bold=True)
    f.arrow(345, 78, 345, 122)
    f.box(256, 124, 178, 56, "one piece\nof about a million\ncharacters", color="orange", size=13)
    f.arrow(434, 152, 480, 152, label="ids")
    f.box(482, 124, 128, 56, "one shard,\nbeing filled", color="blue", size=13)
    f.arrow(546, 180, 546, 244)
    f.text(556, 222, "written when full", size=13, color=MUTED, anchor="start")
    f.text(30, 226, "shards on the disk", size=14, bold=True, anchor="start")
    for i in range(5):
        f.box(30 + 140 * i, 246, 140, 36, f"0000{i}.npy", color="blue" if i < 4 else "gray", size=14, mono=True, radius=2)
    for x, color in ((70, "green"), (268, "green"), (480, "green")):
        f.box(x, 306, 84, 28, "window", color=color, size=13)
        f.line(x, 284, x, 304, color=MUTED)
        f.line(x + 84, 284, x + 84, 304, color=MUTED)
    f.text(310, 356, "a window may lie across a border; only the pages that it touches are read", size=13, color=MUTED)
    return f


@figure("processes")
def processes():
    f = Figure(760, 400)
    parts = (("weights", "blue", 40), ("gradients", "green", 40), ("two\nmoments", "orange", 80))
    for left, title, split in ((20, "DDP: all of it in each", False), (400, "FSDP2: half of it in each", True)):
        f.text(left + 170, 28, title, bold=True)
        for number in range(2):
            x, y = left + 190 * number, 78
            f.text(x + 75, 60, f"process {number}", size=14)
            for name, color, height in parts:
                if split:
                    f.box(x, y, 150, height, "", color="white", dashed=True, edge=1)
                f.box(x + 75 * (split and number), y, 75 if split else 150, height, name, color=color, size=13)
                y += height + 8
            f.box(x + 20, 282, 110, 30, "half a batch", color="gray", size=13)
            f.arrow(x + 75, 282, x + 75, 260)
    for x, y in ((170, 146), (550, 98)):
        f.arrow(x + 20, y, x + 2, y, color="red", width=2.2)
        f.arrow(x + 20, y, x + 38, y, color="red", width=2.2)
    f.text(190, 346, "after the backward pass:\naverage the gradients, take equal steps", size=13)
    f.text(570, 346, "before a block computes:\ngather its weights, use them, drop them", size=13)
    f.text(380, 384, "the losses are those of one process with the whole batch, either way", size=13, color=MUTED)
    return f
