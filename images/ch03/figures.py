"""The figures of chapter 3. `python course.py figures` writes them; each function draws the SVG file that its decorator names.

Numbers that the notebook computes are computed here too, in plain Python; `tests/test_ch03.py` compares both.
"""

from math import exp

from images.kit import MUTED, Figure, figure

WORDS = ["the", "lamp", "fell", "and", "it", "broke"]
X = [[0, 0, 1], [1.5, 0.5, -0.5], [-0.5, 1.5, 0], [0, -0.5, 1], [1, 0, 0.5], [0.5, 1.5, -0.5]]  # thing, event, little word
W_Q, W_K = [[1, 0], [0, 1], [2, 0]], [[1, 1], [0, 0], [-2, 0]]
EIGHT_SCORES = [-6.71, 7.42, -12.49, -40.21, -23.63, 58.12, -26.09, 14.62]  # section 3.4, at D = 1024
KEPT = [[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1], [1, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0]]
MINUS, INFINITY = "\u2212", "\u221e"


def product(a, b):
    """The matrix product of two lists of rows."""
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


def table(a, b):
    """Every row of a times every row of b."""
    return product(a, [list(column) for column in zip(*b, strict=True)])


def softmax(scores):
    """The weights of one row of scores."""
    powers = [exp(s - max(scores)) for s in scores]
    return [p / sum(powers) for p in powers]


SIMILARITY = table(X, X)
SCORES = table(product(X, W_Q), product(X, W_K))
CAUSAL = [softmax([s / 2**0.5 for s in row[: t + 1]]) + [0.0] * (5 - t) for t, row in enumerate(SCORES)]


def signed(value, digits=2):
    """A number with a real minus sign."""
    return f"{value:.{digits}f}".replace("-", MINUS)


def names(f, x, y, cell, height=None, rows=True, columns=True, size=13):
    """The six words beside and above a table."""
    for i, word in enumerate(WORDS):
        if rows:
            f.text(x - 8, y + (i + 0.5) * (height or cell), word, size=size, anchor="end", mono=True)
        if columns:
            f.text(x + (i + 0.5) * cell, y - 12, word, size=size, mono=True)


@figure("overview")
def overview():
    """The chapter as a staircase."""
    f = Figure(1000, 430)
    steps = [
        ("average", "forgets", "3.1"),
        ("dot products", "find themselves", "3.2"),
        ("q, k, v", "saturate", "3.3"),
        ("÷ √D", "sees the future", "3.4"),
        ("causal mask", "leans on one word", "3.5"),
        ("dropout", "asks one question", "3.6"),
        ("several heads", "slow", "3.7, 3.8"),
        ("one fused call", "", "3.9"),
    ]
    colors = ["gray", "sky", "blue", "orange", "red", "yellow", "purple", "green"]
    for i, (name, fault, section) in enumerate(steps):
        x, y = 24 + 120 * i, 322 - 38 * i
        f.box(x, y, 114, 384 - y, color=colors[i], radius=4)
        f.text(x + 57, y + 22, name, size=13, bold=True)
        f.text(x + 57, y + 44, section, size=12, color=MUTED)
        if fault:
            f.text(x + 57, y - 15, fault, size=11.5, color="red", italic=True)
    f.text(24, 34, "Each step repairs what the one before it", size=17, anchor="start", bold=True)
    f.text(24, 60, "still does wrong (in italics above it).", size=17, anchor="start", bold=True)
    f.text(24, 408, "3.10 order · 3.11 cost · 3.12 what a trained head looks at", size=14, color=MUTED, anchor="start")
    return f


@figure("average")
def average():
    """Equal weights and chosen weights for the word "it"."""
    f = Figure(760, 360)
    for y, title, weights in ((70, "fixed average", [0.2] * 5), (230, "attention", CAUSAL[4][:5])):
        f.text(20, y + 4, title, size=15, anchor="start", bold=True)
        middles = f.tokens(150, y + 50, WORDS[:5], colors=["sky"] * 4 + ["orange"], width=96, gap=14)
        for i, (x, weight) in enumerate(zip(middles, weights, strict=True)):
            end, bend = middles[4] - 8 * (3 - i), (middles[4] - x) * 0.07 + 10
            if weight > 0.005 and i < 4:
                f.curve(x, y + 48, end, y + 48, bend=bend, width=0.8 + 8 * weight, head=False, color="blue")
            f.text(x, y + 102, f"{weight:.2f}", size=14, color=MUTED)
    f.line(20, 196, 740, 196, color=MUTED, width=1, dashed=True)
    return f


