"""Chapter 6's exercises: the solutions pass, and the answers that readers give before get their hints."""

import math

import pytest
import torch

from exercises import verdict
from tests.answers import solutions
from tests.support import chapter

CHECKS = chapter("ch06", "exercise_checks").CHECKS
RIGHT = solutions("ch06")


def all_as_wide_as_the_widest(lengths, n):
    return 1 - sum(lengths) / (len(lengths) * max(lengths))


def by_counting(hidden, mask):
    return hidden[torch.arange(len(mask)), mask.sum(dim=1) - 1]


def mean_of_weighted(logits, labels, weights):
    losses = -logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return (weights[labels] * losses).mean()


def one_tail(a, b):
    x, y = (a & ~b).sum().item(), (b & ~a).sum().item()
    return sum(math.comb(x + y, i) for i in range(min(x, y) + 1)) / 2 ** (x + y)


def equal_bins(p, labels, n_bins=10):
    top, chosen = p.max(1)
    bins = (top * n_bins).long().clamp(max=n_bins - 1)
    gaps = [(top[bins == b].mean() - (chosen == labels)[bins == b].float().mean()).abs() for b in bins.unique()]
    return (sum(gaps) / len(gaps)).item()


def stops_early(precision, p, labels):
    order = p.argsort(descending=True)
    share = labels[order].cumsum(0) / torch.arange(1, len(p) + 1)
    fails = (share < precision).nonzero()
    return p[order][max(0, (fails[0, 0] if len(fails) else len(p)) - 1)].item()


def upside_down(classifier, rate=1e-3, factor=2.6):
    groups = RIGHT["6.7"](classifier, rate, factor)
    rates = [group["lr"] for group in groups]
    return [{"params": group["params"], "lr": lr} for group, lr in zip(groups, rates[::-1], strict=True)]


def without_embeddings(classifier, rate=1e-3, factor=2.6):
    return RIGHT["6.7"](classifier, rate, factor)[:-1]


def at_the_input(score, x, baseline, n_steps=50):
    point = x.detach().clone().requires_grad_()
    return (x - baseline) * torch.autograd.grad(score(point), point)[0]


WRONG = [
    ("6.1", all_as_wide_as_the_widest, "padded to the longest of all"),
    ("6.1", lambda lengths, n: 1 - RIGHT["6.1"](lengths, n), "the share of the real tokens"),
    ("6.2", by_counting, "says nothing about where they stand"),
    ("6.2", lambda hidden, mask: hidden[:, -1], "the last position, real or not"),
    ("6.3", mean_of_weighted, "Divide by the sum of the weights"),
    ("6.3", lambda *args: -RIGHT["6.3"](*args), "The sign is wrong"),
    ("6.4", one_tail, "one end only"),
    ("6.4", lambda a, b: 1 - one_tail(a, b), "the wrong tail"),
    ("6.5", equal_bins, "All bins count alike"),
    ("6.5", lambda p, labels, n_bins=10: RIGHT["6.5"](p, labels, 10), "is 10 written somewhere"),
    ("6.6", stops_early, "look on for a lower threshold"),
    ("6.6", lambda precision, p, labels: p.min().item(), "recall, not precision"),
    ("6.7", upside_down, "upside down"),
    ("6.7", without_embeddings, "would never learn"),
    ("6.8", lambda before, after, rank: RIGHT["6.8"](after, before, rank), "The sign is wrong"),
    ("6.8", lambda before, after, rank: RIGHT["6.8"](torch.zeros_like(before), after, rank), "approximate the change"),
    ("6.8", lambda before, after, rank: RIGHT["6.8"](before, after, rank)[::-1], "changed places"),
    ("6.9", at_the_input, "taken at x itself"),
    ("6.9", lambda score, x, baseline, n=50: RIGHT["6.9"](score, baseline, x, n), "The sign is wrong"),
]


def test_every_exercise_has_a_solution():
    assert RIGHT.keys() == CHECKS.keys()


@pytest.mark.parametrize("number", CHECKS)
def test_a_right_answer_is_right(number):
    assert verdict(number, RIGHT[number], CHECKS).startswith(f"Exercise {number}: right.")


@pytest.mark.parametrize(("number", "attempt", "hint"), WRONG, ids=[f"{n}: {h}" for n, _, h in WRONG])
def test_a_wrong_answer_gets_its_hint(number, attempt, hint):
    said = verdict(number, attempt, CHECKS)
    assert said.startswith(f"Exercise {number}: not yet.")
    assert hint in said, said
