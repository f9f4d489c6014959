"""What a right answer to each exercise of chapter 6 does, and the hint for each usual mistake."""

import math

import torch

import ch06
from exercises import expect
from previous_chapters import GPTConfig, GPTModel

# ------------------------------------------------------------------------------ rows, masks and the loss (6.1-6.3)

def close(a, b, tolerance: float = 1e-6) -> bool:
    """Whether two tensors or numbers agree in shape and value."""
    a, b = (torch.as_tensor(x).detach().to(torch.float64) for x in (a, b))
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=1e-5)


def check_padding_share(padding_share) -> str:
    lengths = [2, 5, 5, 9, 1, 3, 8]                        # in threes: 15, 27 and 8 positions, with 3, 14 and 0 of padding
    y = padding_share(lengths, 3)
    for wrong, hint in {
        17: "That is a number of positions; return their share.",
        33 / 50: "That is the share of the real tokens; the rest is padding.",
        17 / 33: "You divide by the real tokens. Divide by all positions, padding included.",
        (3 / 15 + 14 / 27 + 0) / 3: "That is the mean of the batches' shares; a wide batch must count more. Add positions up "
                                    "first.",
        30 / 63: "All rows are padded to the longest of all; each batch needs to be as wide as its own longest row only.",
        33 / 66: "The last batch is counted as if it held three rows; it holds one.",
        17 / 42: "The last batch is left out, since it isn't full. It is read too.",
    }.items():
        expect(not close(y, wrong), hint)
    expect(not close(y, 9 / 42), "You sort the lengths first; take them in the order in which they come.")
    expect(close(y, 17 / 50), f"For the lengths {lengths} in threes, 17 of 50 positions are padding: 0.34. You return {y}.")
    expect(close(padding_share([4, 4, 4], 2), 0.0), "Rows of equal length need no padding: the share is 0.")
    expect(close(padding_share(lengths, 1), 0.0), "With one row a batch nothing is padded: the share is 0.")
    return "Padding is paid for like any other token, and nothing is learned from it."


def check_last_real(last_real) -> str:
    hidden = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))            # (B, T, C)
    rows = torch.arange(4)

    def at(positions):
        return hidden[rows, torch.tensor(positions)]                                     # (B, C)

    right = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]]).bool()
    left = right.flip(1)
    both = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0]]).bool()
    y = last_real(hidden, right)
    expect(isinstance(y, torch.Tensor) and y.shape == (4, 3),
           f"Return one vector a row, (B, C) = (4, 3); yours has the shape {tuple(getattr(y, 'shape', ()))}.")
    expect(not close(y, hidden[:, -1]), "That is the last position, real or not: for short rows you read padding.")
    expect(not close(y, hidden[:, 0]), "That is the first position. argmax over a mask finds the first True.")
    expect(not close(y, at([3, 0, 1, 4])), "That is one too far: three real tokens stand at 0, 1 and 2.")
    expect(close(y, at([2, 5, 0, 3])), "For rows padded on the right, the last real token stands at their number less one.")
    y = last_real(hidden, left)
    expect(not close(y, at([2, 5, 0, 3])),
           "For rows padded on the left you still count the real tokens. Their number says nothing about where they stand.")
    expect(not close(y, at([3, 0, 5, 2])), "For rows padded on the left you return the first real token.")
    expect(close(y, hidden[:, -1]), "For rows padded on the left, every last real token stands at the very end.")
    y = last_real(hidden, both)
    expect(not close(y, at([4, 5, 5, 5])) and not close(y, at([2, 2, 5, 0])),
           "Padded on both sides, it goes wrong: neither the count nor the end of the row is the place.")
    expect(close(y, at([3, 4, 5, 3])), "With padding on both sides, take the largest position at which the mask is True.")
    return "A mask is worth more than a count: it says which tokens, not only how many."


