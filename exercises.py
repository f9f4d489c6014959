"""The course's self-checks: `check("3.2", my_softmax)` says how far an attempt at an exercise is. Standard library only.

A chapter's `exercise_checks.py` holds `CHECKS = {"3.2": function}`. Each function gets the reader's attempt, calls `expect` for
everything that a right answer does, and may return a sentence to close with. The first thing that doesn't hold is the hint.
"""

import importlib
import types
from collections.abc import Callable


class Wrong(Exception):
    """An attempt that isn't right yet; the message is a hint, addressed to the reader."""


def expect(holds: bool, hint: str) -> None:
    """Raise `Wrong(hint)` unless `holds`."""
    if not holds:
        raise Wrong(hint)


def _stub(*args): ...


def _documented_stub(*args):
    """A docstring."""
    ...


def is_stub(attempt: object) -> bool:
    """Whether the reader hasn't begun: `...`, None, a function whose body is `...`, or a class with nothing in it."""
    if attempt is None or attempt is ...:
        return True
    if isinstance(attempt, types.FunctionType):
        return attempt.__code__.co_code in (_stub.__code__.co_code, _documented_stub.__code__.co_code)
    if isinstance(attempt, type):
        own = {
            name: value for name, value in vars(attempt).items() if not name.startswith("__") or name in ("__init__", "__call__")
        }
        return all(is_stub(value) for value in own.values())
    return False


def verdict(number: str, attempt: object, checks: dict[str, Callable]) -> str:
    """One line on the attempt: not attempted yet, a hint, or right. Raises ValueError for an exercise that doesn't exist."""
    if number not in checks:
        raise ValueError(f"there is no exercise {number!r} here; this chapter has {', '.join(checks)}")
    if is_stub(attempt):
        return f"Exercise {number}: not attempted yet"
    try:
        closing = checks[number](attempt)
    except Wrong as hint:
        return f"Exercise {number}: not yet. {hint}"
    except Exception as error:  # the reader's own code may raise anything
        return f"Exercise {number}: not yet. Your code raised {type(error).__name__}: {error}"
    return f"Exercise {number}: right. {closing or ''}".rstrip()


def check(number: str, attempt: object) -> None:
    """Print the verdict on `attempt` by the checks of the chapter whose folder this notebook is in."""
    print(verdict(number, attempt, importlib.import_module("exercise_checks").CHECKS))
