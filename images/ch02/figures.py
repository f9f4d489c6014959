"""The figures of chapter 2. `python course.py figures` writes them; each function draws the SVG file that its decorator names."""

from images.kit import INK, MUTED, Figure, figure

SPACE = "␣"


@figure("overview")
def overview():
    """From text to what the model takes in, in five rows."""
    f = Figure(760, 470)
    rows = [(54, "text"), (138, "chunks"), (222, "token ids"), (306, "input\nand targets"), (404, "vectors")]
    for y, name in rows:
        f.text(96, y, name, size=15, color=MUTED, anchor="end")
    f.box(130, 36, 400, 36, "Good evening, Zoë", color="white", mono=True)
    chunks, ids = ["Good", f"{SPACE}evening", ",", f"{SPACE}Zoë", "<|endoftext|>"], ["411", "417", "11", "405", "1020"]
    colors, left, width = ["blue", "orange", "green", "purple", "gray"], [130, 210, 310, 370, 446], [70, 90, 50, 66, 124]
    for i, x in enumerate(left):
        f.box(x, 120, width[i], 36, chunks[i], color=colors[i], mono=True, size=14)
        f.box(x, 204, width[i], 36, ids[i], color=colors[i], mono=True)
        f.arrow(x + width[i] / 2, 160, x + width[i] / 2, 200)
        if i < 4:
            f.box(x, 280, width[i], 26, ids[i], color=colors[i], mono=True, size=13)
            f.box(x, 310, width[i], 26, ids[i + 1], color=colors[i + 1], mono=True, size=13)
            for k in range(5):
                f.box(x + width[i] / 2 - 12, 366 + 15 * k, 24, 15, color=colors[i], radius=0, edge=1)
            f.arrow(x + width[i] / 2, 340, x + width[i] / 2, 362)
    f.arrow(330, 76, 330, 116)
    f.arrow(330, 244, 330, 276)
    for y, what in [
        (96, "cut by a pattern (2.6)"),
        (180, "merge byte pairs (2.4)"),
        (262, "slide a window (2.12)"),
        (351, "look up a row (2.14)"),
    ]:
        f.text(584, y, what, size=13, color=MUTED, anchor="start")
    f.text(582, 138, "added by us (2.8)", size=13, color=MUTED, anchor="start")
    f.text(466, 403, "+", size=24)
    for k in range(5):
        f.box(492, 366 + 15 * k, 24, 15, color="yellow", radius=0, edge=1)
    f.text(528, 403, "positions (2.15)", size=13, color=MUTED, anchor="start")
    f.arrow(660, 403, 720, 403)
    f.text(690, 430, "to chapter 3", size=13, color=MUTED)
    return f


@figure("word-vocabulary")
def word_vocabulary():
    """A word vocabulary with a hole in it."""
    f = Figure(760, 270)
    words, ids = ["and", "it", "finished", "him", "."], ["142", "428", "?", "399", "6"]
    for y, name in ((38, "read"), (132, "look up"), (226, "decode")):
        f.text(40, y, name, size=14, color=MUTED, anchor="start")
    for i, word in enumerate(words):
        x, unknown = 140 + 116 * i, ids[i] == "?"
        f.box(x, 18, 100, 40, word, color="red" if unknown else "blue", mono=True)
        f.arrow(x + 50, 62, x + 50, 104)
        f.box(x, 108, 100, 48, ids[i], color="red" if unknown else "white", mono=True, dashed=unknown)
        f.arrow(x + 50, 160, x + 50, 202)
        f.box(x, 206, 100, 40, "<|unk|>" if unknown else word, color="red" if unknown else "blue", mono=True, dashed=unknown)
    f.text(430, 82, "not in\nthe list", size=13, color="red", anchor="start")
    return f


