"""The figures that belong to no chapter: the cover, the map of the whole course, the Colab badge."""

from images.kit import MUTED, Figure, figure


@figure("cover")
def cover():
    f = Figure(960, 360)
    f.text(40, 52, "From Bytes to Chat", size=38, anchor="start", bold=True)
    f.text(42, 95, "A language model, built by hand, from raw text to an assistant you serve yourself", 16, MUTED, "start")
    top = 140

    for i, value in enumerate(b"Once upon a time"):  # 16 bytes, four by four
        f.box(40 + i % 4 * 37, top + i // 4 * 38, 37, 38, f"{value:02x}", color="gray", size=14, mono=True, radius=0, edge=1)

    vectors = ([14, 6, 20], [7, 21, 10], [19, 12, 5], [10, 17, 22])
    for i, (word, color) in enumerate(zip(("Once", "·upon", "·a", "·time"), ("blue", "orange", "green", "purple"), strict=True)):
        y = top + 3 + i * 38
        f.box(252, y, 80, 32, word, color=color, size=15, mono=True, radius=5)
        for j, height in enumerate(vectors[i]):
            f.box(392 + j * 20, y + 29 - height, 14, height, color=color, radius=1, edge=1.2)

    for i in range(4):  # the stack, read from the bottom up
        f.box(514, top + 3 + i * 38, 130, 32, ("feed-forward", "attention")[i % 2], ("yellow", "sky")[i % 2], size=14)

    f.box(742, top, 178, 42, "Tell me a tale.", color="white", size=15, radius=18)
    f.box(710, top + 62, 190, 90, "Once upon a time\nthere was a fox\nwho lost her drum.", color="green", size=15, radius=18)

    for x1, x2 in ((200, 240), (344, 382), (462, 502), (656, 698)):
        f.arrow(x1, top + 76, x2, top + 76, width=2.4)
    for x, label in ((114, "bytes"), (292, "tokens"), (419, "vectors"), (579, "a GPT"), (815, "chat")):
        f.text(x, top + 182, label, size=17, bold=True)
    return f


def chapter(f, x, y, number, title, product, color):
    """A chapter of the map: its number, what it is about, and what you hold in your hands when it ends."""
    f.box(x, y, 244, 78, color=color)
    f.circle(x + 30, y + 39, 19, number, color="white", size=17)
    f.text(x + 60, y + 27, title, size=15, anchor="start", bold=True)
    f.text(x + 60, y + 53, product, size=13, anchor="start")


@figure("mental-model")
def mental_model():
    f = Figure(960, 506)
    build, train, use = 46, 358, 670
    for x, title in ((build, "Build it"), (train, "Train it"), (use, "Use it")):
        f.box(x - 28, 18, 300, 384, color="white", radius=12, edge=0.8)
        f.text(x + 122, 45, title, size=19, bold=True)

    chapter(f, build, 74, "2", "Text into tokens", "a tokenizer of your own", "blue")
    chapter(f, build, 190, "3", "Attention", "what lets words look back", "blue")
    chapter(f, build, 306, "4", "The GPT model", "every layer, untrained", "blue")
    f.arrow(build + 122, 152, build + 122, 188, width=2.2)
    f.arrow(build + 122, 268, build + 122, 304, width=2.2)

    f.arrow(build + 244, 345, 324, 345, 324, 98, train - 2, 98, width=2.2)
    chapter(f, train, 74, "5", "Pretraining", "a model that tells tales", "orange")
    chapter(f, train, 190, "6", "Classification", "a spam filter", "orange")
    chapter(f, train, 306, "7", "Human feedback", "a model that answers", "orange")
    f.arrow(train + 122, 152, train + 122, 188, width=2.2)
    f.arrow(train, 130, train - 15, 130, train - 15, 345, train - 2, 345, width=2.2)

    f.arrow(train + 244, 229, use - 2, 229, width=1.8, dashed=True)
    f.arrow(train + 244, 345, use - 2, 345, width=2.2)
    f.box(use, 74, 244, 310, color="green")
    f.circle(use + 30, 113, 19, "8", color="white", size=17)
    f.text(use + 60, 113, "In practice", size=15, anchor="start", bold=True)
    for i, line in enumerate(("a faster engine", "smaller weights", "honest evaluation", "retrieval and tools", "a chat server")):
        f.text(use + 60, 166 + i * 43, line, size=14, anchor="start")

    f.box(18, 424, 924, 64, color="yellow", radius=12, edge=0.8)
    for x, number, text in (
        (42, "1", "the whole idea, no code"),
        (330, "A", "PyTorch"),
        (486, "B", "further reading"),
        (708, "C", "every exercise"),
    ):
        f.circle(x + 19, 456, 17, number, color="white", size=15)
        f.text(x + 48, 456, text, size=14, anchor="start")
    return f


@figure("colab-badge")
def colab_badge():
    f = Figure(148, 30)
    f.box(1, 1, 146, 28, color="white", radius=8, edge=1.4)
    f.box(10, 8, 17, 14, color="orange", radius=3, edge=1.4)
    f.line(16, 11.5, 21, 15, 16, 18.5, color="orange", width=2)
    f.text(34, 15, "Open in Colab", size=13, anchor="start", bold=True)
    return f
