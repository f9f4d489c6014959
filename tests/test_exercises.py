"""The self-checks: what a reader is told about a stub, a wrong answer, one that raises, a right one, and no such exercise."""

import asyncio
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exercises import Wrong, check, expect, is_stub, verdict


def check_double(double):
    expect(double(0) == 0, "Twice nothing is nothing.")
    expect(double(3) == 6, f"double(3) should be 6; yours is {double(3)}.")
    return "It is a sum with itself."


CHECKS = {"2.1": check_double, "2.2": lambda attempt: expect(attempt == 7, "Count again.")}


def documented(x, y=1, *, z):
    """Return something.

    Over several lines.
    """
    ...


class Empty: ...


class Methods:
    """A layer to fill in."""

    def __init__(self, size): ...
    def forward(self, x):
        """Shape (B, T)."""
        ...

    @staticmethod
    def helper(x): ...


STUBS = [None, ..., documented, Empty, Methods, (..., ...), [None]]


@pytest.mark.parametrize("stub", STUBS)
def test_a_stub_is_not_attempted_yet(stub):
    assert is_stub(stub) and verdict("2.1", stub, CHECKS) == "Exercise 2.1: not attempted yet"


def outer(constant):
    def annotated(x: "int" = 3, *args, **kwargs) -> "int": ...
    def closed(x):
        return constant

    return annotated, closed


class Attempted:
    def forward(self, x): ...
    def extra(self):
        return 1


@pytest.mark.parametrize(
    "begun", [0, "", (), [1, ...], lambda x: x, lambda x: 42, outer(1)[1], len, Attempted, Attempted(), False, print]
)
def test_anything_else_is_an_attempt(begun):
    assert not is_stub(begun)
    assert "not attempted" not in verdict("2.2", begun, CHECKS)


def test_signatures_annotations_and_comments_do_not_hide_a_stub():
    def commented(x):
        # here goes my code
        ...

    def passes(x):
        pass

    assert is_stub(outer(1)[0]) and is_stub(commented) and is_stub(passes)


def test_a_right_answer_is_confirmed_with_the_closing_sentence():
    assert verdict("2.1", lambda x: x + x, CHECKS) == "Exercise 2.1: right. It is a sum with itself."
    assert verdict("2.2", 7, CHECKS) == "Exercise 2.2: right."


@pytest.mark.parametrize(
    ("attempt", "hint"),
    [
        (lambda x: x + 1, "Twice nothing is nothing."),
        (lambda x: x * x, "double(3) should be 6; yours is 9."),
        (lambda x: x, "yours is 3"),
    ],
)
def test_a_wrong_answer_is_answered_with_the_first_hint_that_fits(attempt, hint):
    said = verdict("2.1", attempt, CHECKS)
    assert said.startswith("Exercise 2.1: not yet. ") and hint in said and "\n" not in said


@pytest.mark.parametrize(
    ("attempt", "name"), [(lambda x: 1 / x, "ZeroDivisionError"), (lambda: 1, "TypeError"), (lambda x: x.shape, "AttributeError")]
)
def test_an_attempt_that_raises_is_told_what(attempt, name):
    assert verdict("2.1", attempt, CHECKS).startswith(f"Exercise 2.1: not yet. Your code raised {name}: ")


def test_stopping_a_long_attempt_is_not_swallowed():
    def stopped(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verdict("2.1", stopped, CHECKS)
    with pytest.raises(asyncio.CancelledError):
        verdict("2.2", 1, {"2.2": lambda _: (_ for _ in ()).throw(asyncio.CancelledError)})


@given(st.text(min_size=1).filter(lambda number: number not in CHECKS))
def test_an_unknown_number_is_an_error_that_lists_the_known(number):
    with pytest.raises(ValueError, match=r"there is no exercise .* here; this chapter has 2\.1, 2\.2") as error:
        verdict(number, 1, CHECKS)
    assert repr(number) in str(error.value)


@given(st.booleans(), st.text())
def test_expect_raises_its_hint_exactly_if_the_claim_fails(holds, hint):
    if holds:
        assert expect(holds, hint) is None
    else:
        with pytest.raises(Wrong) as wrong:
            expect(holds, hint)
        assert str(wrong.value) == hint


def test_check_prints_the_verdict_of_the_checks_beside_the_notebook(tmp_path, monkeypatch, capsys):
    (tmp_path / "exercise_checks.py").write_text(
        "from exercises import expect\n\nCHECKS = {'9.1': lambda n: expect(n == 1, 'One.')}\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "exercise_checks", raising=False)
    for attempt in (..., 2, 1):
        check("9.1", attempt)
    assert capsys.readouterr().out.splitlines() == [
        "Exercise 9.1: not attempted yet",
        "Exercise 9.1: not yet. One.",
        "Exercise 9.1: right.",
    ]