@figure("utf8")
def utf8():
    """Characters above their bytes, with the bits that tell which byte is what."""
    f = Figure(760, 250)
    x = 30
    for char, color in (("Z", "blue"), ("o", "blue"), ("ë", "orange"), ("—", "purple")):
        data = char.encode("utf-8")
        wide = 98 * len(data)
        f.box(x, 20, wide - 10, 44, char, color=color, size=22)
        for k, byte in enumerate(data):
            bits, lead = f"{byte:08b}", (1 if len(data) == 1 else len(data) + 1) if k == 0 else 2
            left = x + 98 * k
            f.line(left + 44, 66, left + 44, 92, color=MUTED)
            f.box(left, 94, 88, 44, str(byte), color=color, size=17, mono=True)
            f.box(left, 144, 88, 34, color="white", radius=4, edge=1)
            start = left + 44 - 8 * 9.3 / 2
            f.text(start, 161, bits[:lead], size=15, color="red", anchor="start", mono=True, bold=True)
            f.text(start + lead * 9.1, 161, bits[lead:], size=15, color=INK, anchor="start", mono=True)
        x += wide + 6
    f.text(
        30,
        206,
        "0…  a character of one byte        110…, 1110…, 11110…  the first of two, three, four bytes",
        size=13.5,
        anchor="start",
        color=MUTED,
    )
    f.text(30, 228, "10…  a byte that continues a character", size=13.5, anchor="start", color=MUTED)
    return f


@figure("merge-tree")
def merge_tree():
    """The four merges of the hand-made example."""
    f = Figure(760, 330)
    letters = {"l": 70, "a": 250, "m": 370, "p": 500, "d": 660}
    for letter, x in letters.items():
        f.circle(x, 290, 22, letter, color="gray", size=17)

    def join(x, y, name, number, count, left, right, color):
        f.line(left[0], left[1], x, y + 20)
        f.line(right[0], right[1], x, y + 20)
        f.box(x - 46, y - 20, 92, 40, name, color=color, mono=True, size=16)
        f.text(x + 54, y - 8, f"token {number}", size=12.5, color=MUTED, anchor="start")
        f.text(x + 54, y + 9, f"{count} times", size=12.5, color=MUTED, anchor="start")

    join(310, 214, "am", 256, 5, (250, 268), (370, 268), "blue")
    join(400, 136, "amp", 257, 5, (310, 194), (500, 268), "orange")
    join(180, 50, "lamp", 258, 3, (70, 268), (400, 116), "green")
    join(560, 50, "damp", 259, 2, (400, 116), (660, 268), "purple")
    return f


@figure("encode-order")
def encode_order():
    """Encoding the word lamps, merge by merge."""
    f = Figure(760, 300)
    rows = [
        (["l", "a", "m", "p", "s"], "bytes"),
        (["l", "am", "p", "s"], "merge 256: a + m"),
        (["l", "amp", "s"], "merge 257: am + p"),
        (["lamp", "s"], "merge 258: l + amp"),
    ]
    for i, (words, what) in enumerate(rows):
        y, x = 24 + 70 * i, 60
        for word in words:
            color = {1: "gray", 2: "blue", 3: "orange", 4: "green"}[len(word)]
            wide = 56 * len(word) + 8 * (len(word) - 1)
            f.box(x, y, wide, 40, word, color=color, mono=True, size=17)
            x += wide + 8
        f.text(420, y + 20, what, size=15, anchor="start")
        if i:
            f.arrow(40, y - 30, 40, y + 20)
    f.text(420, 284, "merge 259, d + amp: nothing to do", size=13, color=MUTED, anchor="start")
    return f


