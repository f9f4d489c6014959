"""Read the definitions that the course exports: what each cell defines, what it needs, and who imports it. Standard library only.

A definition lives in a cell tagged `export` of `chNN/01_main-chapter-code/chNN.ipynb`. A cell that couldn't stand alone in a
module is an error that names it.
"""

import ast
import builtins
import difflib
import re
import symtable
from dataclasses import dataclass, field
from pathlib import Path

from tools.notebook_files import ExportError, parse, read_notebook, tags

MAIN = "01_main-chapter-code"


@dataclass
class Definition:
    """One exported cell: its source, the names it defines, the names it uses, and where it came from."""

    chapter: str
    place: str  # "ch02.ipynb, In [17]"
    source: str
    names: list[str]
    uses: set[str]
    imports: dict[str, set[str]]  # the imports of its notebook: name -> statements
    needs: list[str] = field(default_factory=list)  # the names it uses that the course exports


def read_course(root: Path) -> dict[str, Definition]:
    """All exported definitions of all chapters as {name: definition}, in order; a name exported twice is an error."""
    table: dict[str, Definition] = {}
    for path in sorted(root.glob(f"ch[0-9][0-9]/{MAIN}/ch[0-9][0-9].ipynb")):
        for definition in read_chapter(path):
            for name in definition.names:
                if name in table:
                    raise ExportError(
                        f"{definition.place}: {name} is already exported by {table[name].place}; "
                        "give the new one another name, or subclass the old one"
                    )
                table[name] = definition
    for definition in table.values():
        definition.needs = sorted(name for name in definition.uses if is_exported(name, definition, table))
    return table


def read_chapter(path: Path) -> list[Definition]:
    """The exported definitions of one main notebook, in order; raises ExportError where one can't stand alone."""
    imports, definitions, count = {}, [], 0
    for cell in read_notebook(path)["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        place = f"{path.name}, In [{count}]"
        exported = "export" in tags(cell)
        if not exported and ("exercise" in tags(cell) or not re.search(r"^(from|import) ", cell["source"], re.M)):
            continue  # what a reader writes into an exercise is nobody else's concern
        tree = parse(cell["source"], place)
        for name, statements in import_lines(tree).items():
            imports.setdefault(name, set()).update(statements)
        if exported:
            if cell.get("outputs"):
                raise ExportError(f"{place}: an exported cell prints something; move the print to the next cell")
            definitions.append(
                Definition(
                    chapter=path.stem,
                    place=place,
                    source="\n".join(line.rstrip() for line in cell["source"].strip().splitlines()),
                    names=defined_names(tree, place),
                    uses=used_names(cell["source"], place),
                    imports=imports,
                )
            )
    for definition in definitions:
        own = {name for d in definitions for name in d.names}
        unknown = sorted(definition.uses - own - set(imports))
        if unknown:
            raise ExportError(
                f"{definition.place}: uses {', '.join(unknown)}, which this notebook neither imports nor exports; "
                "tag the cell that defines it, or import it in a cell of its own"
            )
    return definitions


def import_lines(tree: ast.Module) -> dict[str, set[str]]:
    """Every top-level import of a cell as {bound name: import statements that bind only it}."""
    found: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                text = alias.name + (f" as {alias.asname}" if alias.asname else "")
                origin = "." * getattr(node, "level", 0) + (getattr(node, "module", "") or "")
                statement = f"from {origin} import {text}" if isinstance(node, ast.ImportFrom) else f"import {text}"
                found.setdefault(name, set()).add(statement)
    return found


def defined_names(tree: ast.Module, place: str) -> list[str]:
    """The names that an export cell defines; anything in it but definitions and constants is an error."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in node.targets):
            names += [t.id for t in node.targets]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
        else:
            raise ExportError(
                f"{place}: an exported cell may hold only functions, classes and constants, but line {node.lineno} "
                f"is {type(node).__name__}; move it to a cell of its own"
            )
        if isinstance(node, ast.Assign | ast.AnnAssign) and any(
            isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print" for n in ast.walk(node)
        ):
            raise ExportError(f"{place}: an exported cell may not print; move the print to the next cell")
    return names


def used_names(source: str, place: str) -> set[str]:
    """The names that the cell takes from outside, by Python's own rules of scope."""
    try:
        scopes = [symtable.symtable(source, place, "exec")]
    except SyntaxError:
        raise ExportError(f"{place}: an exported cell has to be plain Python, without Jupyter's % and ! lines") from None
    for scope in scopes:  # the list grows while it is read
        scopes += scope.get_children()
    read = {s.get_name() for scope in scopes for s in scope.get_symbols() if s.is_referenced() and s.is_global()}
    bound = {s.get_name() for scope in scopes for s in scope.get_symbols() if s.is_assigned() or s.is_parameter()}
    read |= {name for node in ast.walk(parse(source, place)) for name in annotated_names(node, place)} - bound
    own = {s.get_name() for s in scopes[0].get_symbols() if s.is_assigned() or s.is_namespace()}
    return {name for name in read - own - set(dir(builtins)) if not name.startswith("__")}


def annotated_names(node: ast.AST, place: str) -> set[str]:
    """The names in a node's annotations, also in one that is written as a string, such as `-> "GPTConfig"`."""
    notes = [note for note in (getattr(node, "annotation", None), getattr(node, "returns", None)) if isinstance(note, ast.AST)]
    trees = [
        parse(n.value, f"{place}: an annotation") if isinstance(n, ast.Constant) and isinstance(n.value, str) else n for n in notes
    ]
    return {n.id for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Name)}


