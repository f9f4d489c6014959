"""The figures of chapter 4. `python course.py figures` draws them again."""

from images.kit import COLORS, MUTED, Figure, figure


def plus(f: Figure, x: float, y: float) -> None:
    """The circle in which a side road joins the stream."""
    f.circle(x, y, 13, "", color="white")
    f.line(x - 7, y, x + 7, y, width=2)
    f.line(x, y - 7, x, y + 7, width=2)


@figure("overview")
def overview():
    f = Figure(760, 580)
    f.box(180, 240, 400, 160, color="white", dashed=True, radius=12)
    for y, label, color in ((440, "token vector + position vector", "orange"),
                            (330, "attention: gather from earlier tokens", "blue"),
                            (270, "feed-forward: each token by itself", "green"), (150, "last norm", "gray"),
                            (90, "head: one score for every word", "purple")):
        f.box(210, y, 340, 44, label, color=color)
    for x, word, number in ((250, "Once", "7454"), (380, " upon", "2402"), (510, " a", "257")):
        f.box(x - 40, 508, 80, 34, number, color="white", mono=True)
        f.text(x, 560, word, size=14, color=MUTED, mono=True)
        f.arrow(x, 508, x, 486)
        for y1, y2 in ((440, 402), (330, 316), (238, 196), (150, 136), (90, 56)):
            f.arrow(x, y1, x, y2)
    for x, word in ((250, "upon?"), (380, "a?"), (510, "time?")):
        f.text(x, 38, word, mono=True, bold=True)
    for y, label in ((525, "ids   (B, T)"), (421, "(B, T, C)"), (217, "(B, T, C)"), (73, "logits   (B, T, V)")):
        f.text(600, y, label, size=14, color=MUTED, anchor="start")
    f.text(168, 320, "one block,\nrepeated\nL times", size=14, anchor="end", bold=True)
    f.text(168, 38, "a guess at\nevery position", size=13, color=MUTED, anchor="end")
    for y, where in ((462, "section 4.2"), (172, "section 4.3"), (112, "section 4.9")):
        f.text(196, y, where, size=12, color=MUTED, anchor="end")
    f.text(596, 352, "chapter 3", size=13, color=MUTED, anchor="start")
    f.text(596, 292, "sections 4.3 to 4.8", size=13, color=MUTED, anchor="start")
    return f


@figure("embeddings")
def embeddings():
    f = Figure(760, 330)
    f.text(120, 28, "token table  (V, C)", size=14, bold=True)
    f.text(120, 196, "position table", size=14, bold=True)
    for row in range(5):
        color = {3: "orange", 1: "green"}.get(row, "gray")
        f.text(38, 60 + row * 24, str(row), size=13, color=MUTED, mono=True)
        f.box(56, 48 + row * 24, 130, 22, f"{row * 10}.0  {row * 10}.0", color=color, size=13, mono=True, radius=3)
    for row in range(3):
        f.text(38, 228 + row * 24, str(row), size=13, color=MUTED, mono=True)
        f.box(56, 216 + row * 24, 130, 22, f"0.{row}  0.{row}", color="blue", size=13, mono=True, radius=3)
    for i, (token, color) in enumerate(((3, "orange"), (1, "green"), (3, "orange"))):
        y = 70 + i * 84
        f.text(262, y, f"id {token}\nposition {i}", size=13)
        f.box(322, y - 17, 100, 34, f"{token * 10}.0  {token * 10}.0", color=color, size=13, mono=True)
        f.text(438, y, "+", size=18, bold=True)
        f.box(454, y - 17, 90, 34, f"0.{i}  0.{i}", color="blue", size=13, mono=True)
        f.text(562, y, "=", size=18, bold=True)
        f.box(582, y - 17, 110, 34, f"{token * 10}.{i}  {token * 10}.{i}", color="purple", size=13, mono=True, bold=True)
    f.text(637, 300, "same token, different vector", size=13, color=MUTED)
    f.line(700, 70, 708, 70, 708, 238, 700, 238, color=MUTED)
    f.text(724, 154, "≠", size=20, bold=True)
    f.text(637, 28, "into the first block", size=14, bold=True)
    return f