@figure("chunks")
def chunks():
    """GPT-2's pattern at work."""
    f = Figure(760, 190)
    parts = [
        ("Zoë", "blue"),
        (" can", "blue"),
        ("'t", "orange"),
        (" read", "blue"),
        (" 26", "green"),
        (" ledgers", "blue"),
        (":", "purple"),
        ("  ", "gray"),
        (" not", "blue"),
        (" yet", "blue"),
        ("!", "purple"),
    ]
    x = 24
    for text, color in parts:
        wide = 10.2 * len(text) + 14
        f.box(x, 50, wide, 42, text.replace(" ", SPACE), color=color, mono=True, size=16, radius=5)
        x += wide + 6
    for x, name, color in ((60, "letters, with the space before", "blue"), (340, "an ending", "orange"), (490, "digits", "green")):
        f.box(x - 30, 124, 20, 20, color=color, radius=4)
        f.text(x, 134, name, size=14, anchor="start")
    for x, name, color in ((60, "other marks", "purple"), (340, "white space that no word has taken", "gray")):
        f.box(x - 30, 154, 20, 20, color=color, radius=4)
        f.text(x, 164, name, size=14, anchor="start")
    f.text(24, 26, f"{SPACE} is a space", size=13, color=MUTED, anchor="start")
    return f


@figure("recount")
def recount():
    """The bookkeeping of one merge."""
    f = Figure(760, 350)
    f.text(40, 28, "different chunks, and how often each occurs", size=14, anchor="start", bold=True)
    rows = [
        ([f"{SPACE}l", "amp"], 29),
        ([f"{SPACE}l", "amp", "s"], 8),
        ([f"{SPACE}l", "amp", "l", "ight", "er"], 1),
        ([SPACE, "L", "amp"], 2),
        ([f"{SPACE}the"], 267),
    ]
    for i, (tokens, n) in enumerate(rows):
        y, x = 52 + 46 * i, 90
        f.text(64, y + 17, f"{n} ×", size=14, anchor="end", color=INK if i < 3 else MUTED)
        for k, token in enumerate(tokens):
            wide = 10 * len(token) + 16
            f.box(x, y, wide, 34, token, color="orange" if i < 3 and k < 2 else "white" if i < 3 else "gray", mono=True, radius=5)
            x += wide + 4
    f.text(
        40,
        312,
        "Only the first three hold the pair.\nAbout a thousand others are not touched.",
        size=13.5,
        color=MUTED,
        anchor="start",
    )
    f.arrow(334, 118, 418, 118, label="merge")
    f.text(440, 28, "the counts that change", size=14, anchor="start", bold=True)
    for i, (left, right, before, after) in enumerate(
        [
            (f"{SPACE}l", "amp", 38, 0),
            ("amp", "s", 8, 0),
            (f"{SPACE}lamp", "s", 0, 8),
            ("amp", "l", 3, 2),
            (f"{SPACE}lamp", "l", 0, 1),
        ]
    ):
        y = 52 + 46 * i
        f.box(440, y, 72, 34, left, color="orange" if i == 0 else "white", mono=True, radius=5)
        f.box(516, y, 60, 34, right, color="orange" if i == 0 else "white", mono=True, radius=5)
        f.text(630, y + 17, str(before), size=16)
        f.arrow(650, y + 17, 684, y + 17)
        f.text(706, y + 17, str(after), size=16, bold=True)
    f.text(440, 312, "All other counts stay as they are.", size=13.5, color=MUTED, anchor="start")
    return f


@figure("special-tokens")
def special_tokens():
    """The ids of the course's tokenizer, and what the special ones are for."""
    f = Figure(760, 250)
    f.box(30, 40, 130, 54, "256 bytes", color="blue")
    f.box(160, 40, 400, 54, "merges, in the order they were learned", color="orange")
    f.box(560, 40, 170, 54, "4 special tokens", color="purple")
    for x, label in ((30, "0"), (160, "256"), (560, "2044"), (730, "2047")):
        f.line(x, 94, x, 104, color=MUTED)
        f.text(x, 116, label, size=13, color=MUTED)
    f.text(30, 24, "ids", size=13, color=MUTED, anchor="start")
    x = 30
    for text, color in (
        ("…her home.", "white"),
        ("<|endoftext|>", "purple"),
        ("Once there was a goat", "white"),
        ("…", "white"),
        ("<|endoftext|>", "purple"),
        ("A fox", "white"),
    ):
        wide = 8.2 * len(text) + 18
        f.box(x, 160, wide, 38, text, color=color, mono=True, size=13, radius=5)
        x += wide + 5
    f.text(
        30, 222, "one row of tokens, many texts; no text can contain the token between them", size=13.5, color=MUTED, anchor="start"
    )
    return f