def is_exported(name: str, user: Definition, table: dict[str, Definition]) -> bool:
    """Whether `name`, as used by a definition, means what the course exports under it, and not some library's import."""
    if name in table and table[name].chapter == user.chapter:
        return True
    previous = [s for s in user.imports.get(name, ()) if re.match(r"(from|import) previous_chapters\b", s)]
    if previous and previous != [f"from previous_chapters import {name}"]:
        raise ExportError(f"{user.place}: {name} is `{previous[0]}`; an exported cell needs `from previous_chapters import {name}`")
    if previous:
        known([name], earlier(user.chapter, table), user.place)
    return bool(previous)


def earlier(chapter: str, table: dict[str, Definition]) -> dict[str, Definition]:
    """What the chapters before this one export."""
    return {name: d for name, d in table.items() if d.chapter < chapter}


def known(names: list[str], table: dict[str, Definition], place: str) -> list[str]:
    """`names`, each of them exported; raises ExportError for another."""
    for name in names:
        if name not in table:
            near = difflib.get_close_matches(name, table, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ExportError(f"{place}: {name} is not exported by any chapter that comes before{hint}")
    return names


def with_needs(names: list[str], table: dict[str, Definition]) -> list[Definition]:
    """The definitions of `names` and everything they need, in the order in which the course teaches them."""
    wanted, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.update(table[name].names)
            queue += table[name].needs
    unique = {id(d): d for d in table.values() if wanted & set(d.names)}
    return list(unique.values())


def imported_from_previous(folder: Path) -> list[str]:
    """The names that a chapter's notebooks and scripts import from `previous_chapters`."""
    names = set()
    generated = ("previous_chapters.py", f"{folder.name}.py")
    scripts = [p for p in sorted(folder.rglob("*.py")) if p.name not in generated]
    pieces = [(p.read_text(encoding="utf-8"), p.name) for p in scripts]
    for path in sorted(folder.rglob("*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts and not path.name.endswith(".as-shipped.ipynb"):
            cells = [c for c in read_notebook(path)["cells"] if c["cell_type"] == "code"]
            pieces += [(c["source"], f"{path.name}, In [{i}]") for i, c in enumerate(cells, 1) if "exercise" not in tags(c)]
    for source, place in pieces:
        for node in ast.walk(parse(source, place)) if "previous_chapters" in source else ():
            if isinstance(node, ast.ImportFrom) and node.module == "previous_chapters":
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import) and "previous_chapters" in [alias.name for alias in node.names]:
                raise ExportError(f"{place}: write `from previous_chapters import NAME`; the exporter has to see the names")
    return sorted(names)
