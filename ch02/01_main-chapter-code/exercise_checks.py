"""The self-checks of chapter 2. Each says what is wrong with an attempt in the words of the chapter; see `exercises.py`."""

import random
from collections import Counter

import torch

from ch02 import apply_merges, utf8_ids
from exercises import expect

LAMPS = {b"am": 256, b"amp": 257, b"lamp": 258, b"damp": 259}
MERGES = [(utf8_ids("a")[0], utf8_ids("m")[0]), (256, utf8_ids("p")[0]), (utf8_ids("l")[0], 257), (utf8_ids("d")[0], 257)]
RANKS = {pair: 256 + i for i, pair in enumerate(MERGES)}


def check_unknown_share(unknown_share):
    """2.1: the share of occurrences that a vocabulary lacks."""
    words, vocabulary = ["lamp", "quay", "lamp", "toothbrush", "lamp", "lamp"], {"lamp", "quay"}
    share = unknown_share(words, vocabulary)
    expect(isinstance(share, int | float), f"Return a number; yours is a {type(share).__name__}.")
    expect(abs(share - 5 / 6) > 1e-9, "That is the share of the words that are known; the unknown ones were asked for.")
    expect(abs(share - 1 / 3) > 1e-9, "You count each different word once. A word that occurs four times counts four times.")
    expect(share <= 1, "A share lies between 0 and 1: divide by the number of words.")
    expect(abs(share - 1 / 6) < 1e-9, f"One word of six is unknown in the check's example, a share of 0.167; yours is {share:.3f}.")
    more = unknown_share(["toothbrush", "toothbrush", "lamp"], vocabulary)
    expect(abs(more - 2 / 3) < 1e-9, "An unknown word that occurs twice counts twice: two of three here.")


def check_count_characters(count_characters):
    """2.2: characters in UTF-8 bytes, without decoding."""
    text = "Zoë — 字🕯!"
    data = text.encode("utf-8")
    try:
        n = count_characters(data)
        tail = count_characters(data[3:])  # begins in the middle of the ë
    except UnicodeDecodeError:
        expect(False, "decode() fails on bytes that begin in the middle of a character. Look at the first bits instead.")
    expect(n != len(data), "That is the number of bytes. Some of them continue a character that has begun before.")
    expect(n != sum(b >= 0x80 for b in data), "You count the bytes that are not ASCII. Count those that start a character.")
    expect(n != sum(b < 0x80 for b in data), "You count the characters of one byte only; longer ones have a first byte too.")
    expect(
        n != sum(b & 0xC0 == 0x80 for b in data),
        "You count the bytes that continue a character, those that begin with 10. Count the others.",
    )
    expect(n == len(text), f"{text!r} has {len(text)} characters; you count {n}.")
    expect(tail == len(text) - 3, "For bytes that begin in the middle of a character, count the characters that start there.")
    return "This is how editors count, too."


def check_longest_match(longest_match):
    """2.3: greedy encoding from a vocabulary without merges."""
    vocabulary = {b"la": 260} | dict(reversed(LAMPS.items())) | {bytes([b]): b for b in range(256)}
    got = longest_match(b"lamp", dict(vocabulary))
    expect(got is not None and len(got) > 0, "Return the list of ids.")
    expect(not isinstance(got[0], bytes), "You return the tokens themselves; look up their ids in the vocabulary.")
    expect(list(got) != [108, 97, 109, 112], "You take the shortest token, single bytes. Try the longest first.")
    expect(
        list(got) != [260, 109, 112],
        "You take the first token in the dictionary that fits; another order gives another answer. Take the longest.",
    )
    expect(list(got) == [258], f"b'lamp' is one token, 258; you return {list(got)}.")
    got = list(longest_match(b"amps lamps", dict(vocabulary)))
    expect(
        got == [257, 115, 32, 258, 115],
        f"b'amps lamps' is [257, 115, 32, 258, 115]; you return {got}. Is the rest of the text still there after a match?",
    )
    chain = vocabulary | {b"xy": 256, b"yzw": 257}
    expect(
        list(longest_match(b"xyzw", chain)) == [256, 122, 119],
        "The match must begin where the last one ended. Going from the left, 'xy' comes before the longer 'yzw'.",
    )
    expect(list(longest_match(b"", vocabulary)) == [], "No bytes, no tokens: an empty text gives an empty list.")
    return "Compare 'Sunday' in the two ways: the vocabulary is the same, the ids need not be."


