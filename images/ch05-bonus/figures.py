"""The figures of chapter 5's supplements. `python course.py figures` draws them again."""

from images.kit import MUTED, Figure, figure


@figure("law")
def law():
    f = Figure(760, 330)
    f.text(24, 150, "loss", size=14, color=MUTED, anchor="start")
    for x, heads, parts in ((90, "small model,\nlittle text", (100, 70, 60)), (250, "large model,\nlittle text", (100, 20, 60)),
                            (410, "small model,\nmuch text", (100, 70, 16)), (570, "large model,\nmuch text", (100, 20, 16))):
        y = 264
        for tall, color, label in zip(parts, ("gray", "blue", "orange"), ("E", "A / Nᵃ", "B / Dᵇ"), strict=True):
            y -= tall
            f.box(x, y, 100, tall, label if tall > 18 else "", color=color, size=14, radius=2)
            if tall <= 18:
                f.text(x + 108, y + tall / 2, label, size=13, anchor="start")
        f.text(x + 50, 296, heads, size=13)
    f.line(70, 264, 690, 264)
    meaning = "what no model can know   +   what is too much for N parameters   +   what D tokens didn't show"
    f.text(380, 20, meaning, size=12, color=MUTED)
    return f


@figure("sieve")
def sieve():
    f = Figure(760, 270)
    steps = (("files of the\ninstalled packages", "blue", 200), ("docstrings and\ndocuments", "sky", 164),
             ("paragraphs\nof prose", "green", 118), ("each of them\nonce", "orange", 92))
    for i, (label, color, tall) in enumerate(steps):
        x = 20 + i * 190
        f.box(x, 118 - tall / 2, 140, tall, label, color=color, size=13)
        if i < 3:
            f.arrow(x + 142, 118, x + 188, 118)
    for x, label in ((185, "code stays behind"), (375, "tables, examples,\nlicences stay behind"),
                     (565, "copies and edited\ncopies stay behind")):
        f.text(x, 246, label, size=12, color=MUTED)
        f.arrow(x, 130, x, 228, color=MUTED, dashed=True, width=1.4)
    return f