@figure("scores")
def scores():
    """The table of dot products, with the row of "it" framed."""
    f = Figure(620, 400)
    names(f, 130, 60, 68, 50, size=14)
    shades = [[("blue" if v >= 1.2 else "sky" if v > 0.4 else "white" if v >= 0 else "gray") for v in row] for row in SIMILARITY]
    f.grid(130, 60, [[signed(v) for v in row] for row in SIMILARITY], cell=68, height=50, colors=shades, size=14)
    f.box(126, 256, 416, 58, color="none", radius=4)
    f.line(126, 256, 542, 256, 542, 314, 126, 314, 126, 256, color="orange", width=4)
    f.text(130, 380, 'the row of "it": largest with "lamp" and with itself', size=14, color=MUTED, anchor="start")
    return f


@figure("softmax")
def softmax_figure():
    """From scores to powers to weights."""
    f = Figure(940, 300)
    row, base = SIMILARITY[4], 200
    powers = [exp(s) for s in row]
    charts = (("scores", row, 52), ("e to the score", powers, 38), ("weights", softmax(row), 450))
    for k, (title, values, unit) in enumerate(charts):
        left = 30 + 310 * k
        f.text(left + 125, 28, title, size=16, bold=True)
        for i, value in enumerate(values):
            x, tall = left + i * 42, value * unit
            color = "orange" if value < 0 else "blue"
            f.box(x, base - max(tall, 0), 32, max(abs(tall), 1), color=color, radius=0)
            f.text(x + 16, base - max(tall, 0) - 11, signed(value), size=12)
            f.text(x + 16, base + 42, WORDS[i], size=12, mono=True)
        f.line(left - 6, base, left + 250, base, width=1.4)
    f.arrow(284, 120, 328, 120)
    f.arrow(594, 120, 638, 120)
    f.text(465, 274, f"add up to {sum(powers):.2f}", size=13, color=MUTED)
    f.text(775, 274, f"each divided by {sum(powers):.2f}: add up to 1", size=13, color=MUTED)
    return f


@figure("qkv")
def qkv():
    """One query meets all keys, and the weights mix the values."""
    f = Figure(860, 400)
    queries, keys = product(X, W_Q), product(X, W_K)
    values = [[x[0], x[1]] for x in X]
    weights = softmax(SCORES[4])

    def vector(v):
        return f"({signed(v[0], 1)}, {signed(v[1], 1)})"

    for y, name in ((54, "word"), (118, "key"), (182, "score"), (246, "weight"), (310, "value")):
        f.text(110, y, name, size=15, anchor="end", bold=True)
    for i, word in enumerate(WORDS):
        x = 130 + 118 * i
        f.box(x, 36, 104, 36, word, color="orange" if i == 4 else "gray", mono=True)
        f.box(x, 100, 104, 36, vector(keys[i]), color="green", mono=True, size=12)
        f.text(x + 52, 182, signed(SCORES[4][i], 1), size=15)
        f.box(x, 228, 104, 36, f"{weights[i]:.2f}", color="blue" if weights[i] > 0.1 else "white", size=15, bold=weights[i] > 0.1)
        f.box(x, 292, 104, 36, vector(values[i]), color="purple", mono=True, size=12)
        f.arrow(x + 52, 138, x + 52, 168, width=1.4)
        f.arrow(x + 52, 196, x + 52, 226, width=1.4)
    mixed = [sum(w * v[c] for w, v in zip(weights, values, strict=True)) for c in range(2)]
    f.text(130, 366, f'query of "it" {vector(queries[4])}', size=14, anchor="start", color="orange", bold=True)
    f.text(360, 366, "· each key, then softmax, then", size=14, anchor="start")
    f.text(596, 366, f"Σ weight × value = {vector(mixed)}", size=14, anchor="start", color="purple", bold=True)
    return f