def check_bytes_per_token(bytes_per_token):
    """2.4: how well a tokenizer fits a text."""
    text = "éàü ß"  # 5 characters, 9 bytes
    value = bytes_per_token(lambda t: list(range(len(t))), text)
    expect(abs(value - 5 / 9) > 1e-9, "That is tokens per byte; turn the fraction around.")
    expect(abs(value - 1) > 1e-9, "You divide characters by tokens. An é is one character and two bytes.")
    expect(abs(value - 2 / 5) > 1e-9, "You divide words by tokens. The measure is bytes, which every language has.")
    expect(abs(value - 9 / 5) < 1e-9, f"'éàü ß' has 9 bytes; in 5 tokens that is 1.8 bytes each. You say {value:.3f}.")
    expect(
        abs(bytes_per_token(lambda t: [0], "abcdef") - 6) < 1e-9,
        "Use the `encode` that is passed in; six bytes in one token are 6.",
    )


def check_count_windows(count_windows):
    """2.5: how many windows, without making them."""
    one = count_windows(9, 8, 8)
    expect(one != 2, "Nine tokens are one window of eight: the ninth is its last target. A second window would have nothing in it.")
    expect(one == 1, f"Nine tokens hold exactly one window of eight with its last target; you count {one}.")
    eight = count_windows(16, 8, 8)
    expect(
        eight == 1,
        "In 16 tokens there are two inputs of eight, but the second lacks its last target: the 17th token. "
        "Did you leave room for the target?",
    )
    expect(count_windows(17, 8, 8) == 2, "17 tokens hold two windows of eight with stride 8.")
    dense = count_windows(100, 8, 1)
    expect(dense == 92, f"100 tokens with stride 1 hold 92 windows of eight; you count {dense}.")
    expect(count_windows(100, 8, 3) != 92, "You leave out the stride: with stride 3 only every third start is a window.")
    for n, length, stride in ((100, 8, 3), (101, 8, 3), (103, 8, 3), (50, 7, 10), (50, 49, 4), (1000, 32, 16)):
        right = len(range(0, n - length, stride))
        got = count_windows(n, length, stride)
        expect(
            got == right,
            f"{n} tokens, context length {length}, stride {stride}: {right} windows, you count {got}. Starts are "
            "0, stride, 2 * stride, ... as long as a whole window and its target fit.",
        )


def check_split_documents(split_documents):
    """2.6: train and validation without the same text on both sides."""
    texts = [f"tale {i}" for i in range(200)] + [f"tale {i}" for i in range(0, 200, 2)]
    random.Random(0).shuffle(texts)
    train, validation = (list(part) for part in split_documents(list(texts), 0.1, 0))
    both = set(train) & set(validation)
    expect(
        not both,
        f"{len(both)} texts are on both sides, such as {min(both, default='')!r}: equal texts must go to the same "
        "side. Split the different texts, not the list.",
    )
    expect(set(train) | set(validation) == set(texts), "Some texts are on neither side; nothing may get lost.")
    share = len(set(validation)) / 200
    expect(share < 0.5, "The sides are swapped: return training first, validation second.")
    expect(0.05 <= share <= 0.15, f"Asked for a share of 0.1, you put {share:.2f} of the different texts into validation.")
    again = split_documents(list(texts), 0.1, 0)
    expect(
        (list(again[0]), list(again[1])) == (train, validation), "The same seed must give the same split: use random.Random(seed)."
    )
    expect(
        set(split_documents(list(texts), 0.1, 1)[1]) != set(validation),
        "Another seed should give another split. If texts are sorted by subject, the last ones are no fair sample: shuffle.",
    )


def check_embed_by_product(embed_by_product):
    """2.7: the look-up as a product, for a batch."""
    weight = torch.arange(12.0).view(4, 3) + 1  # (V, C)
    ids = torch.tensor([[3, 0], [1, 1], [2, 3], [0, 2], [1, 0]])  # (B, T)
    out = embed_by_product(ids, weight)
    expect(isinstance(out, torch.Tensor), f"Return a tensor; yours is a {type(out).__name__}.")
    expect(out.shape != (2, 5, 3), "B and T have changed places.")
    expect(out.shape == (5, 2, 3), f"ids of shape (5, 2) and a weight of shape (4, 3) give (5, 2, 3); yours is {tuple(out.shape)}.")
    expect(
        not torch.equal(out, weight[(ids + 3) % 4]) and not torch.equal(out, weight[(ids + 1) % 4]),
        "You are off by one row: id 0 is the first row of the table.",
    )
    expect(torch.allclose(out, weight[ids]), "The numbers differ from the look-up's. Is the one where the id says?")
    weight[3] = torch.inf
    seen = embed_by_product(torch.tensor([[0, 1]]), weight)
    expect(
        bool(seen.isnan().any()),
        "That's the look-up itself. Write it as a product: one-hot rows times the table. (A product meets "
        "every row: an infinity in an unused one gives 0 · ∞, which isn't a number.)",
    )
    return "And now you know why nobody computes it this way."


