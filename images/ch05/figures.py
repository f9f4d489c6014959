"""The figures of chapter 5. `python course.py figures` draws them again."""

from images.kit import MUTED, Figure, figure

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
