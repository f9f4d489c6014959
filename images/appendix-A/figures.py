"""The figures of appendix A."""

from images.kit import MUTED, Figure, figure


@figure("three-drawers")
def three_drawers():
    f = Figure(720, 290)
    rows = [
        ("Modules, loaders, optimizers", "the parts of a training loop", "nn.Linear   DataLoader   AdamW", "green"),
        ("Autograd", "remembers what was computed, finds slopes", "requires_grad   backward()   .grad", "orange"),
        ("Tensors", "arrays with a shape, a dtype and a device", "torch.tensor   @   view   sum", "blue"),
    ]
    for i, (name, does, words, color) in enumerate(rows):
        y = 20 + 86 * i
        f.box(30, y, 660, 74, "", color)
        f.text(52, y + 25, name, size=17, bold=True, anchor="start")
        f.text(52, y + 51, does, size=14, anchor="start")
        f.text(668, y + 37, words, size=13, mono=True, anchor="end", color=MUTED)
    return f


@figure("shapes")
def shapes():
    f = Figure(720, 230)
    f.grid(50, 78, [[7]], cell=36)
    f.text(68, 190, "()", mono=True)
    f.grid(150, 78, [[1, 2, 3]], cell=36)
    f.text(204, 190, "(3,)", mono=True)
    f.grid(320, 60, [[1, 2, 3], [4, 5, 6]], cell=36)
    f.text(374, 190, "(2, 3)", mono=True)
    f.grid(548, 36, [[7, 8, 9], [1, 2, 3]], cell=36, shade="orange")
    f.grid(522, 74, [[1, 2, 3], [4, 5, 6]], cell=36)
    f.text(590, 190, "(2, 2, 3)", mono=True)
    for x, word in ((68, "a number"), (204, "a row"), (374, "a table"), (590, "a batch of tables")):
        f.text(x, 212, word, size=13, color=MUTED)
    return f


@figure("graph")
def graph():
    f = Figure(740, 256)
    f.circle(50, 60, 24, "x", "gray", size=16)
    f.circle(50, 150, 24, "w", "blue", size=16)
    f.box(130, 84, 62, 44, "×", "white", size=20)
    f.circle(232, 172, 24, "b", "blue", size=16)
    f.box(252, 84, 62, 44, "+", "white", size=20)
    f.box(398, 84, 90, 44, "sigmoid", "white")
    f.box(570, 84, 70, 44, "−ln", "white")
    f.circle(704, 106, 24, "loss", "red", size=14)
    f.arrow(74, 66, 128, 94)
    f.arrow(74, 144, 128, 118)
    f.arrow(192, 106, 250, 106)
    f.arrow(246, 152, 268, 130)
    f.arrow(314, 106, 396, 106, label="z")
    f.arrow(488, 106, 568, 106, label="p")
    f.arrow(640, 106, 679, 106)
    for x1, x2, label in ((620, 530, "−1 / p"), (510, 356, "p (1 − p)"), (340, 222, "1"), (200, 78, "x")):
        f.arrow(x1, 214, x2, 214, color="orange", label=label, dashed=True, above=-14)
    f.text(370, 28, "forward: compute and remember · backward (dashed): multiply the local slopes", size=14, color=MUTED)
    return f


@figure("number-formats")
def number_formats():
    f = Figure(760, 242)
    rows = [("float32", 8, 23), ("bfloat16", 8, 7), ("float16", 5, 10)]
    for i, (name, exponent, fraction) in enumerate(rows):
        y = 52 + 54 * i
        f.text(20, y + 11, name, size=15, anchor="start", mono=True)
        x = 118
        for count, color, word in ((1, "gray", "±"), (exponent, "orange", "exponent"), (fraction, "blue", "fraction")):
            for k in range(count):
                f.box(x + 19 * k, y, 19, 22, color=color, radius=0, edge=0.8)
            f.text(x + 19 * count / 2, y + 11 if count == 1 else y + 33, word if count == 1 else f"{word} {count}", size=12.5)
            x += 19 * count
    f.text(
        20,
        26,
        "The exponent decides how far a format reaches, the fraction how finely it tells apart",
        size=15,
        anchor="start",
        bold=True,
    )
    f.text(
        118,
        224,
        "bfloat16 is float32 cut off after sixteen bits: the same reach, less detail.",
        size=13.5,
        anchor="start",
        color=MUTED,
    )
    return f


@figure("compile")
def compile_():
    f = Figure(740, 200)
    f.text(20, 28, "Three operations, three trips through memory", size=14.5, anchor="start", bold=True)
    for i, name in enumerate(("x * x", "+ 1", "sqrt")):
        f.box(40 + 130 * i, 52, 92, 40, name, "blue", mono=True)
        if i < 2:
            f.arrow(132 + 130 * i, 72, 170 + 130 * i, 72)
    f.text(20, 128, "compiled: one loop, one trip", size=14.5, anchor="start", bold=True)
    f.box(40, 146, 352, 40, "sqrt(x * x + 1)", "green", mono=True)
    f.text(430, 72, "each result is written to memory\nand read again", size=13, anchor="start", color=MUTED)
    f.text(430, 166, "a number stays in a register\nuntil it is done", size=13, anchor="start", color=MUTED)
    return f