def check_shift_matrix(shift_matrix):
    """2.8: sinusoidal positions move by a rotation."""
    C = 8
    speed = 10000 ** (-torch.arange(0, C, 2, dtype=torch.float64) / C)
    angle = torch.arange(64, dtype=torch.float64)[:, None] * speed
    P = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (T, C)
    M = torch.as_tensor(shift_matrix(5, C)).double()
    expect(M.shape == (C, C), f"The matrix should have the shape (8, 8); yours has {tuple(M.shape)}.")

    def fits(matrix, k):
        return torch.allclose(P[10:50] @ matrix, P[10 + k : 50 + k], atol=1e-4)

    expect(not torch.allclose(M, torch.eye(C).double()), "That matrix changes nothing; position p stays where it is.")
    expect(not fits(M, -5), "It moves back by k instead of forward: P[p] stands on the left of M, so M is the transpose of yours.")
    first = torch.allclose((P[:40] @ M)[:, :2], P[5:45, :2], atol=1e-4)
    expect(not first or fits(M, 5), "The first pair of channels is right, the others aren't: each pair turns at its own speed.")
    halves = torch.cat([P[:, 0::2], P[:, 1::2]], dim=1)
    expect(
        not torch.allclose(halves[:40] @ M, halves[5:45], atol=1e-4),
        "That would be right if all sines came before all cosines. Here channels 2i and 2i + 1 belong together.",
    )
    expect(
        fits(M, 5),
        "P[p] @ M isn't P[p + 5]. For one pair: sin(a + b) = sin a cos b + cos a sin b, cos(a + b) = cos a cos b - sin a sin b.",
    )
    expect(fits(torch.as_tensor(shift_matrix(2, C)).double(), 2), "Right for k = 5, wrong for k = 2; is k in all the angles?")
    return "Turning by the position is what RoPE does to queries and keys."


def check_apply_merges_with_dropout(encode):
    """2.9: BPE-dropout."""
    chunk, pair = utf8_ids("lamp"), {MERGES[0]: 256}
    expect(
        encode(list(chunk), RANKS, 0.0, random.Random(0)) == apply_merges(chunk, RANKS),
        "With p = 0 nothing is left out, so that the result should be that of apply_merges.",
    )
    expect(
        encode(list(chunk), RANKS, 1.0, random.Random(0)) == chunk, "With p = 1 every merge is left out, and the bytes come back."
    )
    rng = random.Random(1)
    spell = {256: "am", 257: "amp", 258: "lamp", 259: "damp"} | {utf8_ids(c)[0]: c for c in "lampds"}
    runs = [encode(utf8_ids("lampdamp"), RANKS, 0.5, rng) for _ in range(400)]
    expect(
        all("".join(spell.get(i, "?") for i in ids) == "lampdamp" for ids in runs),
        "The tokens in a row are no longer the text. It's merges that are left out, never tokens.",
    )
    merged = sum(len(encode(utf8_ids("am"), pair, 0.75, rng)) == 1 for _ in range(800)) / 800
    expect(
        merged < 0.9,
        "With one possible merge and p = 0.75, three runs in four should leave it out and be finished. "
        "You try again until it is made: stop as soon as none remains.",
    )
    expect(
        0.18 < merged < 0.33,
        f"With one possible merge and p = 0.75, it should be made in a quarter of the runs; yours: {merged:.2f}. "
        "Is p the probability of leaving out?",
    )
    expect(len({tuple(ids) for ids in runs}) > 5, "With p = 0.5 the same chunk should come out in many ways.")
    twice = Counter(len(encode(utf8_ids("amam"), pair, 0.5, rng)) for _ in range(800))
    expect(twice[3] > 0, "In 'amam', both am are merged or neither. Draw for every occurrence, not for every kind of pair.")
    expect(
        abs(twice[2] / 800 - 0.375) < 0.07,
        "In 'amam' with p = 0.5, both should be merged in 3 runs of 8. Draw again for all that is "
        "possible after each merge, and make one merge at a time.",
    )
    return "Train a model on it some day: it's among the cheapest regularizers there are."


CHECKS = {
    "2.1": check_unknown_share,
    "2.2": check_count_characters,
    "2.3": check_longest_match,
    "2.4": check_bytes_per_token,
    "2.5": check_count_windows,
    "2.6": check_split_documents,
    "2.7": check_embed_by_product,
    "2.8": check_shift_matrix,
    "2.9": check_apply_merges_with_dropout,
}
