"""What a right answer to each exercise of chapter 8 does, and the hint for each usual mistake."""

import math
from random import Random

import torch

from exercises import expect


def near(a, b) -> bool:
    """Whether two numbers agree to a millionth."""
    return isinstance(a, int | float) and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def check_bound(decode_bound) -> str:
    y = decode_bound(1_000_000, 500, 128, 4, 4, 10e9)                              # 4 MB of weights, 2.048 MB of cache
    for wrong, hint in {
        10e9 / 4_000_000: "You count the weights only; the keys and values are read too.",
        10e9 / (4_000_000 + 500 * 128 * 4 * 4): "There are keys and there are values: twice as many numbers.",
        10e9 / (4_000_000 + 2 * 500 * 128 * 4): "Each layer has its own keys and values.",
        10e9 / (1_000_000 + 2 * 500 * 128 * 4): "Those are numbers; each takes bytes_each bytes.",
        (4_000_000 + 2 * 500 * 128 * 4 * 4) / 10e9: "That is the time of a token; return tokens a second.",
    }.items():
        expect(not near(y, wrong), hint)
    expect(near(y, 10e9 / (4_000_000 + 2 * 500 * 128 * 4 * 4)), f"1 million parameters and 500 cached tokens of 4 layers with 128 "
           f"channels are 6.048 MB in 4-byte numbers: 1,653 tokens a second at 10 GB/s. You return {y}.")
    expect(near(decode_bound(1_000_000, 0, 128, 4, 1, 10e9), 10_000),
           "In 1-byte numbers without a cache it is 10,000 tokens a second.")
    return "GPT-2's cache weighs as much as its weights after 6,751 tokens, far beyond its context. Today's contexts are longer."


def steps_of(lengths, n_rows) -> int:
    """The right number of steps: each text takes the row that is free first."""
    free = [0] * n_rows
    for n in lengths:
        at = free.index(min(free))
        free[at] += n
    return max(free)


def check_steps(continuous_steps) -> str:
    lengths = [5, 1, 1, 1, 6, 2]
    y = continuous_steps(list(lengths), 2)
    for wrong, hint in {
        16: "That is the number of tokens; several are written in a step.",
        8: "That is the number of tokens over the number of rows: the best there could be. A row can be empty at the end.",
        5 + 1 + 6: "Those are static batches. A row that is free takes the next text at once.",
        max(lengths): "That would do for as many rows as texts; here two rows share them.",
    }.items():
        expect(y != wrong, hint)
    expect(y == steps_of(lengths, 2), f"For lengths {lengths} in 2 rows it's {steps_of(lengths, 2)} steps; you return {y}.")
    random = Random(0)
    for n_rows in (1, 3, 8):
        lengths = [random.randint(1, 40) for _ in range(30)]
        expect(continuous_steps(list(lengths), n_rows) == steps_of(lengths, n_rows),
               f"With {n_rows} rows and 30 random lengths your number is another than an engine's.")
    return "Long texts first leaves fewer rows empty at the end, but nobody knows a text's length before it is written."


def check_zero_point(quantize_uint8) -> str:
    x = torch.tensor([[0.0, 0.5, 1.0, 10.0], [-1.0, 0.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0], [-4.0, -3.0, -2.0, -1.0]])
    whole, scale, zero = quantize_uint8(x)
    expect(whole.dtype == torch.uint8, f"The whole numbers are {whole.dtype}; make them uint8.")
    expect(whole.shape == x.shape and scale.shape == zero.shape == (4, 1),
           "Give a scale and a zero point to each row: (R, 1) each.")
    back = (whole.float() - zero.float()) * scale
    expect(bool((zero.float() == zero.float().round()).all() and (zero >= 0).all() and (zero <= 255).all()),
           "The zero point is one of the levels: a whole number of 0 to 255. If a row doesn't reach 0, widen its range.")
    expect(bool((back[x == 0] == 0).all()), "0 must come back as exactly 0.")
    width = torch.tensor([[10.0], [4.0], [5.0], [4.0]])                            # of each row's range, with 0 in it
    expect(not bool(((scale / (width / 255) - 2).abs() < 0.1).any()), "That scale is symmetric: half of the levels are never used.")
    expect(bool(((back - x).abs() <= width / 255 * 0.76).all()),
           "Something comes back wrong by more than three quarters of a step. Do you round, and clamp to 0 and 255?")
    return "Activations are quantized so; weights lie around zero anyway."


def check_shown(may_show) -> str:
    half, whole = "The fox. The En", "The fox. The End. More"
    expect(may_show(half, ["The End."]) != half, "The last six letters may be the beginning of the stop string.")
    expect(may_show(half, ["The End."]) != "The fox.", "The space before “The” isn't part of the stop string, so it may be shown.")
    expect(may_show(whole, ["The End."]) == "The fox. ", "A whole stop string is there: what stands before it may be shown.")
    for text, stops, right in ((half, ["The End."], "The fox. "), ("aab", ["ab", "b"], "a"), ("aaa", ["aab"], "a"),
                               ("none", [], "none"), ("x\n", ["\n\n", "\nUser"], "x"), ("abcab", ["cab", "bcabd"], "ab"),
                               ("", ["a"], "")):
        y = may_show(text, list(stops))
        expect(y == right, f"may_show({text!r}, {stops}) is {right!r}; you return {y!r}.")
    return "The price of a stop string is a pause of a few letters, now and then."