@figure("windows")
def windows():
    """Windows of four tokens with stride 4 and stride 2."""
    f = Figure(760, 420)
    cell, left = 48, 150

    def row(y, first, n, color, dashed=False):
        for t in range(first, first + n):
            f.box(left + cell * t, y, cell - 4, 28, str(t), color=color, size=14, mono=True, radius=4, dashed=dashed)

    f.text(130, 34, "tokens", size=14, color=MUTED, anchor="end")
    row(20, 0, 12, "gray")
    f.text(30, 84, "stride 4", size=15, bold=True, anchor="start")
    for k in range(2):
        y = 100 + 70 * k
        f.text(130, y + 14, "input", size=13, color=MUTED, anchor="end")
        f.text(130, y + 45, "targets", size=13, color=MUTED, anchor="end")
        row(y, 4 * k, 4, "blue")
        row(y + 31, 4 * k + 1, 4, "orange")
    f.text(left + cell * 9 + 6, 207, "8 to 11 would need\na token 12 as target", size=12.5, color=MUTED, anchor="start")
    f.text(30, 254, "stride 2", size=15, bold=True, anchor="start")
    for k in range(3):
        y = 270 + 36 * k
        row(y, 2 * k, 4, "blue")
        f.text(
            left + cell * (2 * k + 4) + 8, y + 14, f"targets {2 * k + 1} to {2 * k + 4}", size=13, color="orange", anchor="start"
        )
    f.text(130, 284, "inputs", size=13, color=MUTED, anchor="end")
    f.text(left, 396, "and so on; neighboring windows share half of their tokens", size=13.5, color=MUTED, anchor="start")
    return f


@figure("batch")
def batch():
    """(B, T) becomes (B, T, C)."""
    f = Figure(760, 270)
    B, T, size = 4, 8, 30
    for i in range(B):
        for t in range(T):
            f.box(40 + size * t, 90 + size * i, size, size, color="blue", radius=0, edge=1)
    f.text(160, 232, "T = 8 positions", size=14, color=MUTED)
    f.text(40, 74, "ids (B, T)", size=15, anchor="start", bold=True)
    f.text(20, 150, "B", size=15, color=MUTED)
    f.arrow(300, 150, 380, 150, label="look up")
    x, y, dx, dy = 410, 110, 10, -9
    for depth in range(7, -1, -1):
        for i in range(B):
            for t in range(T):
                if depth == 0 or t == T - 1 or i == 0:
                    f.box(
                        x + 28 * t + dx * depth,
                        y + 28 * i + dy * depth,
                        28,
                        28,
                        color="orange" if depth == 0 else "yellow",
                        radius=0,
                        edge=0.8,
                    )
    f.text(570, 24, "vectors (B, T, C)", size=15, bold=True)
    f.text(x + 112, 240, "T", size=15, color=MUTED)
    f.text(x - 16, 166, "B", size=15, color=MUTED)
    f.text(690, 240, "C = 16 channels", size=14, color=MUTED)
    f.arrow(646, 224, 718, 159, color=MUTED)
    return f