def check_weighted_loss(weighted_loss) -> str:
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 3, generator=g), torch.tensor([0, 2, 1, 1, 0, 0, 2])
    weights = torch.tensor([0.5, 1.0, 3.0])
    kept = logits.clone()
    log_p = logits.log_softmax(dim=1)
    losses, w = -log_p.gather(1, labels[:, None])[:, 0], weights[labels]                 # (B,) each
    right = torch.nn.functional.cross_entropy(logits, labels, weight=weights)
    y = weighted_loss(logits, labels, weights)
    expect(torch.equal(kept, logits), "The logits that you were given have changed; make a new tensor.")
    expect(torch.as_tensor(y).numel() == 1, "Return one number for the batch.")
    y = torch.as_tensor(y).reshape(())
    swapped = -(logits.log_softmax(dim=0).gather(1, labels[:, None])[:, 0] * w).sum() / w.sum()
    for wrong, hint in (
        (-right, "The sign is wrong: a loss is minus the log of a probability."),
        ((w * losses).mean(), "You divide by the number of examples. Double all weights: your loss doubles, PyTorch's doesn't. "
                              "Divide by the sum of the weights of this batch's examples."),
        ((w * losses).sum(), "That is the sum; divide it by the sum of the examples' weights."),
        ((w * losses).sum() / weights.sum(), "You divide by the sum over the classes. Each *example* brings the weight of its "
                                             "class."),
        (losses.mean(), "The weights are not used."),
        ((losses / w).sum() / (1 / w).sum(), "You divide by the weights: rare classes would count less, not more."),
        (torch.nn.functional.cross_entropy(logits * weights, labels),
         "The weights multiply the logits; they belong to the losses, after the softmax."),
        (swapped, "The softmax runs over the batch; it belongs over the classes, the last axis."),
    ):
        expect(not close(y, wrong.reshape(()), 1e-5), hint)
    expect(close(y, right, 1e-5), "The number differs from Σ wᵢ lossᵢ / Σ wᵢ, with wᵢ the weight of example i's class.")
    large = weighted_loss(torch.tensor([[200.0, 0.0], [0.0, 300.0]]), torch.tensor([1, 1]), torch.ones(2))
    expect(close(torch.as_tensor(large).reshape(()), torch.tensor(100.0), 1e-3),
           "With logits of some hundreds it breaks: the probability underflows to 0 before its logarithm is taken. Use "
           "log_softmax.")
    return "So the batch of the prompt costs (3 · 1 + 1 · 2) / 4."


# ------------------------------------------------------------- comparing, calibrating, promising (6.4-6.6)

def check_paired_p(paired_p) -> str:
    def pair(both, only_a, only_b, neither):
        a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
        b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
        return torch.tensor(a), torch.tensor(b)

    def number(both, only_a, only_b, neither):
        y = paired_p(*pair(both, only_a, only_b, neither))
        expect(isinstance(y, float | int) or (isinstance(y, torch.Tensor) and y.numel() == 1), "Return one number.")
        return float(y)

    y = number(20, 2, 8, 5)
    tail = sum(math.comb(10, k) for k in range(3)) / 2**10                               # 56 / 1024
    z = (8 - 2) / 10**0.5
    for wrong, hint in {
        tail: "That is one end only. Ten tosses can come out as uneven to the other side as well.",
        1 - tail: "That is the wrong tail: count the results that are at least as uneven.",
        sum(math.comb(10, k) for k in range(2)) / 2**9: "The result itself is left out: count those *at least* as uneven.",
        math.comb(10, 2) / 2**10: "That is the probability of this very result. Add the more uneven ones.",
        2 * math.comb(10, 2) / 2**10: "Those are this result and its mirror image. Add the more uneven ones.",
        math.erfc(z / 2**0.5): "That is the normal approximation; with ten tosses it is off. Count exactly.",
        math.erfc((z - 1 / 10**0.5) / 2**0.5): "That is the normal approximation, corrected; count exactly.",
        2 * sum(math.comb(35, k) for k in range(3)) / 2**35: "You toss for all messages. Those on which the filters agree say "
                                                             "nothing.",
    }.items():
        expect(not close(y, wrong, 1e-7), hint)
    expect(close(y, 2 * tail, 1e-7), f"If 2 messages are read rightly by the first alone and 8 by the second alone, p is "
                                     f"{2 * tail:.4f}; "
           f"you return {y:.4f}.")
    expect(close(number(20, 8, 2, 5), 2 * tail, 1e-7), "Exchange the filters and p must stay the same; the smaller of a and b "
                                                       "decides.")
    expect(number(3, 4, 4, 1) <= 1 + 1e-9, "With 4 and 4 you return more than 1: the middle is counted twice. Return at most 1.")
    expect(close(number(3, 4, 4, 1), 1.0), "With 4 and 4, every result is at least as uneven: p is 1.")
    expect(close(number(9, 0, 0, 3), 1.0), "If the filters never differ, p is 1.")
    expect(close(number(500, 12, 30, 100), 2 * sum(math.comb(42, k) for k in range(13)) / 2**42, 1e-7),
           "With 12 and 30 the number is off.")
    return "It needs no interval and no bell curve, only coins."