@figure("scaling")
def scaling():
    """Weights of eight scores of long vectors, without and with the division."""
    f = Figure(820, 260)
    for left, title, weights in (
        (40, "softmax(scores)", softmax(EIGHT_SCORES)),
        (440, "softmax(scores ÷ √1024)", softmax([s / 32 for s in EIGHT_SCORES])),
    ):
        f.text(left + 165, 28, title, size=16, bold=True)
        color = ["orange" if w == max(weights) else "blue" for w in weights]
        f.bars(left, 220, weights, width=32, gap=11, height=150, top=1.0, color=color)
    return f


@figure("mask")
def mask():
    """Scores, masked scores, weights."""
    f = Figure(1000, 330)
    cell, top = 44, 92
    scaled = [[s / 2**0.5 for s in row] for row in SCORES]
    hidden = [[s > t for s in range(6)] for t in range(6)]
    colors = [["gray" if h else "sky" for h in row] for row in hidden]
    for k, title in enumerate(("scores ÷ √D", "future set to −∞", "softmax")):
        x = 72 + 318 * k
        f.text(x + 132, 28, title, size=16, bold=True)
        names(f, x, top, cell, 36, rows=True, size=11)
        for t in range(6):
            for s in range(6):
                if k < 2:
                    label = signed(scaled[t][s], 1) if k == 0 or not hidden[t][s] else MINUS + INFINITY
                    f.box(x + s * cell, top + t * 36, cell, 36, label, color=colors[t][s], radius=0, edge=1, size=12)
                    if k == 0 and hidden[t][s]:
                        left, y = x + s * cell, top + t * 36
                        f.line(left + 6, y + 30, left + cell - 6, y + 6, color="red", width=1.6)
        if k == 2:
            f.grid(x, top, CAUSAL, cell=cell, height=36, size=12, top=1.2, format="{:.2f}")
    return f


@figure("mask-late")
def mask_late():
    """Masking after the softmax leaves a gap."""
    f = Figure(760, 300)
    row = [0.0, 1.0, 2.0]
    late, early = softmax(row), softmax(row[:2])
    for left, title, weights, forbidden in ((60, "softmax, then mask", late, late[2]), (430, "mask, then softmax", early, 0)):
        f.text(left + 130, 28, title, size=16, bold=True)
        y = 230
        for weight, word, color in zip(weights, ("past 1", "past 2"), ("sky", "blue"), strict=False):
            label = f"{word}  {weight:.2f}" if weight > 0.12 else ""
            f.box(left + 80, y - 180 * weight, 100, 180 * weight, label, color=color, radius=0, size=13)
            if weight <= 0.12:
                f.text(left + 72, y - 90 * weight, f"{word}  {weight:.2f}", size=13, anchor="end")
            y -= 180 * weight
        if forbidden:
            note = "a gap that tells\nof the future"
            f.box(left + 80, 50, 100, 180 * forbidden, note, color="red", dashed=True, radius=0, size=12)
        f.line(left + 70, 230, left + 190, 230, width=1.4)
        f.text(left + 130, 256, f"sum {sum(weights[:2]):.2f}", size=14, color=MUTED)
    return f


@figure("dropout")
def dropout():
    """The weights before and after dropout."""
    f = Figure(760, 350)
    cell = 46
    dropped = [[w * k * 2 for w, k in zip(row, keep, strict=True)] for row, keep in zip(CAUSAL, KEPT, strict=True)]
    for x, title, rows in ((70, "weights", CAUSAL), (440, "after dropout, p = 0.5", dropped)):
        f.text(x + 138, 24, title, size=16, bold=True)
        names(f, x, 68, cell, 40, size=12)
        f.grid(x, 68, rows, cell=cell, height=40, size=12, top=1.6, format="{:.2f}")
    for t in range(6):
        for s in range(t + 1):
            if not KEPT[t][s]:
                x, y = 440 + s * cell, 68 + t * 40
                f.line(x + 5, y + 35, x + cell - 5, y + 5, color="red", width=1.8)
    f.text(440, 328, "crossed out: dropped. The others count twice.", size=13, color=MUTED, anchor="start")
    f.arrow(366, 188, 396, 188)
    return f