@figure("leak")
def leak():
    """Shuffled overlapping windows against a text cut once."""
    f = Figure(760, 330)
    f.text(30, 28, "windows dealt at random", size=15, bold=True, anchor="start")
    for k in range(10):
        validation = k in (3, 7)
        f.box(40 + 34 * k, 48 + 9.5 * k, 200, 9, color="red" if validation else "blue", radius=2, edge=1)
    f.text(660, 86, "training", size=14, color="blue", anchor="start")
    f.text(660, 108, "validation", size=14, color="red", anchor="start")
    f.text(40, 166, "Each validation window lies inside the training windows around it.", size=13.5, color=MUTED, anchor="start")
    f.line(30, 188, 730, 188, color="#d5d9de")
    f.text(30, 212, "text cut first, windows made after", size=15, bold=True, anchor="start")
    for k in range(7):
        f.box(40 + 34 * k, 232 + 9.5 * k, 200, 9, color="blue", radius=2, edge=1)
    for k in range(3):
        f.box(466 + 34 * k, 232 + 9.5 * k, 200, 9, color="red", radius=2, edge=1)
    f.line(455, 222, 455, 304, dashed=True)
    f.text(470, 290, "the cut: nothing is shared across it", size=13.5, color=MUTED, anchor="start")
    return f


@figure("lookup")
def lookup():
    """The same row by look-up and by product."""
    f = Figure(760, 300)
    rows = [
        [f"{v:.1f}".replace("-", "−") for v in r]
        for r in ([-1.0, 0.9, -0.8], [0.5, 0.0, 0.0], [1.1, 0.9, -0.8], [0.7, 0.1, 2.8], [0.1, 1.1, 0.3], [1.8, -0.7, -1.2])
    ]

    def table(x, y):
        f.grid(x, y, rows, cell=50, height=28, colors=[["orange" if i == 2 else "white"] * 3 for i in range(6)], size=14)

    f.text(160, 30, "look up", size=15, bold=True)
    f.circle(50, 136, 20, "2", color="blue", size=16)
    f.arrow(72, 136, 116, 136)
    table(120, 66)
    f.text(195, 254, "table (V, C)", size=13, color=MUTED)
    f.text(530, 30, "multiply", size=15, bold=True)
    f.grid(
        330,
        136,
        [["0", "0", "1", "0", "0", "0"]],
        cell=28,
        height=28,
        colors=[["white", "white", "blue", "white", "white", "white"]],
        size=14,
    )
    f.text(414, 184, "one-hot (1, V)", size=13, color=MUTED)
    f.text(514, 150, "×", size=20)
    table(530, 66)
    f.text(605, 254, "table (V, C)", size=13, color=MUTED)
    f.text(698, 150, "=", size=20)
    f.text(732, 150, "row\n2", size=14, color="orange", bold=True)
    f.text(380, 284, "five of the six rows are multiplied by zero", size=13.5, color=MUTED)
    return f


@figure("order-blind")
def order_blind():
    """Two sentences, one bag."""
    f = Figure(760, 300)
    sentences = (["the", "man", "saw", "the", "boy"], ["the", "boy", "saw", "the", "man"])
    color = {"the": "gray", "man": "blue", "saw": "white", "boy": "orange"}
    for k, words in enumerate(sentences):
        x0 = 30 + 370 * k
        f.tokens(x0, 24, words, [color[w] for w in words], width=60)
        f.arrow(x0 + 160, 64, x0 + 160, 92)
        f.box(x0 + 20, 96, 290, 58, color="none", radius=28)
        f.box(x0 + 20, 96, 290, 58, color="white", radius=28, dashed=True)
        for i, word in enumerate(sorted(words)):
            f.box(x0 + 34 + 53 * i, 110, 50, 30, word, color=color[word], mono=True, size=14, radius=5)
        f.text(x0 + 165, 252, "with positions", size=13.5, color=MUTED)
        for i, word in enumerate(words):
            f.box(x0 + 64 * i + 2, 196, 60, 34, f"{word} {i}", color=color[word], mono=True, size=13.5, radius=5)
    f.text(380, 125, "=", size=24)
    f.text(380, 213, "≠", size=24)
    f.text(380, 172, "as a bag: the same", size=13.5, color=MUTED)
    f.text(380, 280, "man 1 saw boy 4, or boy 1 saw man 4", size=13.5, color=MUTED)
    return f