def check_calibration_error(calibration_error) -> str:
    top = torch.tensor([0.42, 0.44, 0.46, 0.48, 0.72, 0.78, 0.96, 1.0])                  # confidences (N,)
    right = torch.tensor([1, 0, 0, 0, 1, 1, 1, 0])
    chosen = torch.tensor([0, 1, 2, 0, 1, 1, 2, 1])
    p = ((1 - top) / 2)[:, None].repeat(1, 3).scatter(1, chosen[:, None], top[:, None])  # (N, K), K = 3
    labels = torch.where(right == 1, chosen, (chosen + 1) % 3)
    # bins: 4 at a mean of 0.45 with 1/4 right, 2 at 0.75 with all, 2 at 0.98 with half
    gaps, share = [0.45 - 0.25, 0.75 - 1.0, 0.98 - 0.5], [4 / 8, 2 / 8, 2 / 8]
    y = calibration_error(p, labels, 10)
    expect(torch.as_tensor(y).numel() == 1, "Return one number.")
    y = float(y)
    expect(not math.isnan(y), "The result is nan: an empty bin has no mean. Leave it out.")
    signed = sum(s * g for s, g in zip(share, gaps, strict=True))
    lost = 4 / 8 * 0.20 + 2 / 8 * 0.25 + 1 / 8 * 0.04                                    # a confidence of 1 in no bin
    for wrong, hint in {
        sum(map(abs, gaps)) / 3: "All bins count alike; each should count as much as it holds texts.",
        sum(map(abs, gaps)) / 10: "All bins count alike, the empty ones too; each should count as much as it holds texts.",
        signed: "Too high and too low cancel: take each bin's gap without its sign before you add.",
        max(map(abs, gaps)): "That is the largest gap (the *maximum* calibration error); return their mean.",
        4 / 8 * 0.20 + 2 / 8 * 0.25 + 2 / 8 * 0.45: "You compare with the middle of the bin; compare with the mean of the "
                                                    "confidences "
                                                    "in it.",
        sum(s * g * g for s, g in zip(share, gaps, strict=True)): "The gaps are squared; take them without their sign.",
        8 * sum(s * abs(g) for s, g in zip(share, gaps, strict=True)): "Divide by the number of all texts.",
        lost + 1 / 8: "The confidence of exactly 1 falls out of the last bin; it belongs there, with 0.96.",
        lost: "The confidence of exactly 1 is lost: it belongs to the last bin.",
        lost * 8 / 7: "The confidence of exactly 1 is lost: it belongs to the last bin.",
        (top - right).abs().mean().item(): "That is the gap of each text by itself. A bin's mean is compared with its share.",
        class_gap(p[:, 1], labels == 1): "That bins the probability of class 1. Bin that of the class that was chosen, the "
                                         "largest.",
    }.items():
        expect(not close(y, wrong), hint)
    expect(close(y, sum(s * abs(g) for s, g in zip(share, gaps, strict=True))),
           f"The eight texts of the check give 0.2825; you return {y:.4f}.")
    two = 0.5 * 0.20 + 0.5 * abs(top[4:].mean().item() - 0.75)
    expect(close(float(calibration_error(p, labels, 2)), two), "With n_bins=2 the number is off; is 10 written somewhere?")
    return "And yes: who always answers with the shares of the classes is perfectly calibrated and of no use."


