"""Chapter 8's exercises: the solutions pass, and the answers that readers give before get their hints."""

import json
import math

import pytest
import torch

from exercises import verdict
from tests.answers import solutions
from tests.support import chapter

CHECKS = chapter("ch08", "exercise_checks").CHECKS
RIGHT = solutions("ch08")


def symmetric(x):
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    return ((x / scale).round() + 128).clamp(0, 255).to(torch.uint8), scale, torch.full_like(scale, 128)


def without_zero(x):
    low, high = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)
    scale = (high - low) / 255
    return ((x - low) / scale).round().to(torch.uint8), scale, -low / scale


def static_steps(lengths, n_rows):
    return sum(max(lengths[i:i + n_rows]) for i in range(0, len(lengths), n_rows))


def hides_all_beginnings(text, stops):
    for at in range(len(text)):
        if any(stop.startswith(text[at:]) or text.startswith(stop, at) for stop in stops):
            return text[:at]
    return text


def broken_lines(chunks):
    lines = [line for chunk in chunks for line in chunk.split(b"\n")]
    return [json.loads(line[6:]) for line in lines[:[*lines, b"data: [DONE]"].index(b"data: [DONE]")] if line.startswith(b"data: ")]


WRONG = [
    ("8.1", lambda n, t, c, layers, size, speed: speed / (n * size), "keys and values are read too"),
    ("8.1", lambda n, t, c, layers, size, speed: speed / ((n + t * c * layers) * size), "twice as many numbers"),
    ("8.1", lambda n, t, c, layers, size, speed: speed / ((n + 2 * t * c) * size), "Each layer has its own"),
    ("8.1", lambda n, t, c, layers, size, speed: (n + 2 * t * c * layers) * size / speed, "return tokens a second"),
    ("8.2", lambda lengths, n_rows: sum(lengths), "several are written in a step"),
    ("8.2", lambda lengths, n_rows: -(-sum(lengths) // n_rows), "A row can be empty at the end"),
    ("8.2", static_steps, "Those are static batches"),
    ("8.2", lambda lengths, n_rows: max(lengths), "as many rows as texts"),
    ("8.3", symmetric, "That scale is symmetric"),
    ("8.3", without_zero, "The zero point is one of the levels"),
    ("8.3", lambda x: (*(t.float() for t in RIGHT["8.3"](x)[:1]), *RIGHT["8.3"](x)[1:]), "make them uint8"),
    ("8.3", lambda x: tuple(t if t.dtype == torch.uint8 else t[:1] for t in RIGHT["8.3"](x)), "to each row"),
    ("8.4", lambda text, stops: text, "may be the beginning"),
    ("8.4", lambda text, stops: text[:text.rfind(" The")] if " The" in text else text, "The space before"),
    ("8.4", hides_all_beginnings, "you return"),
    ("8.5", lambda a, k, cost: (1 + a * k) / (1 + k * cost), "only be kept if the first was"),
    ("8.5", lambda a, k, cost: sum(a**i for i in range(1, k + 1)) / (1 + k * cost), "One token is certain"),
    ("8.5", lambda a, k, cost: sum(a**i for i in range(k + 1)) / (1 + cost), "k passes"),
    ("8.5", lambda a, k, cost: sum(a**i for i in range(k + 1)), "divide by what a round costs"),
    ("8.6", lambda x, chosen, a, b: x @ a[0].T @ b[0].T, "All rows use adapter 0"),
    ("8.6", lambda x, chosen, a, b: (b @ a)[chosen] @ x.T, "yours is (5, 4, 5)"),
    ("8.6", lambda x, chosen, a, b: RIGHT["8.6"](x, chosen.flip(0), a, b), "isn't what its own adapter gives"),
    ("8.7", lambda nats, text: sum(nats) / math.log(2) / len(text), "two bytes of UTF-8"),
    ("8.7", lambda nats, text: sum(nats) / len(text.encode()), "a bit is ln 2"),
    ("8.7", lambda nats, text: sum(nats) / math.log(2) / len(nats), "a mean a token"),
    ("8.7", lambda nats, text: sum(nats) / math.log(2) / len(nats) / len(text.encode()), "the whole loss"),
    ("8.8", lambda s: (s >= s.diagonal()[:, None]).sum(1).float().mean().item(), "the mean rank"),
    ("8.8", lambda s: 1 / (s >= s.diagonal()[:, None]).sum(1).float().mean().item(), "reciprocal of the mean rank"),
    ("8.8", lambda s: (1 / (1 + (s >= s.diagonal()[:, None]).sum(1))).mean().item(), "as another text's"),
    ("8.8", lambda s: (1 / (1 + (s > s.diagonal()[:, None]).sum(1))).mean().item(), "each text comes last"),
    ("8.9", lambda chunks: RIGHT["8.9"](b"".join(chunks).replace(b"data: [DONE]", b"").splitlines(True)), "Nothing after [DONE]"),
    ("8.9", lambda chunks: [e for c in chunks for e in RIGHT["8.9"]([c])], "something else comes out"),
    ("8.9", lambda chunks: RIGHT["8.9"](c.decode().encode() for c in chunks), "in the middle of é"),
    ("8.9", broken_lines, "in the middle of a line"),
]


@pytest.mark.parametrize("number", sorted(CHECKS))
def test_the_solution_passes(number):
    assert ": right. " in verdict(number, RIGHT[number], CHECKS)


@pytest.mark.parametrize(("number", "attempt", "hint"), WRONG)
def test_a_usual_mistake_gets_its_hint(number, attempt, hint):
    said = verdict(number, attempt, CHECKS)
    assert ": not yet. " in said and hint in said