def check_speedup(speedup) -> str:
    y = speedup(0.5, 2, 0.1)                                                       # 1 + 1/2 + 1/4 tokens in 1.2 passes
    for wrong, hint in {
        (1 + 0.5 * 2) / 1.2: "A second token can only be kept if the first was: its chance is a².",
        (0.5 + 0.25) / 1.2: "One token is certain: drawn after a refusal, or given for nothing after k kept ones.",
        1.75 / 1.1: "Each drafted token costs a pass of the draft: k passes.",
        1.75: "That is the number of tokens a pass of the target; divide by what a round costs.",
        1.75 / 0.2: "A round costs one pass of the target too.",
    }.items():
        expect(not near(y, wrong), hint)
    expect(near(y, 1.75 / 1.2), f"At a = ½ and k = 2 a round gives 1.75 tokens in 1.2 passes: × {1.75 / 1.2:.3f}. You return {y}.")
    expect(near(speedup(1.0, 4, 0.0), 5.0), "With a = 1 all four are kept, and one comes for nothing: five tokens.")
    return "At a = 0.8 and a cost of 0.05, eight drafted tokens are best; from a cost of 0.8 on there's nothing to gain."


def check_adapters(lora_rows) -> str:
    g = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(*shape, generator=g) for shape in ((5, 6), (3, 2, 6), (3, 4, 2)))
    chosen = torch.tensor([2, 0, 0, 1, 2])
    right = torch.stack([b[k] @ (a[k] @ row) for row, k in zip(x, chosen.tolist())])   # (B, C_out)
    y = lora_rows(x, chosen, a, b)
    expect(y.shape == (5, 4), f"For five rows and four outputs the result is (5, 4); yours is {tuple(y.shape)}.")
    expect(not torch.allclose(y, x @ a[0].T @ b[0].T, atol=1e-5), "All rows use adapter 0; row i is to use the one in chosen[i].")
    expect(torch.allclose(y, right, atol=1e-5), "Some row isn't what its own adapter gives: first a, then b, of adapter chosen[i].")
    return "Two batched products, whatever the number of adapters; large servers do just this, in one kernel."


def check_bits(bits_per_byte) -> str:
    text = "café"                                                               # four characters, five bytes
    nats = [math.log(2), 3 * math.log(2)]
    y = bits_per_byte(list(nats), text)
    for wrong, hint in {
        4 / 4: "é is one character and two bytes of UTF-8.",
        4 * math.log(2) / 5: "The losses are in nats; a bit is ln 2 of them.",
        4 / 2: "That's a mean a token; divide by the bytes of the text.",
        2 / 5: "Take the whole loss, not its mean, over the bytes of the whole text.",
    }.items():
        expect(not near(y, wrong), hint)
    expect(near(y, 4 / 5), f"Two tokens with 1 and 3 bits, five bytes: 0.8. You return {y}.")
    return "Now a model with another tokenizer can be compared with yours."


def check_rank(mean_reciprocal_rank) -> str:
    scores = torch.tensor([[3.0, 1.0, 0.0], [5.0, 4.0, 1.0], [2.0, 3.0, 1.0]])       # ranks 1, 2 and 3
    y = mean_reciprocal_rank(scores.clone())
    expect(not near(y, 2), "That's the mean rank; take the reciprocal of each rank before the mean.")
    expect(not near(y, 1 / 2), "That's the reciprocal of the mean rank; take the mean of the reciprocals.")
    expect(not near(y, (1 / 2 + 1 / 3 + 1 / 4) / 3), "The best has rank 1; you seem to count its own score as another text's.")
    expect(near(y, (1 + 1 / 2 + 1 / 3) / 3), f"The ranks are 1, 2 and 3, the mean of their reciprocals 0.611; you return {y}.")
    y = mean_reciprocal_rank(torch.ones(4, 4))
    expect(near(y, 1 / 4), f"With four equal scores each text comes last, so 0.25; you return {y}.")
    return "It tells first from second, which recall at 5 doesn't."


def check_events(read_events) -> str:
    data = ('data: {"text": "café"}\n\ndata: {"text": "data: \u2014"}\r\n\r\n: a comment\n\n'
            'data: [DONE]\n\ndata: {"late": 1}\n\n')
    right, raw = [{"text": "café"}, {"text": "data: \u2014"}], data.encode("utf-8")
    whole = read_events([raw])
    expect({"late": 1} not in whole, "Nothing after [DONE] belongs to the answer.")
    expect(whole == right, f"In one chunk the events are {right}; you return {whole!r:.150}.")
    for size in (16, 7, 3, 2, 1):
        chunks = [raw[i:i + size] for i in range(0, len(raw), size)]
        try:
            y = read_events(iter(chunks))
        except UnicodeDecodeError:
            expect(False, "A chunk may end in the middle of é. Decode a line once it is whole.")
        except ValueError:
            expect(False, "A chunk may end in the middle of a line. Keep the rest until its end has come.")
        expect(y == right, f"In chunks of {size} bytes something else comes out: {y!r:.150}.")
    return "That is all there is to a client that streams."


CHECKS = {"8.1": check_bound, "8.2": check_steps, "8.3": check_zero_point, "8.4": check_shown, "8.5": check_speedup,
          "8.6": check_adapters, "8.7": check_bits, "8.8": check_rank, "8.9": check_events}