def class_gap(p, is_class, n_bins: int = 10) -> float:
    """The calibration error of one class's probability (N,): what binning the wrong thing gives."""
    bins = (p * n_bins).long().clamp(max=n_bins - 1)                                     # (N,)
    return sum((p[bins == i].mean() - is_class[bins == i].float().mean()).abs().item() * (bins == i).sum().item()
               for i in bins.unique()) / len(p)


def check_threshold_for(threshold_for) -> str:
    p = torch.tensor([0.95, 0.90, 0.85, 0.80, 0.70, 0.60, 0.50, 0.40, 0.30, 0.20])
    labels = torch.tensor([1, 0, 1, 1, 1, 1, 0, 1, 0, 0])
    # precision from the top: 1, .5, .67, .75, .8, .83, .71, .75, .67, .6

    def flags(precision, p=p, labels=labels):
        y = threshold_for(precision, p, labels)
        expect(isinstance(y, float | int) or (isinstance(y, torch.Tensor) and y.numel() == 1), "Return one number, the threshold.")
        return (p >= float(y)).sum().item()

    found = flags(0.75)
    for wrong, hint in {
        1: "That keeps the promise and catches one spam of six: look on for a lower threshold. Precision falls short at 0.90 "
           "and recovers.",
        4: "That is the highest threshold after the gap at which 0.75 is reached; a lower one reaches it too, and catches more.",
        6: "You stop where precision first falls short again. With 0.40 as threshold it is 6 of 8, and the promise is kept.",
        7: "A message whose probability *is* the threshold is held back; yours counts only those above, or lies one step too high.",
        9: "One message too many: its precision is 6 of 9.",
        10: "That holds everything back; is that recall, not precision?",
        5: "That is the threshold of the best precision, or accuracy; the promise is 0.75, and below it more spam is caught.",
    }.items():
        expect(found != wrong, hint)
    expect(found == 8, f"At 0.75, eight messages should be held back; your threshold holds back {found}.")
    expect(flags(0.8) == 6, "At 0.80 six messages can be held back (5 of 6 are spam); your threshold differs.")
    expect(flags(1.0) == 1, "At 1.00 only the first can be held back; your threshold differs.")
    shuffled = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    expect(flags(0.75, p[shuffled], labels[shuffled]) == 8, "The messages come in any order; yours seem to be taken as sorted.")
    ties = torch.tensor([0.9, 0.6, 0.6, 0.6, 0.1])
    expect(flags(0.75, ties, torch.tensor([1, 1, 1, 0, 0])) == 4,
           "Messages with the same probability are held back together, or not at all; count them together.")
    try:
        y = threshold_for(0.9, p[1:], labels[1:])
    except ValueError:
        pass
    else:
        expect(False, f"No threshold keeps a promise of 0.9 if the highest probability belongs to a genuine message; raise a "
               f"ValueError instead of returning {y}.")
    return "A threshold chosen so should be checked on messages that didn't choose it."


# ------------------------------------------------------------------- layers, ranks and attributions (6.7-6.9)

