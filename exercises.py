"""The course's self-checks: `check("3.2", my_softmax)` says how far an attempt at an exercise is. Standard library only.

A chapter's `exercise_checks.py` holds `CHECKS = {"3.2": function}`. Each function gets the reader's attempt, calls `expect` for
everything that a right answer does, and may return a sentence to close with. The first thing that doesn't hold is the hint.
"""

import dis
import importlib
import types
from collections.abc import Callable


class Wrong(Exception):
    """An attempt that isn't right yet; the message is a hint, addressed to the reader."""


def expect(holds: bool, hint: str) -> None:
    """Raise `Wrong(hint)` unless `holds`."""
    if not holds:
        raise Wrong(hint)


def is_stub(attempt: object) -> bool:
    """Whether the reader hasn't begun: `...`, None, a function whose body is `...`, a class or tuple of nothing but those."""
    if attempt is None or attempt is ...:
        return True
    if isinstance(attempt, staticmethod | classmethod):
        return is_stub(attempt.__func__)
    if isinstance(attempt, tuple | list):
        return len(attempt) > 0 and all(map(is_stub, attempt))
    if isinstance(attempt, types.FunctionType):
        steps = [(step.opname, step.argval) for step in dis.get_instructions(attempt)]
        work = [step for step in steps if step[0] not in ("RESUME", "NOP", "COPY_FREE_VARS", "RETURN_VALUE")]
        return work in ([("LOAD_CONST", None)], [("RETURN_CONST", None)])  # it does nothing but return None
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
