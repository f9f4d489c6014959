"""The figures of chapter 5. `python course.py figures` draws them again."""

import math

from images.kit import COLORS, MUTED, Figure, figure

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


# ---------------------------------------------------------------- 5.15 scale

@figure("memory")
def memory():
    f = Figure(760, 330)
    n = 124_439_808
    parts = (("weights", 4 * n, "blue"), ("gradients", 4 * n, "orange"), ("AdamW's two averages", 8 * n, "green"),
             ("activations", 4 * 16 * 12 * 768 * 1024, "purple"))
    for i, (name, size, color) in enumerate(parts):
        y = 52 + i * 58
        f.text(206, y + 20, name, anchor="end")
        f.box(220, y, size / 1e9 * 390, 40, f"{size / 1e9:.1f} GB", color=color, bold=True, radius=3)
    f.text(380, 24, "GPT-2 small, one text of 1,024 tokens, float32", size=14, bold=True)
    f.line(648, 54, 656, 54, 656, 90, 648, 90, color=MUTED)
    f.text(664, 72, "to write", size=14, anchor="start")
    f.line(648, 100, 656, 100, 656, 264, 648, 264, color=MUTED)
    f.text(664, 182, "only to\ntrain", size=14, anchor="start")
    f.text(380, 304, "the first three grow with the parameters, the last with the tokens read at once", size=13,
           color=MUTED)
    return f


# ------------------------------------------------------------------------------------------ the loss, the loop, the run

@figure("overview")
def overview():
    f = Figure(860, 500)
    f.box(30, 40, 150, 56, "19,000 tales", color="orange")
    f.box(250, 40, 150, 56, "batches of ids", color="orange")
    f.box(470, 40, 150, 56, "GPTModel", color="purple", bold=True)
    f.box(680, 40, 150, 56, "loss", color="red")
    for x in (180, 400, 620):
        f.arrow(x, 68, x + (68 if x < 620 else 58), 68)
    f.text(425, 50, "", size=12)
    f.arrow(755, 98, 755, 140, 545, 140, 545, 98, color="red", width=2)
    f.text(650, 156, "gradients, one step of AdamW, 1,170 times", size=13, color=MUTED)
    f.line(60, 200, 830, 200, color=MUTED, width=1.4)
    f.arrow(60, 200, 834, 200, color=MUTED, width=1.4)
    samples = (("0.2 million tokens: words", "red",
                ("A m tree.", "But the crow. Bibi had", "the dog came along.", '"What is wrong hill.g,"', "said.")),
               ("1.6 million: sentences, no tale", "gray",
                ("Leah had a little key.", "... Meg put it under her", "coat. ... Then Dora saw", "a teacher. ... Then Clara",
                 "gave the little doll ...")),
               ("3 million: a tale", "green",
                ("a girl named Kate ...", "Kate had a little bell ...", "A black crow saw the", "bell. ... Kate told him",
                 "about the bell.")))
    for i, (title, color, lines) in enumerate(samples):
        x = 30 + i * 275
        f.circle(x + 125, 200, 6, "", color=color)
        f.text(x + 125, 228, title, size=14, bold=True)
        f.box(x, 246, 250, 136, "\n".join(lines), color=color, size=13)
    f.text(30, 416, "Is it good? Against what? Which part of it knows the hero's name?", size=14, anchor="start", bold=True)
    for i, label in enumerate(("baselines that count", "the checker of tales", "held-out tales",
                               "one attention head,\nfound and silenced")):
        f.box(30 + i * 205, 436, 190, 46, label, color="blue", size=13)
    return f