def check_layer_rates(layer_rates) -> str:
    classifier = ch06.SequenceClassifier(GPTModel(GPTConfig(30, 16, 24, 3, 3)))
    names = dict(classifier.named_parameters())
    groups = layer_rates(classifier, 0.8, 2.0)
    expect(isinstance(groups, list | tuple) and all(isinstance(g, dict) and {"params", "lr"} <= set(g) for g in groups),
           'Return a list of dictionaries, each with "params" and "lr".')
    rates: dict[int, list[float]] = {}
    for group in groups:
        for parameter in group["params"]:
            rates.setdefault(id(parameter), []).append(float(group["lr"]))
    missing = [name for name, parameter in names.items() if id(parameter) not in rates]
    expect(not missing, f"{missing[0] if missing else ''} is in no group, so it would never learn.")
    twice = [name for name, parameter in names.items() if len(rates[id(parameter)]) > 1]
    expect(not twice, f"{twice[0] if twice else ''} is in two groups. The head for tokens and the token embedding are one tensor.")
    expect(len(rates) == len(names), "There is a tensor in your groups that isn't a parameter of the classifier.")
    rate = {name: rates[id(parameter)][0] for name, parameter in names.items()}
    embedding, head = rate["gpt.token_embedding.weight"], rate["head.weight"]
    expect(embedding < head, "The embeddings learn at least as fast as the head: the order is upside down.")
    expect(close(head, 0.8), f"The new head should learn at `rate`, 0.8 here, not {head}.")
    block = [rate[f"gpt.blocks.{i}.norm1.weight"] for i in range(3)]
    expect(block[2] > block[0] or close(block[2], block[0]), "Block 0 is the lowest, next to the embeddings; yours are counted "
                                                             "from the top.")
    expect(not close(block[2], 0.8), "The last block should learn at rate / factor; the head alone has the full rate.")
    expect(not close(block, [0.4, 0.4, 0.4]), "All blocks have the same rate; each has its own.")
    expect(not (close(block[2], 0.4) and close(block[1], 0.4 - (0.8 - 0.4))) and not close(block, [0.8 / 6, 0.8 / 4, 0.8 / 2]),
           "The rates fall by equal steps; divide by the factor each time.")
    expect(close(block, [0.1, 0.2, 0.4]), f"Three blocks at factor 2 should have 0.4, 0.2 and 0.1 from the top; yours have "
                                          f"{block[::-1]}.")
    for i in range(3):
        own = {r for name, r in rate.items() if name.startswith(f"gpt.blocks.{i}.")}
        expect(len(own) == 1, f"The parameters of block {i} have different rates: {sorted(own)}.")
    expect(close(rate["head.bias"], 0.8), "The head's bias belongs to the head.")
    expect(close(rate["gpt.final_norm.weight"], 0.4) and close(rate["gpt.final_norm.bias"], 0.4), "`final_norm` goes with the "
                                                                                                  "last block.")
    expect(close(embedding, 0.05), f"The embeddings lie one step below block 0, at 0.05 here; yours have {embedding}.")
    expect(close(rate["gpt.position_embedding.weight"], 0.05), "The position embedding goes with the token embedding.")
    torch.optim.AdamW(groups, lr=1.0)
    return "AdamW takes the groups as they are; a schedule multiplies each rate."


def check_low_rank_change(low_rank_change) -> str:
    g = torch.Generator().manual_seed(0)
    before, noise = torch.randn(8, 6, generator=g), torch.randn(8, 6, generator=g)       # (C_out, C) each
    after = before + noise
    u, s, vt = torch.linalg.svd(noise, full_matrices=False)                              # (8, 6), (6,), (6, 6)
    y = low_rank_change(before, after, 2)
    expect(isinstance(y, tuple | list) and len(y) == 2, "Return two matrices, A and B.")
    a, b = y
    expect(not (tuple(a.shape) == (8, 2) and tuple(b.shape) == (2, 6)), "A and B have changed places: A (R, C) comes first, then "
                                                                        "B (C_out, R).")
    expect(tuple(a.shape) == (2, 6) and tuple(b.shape) == (8, 2),
           f"For matrices of (8, 6) and rank 2, A should be (2, 6) and B (8, 2); yours are {tuple(a.shape)} and {tuple(b.shape)}.")
    product = (b @ a).detach()                                                           # (8, 2) @ (2, 6)

    def best(matrix, keep=slice(0, 2), power=1.0):
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        return (u[:, keep] * s[keep]**power) @ vt[keep]

    expect(not close(product, best(after), 1e-4), "That comes close to the matrix after finetuning; approximate the change, after "
                                                  "- before.")
    expect(not close(product, best(-noise), 1e-4), "The sign is wrong: the change is after - before.")
    expect(not close(product, best(noise, slice(4, 6)), 1e-4), "You keep the smallest singular values; keep the largest.")
    expect(not close(product, best(noise, power=0.0), 1e-4), "The singular values are missing: multiply one of the two matrices "
                                                             "by them.")
    expect(not close(product, best(noise, power=2.0), 1e-4),
           "Both matrices are multiplied by the singular values, so that they count twice. One is enough, or their root in each.")
    expect(not close(product, (u[:, :2] * s[:2]) @ vt.T[:2], 1e-4),
           "torch.linalg.svd returns V transposed already; its first rows are what you need.")
    expect(close(product, best(noise), 1e-4), f"B A is at a distance of {(product - noise).norm():.3f} from the change; the best "
                                              f"of rank 2 "
           f"comes as close as {(best(noise) - noise).norm():.3f}.")
    full_a, full_b = low_rank_change(before, after, 6)
    expect(close(full_b @ full_a, noise, 1e-4), "With the full rank, 6, B A should be the change itself.")
    return "Whether the bet holds is a question to your own weights."