@figure("heads")
def heads():
    """Two heads side by side, joined by an output projection."""
    f = Figure(820, 380)
    f.box(330, 322, 160, 40, "x   (T, 4)", color="gray", mono=True)
    for k, (left, color, name) in enumerate(((60, "blue", "head 0"), (480, "orange", "head 1"))):
        f.box(left, 150, 280, 142, color="none", dashed=True)
        f.text(left + 12, 168, name, size=14, bold=True, anchor="start")
        for i, part in enumerate(("q", "k", "v")):
            f.box(left + 20 + 84 * i, 240, 72, 36, f"{part} (T, 2)", color=color, mono=True, size=12)
        f.arrow(410 + (-40 if k == 0 else 40), 322, left + 140, 296)
        rows = [[1, 0, 0], [2, 1, 0], [1, 3, 1]] if k == 0 else [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
        f.grid(left + 92, 172, rows, cell=20, shade=color, size=0.1, top=3)
        f.text(left + 200, 202, "weights (T, T)", size=12, color=MUTED)
        f.box(left + 90, 92, 100, 36, "(T, 2)", color=color, mono=True)
        f.arrow(left + 140, 150, left + 140, 130)
        f.arrow(left + 140, 92, 410 + (-60 if k == 0 else 60), 70)
    f.box(300, 32, 110, 36, "(T, 2)", color="blue", mono=True, radius=0)
    f.box(410, 32, 110, 36, "(T, 2)", color="orange", mono=True, radius=0)
    f.text(290, 50, "side by side", size=13, color=MUTED, anchor="end")
    f.arrow(520, 50, 584, 50)
    f.box(590, 32, 190, 36, "out   (T, 4)", color="green", mono=True)
    return f


@figure("split-merge")
def split_merge():
    """Channels become heads, and heads channels again, rightly and wrongly."""
    f = Figure(900, 450)
    cell, height = 38, 32
    whole = [[f"{t}{c}" for c in range(4)] for t in range(3)]
    halves = [[row[:2] for row in whole], [row[2:] for row in whole]]
    both = [["blue", "blue", "orange", "orange"]] * 3
    f.text(120, 30, "(T, C)", size=15, bold=True, mono=True)
    f.grid(44, 52, whole, cell=cell, height=height, colors=both, size=14)
    f.arrow(214, 100, 288, 100, label="split")
    f.text(470, 30, "(H, T, D)", size=15, bold=True, mono=True)
    f.grid(320, 52, halves[0], cell=cell, height=height, colors=[["blue"] * 2] * 3, size=14)
    f.grid(500, 52, halves[1], cell=cell, height=height, colors=[["orange"] * 2] * 3, size=14)
    f.text(358, 168, "head 0", size=13, color=MUTED)
    f.text(538, 168, "head 1", size=13, color=MUTED)
    f.text(606, 100, '"12" is token 1, channel 2', size=13, color=MUTED, anchor="start")
    f.arrow(400, 186, 230, 240)
    f.arrow(500, 186, 650, 240)
    f.text(196, 210, "transpose, then join", size=13, color=MUTED)
    f.text(700, 210, "join at once", size=13, color=MUTED)
    f.grid(110, 258, whole, cell=cell, height=height, colors=both, size=14)
    f.text(186, 384, "right: every row is one token", size=14, color="green", bold=True)
    flat = [value for half in halves for row in half for value in row]
    wrong = [flat[4 * t : 4 * t + 4] for t in range(3)]
    tint = [["blue" if int(v[1]) < 2 else "orange" for v in row] for row in wrong]
    f.grid(590, 258, wrong, cell=cell, height=height, colors=tint, size=14)
    f.text(666, 384, "wrong: tokens are mixed up", size=14, color="red", bold=True)
    f.text(666, 410, "row 0 holds a piece of token 1", size=13, color=MUTED)
    return f


@figure("fused")
def fused():
    """Tables in memory, or a sliding block."""
    f = Figure(860, 340)
    f.text(200, 28, "written out", size=16, bold=True)
    for i, name in enumerate(("scores", "masked", "softmax", "dropped")):
        f.box(24 + 98 * i, 100, 78, 84, f"{name}\nT × T", color="red", radius=2, size=13)
        if i < 3:
            f.arrow(103 + 98 * i, 142, 120 + 98 * i, 142, width=1.4)
    f.text(208, 236, "each table goes to memory\nand comes back", size=14, color=MUTED)
    f.line(420, 40, 420, 310, color=MUTED, width=1, dashed=True)
    f.text(640, 28, "fused", size=16, bold=True)
    for i in range(8):
        f.box(460 + 46 * i, 66, 44, 40, "k, v", color="green" if i == 3 else "white", radius=2, size=12)
    f.line(596, 60, 644, 60, 644, 112, 596, 112, 596, 60, color="green", width=4)
    f.arrow(656, 128, 720, 128, color="green", width=3)
    f.arrow(620, 116, 620, 150)
    f.box(476, 154, 310, 40, "for each query, three running values", color="blue", size=14)
    for i, name in enumerate(("largest\nscore", "sum of\npowers", "mixture\nso far")):
        f.box(476 + 108 * i, 206, 94, 56, name, color="sky", size=13)
    f.text(632, 292, "no table is ever written down", size=14, color=MUTED)
    return f


@figure("order")
def order():
    """A sum doesn't know in which order it was made."""
    f = Figure(820, 290)
    for y, sentence, end in ((30, ["the", "dog", "bit", "the", "man"], 120), (222, ["the", "man", "bit", "the", "dog"], 166)):
        colors = [{"the": "gray", "dog": "orange", "bit": "green", "man": "blue"}[w] for w in sentence]
        middles = f.tokens(40, y, sentence, colors=colors, width=76, gap=12)
        for x in middles:
            f.arrow(x, y + 36 if y < 100 else y - 2, 560, end + (12 if y < 100 else 0), width=1.2, color=MUTED)
    f.circle(590, 149, 30, "Σ", color="purple", size=24)
    f.arrow(622, 149, 660, 149)
    f.text(672, 149, "the same sum,\nboth times", size=15, anchor="start")
    return f


@figure("induction")
def induction():
    """Two layers work together: one notes the predecessor, the next looks it up."""
    f = Figure(820, 370)
    letters, colors = ["A", "B", "C", "D", "A"], ["orange", "blue", "gray", "gray", "orange"]
    x = [110 + 140 * i for i in range(5)]
    for i, letter in enumerate(letters):
        f.box(x[i] - 36, 290, 72, 44, letter, color=colors[i], mono=True, size=20, bold=True)
    f.text(x[4] + 78, 312, "?", size=26, bold=True)
    f.text(30, 218, "layer 1", size=15, anchor="start", bold=True)
    for i in range(1, 5):
        width, opacity = (2.4, 1.0) if i == 1 else (1.2, 0.45)
        f.curve(x[i] - 8, 286, x[i - 1] + 10, 286, bend=13, color="blue", width=width, opacity=opacity)
        f.box(x[i] - 46, 200, 92, 36, f"after {letters[i - 1]}", color="yellow" if i == 1 else "white", size=14)
    f.text(30, 96, "layer 2", size=15, anchor="start", bold=True)
    f.box(x[4] - 92, 62, 184, 58, 'asks: who noted\n"after A"?', color="orange", size=14)
    f.arrow(x[4] - 94, 91, x[1] + 4, 91, x[1] + 4, 196, color="orange", width=2.4)
    f.box(x[1] - 66, 20, 140, 36, "copy B: my guess", color="green", size=14)
    f.arrow(x[1] + 76, 38, x[4] + 78, 38, x[4] + 78, 60, color="green", width=2.4)
    f.line(x[4] + 78, 122, x[4] + 78, 190, color="green", width=2.4)
    f.arrow(x[4] + 78, 190, x[4] + 78, 290, color="green", width=2.4)
    return f