@figure("surprise")
def surprise():
    f = Figure(760, 330)
    left, bottom, wide, tall = 90, 280, 600, 230           # p from 0 to 1, surprise from 0 to 4

    def at(p):
        return left + wide * p, bottom + tall * math.log(p) / 4

    f.line(left, 36, left, bottom, left + wide, bottom, width=1.4)
    steps = [0.0185 + i * (1 - 0.0185) / 90 for i in range(91)]
    f.line(*(c for p in steps for c in at(p)), color=COLORS["blue"][1], width=2.6)
    for p, name, label in ((1, "1", "0: it knew"), (0.5, "1/2", "0.69"), (0.25, "1/4", "1.39"), (0.125, "1/8", "2.08")):
        x, y = at(p)
        f.line(x, y, x, bottom, color=MUTED, width=1, dashed=True)
        f.circle(x, y, 5, "", color="orange")
        f.text(x + (12 if p < 1 else 4), y - (14 if p < 1 else 26), label, size=14, anchor="start" if p < 1 else "end", bold=True)
        f.text(x, bottom + 18, name, size=13, mono=True)
    f.text(left + 28, 34, "without limit, where it was sure and wrong", size=13, color=MUTED, anchor="start")
    f.text(left + wide / 2, bottom + 40, "probability p that the model gave to the token that came", size=13, color=MUTED)
    f.text(40, 160, "surprise\n-ln p", size=14, bold=True)
    return f


@figure("window-of-five")
def window_of_five():
    f = Figure(840, 210)
    first = f.tokens(24, 70, [" story", " of", " Lena", ",", " a"], ["gray", "gray", "green", "gray", "gray"], size=14)
    f.text(378, 86, "... 70 more ...", size=14, color=MUTED)
    last = f.tokens(450, 70, [" the", " hat", ".", " Then", "?"], ["blue", "blue", "blue", "blue", "white"], size=14)
    f.brace(last[0] - 28, last[3] + 34, 112, "all that a 5-gram sees")
    f.curve(last[4], 66, first[2], 66, bend=20, color="green", width=2.2)
    f.text(380, 24, "what it would need to see", size=14, color="green", bold=True)
    f.text(last[4], 132, "who?", size=14, bold=True)
    f.text(420, 188, "the hero's name stands seventy tokens outside of its window", size=13, color=MUTED)
    return f


@figure("loop")
def loop():
    f = Figure(800, 400)
    stations = ((60, 60, "a batch\n(B, T) twice", "orange"), (310, 60, "model", "purple"), (560, 60, "loss", "red"),
                (560, 190, "backward:\ngradients", "red"), (310, 190, "clip to\nlength 1", "gray"),
                (60, 190, "AdamW: a step\nat today's rate", "blue"))
    for x, y, label, color in stations:
        f.box(x, y, 180, 60, label, color=color, size=15)
    f.arrow(240, 90, 308, 90)
    f.arrow(490, 90, 558, 90)
    f.arrow(650, 120, 650, 188)
    f.arrow(560, 220, 492, 220)
    f.arrow(310, 220, 242, 220)
    f.arrow(150, 190, 150, 122, label="")
    f.text(164, 156, "gradients to zero,\nnext batch", size=12, color=MUTED, anchor="start")
    f.arrow(60, 220, 30, 220, 30, 30, 400, 30, 400, 58, color=COLORS["blue"][1])
    f.text(214, 16, "better weights", size=12, color="blue")
    f.box(60, 310, 180, 56, "schedule: warm-up,\nthen half a cosine", color="sky", size=13)
    f.arrow(150, 310, 150, 252)
    f.box(310, 310, 430, 56, "now and then: held-out loss, dropout off;\nsamples, and what the checker says of them", color="green",
          size=13)
    f.arrow(214, 252, 214, 284, 400, 284, 400, 308, dashed=True, color=MUTED)
    f.text(412, 284, "every so many steps", size=12, color=MUTED, anchor="start")
    return f