def check_integrated_gradients(integrated_gradients) -> str:
    g = torch.Generator().manual_seed(0)
    w, x, base = (torch.randn(4, 3, generator=g) for _ in range(3))                      # (T, C) each
    kept = (x.clone(), base.clone())
    linear = integrated_gradients(lambda z: (w * z).sum(), x, base, 8)
    expect(torch.equal(kept[0], x) and torch.equal(kept[1], base) and not x.requires_grad and not base.requires_grad,
           "x or the baseline has changed; work on new tensors.")
    expect(isinstance(linear, torch.Tensor) and linear.shape == x.shape, "Return shares in the shape of x.")
    expect(not linear.requires_grad, "The result is still part of a graph; detach it.")
    for wrong, hint in (
        (w, "Those are the gradients. Multiply by x - baseline."),
        (w * x, "You multiply by x; the way that was gone is x - baseline."),
        (w * (base - x), "The sign is wrong: the way goes from the baseline to x."),
        (8 * w * (x - base), "That is the sum over the steps; take the mean."),
    ):
        expect(not close(linear, wrong, 1e-4), hint)
    expect(close(linear, w * (x - base), 1e-4), "For a linear score the shares should be w · (x - baseline), exactly.")

    def cube(z):
        return (z**3).sum()

    y = integrated_gradients(cube, x, base, 200)
    expect(not close(y, 3 * x**2 * (x - base), 1e-3), "All gradients are taken at x itself; take them along the way.")
    expect(not close(y, 3 * base**2 * (x - base), 1e-3), "All gradients are taken at the baseline; take them along the way.")
    through_zero = 3 * x**2 / 3 * (x - base)
    expect(not close(y, through_zero, 2e-2), "The points lie between 0 and x; they should lie between the baseline and x.")
    gap = cube(x) - cube(base)
    expect(abs(y.sum() - gap) < 1e-2 * gap.abs() + 0.02,
           f"The shares should add up to score(x) - score(baseline) = {gap:.3f}; yours add up to {y.sum():.3f}.")
    expect(close(y, x**3 - base**3, 2e-3), "The sum is right, the shares aren't: each number's share should be x³ - baseline³.")
    few, ends = integrated_gradients(cube, x, base, 2), x - base
    at_edges = [3 * sum((base + t * ends) ** 2 for t in pair) / 2 * ends for pair in ((0, 0.5), (0.5, 1), (0, 1))]
    expect(not any(close(few, wrong, 1e-4) for wrong in at_edges),
           "Your points lie at the edges of the pieces; in their middles, at (k + ½) / n, the same number of points is far more "
           "exact.")
    return "The sum tells you whether n_steps was large enough, which gradient × input can't."


CHECKS = {
    "6.1": check_padding_share,
    "6.2": check_last_real,
    "6.3": check_weighted_loss,
    "6.4": check_paired_p,
    "6.5": check_calibration_error,
    "6.6": check_threshold_for,
    "6.7": check_layer_rates,
    "6.8": check_low_rank_change,
    "6.9": check_integrated_gradients,
}
