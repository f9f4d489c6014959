"""The figures of chapter 8. `python course.py figures` draws them again."""

from images.kit import COLORS, MUTED, Figure, figure


def cells(f: Figure, x: float, y: float, n: int, filled: int, color: str, new: bool = False, width: float = 30) -> None:
    """A row of memory: n cells, the first of them filled, and perhaps one being written."""
    for i in range(n):
        kind = color if i < filled else "orange" if new and i == filled else "gray"
        f.box(x + i * width, y, width - 4, 30, "", color=kind)


@figure("overview")
def overview():
    f = Figure(860, 400)
    for i, said in enumerate(("a tale, please", "who is the hero?", "JSON, please", "go on: ...")):
        f.box(16, 34 + i * 52, 150, 36, said, color="gray", size=13)
        f.arrow(170, 52 + i * 52, 222, 52 + i * 52, color=MUTED)
    f.text(450, 18, "the engine", bold=True, size=14)
    for i, filled in enumerate((5, 2, 7, 3)):
        cells(f, 230, 37 + i * 52, 10, filled, "blue", new=True)
        f.arrow(532, 52 + i * 52, 584, 52 + i * 52, color=MUTED)
    f.box(590, 34, 110, 192, "one model\nreads the\nnewest token\nof all rows\nat once", color="purple", size=13)
    for i, said in enumerate((" Once", " Kate", "{", " fox")):
        f.arrow(704, 52 + i * 52, 750, 52 + i * 52, color=MUTED)
        f.box(754, 34 + i * 52, 90, 36, said, color="orange", mono=True, size=13)
    parts = (("quantization", "the weights in 8 or 4 bits"), ("speculative decoding", "a small model drafts"),
             ("constrained decoding", "answers that fit a form"))
    for i, (name, detail) in enumerate(parts):
        f.box(16 + i * 282, 280, 264, 84, f"{name}\n{detail}", color="green", size=14)
    return f


@figure("rows")
def rows():
    f = Figure(860, 250)
    f.text(110, 20, "row", bold=True, size=14)
    f.text(400, 20, "keys and values, in memory taken once", bold=True, size=14)
    f.text(700, 20, "length: the only state", bold=True, size=14)
    for i, filled in enumerate((5, 2, 7, 0)):
        y = 44 + i * 48
        f.text(110, y + 15, str(i), size=14)
        cells(f, 190, y, 12, filled, "blue", new=i < 3, width=35)
        f.text(700, y + 15, str(filled), mono=True, bold=True, size=15)
    f.line(190, 240, 222, 240, color=COLORS["blue"][1], width=5)
    f.text(262, 240, "read", size=13)
    f.line(320, 240, 352, 240, color=COLORS["orange"][1], width=5)
    f.text(420, 240, "being written", size=13)
    f.line(500, 240, 532, 240, color=COLORS["gray"][1], width=5)
    f.text(600, 240, "doesn't count", size=13)
    return f


@figure("server")
def server():
    f = Figure(860, 330)
    for i, said in enumerate(("a program", "the chat page", "one that leaves")):
        f.box(16, 40 + i * 62, 130, 40, said, color="gray", size=13)
        f.arrow(150, 60 + i * 62, 222, 60 + i * 62, color=MUTED)
    f.text(185, 18, "HTTP", size=13)
    f.box(230, 30, 220, 180, "", color="blue")
    f.text(340, 50, "the event loop", bold=True, size=14)
    for i, said in enumerate(("checks, answers", "checks, answers", "drops")):
        f.text(340, 78 + i * 46, said, size=13)
    f.text(340, 100, "never waits for the model", size=12, color=MUTED)
    f.box(590, 30, 254, 180, "", color="orange")
    f.text(717, 50, "the worker thread", bold=True, size=14)
    f.text(717, 74, "owns the engine", size=13)
    for i, filled in enumerate((4, 2, 5)):
        cells(f, 612, 92 + i * 38, 7, filled, "blue", new=True)
    f.arrow(454, 84, 586, 84, color=MUTED)
    f.text(520, 66, "begin, drop", size=13)
    f.arrow(586, 166, 454, 166, color=MUTED)
    f.text(520, 186, "pieces of text", size=13)
    said = "two queues between them, and nothing else: no client holds up the model,\nand the model holds up no client"
    f.box(230, 250, 614, 60, said, color="green", size=14)
    return f
