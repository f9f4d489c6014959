"""The import statements that a set of definitions needs, merged and in isort's order. Standard library only."""

import re
import sys

from tools.definitions import Definition
from tools.notebook_files import ExportError

LINE = 132  # the longest line that we write


def merged_imports(definitions: list[Definition], keep_previous: bool, leave_out: set[str] = frozenset()) -> str:
    """The imports that the definitions use, one statement a module, standard library first, as isort orders them.

    With `keep_previous`, an import from `previous_chapters` stays; otherwise its definition is already among `definitions`.
    """
    plain, from_ = [], []
    members: dict[str, list[str]] = {}
    for statement in needed_imports(definitions) - leave_out:
        if statement.startswith("import "):
            plain.append((statement.removeprefix("import "), statement))
            continue
        module, what = re.fullmatch(r"from (\S+) import (.+)", statement).groups()
        if module == "previous_chapters" and not keep_previous:
            continue
        if " as " in what:
            from_.append((module, import_order(what), statement))
        else:
            members.setdefault(module, []).append(what)
    from_ += [(m, min(map(import_order, names)), wrap_import(m, sorted(names, key=import_order))) for m, names in members.items()]
    groups: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for what, statement in sorted(plain, key=lambda entry: with_alias(entry[0])):
        groups[section(what)].append(statement)
    for module, _, statement in sorted(from_, key=lambda entry: (natural(entry[0]), entry[1])):
        groups[section(module)].append(statement)
    return "\n\n".join("\n".join(group) for group in groups.values() if group)


def needed_imports(definitions: list[Definition]) -> set[str]:
    """The import statements that the definitions need; raises ExportError where one name would mean two things."""
    own = {name: d for d in definitions for name in d.names}
    meanings: dict[str, set[str]] = {}
    for d in definitions:
        for name in d.uses - (set(d.needs) & set(own)):
            meanings.setdefault(name, set()).update(d.imports.get(name, ()))
            several = meanings[name] | ({f"the definition in {own[name].place}"} if name in own else set())
            if len(several) > 1 and not all(re.fullmatch(r"import [\w.]+", s) for s in several):
                raise ExportError(f"{d.place}: {name} means two things: {' and '.join(sorted(several))}; rename one of them")
    return {statement for statements in meanings.values() for statement in statements}


def section(module: str) -> int:
    """isort's groups: 0 the standard library, 1 installed packages, 2 the course's own modules."""
    top = re.split(r"[. ]", module)[0]
    own = top in {"previous_chapters", "course", "exercises", "data", "images", "tools"}
    return 0 if top in sys.stdlib_module_names else 2 if own else 1


def natural(text: str) -> tuple:
    """A sort key that ignores case and takes runs of digits as numbers, as isort does: conv2d comes before conv10d."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", text.lower())), text


def with_alias(what: str) -> tuple:
    """A sort key for "module" or "module as alias"."""
    name, _, alias = what.partition(" as ")
    return natural(name), natural(alias)[::-1]


def import_order(name: str) -> tuple:
    """isort's order within one statement: CONSTANTS, then Classes, then functions."""
    word = name.split()[0]
    return (0 if word.isupper() and len(word) > 1 else 1 if word[0].isupper() else 2, with_alias(name))


def wrap_import(module: str, names: list[str]) -> str:
    """One import statement, in parentheses with a name a line where it would be too long."""
    flat = f"from {module} import {', '.join(names)}"
    return flat if len(flat) <= LINE else f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"