@figure("layernorm")
def layernorm():
    f = Figure(760, 270)
    before = [[1, 2, 3, 6], [10, 10, 30, 30], [-4, 0, 0, 4]]
    after = [["-1.07", "-0.53", "0.00", "1.60"], ["-1.00", "-1.00", "1.00", "1.00"], ["-1.41", "0.00", "0.00", "1.41"]]
    colors = [[c] * 4 for c in ("blue", "green", "orange")]
    f.text(182, 30, "channels", size=14, color=MUTED)
    f.grid(70, 50, before, cell=56, height=44, shade=None, colors=colors, size=15)
    for i in range(3):
        f.text(36, 72 + i * 44, f"token {i}", size=13)
        f.arrow(304, 72 + i * 44, 448, 72 + i * 44)
    f.text(376, 51, "mean to 0, spread to 1", size=13, color=MUTED)
    f.grid(460, 50, after, cell=64, height=44, shade=None, colors=colors, size=15)
    f.arrow(98, 192, 98, 226, color="red", width=2.4)
    f.line(86, 218, 110, 198, color="red", width=3)
    f.text(122, 210, "never down a column: that would mix tokens, and let the past see the future", size=13, anchor="start",
           color="red")
    f.text(588, 246, "each row was normalized by itself", size=13, color=MUTED)
    return f


@figure("feedforward")
def feedforward():
    f = Figure(760, 360)
    for x, name, color in ((190, "token t", "blue"), (540, "token t + 1", "orange")):
        f.text(x, 334, name, bold=True)
        f.box(x - 50, 286, 100, 30, "C numbers", color=color, size=13)
        f.arrow(x, 286, x, 250)
        f.box(x - 150, 218, 300, 30, "4C numbers: the questions", color=color, size=13)
        f.arrow(x, 218, x, 182)
        f.box(x - 150, 150, 300, 30, "GELU keeps what was answered yes", color=color, size=13)
        f.arrow(x, 150, x, 114)
        f.box(x - 50, 82, 100, 30, "C numbers", color=color, size=13)
        f.arrow(x, 82, x, 46)
    f.text(365, 268, "expand", size=14, bold=True)
    f.text(365, 132, "contract", size=14, bold=True)
    f.text(365, 200, "the same\nweights", size=13, color=MUTED)
    f.line(365, 300, 365, 322, color=MUTED, dashed=True)
    f.line(365, 40, 365, 112, color=MUTED, dashed=True)
    f.text(365, 24, "no line between the tokens", size=13, color=MUTED)
    return f


@figure("shortcut")
def shortcut():
    f = Figure(760, 430)
    f.text(190, 26, "x = layer(x)", mono=True, bold=True)
    f.text(560, 26, "x = x + layer(x)", mono=True, bold=True)
    for i, (y, width) in enumerate(((70, 13), (160, 7), (250, 3.6), (340, 1.8))):
        f.box(120, y, 140, 40, f"layer {4 - i}", color="blue")
        f.line(190, y + 44, 190, y + 76 if i < 3 else y + 72, color="red", width=width)
        f.box(440, y, 130, 40, f"layer {4 - i}", color="green")
        f.line(640, y - 3, 640, y + 62, color="red", width=11)
        plus(f, 640, y - 16)
        f.arrow(640, y + 58, 505, y + 58, 505, y + 41, width=1.6)
        f.arrow(505, y, 505, y - 16, 626, y - 16, width=1.6)
    f.text(80, 90, "loss", size=14, bold=True)
    f.arrow(80, 106, 80, 384, color="red", width=2)
    f.text(80, 402, "gradient", size=13, color="red")
    f.text(330, 386, "a thread\nremains", size=13, color=MUTED)
    f.arrow(294, 392, 204, 400, color=MUTED, width=1.4)
    f.text(706, 230, "as wide\nas it was", size=13, color=MUTED)
    return f


@figure("block")
def block():
    f = Figure(640, 560)
    x = 180
    f.arrow(x, 540, x, 36, width=5, color="purple")
    f.text(x - 24, 520, "x  (B, T, C)", size=14, anchor="end")
    f.text(x - 24, 50, "x  (B, T, C)", size=14, anchor="end")
    f.text(x - 26, 290, "the residual\nstream", size=14, anchor="end", bold=True, color="purple")
    for top, part, color, what in ((330, "multi-head attention", "blue", "gather"), (110, "feed-forward", "green", "digest")):
        f.arrow(x, top + 160, 400, top + 160, 400, top + 138, width=2)
        f.box(320, top + 98, 160, 38, "norm", color="gray")
        f.arrow(400, top + 98, 400, top + 76, width=2)
        f.box(300, top + 32, 200, 42, part, color=color)
        f.arrow(400, top + 32, 400, top, x + 15, top, width=2)
        plus(f, x, top)
        f.text(516, top + 53, what, size=14, color=MUTED, anchor="start")
    return f