@figure("batches")
def batches():
    f = Figure(800, 410)
    f.text(24, 30, "one long row of ids, cut into windows of T = 4 inputs", size=14, anchor="start", bold=True)
    colors = ("blue", "orange", "green", "purple")
    for i in range(17):
        f.box(24 + i * 44, 48, 42, 32, str(i), color=colors[i // 4] if i < 16 else "gray", mono=True, size=14, radius=4)
    f.text(24, 122, "window 1", size=14, anchor="start", bold=True)
    for j in range(4):
        f.box(200 + j * 44, 106, 42, 32, str(4 + j), color="orange", mono=True, size=14, radius=4)
        f.box(200 + j * 44, 162, 42, 32, str(5 + j), color="orange", mono=True, size=14, radius=4, dashed=True)
        f.arrow(221 + j * 44, 139, 221 + j * 44, 160, width=1.5)
    f.text(188, 122, "inputs", size=13, color=MUTED, anchor="end")
    f.text(188, 178, "targets", size=13, color=MUTED, anchor="end")
    f.text(396, 150, "the same window, one token later:\neach target is what came next", size=13, color=MUTED, anchor="start")
    for epoch, order in enumerate(((0, 1, 3, 2), (1, 3, 2, 0))):
        y = 236 + epoch * 86
        f.text(24, y + 18, f"epoch {epoch}, shuffled by seed + {epoch}", size=14, anchor="start", bold=True)
        for i, window in enumerate(order):
            f.box(330 + i * 96 + (i // 2) * 26, y, 88, 36, f"window {window}", color=colors[window], size=13)
        for half in (0, 1):
            f.brace(330 + half * 218, 514 + half * 218, y + 40, f"batches[{2 * epoch + half}]", size=12)
    return f


@figure("memorizing")
def memorizing():
    f = Figure(800, 330)
    f.text(190, 28, "memorizing", bold=True, size=16)
    f.text(600, 28, "learning", bold=True, size=16)
    f.line(396, 20, 396, 310, color=MUTED, dashed=True, width=1.2)
    f.text(190, 54, "few texts, room for all of them", size=13, color=MUTED)
    f.text(600, 54, "more texts than there is room", size=13, color=MUTED)
    for i in range(3):
        f.box(40, 84 + i * 56, 96, 40, f"page {i + 1}", color="orange", size=13)
        f.box(220, 84 + i * 56, 130, 40, f"page {i + 1}, whole", color="blue", size=13)
        f.arrow(138, 104 + i * 56, 218, 104 + i * 56)
    f.box(40, 264, 96, 40, "new page", color="white", size=13, dashed=True)
    f.arrow(138, 284, 218, 284, color="red", dashed=True)
    f.text(285, 284, "no match", size=14, color="red", bold=True)
    for i in range(5):
        f.box(426, 80 + i * 33, 76, 27, f"tale {i + 1}" if i < 4 else "...", color="orange", size=12)
        f.line(502, 94 + i * 33, 600, 160, color=MUTED, width=1.2)
    for i, part in enumerate(("spelling", "phrases", "who is who")):
        f.box(604, 100 + i * 44, 140, 36, part, color="green", size=13)
    f.box(426, 264, 96, 40, "new tale", color="white", size=13, dashed=True)
    f.arrow(674, 228, 674, 284, 526, 284, color=COLORS["green"][1])
    f.text(592, 270, "made of the same parts", size=12, color=MUTED)
    return f


@figure("shift")
def shift():
    f = Figure(800, 256)
    for x, title, targets, color in ((30, "right: the target is the next token", (" had", " a", " blue", " feather"), "green"),
                                     (430, "wrong: the target is the token itself", ("Rosa", " had", " a", " blue"), "red")):
        f.text(x + 165, 26, title, size=14, bold=True, color=color)
        for i, (word, target) in enumerate(zip(("Rosa", " had", " a", " blue"), targets)):
            f.box(x + i * 86, 176, 78, 36, word, color="gray", mono=True, size=13)
            f.box(x + i * 86, 64, 78, 36, target, color=color, mono=True, size=13)
            f.arrow(x + 39 + i * 86, 174, x + 39 + i * 86, 102, color=COLORS[color][1])
        f.text(x + 165, 232, "has to be worked out" if color == "green" else "only has to be copied", size=13, color=MUTED)
    f.line(398, 20, 398, 240, color=MUTED, dashed=True, width=1.2)
    return f


@figure("tale-windows")
def tale_windows():
    f = Figure(820, 300)
    tales = (("Lena", "blue"), ("Tom", "orange"), ("Rosa", "green"), ("Max", "purple"))
    for y, title, windows in ((60, "cut anywhere", ((70, 260), (262, 452), (454, 644))),
                              (190, "cut where a tale begins", ((30, 220), (206, 396), (382, 572)))):
        f.text(20, y - 34, title, size=15, anchor="start", bold=True)
        for i, (name, color) in enumerate(tales):
            f.box(20 + i * 176, y, 172, 40, f"{name} ... {name} ... {name}", color=color, size=13, radius=4)
            f.box(20 + i * 176, y, 10, 40, "", color="gray", radius=2)
        for n, (a, b) in enumerate(windows if y == 60 else ((20, 208), (196, 384), (372, 560))):
            high = y + 50 + (8 if y > 100 and n == 1 else 0)
            f.line(a, high - 4, a, high + 4, b, high + 4, b, high - 4, width=2, color=COLORS["red" if y == 60 else "blue"][1])
    f.text(356, 138, "who is this about? the window doesn't say", size=13, color="red")
    f.text(290, 272, "every window tells who, from position 0 on", size=13, color="blue")
    f.box(600, 262, 10, 20, "", color="gray", radius=2)
    f.text(618, 272, "the separator", size=13, color=MUTED, anchor="start")
    return f


@figure("name-head")
def name_head():
    f = Figure(800, 320)
    first = f.tokens(24, 220, [" Rosa", " had", " a", " feather"], ["green", "gray", "gray", "gray"], size=14)
    f.text(388, 236, "... 60 more ...", size=14, color=MUTED)
    last = f.tokens(470, 220, ["Thank", " you", ",\"", " said"], ["gray", "gray", "gray", "blue"], size=14)
    f.curve(last[3] - 6, 216, first[0], 216, bend=44, color="blue", width=2.4)
    f.text(370, 112, "the query at this token finds the keys of the name", size=14, color="blue")
    f.text(first[0] + 30, 280, "key and value", size=13, color=MUTED)
    f.text(last[3], 280, "query", size=13, color=MUTED)
    f.arrow(last[3] + 10, 218, last[3] + 10, 78, color=COLORS["green"][1], width=2.2)
    f.text(last[3] + 24, 176, "the name's\nvalue", size=13, color="green", anchor="start")
    f.box(last[3] - 50, 40, 120, 36, " Rosa", color="green", mono=True, bold=True)
    f.text(last[3] + 10, 22, "next token", size=13, color=MUTED)
    return f


@figure("silence")
def silence():
    f = Figure(760, 290)
    f.text(210, 30, "what the heads gathered, (T, C)", size=14, bold=True)
    f.text(590, 30, "out, columns by head", size=14, bold=True)
    for h in range(4):
        color = "red" if h == 2 else "blue"
        f.box(50 + h * 84, 60, 80, 80, f"head {h}", color=color, size=14)
        f.box(470 + h * 62, 60, 58, 150, "0" if h == 2 else "", color="white" if h == 2 else "purple", size=18, dashed=h == 2)
    f.text(425, 100, "times", size=14, color=MUTED)
    f.text(590, 232, "these D columns are set to zero", size=13, color="red")
    f.arrow(590, 222, 622, 212, color="red", width=1.4)
    f.text(218, 176, "head 2 still looks and gathers,\nbut nothing of it reaches the stream", size=13, color=MUTED)
    f.text(380, 268, "everything else in the model stays as it was", size=13, color=MUTED)
    return f
