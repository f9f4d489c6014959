"""The figures of chapter 7. `python course.py figures` draws them again."""

import math

from images.kit import COLORS, MUTED, Figure, figure

# ---------------------------------------------------------------- the chapter, 7.1-7.3 instructions


@figure("overview")
def overview():
    f = Figure(860, 380)
    boxes = (("goes on", "blue", "Who is the hero?", "Then the cow came back\nand Kate was happy ..."),
             ("answers", "orange", "Who is the hero?", "The hero is Kate."),
             ("knows what people\nprefer", "green", "A or B?", "A: 0.9   B: 0.1"),
             ("answers as people\nprefer", "purple", "Who is the hero?", "The hero is Kate.\n(not: Find it yourself!)"))
    steps = ("30,000 instructions\nwith answers", "pairs of answers,\none preferred", "the same pairs,\na leash to the copy")
    for i, (name, color, asked, said) in enumerate(boxes):
        x = 20 + i * 213
        f.box(x, 70, 180, 62, name, color=color, bold=True)
        f.box(x, 190, 180, 34, asked, color="gray", size=13)
        f.box(x, 234, 180, 54, said, color=color, size=13)
        f.arrow(x + 90, 136, x + 90, 186, color=MUTED, width=1.6)
    for i, step in enumerate(steps):
        x = 200 + i * 213
        f.arrow(x, 101, x + 33, 101)
        f.text(x + 16, 34, step, size=13, color=MUTED)
    f.text(110, 326, "chapter 5's model", size=14)
    f.text(323, 326, "supervised finetuning", size=14)
    f.text(536, 326, "reward model", size=14)
    f.text(749, 326, "direct preference\noptimization", size=14)
    return f


@figure("template")
def template():
    f = Figure(860, 170)
    parts = (("<|user|>", 96, "red", True), ("Who is the hero of this tale? Once there was ...", 340, "gray", False),
             ("<|assistant|>", 132, "red", True), ("The hero is Kate.", 138, "green", False), ("<|endoftext|>", 0, "red", True))
    x, edges = 10, []
    for text, width, color, mono in parts:
        width = width or 850 - x
        f.box(x, 40, width, 44, text, color=color, mono=mono, size=13)
        edges.append((x, x + width))
        x += width + 4
    for left, right, label, color in ((edges[0][0], edges[2][1], "the prompt: given", "gray"),
                                      (edges[3][0], edges[4][1], "the answer: learned", "green")):
        f.line(left, 100, left, 108, right, 108, right, 100, color=COLORS[color][1])
        f.text((left + right) / 2, 130, label, bold=True, size=14)
    return f


# ---------------------------------------------------------------- 7.5 the labeling tool

def bolt(f: Figure, x: float, y: float) -> None:
    """A kernel that is killed."""
    f.line(x + 6, y - 20, x - 5, y, x + 5, y, x - 6, y + 20, color="red", width=3)


@figure("one-choice")
def one_choice():
    f = Figure(860, 330)
    stations = (("a pair is shown", "two answers, A and B", "blue"), ("a key is pressed", "A, B, tie or skip", "orange"),
                ("one transaction", "the choice is on disk", "green"), ("the next pair\nis shown", "", "blue"))
    for i, (name, detail, color) in enumerate(stations):
        x = 24 + i * 213
        f.box(x, 64, 166, 76, f"{name}\n{detail}" if detail else name, color=color, size=14)
        if i:
            f.arrow(x - 44, 102, x - 4, 102)
    f.arrow(746, 60, 746, 28, 107, 28, 107, 60, color=MUTED)
    f.text(426, 15, "and so on; undo goes the other way, and is a transaction too", size=13, color=MUTED)
    f.line(616, 52, 616, 308, color=MUTED, dashed=True)
    f.text(520, 160, "commit", size=13, color=MUTED)
    f.arrow(550, 160, 612, 160, color=MUTED, width=1.4)
    before = "the kernel dies before the commit:\nthe choice was never kept,\nthe same pair is shown again"
    after = "it dies after the commit:\nthe choice is kept,\nthe next pair is shown"
    for x, said, color in ((330, before, "red"), (740, after, "green")):
        bolt(f, x, 198)
        f.text(x, 264, said, size=14, color=color)
    return f


# ---------------------------------------------------------------- 7.4 feedback, 7.6 reward model, 7.7 DPO


@figure("bradley-terry")
def bradley_terry():
    f = Figure(760, 340)
    left, base, wide, tall = 90, 270, 600, 220
    f.arrow(left, base, left + wide + 30, base)
    f.line(left, base, left, base - tall - 10)
    points = []
    for i in range(81):
        d = -4 + i / 10
        points += [left + (d + 4) / 8 * wide, base - tall / (1 + math.exp(-d))]
    f.line(*points, color="blue", width=3)
    for d in range(-4, 5, 2):
        f.text(left + (d + 4) / 8 * wide, base + 18, f"{d:+d}" if d else "0", size=13, color=MUTED)
    for share in (0, 0.5, 1):
        f.text(left - 30, base - tall * share, f"{share:.0%}", size=13, color=MUTED)
    for d, p, note in ((0, 0.5, "equal: 1 to 1"), (math.log(3), 0.75, "lead 1.1: 3 to 1"), (math.log(9), 0.9, "lead 2.2: 9 to 1")):
        x, y = left + (d + 4) / 8 * wide, base - tall * p
        f.circle(x, y, 6, color="orange")
        f.text(x + 16, y + 20, f"{note}, {p:.0%}", size=14, anchor="start")
    f.text(left + wide / 2, base + 48, "score of the first answer minus score of the second", size=14)
    f.text(left + 14, 28, "probability that the first is chosen", size=14, anchor="start")
    return f


