"""Appendix A: the exercises' checks, held against solutions and against the wrong answers that readers give."""

import math
import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exercises import verdict
from tests.support import chapter

CHECKS = chapter("appendix-A", "exercise_checks").CHECKS


class Plain(nn.Module):
    def __init__(self, n_layers):
        super().__init__()
        self.layers = [nn.Linear(2, 2) for _ in range(n_layers)]


def deep(layers, activation=F.relu):
    """A class of networks made from the list that `layers` returns."""

    class Network(nn.Module):
        def __init__(self, n_layers):
            super().__init__()
            self.layers = nn.ModuleList(layers(n_layers))

        def forward(self, x):
            for layer in self.layers:
                x = activation(layer(x))
            return x

    return Network


def shared(n):
    return [nn.Linear(2, 2)] * n


def own(n):
    return [nn.Linear(2, 2) for _ in range(n)]


def stepper(direction=-1, zero=True, move=True, item=True):
    def train_step(model, points, labels, lr):
        loss = F.cross_entropy(model(points), labels)
        if zero:
            model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p += direction * lr * p.grad if move else 0
        return loss.item() if item else loss

    return train_step


def stable(x):
    return (x - x.amax(-1, keepdim=True)).exp() / (x - x.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True)


def autograd_slope(f, at):
    x = torch.tensor(at, requires_grad=True)
    f(x).backward()
    return x.grad.item()


def speed(function, operations, warm=True, repeats=5, middle=statistics.median):
    if warm:
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return operations / middle(times)


def global_shuffle(n, seed):
    torch.manual_seed(seed)
    return torch.randperm(n)


LEAKY = torch.tensor(2.0, requires_grad=True)


def leaky_slope(f, at):
    f(LEAKY).backward()
    return LEAKY.grad.item()


SOLUTIONS = {
    "A.1": lambda p: (p[:, None] - p[None]).square().sum(-1).sqrt(),
    "A.2": stable,
    "A.3": autograd_slope,
    "A.4": deep(own),
    "A.5": lambda n, b, drop: n // b if drop else -(-n // b),
    "A.6": stepper(),
    "A.7": lambda shape, dtype: torch.empty(shape, dtype=dtype, device="meta").nbytes / 2**30,
    "A.8": speed,
    "A.9": lambda n, seed: torch.randperm(n, generator=torch.Generator().manual_seed(seed)),
}
WRONG = [  # exercise, attempt, a word of the hint it deserves
    ("A.1", lambda p: (p[:, None] - p[None]).square().sum(-1), "squared"),
    ("A.1", lambda p: (p[:, None] - p[None]).abs().sum(-1), "streets"),
    ("A.1", lambda p: p[:, None] - p[None], "shape"),
    ("A.2", lambda s: s.exp() / s.exp().sum(), "each row"),
    ("A.2", lambda s: s.softmax(0), "columns"),
    ("A.2", lambda s: s.exp() / s.exp().sum(-1, keepdim=True), "nan"),
    ("A.2", lambda s: (s - s.max()).exp() / (s - s.max()).exp().sum(-1, keepdim=True), "its own"),
    ("A.3", lambda f, at: f(torch.tensor(at)).item(), "value"),
    ("A.3", lambda f, at: torch.tensor(12.0), "plain number"),
    ("A.3", leaky_slope, "piled up"),
    ("A.4", Plain, "ModuleList"),
    ("A.4", deep(shared), "shared"),
    ("A.4", deep(own, lambda x: x), "ReLU"),
    ("A.5", lambda n, b, drop: n // b, "24 left over"),
    ("A.5", lambda n, b, drop: n // b if drop else n // b + 1, "exactly"),
    ("A.5", lambda n, b, drop: -(-n // b), "9 full"),
    ("A.6", stepper(direction=1), "uphill"),
    ("A.6", stepper(zero=False), "Zero them"),
    ("A.7", lambda shape, dtype: float(math.prod(shape) * 4), "in bytes"),
    ("A.7", lambda shape, dtype: math.prod(shape) * 4 / 1e9, "10**9"),
    ("A.7", lambda shape, dtype: math.prod(shape) * 4 / 2**30, "dtype"),
    ("A.8", lambda f, n: speed(f, n, warm=False, repeats=1), "1 times"),
    ("A.8", lambda f, n: speed(f, n, warm=False, middle=statistics.mean), "slow call"),
    ("A.8", lambda f, n: 1 / speed(f, n), "turn it round"),
    ("A.9", global_shuffle, "disturbed"),
    ("A.9", lambda n, seed: torch.randperm(n), "two orders"),
    ("A.9", lambda n, seed: torch.arange(n), "same order"),
    ("A.9", lambda n, seed: torch.randint(n, (n,), generator=torch.Generator().manual_seed(seed)), "exactly once"),
    ("A.6", stepper(move=False), "didn't move"),
    ("A.6", stepper(item=False), "plain float"),
]


@pytest.mark.parametrize("number", CHECKS)
def test_solutions_are_right(number):
    assert verdict(number, SOLUTIONS[number], CHECKS).startswith(f"Exercise {number}: right.")


@pytest.mark.parametrize(("number", "attempt", "hint"), WRONG)
def test_wrong_answers_get_the_right_hint(number, attempt, hint):
    said = verdict(number, attempt, CHECKS)
    assert said.startswith(f"Exercise {number}: not yet.")
    assert hint in said


def test_every_exercise_has_three_wrong_answers():
    assert all(sum(number == n for n, *_ in WRONG) >= 3 for number in CHECKS)
    assert math.isclose(SOLUTIONS["A.3"](torch.sin, 0.0), 1.0)