@figure("pre-and-post-norm")
def pre_and_post_norm():
    f = Figure(760, 440)
    for x, title, words in ((150, "post-norm (2017)", "the stream passes through every norm"),
                            (520, "pre-norm (GPT-2)", "the stream runs straight, norms beside it")):
        f.text(x + 60, 26, title, bold=True)
        f.text(x + 60, 424, words, size=13, color=MUTED)
        f.arrow(x, 404, x, 48, width=4, color="purple")
        for top in (240, 72):
            f.arrow(x, top + 136, x + 110, top + 136, x + 110, top + 114, width=1.6)
            if title.startswith("pre"):
                f.box(x + 55, top + 84, 110, 28, "norm", color="gray", size=13)
                f.arrow(x + 110, top + 84, x + 110, top + 66, width=1.6)
                f.box(x + 55, top + 34, 110, 30, "part", color="blue", size=13)
                f.arrow(x + 110, top + 34, x + 110, top + 10, x + 15, top + 10, width=1.6)
                plus(f, x, top + 10)
            else:
                f.box(x + 55, top + 82, 110, 30, "part", color="blue", size=13)
                f.arrow(x + 110, top + 82, x + 110, top + 54, x + 15, top + 54, width=1.6)
                plus(f, x, top + 54)
                f.box(x - 55, top - 2, 110, 28, "norm", color="orange", size=13)
    return f


@figure("logits-memory")
def logits_memory():
    f = Figure(820, 400)
    f.text(190, 28, "the plain way", bold=True)
    f.text(610, 28, "strip by strip", bold=True)
    f.box(24, 90, 34, 180, "h", color="blue", size=13)
    f.text(41, 290, "(N, C)", size=12, color=MUTED)
    f.arrow(60, 180, 92, 180)
    for i, name in enumerate(("logits", "log-softmax", "gradient of the logits")):
        f.box(96 + i * 34, 62 + i * 40, 210, 160, color="orange")
        f.text(201 + i * 34, 82 + i * 40, name, size=13)
    f.text(206, 330, "three sheets of N rows and V columns", size=13)
    f.text(206, 362, "8 x 256 tokens, 50,257 words:\n3 x 393 MiB", size=13, color=MUTED)
    f.line(408, 60, 408, 370, color=MUTED, dashed=True, width=1.2)
    f.box(436, 100, 34, 210, color="blue")
    f.box(436, 184, 34, 36, "h", color="green", size=13)
    f.arrow(472, 202, 506, 202)
    f.box(510, 100, 190, 210, color="none")
    f.line(510, 100, 700, 100, 700, 310, 510, 310, 510, 100, color="gray", width=1, dashed=True)
    f.box(510, 184, 190, 36, "logits, then softmax - one-hot", color="orange", size=11)
    f.arrow(605, 182, 605, 122, color=MUTED)
    f.text(618, 150, "next strip,\nsame paper", size=12, color=MUTED, anchor="start")
    f.arrow(565, 222, 565, 326)
    f.arrow(660, 222, 660, 326)
    f.box(510, 328, 100, 32, "grad of h", color="green", size=12)
    f.box(622, 328, 130, 32, "grad of weight", color="green", size=12)
    f.text(632, 380, "only these are kept", size=13, color=MUTED)
    return f


@figure("model")
def model():
    f = Figure(720, 640)
    x = 230
    f.arrow(x, 612, x, 34, width=2.2)
    f.box(120, 560, 220, 36, "token_embedding", color="orange", mono=True, size=14)
    plus(f, x, 528)
    f.box(420, 510, 230, 36, "position_embedding", color="orange", mono=True, size=14)
    f.arrow(420, 528, 245, 528)
    f.box(70, 190, 590, 300, color="white", dashed=True, radius=12)
    f.text(646, 208, "blocks, L times", size=14, anchor="end", bold=True)
    f.arrow(x, 490, x, 180, width=5, color="purple")
    for top, norm, part, color in ((352, "norm1", "attention", "blue"), (216, "norm2", "feed_forward", "green")):
        f.arrow(x, top + 112, 440, top + 112, 440, top + 98, width=1.8)
        f.box(380, top + 66, 120, 30, norm, color="gray", mono=True, size=14)
        f.arrow(440, top + 66, 440, top + 52, width=1.8)
        f.box(340, top + 18, 200, 32, part, color=color, mono=True, size=14)
        f.arrow(440, top + 18, 440, top, 245, top, width=1.8)
        plus(f, x, top)
    f.box(120, 128, 220, 36, "final_norm", color="gray", mono=True, size=14)
    f.box(120, 66, 220, 36, "head", color="purple", mono=True, size=14)
    f.text(356, 40, "logits  (B, T, V)", size=14, color=MUTED, anchor="start")
    f.text(356, 618, "token ids  (B, T)", size=14, color=MUTED, anchor="start")
    f.line(118, 84, 40, 84, 40, 578, 118, 578, dashed=True, width=2, color="red")
    f.text(50, 528, "one matrix\n(V, C),\nif tied", size=13, color="red", anchor="start")
    return f