@figure("reward-pair")
def reward_pair():
    f = Figure(820, 250)
    for y, answer, reward, name, color in ((50, "The hero is Kate.", "+1.9", "chosen", "green"),
                                           (150, "Find it yourself.", "−0.7", "rejected", "red")):
        f.text(20, y - 16, name, bold=True, size=14, anchor="start")
        f.box(20, y, 140, 44, "Who is the hero?", color="gray", size=13)
        f.box(164, y, 140, 44, answer, color=color, size=13)
        f.box(308, y, 44, 44, "end", color="orange", size=13, mono=True)
        f.arrow(354, y + 22, 404, y + 22)
        f.arrow(512, y + 22, 552, y + 22)
        f.box(556, y, 60, 44, reward, color=color, bold=True)
    f.box(408, 44, 102, 156, "one model,\nread at\nthe end token", color="blue", size=14)
    f.line(618, 72, 650, 72, 650, 172, 618, 172)
    f.arrow(650, 122, 690, 122)
    f.box(694, 88, 112, 68, "−ln σ(2.6)\n= 0.07", color="purple", bold=True, size=14)
    f.text(750, 176, "the loss", size=14)
    f.text(566, 226, "only the difference counts: 1.9 − (−0.7) = 2.6", size=13, color=MUTED)
    return f


@figure("policy-reference")
def policy_reference():
    f = Figure(760, 230)
    f.box(60, 70, 190, 80, "reference\nfrozen", color="gray", bold=True)
    f.box(430, 70, 190, 80, "policy\nlearns", color="blue", bold=True)
    f.line(250, 110, 430, 110, color=MUTED, dashed=True)
    f.text(340, 84, "the leash: KL", bold=True, size=14)
    f.text(340, 134, "each nat costs β", size=14, color=MUTED)
    f.arrow(620, 110, 710, 110, color="green", width=2.6)
    f.text(664, 176, "towards what\nwas chosen", size=14)
    f.text(340, 206, "both begin as the same finetuned model", size=13, color=MUTED)
    return f


@figure("dpo-four")
def dpo_four():
    f = Figure(820, 270)
    rows = ((50, "chosen", "−10", "−12", "+2", "green"), (160, "rejected", "−9", "−8", "−1", "red"))
    for y, who, policy, reference, ratio, color in rows:
        f.text(20, y + 32, who, bold=True, size=14, anchor="start")
        f.box(110, y, 120, 64, f"policy\n{policy}", color="blue", size=14)
        f.text(246, y + 32, "−", bold=True)
        f.box(262, y, 120, 64, f"reference\n{reference}", color="gray", size=14)
        f.arrow(384, y + 32, 430, y + 32)
        f.box(434, y, 66, 64, ratio, color=color, bold=True)
    f.line(502, 82, 530, 82, 530, 192, 502, 192)
    f.arrow(530, 137, 566, 137)
    f.box(570, 105, 100, 64, "β · 3\n= 1.5", color="orange", bold=True, size=14)
    f.arrow(672, 137, 698, 137)
    f.box(702, 105, 104, 64, "−ln σ(1.5)\n= 0.20", color="purple", bold=True, size=14)
    f.text(246, 24, "log-probabilities of whole answers", size=13, color=MUTED)
    f.text(467, 24, "log ratios", size=13, color=MUTED)
    f.text(620, 192, "β = 0.5", size=13, color=MUTED)
    f.text(754, 192, "the loss", size=14)
    return f


# ---------------------------------------------------------------- 7.8 PPO

@figure("ppo-round")
def ppo_round():
    f = Figure(860, 320)
    f.box(20, 110, 150, 74, "policy\nanswers\n32 requests", color="blue", size=14)
    middle = ((30, "reward model", "one number, at the end", "green"), (124, "reference, frozen", "a price for each token", "gray"),
              (218, "value model", "what was to be expected", "orange"))
    for y, name, says, color in middle:
        f.arrow(174, 147, 236, y + 33)
        f.box(240, y, 206, 66, f"{name}\n{says}", color=color, size=14)
    f.line(450, 63, 478, 63, 478, 157, 450, 157)
    f.text(530, 92, "what came", size=14)
    f.arrow(478, 110, 560, 132)
    f.arrow(450, 251, 560, 162)
    f.text(540, 226, "what was\nexpected", size=14)
    f.box(564, 112, 120, 70, "advantage\nof each token", color="purple", size=14)
    f.arrow(688, 147, 716, 147)
    f.box(720, 112, 124, 70, "four small,\nclipped steps", color="blue", size=14)
    f.arrow(782, 186, 782, 304, 95, 304, 95, 188, color=MUTED)
    f.text(620, 290, "the next round", size=13, color=MUTED)
    return f
