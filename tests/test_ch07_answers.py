"""Chapter 7's exercises: the solutions pass, and the answers that readers give before get their hints."""

import math

import pytest
import torch
import torch.nn.functional as F

from exercises import verdict
from tests.answers import solutions
from tests.support import chapter

CHECKS = chapter("ch07", "exercise_checks").CHECKS
RIGHT = solutions("ch07")


def unshifted(turns, tokenizer):
    ids, targets = RIGHT["7.1"](turns, tokenizer)
    return ids, [-100, *targets[:-1]]


def everything(turns, tokenizer):
    ids, targets = RIGHT["7.1"](turns, tokenizer)
    return ids, [*ids[1:], targets[-1]]


def without_ends(turns, tokenizer):
    ids, targets = RIGHT["7.1"](turns, tokenizer)
    return ids, [-100 if t == tokenizer.eot_token else t for t in targets]


def mixed(pc, pr, rc, rr, beta=0.1, slips=0.1, swap=False):
    h = beta * ((pc - rc) - (pr - rr))
    slips = 1 - slips if swap else slips
    return -((1 - slips) * F.logsigmoid(h) + slips * F.logsigmoid(-h)).mean()


def overflowing(pc, pr, rc, rr, beta=0.1, slips=0.1):
    h = beta * ((pc - rc) - (pr - rr))
    return ((1 - slips) * (1 + (-h).exp()).log() + slips * (1 + h.exp()).log()).mean()


def elo(scale=400.0, base=10.0, lost=True, give=True):
    def update(winner, loser, k=32.0):
        p = 1 / (1 + base ** (-(winner - loser) / scale))
        points = k * (1 - p if lost else p)
        return winner + points, loser - points * give
    return update


def by_truth(rewards, truth, k):
    return RIGHT["7.3"](truth, truth, k)


WRONG = [
    ("7.1", unshifted, "aren't shifted"),
    ("7.1", everything, "the user's words too"),
    ("7.1", without_ends, "end tokens are learned"),
    ("7.1", lambda turns, tokenizer: [1], "Return two lists"),
    ("7.2", elo(lost=False), "use that of losing"),
    ("7.2", elo(base=math.e), "where chess uses 10"),
    ("7.2", elo(give=False), "the loser gives"),
    ("7.2", lambda winner, loser, k=32: (winner - 24.3025, loser + 24.3025), "a winner's rating rises"),
    ("7.3", by_truth, "the reward chooses"),
    ("7.3", lambda rewards, truth, k: RIGHT["7.3"](-rewards, truth, k), "the lowest comes first"),
    ("7.3", lambda rewards, truth, k: truth[rewards.argmax()], "best of all n"),
    ("7.4", lambda *four, beta=0.1, slips=0.1: mixed(*four, beta, 0.0), "mix in the surprise"),
    ("7.4", lambda *four, beta=0.1, slips=0.1: mixed(*four, beta, slips, swap=True), "changed places"),
    ("7.4", lambda *four, beta=0.1, slips=0.1: mixed(*four, 1.0, slips), "β is missing"),
    ("7.4", overflowing, "use F.logsigmoid"),
    ("7.5", lambda p, q: RIGHT["7.5"](q, p), "wrong sign"),
    ("7.5", lambda p, q: 0.0, "Return three numbers"),
    ("7.5", lambda p, q: ((p - q).mean(), ((p - q) ** 2).mean(), 0.0), "lacks its half"),
    ("7.5", lambda p, q: (*RIGHT["7.5"](p, q)[:2], RIGHT["7.5"](q, p)[2]), "the ratio"),
    ("7.6", lambda rewards: rewards - rewards.mean(dim=1, keepdim=True), "leave the answer itself out"),
    ("7.6", lambda rewards: -RIGHT["7.6"](rewards), "better than the others is positive"),
    ("7.6", lambda rewards: rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / 4, "divide by 3"),
    ("7.6", lambda rewards: rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / max(1, rewards.shape[1] - 1), "has no others"),
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


def test_best_of_counts_what_drawing_would_show():
    g = torch.Generator().manual_seed(0)
    rewards, truth = torch.randn(2, 7, generator=g)
    draws = [torch.randperm(7, generator=g)[:3] for _ in range(3000)]
    tried = sum(truth[d][rewards[d].argmax()].item() for d in draws) / 3000
    assert RIGHT["7.3"](rewards, truth, 3) == pytest.approx(tried, abs=0.08)