@figure("parameters")
def parameters():
    f = Figure(760, 300)
    sizes = (("gpt2", 768, 12), ("gpt2-medium", 1024, 24), ("gpt2-large", 1280, 36), ("gpt2-xl", 1600, 48))
    for i, (name, c, layers) in enumerate(sizes):
        tables, attention = 51_281 * c, layers * (4 * c * c + 4 * c)
        feed_forward = layers * (8 * c * c + 5 * c)
        total = tables + attention + feed_forward + layers * 4 * c + 2 * c
        x, y = 130.0, 50 + i * 52
        f.text(118, y + 17, name, size=14, anchor="end", mono=True)
        for part, color in ((tables, "orange"), (attention, "blue"), (feed_forward, "green")):
            width = 500 * part / total
            f.box(x, y, width, 34, f"{part / total:.0%}" if width > 22 else "", color=color, size=12, radius=0)
            x += width
        f.text(642, y + 17, f"{total / 1e6:,.0f} million", size=14, anchor="start")
    for x, label, color in ((130, "tables", "orange"), (270, "attention", "blue"), (430, "feed-forward", "green")):
        f.box(x, 264, 22, 18, "", color=color, radius=2)
        f.text(x + 30, 273, label, size=13, anchor="start")
    f.text(380, 26, "where a GPT-2's parameters are (norms: under 0.1 %)", size=14, bold=True)
    return f


@figure("flops")
def flops():
    f = Figure(780, 230)
    c, layers, vocabulary = 768, 12, 50_257
    f.text(390, 26, "one token through GPT-2 small", size=14, bold=True)
    for i, t in enumerate((1024, 64)):
        parts = [("feed-forward", 16 * c * c * layers, "green"), ("head", 2 * vocabulary * c, "purple"),
                 ("projections", 8 * c * c * layers, "blue"), ("products", 4 * t * c * layers, "red")]
        x, y = 120.0, 54 + i * 66
        total = sum(p for _, p, _ in parts)
        f.text(108, y + 20, f"T = {t:,}", size=14, anchor="end")
        for name, part, color in parts:
            width = 530 * part / 284_812_800
            f.box(x, y, width, 40, f"{name}\n{part / total:.0%}" if width > 60 else "", color=color, size=12, radius=0)
            x += width
        f.text(x + 10, y + 20, f"{total / 1e6:.0f} MFLOP", size=14, anchor="start")
    f.text(120, 200, "projections and products are attention's: with weights, and between tokens (at T = 64 a sliver of 1 %)",
           size=12, color=MUTED, anchor="start")
    return f


@figure("generate")
def generate():
    f = Figure(760, 300)
    xs = f.tokens(40, 206, ["Once", " upon", " a"], "blue")
    f.box(40, 100, 200, 54, "model", color="purple", bold=True)
    for x in xs:
        f.arrow(x, 206, x, 156)
    f.arrow(xs[-1], 100, xs[-1], 60, 330, 60, label="")
    f.text(300, 42, "only the last position's scores", size=13, color=MUTED)
    f.bars(350, 126, [0.6, 0.2, 0.9, 0.3], [" day", " of", " time", " cat"], width=46, gap=14, height=76, format="",
           color=["gray", "gray", "green", "gray"])
    f.arrow(600, 100, 650, 100, label="best")
    f.box(658, 82, 70, 36, " time", color="green", mono=True)
    f.arrow(693, 120, 693, 223, 300, 223)
    f.box(226, 206, 70, 34, " time", color="green", mono=True, dashed=True)
    f.text(496, 208, "append, and begin again", size=13, color=MUTED)
    f.text(380, 276, "until the end token comes, or the context is full", size=13, color=MUTED)
    return f


@figure("left-padding")
def left_padding():
    f = Figure(760, 300)
    rows = [[None, None, None, 5, 6], [1, 2, 3, 4, 9], [None, None, 7, 8, 9]]
    for i, row in enumerate(rows):
        start = sum(v is None for v in row)
        for j, value in enumerate(row):
            x, y = 150 + j * 78, 50 + i * 74
            f.box(x, y, 74, 36, "pad" if value is None else str(value), color="gray" if value is None else "blue",
                  mono=True, dashed=value is None)
            f.text(x + 37, y + 50, "–" if value is None else str(j - start), size=13, color=MUTED, mono=True)
        f.text(138, 68 + i * 74, f"row {i}", size=14, anchor="end")
        f.text(138, 100 + i * 74, "position", size=12, anchor="end", color=MUTED)
        f.arrow(544, 68 + i * 74, 590, 68 + i * 74)
        f.text(598, 68 + i * 74, "next token?", size=14, anchor="start")
    edge = COLORS["red"][1]
    f.line(459, 40, 541, 40, 541, 262, 459, 262, 459, 40, color=edge, width=2)
    f.text(500, 26, "all last tokens in one column", size=13, color="red")
    f.text(345, 284, "gray cells: hidden from attention by the mask, and not counted as positions", size=13, color=MUTED)
    return f
