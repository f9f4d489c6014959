"""Write every copy of a definition from the one cell that teaches it. Standard library only.

A definition lives in a cell tagged `export` of `chNN/01_main-chapter-code/chNN.ipynb`. From those cells come

- `chNN.py` beside the notebook: all of that chapter's exported definitions;
- `previous_chapters.py` in a later chapter: what its notebooks and scripts import from that name, with what it needs;
- in a summary script, the lines between `# <generated: NAME, NAME>` and `# </generated>`;
- in a summary notebook, cells tagged `from:NAME` (and `from:imports` for the imports they need);
- in every notebook, the header and the setup cell (see `headers.py`);
- in README.md, the table of contents (see `contents.py`).

`outputs()` returns the text that each of these files should have; `export` writes it, `export --check` compares it.
"""

import ast
import builtins
import difflib
import json
import os
import re
import symtable
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tools import contents, exercise_list
from tools.headers import refresh_header

ROOT = Path(__file__).resolve().parent.parent
MAIN = "01_main-chapter-code"
LINE = 132  # the longest line that we write


class ExportError(ValueError):
    """A cell that can't be exported; the message names notebook and cell."""


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


def read_notebook(path: Path) -> dict:
    """The notebook as a dict whose cell sources are strings; raises ExportError for a file that isn't a notebook."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["metadata"].get("course")
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])
            cell["metadata"].get("tags")
            if cell["cell_type"] == "code":
                [output["output_type"] for output in cell["outputs"]], cell["execution_count"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ExportError(f"{path}: not a notebook ({what}); restore it with git or `python course.py reset`") from None
    return notebook


def notebook_text(notebook: dict) -> str:
    """The notebook as Jupyter writes it: one source line a string, indent 1, keys in order."""
    cells = [dict(cell, source=cell["source"].splitlines(keepends=True)) for cell in notebook["cells"]]
    return json.dumps(dict(notebook, cells=cells), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def tags(cell: dict) -> list[str]:
    """The cell's tags; none for a cell without any."""
    return cell["metadata"].get("tags", [])


def parse(source: str, place: str) -> ast.Module:
    """The syntax tree of a cell (lines that begin with % or ! are Jupyter's, not Python's, and are left out)."""
    try:
        return ast.parse(source)
    except SyntaxError:
        try:
            return ast.parse(re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.M))
        except SyntaxError as error:
            raise ExportError(f"{place}: line {error.lineno} is not Python: {error.msg}") from None


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


def natural(text: str) -> tuple:
    """A sort key that ignores case and takes runs of digits as numbers, as isort does: conv2d comes before conv10d."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", text.lower())), text


def with_alias(what: str) -> tuple:
    """A sort key for "module" or "module as alias"."""
    name, _, alias = what.partition(" as ")
    return natural(name), natural(alias)[::-1]


def section(module: str) -> int:
    """isort's groups: 0 the standard library, 1 installed packages, 2 the course's own modules."""
    top = re.split(r"[. ]", module)[0]
    own = top in {"previous_chapters", "course", "exercises", "data", "images", "tools"}
    return 0 if top in sys.stdlib_module_names else 2 if own else 1


def import_order(name: str) -> tuple:
    """isort's order within one statement: CONSTANTS, then Classes, then functions."""
    word = name.split()[0]
    return (0 if word.isupper() and len(word) > 1 else 1 if word[0].isupper() else 2, with_alias(name))


def wrap_import(module: str, names: list[str]) -> str:
    """One import statement, in parentheses with a name a line where it would be too long."""
    flat = f"from {module} import {', '.join(names)}"
    return flat if len(flat) <= LINE else f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"


def module_text(title: str, definitions: list[Definition], keep_previous: bool) -> str:
    """A generated module: what it is, its imports, then each definition under the name of the cell that it came from."""
    head = f'"""{title}\n\nGenerated by `python course.py export`. DO NOT EDIT: edit the named cell, then export again.\n"""'
    return f"{head}\n\n{library_text(definitions, keep_previous)}\n"


def library_text(definitions: list[Definition], keep_previous: bool, leave_out: set[str] = frozenset()) -> str:
    """The imports that the definitions need, then each definition under the name of the cell that it came from."""
    imports = merged_imports(definitions, keep_previous, leave_out)
    bodies = "\n\n\n".join(f"# {d.place}\n{d.source}" for d in definitions)
    constant_first = definitions and isinstance(ast.parse(definitions[0].source).body[0], ast.Assign | ast.AnnAssign)
    return imports + ("\n\n" if constant_first else "\n\n\n") + bodies if imports else bodies


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


def fill_script(text: str, table: dict[str, Definition], place: str) -> str:
    """The script with each `# <generated: NAMES>` ... `# </generated>` region filled with those definitions and what they need.

    What the script itself imports, or an earlier region brings, isn't brought again.
    """
    region = re.compile(r"^# <generated: ([^>]*)>\n(?:.*?\n)??# </generated>$", flags=re.M | re.S)
    if len(region.findall(text)) != text.count("# <generated:") or text.count("# </generated>") != text.count("# <generated:"):
        raise ExportError(f"{place}: each `# <generated: NAMES>` line needs a `# </generated>` line after it, both unindented")
    own = {s for statements in import_lines(parse(region.sub("", text), place)).values() for s in statements}
    done: list[Definition] = []

    def fill(match):
        names = known(re.split(r"[,\s]+", match[1].strip()), table, place)
        new = [d for d in with_needs(names, table) if d not in done]
        done.extend(new)
        library = library_text(new, False, own)
        split = "# isort: split\n" if own and library.startswith(("import ", "from ")) else ""
        own.update(needed_imports(new))
        return f"# <generated: {match[1].strip()}>\n{split}{library}\n# </generated>"

    return region.sub(fill, text)


def known(names: list[str], table: dict[str, Definition], place: str) -> list[str]:
    """`names`, each of them exported; raises ExportError for another."""
    for name in names:
        if name not in table:
            near = difflib.get_close_matches(name, table, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ExportError(f"{place}: {name} is not exported by any chapter that comes before{hint}")
    return names


def fill_notebook(notebook: dict, table: dict[str, Definition], place: str) -> bool:
    """Fill the cells tagged `from:NAME`; returns whether there were any."""
    wanted = {
        i: tag.removeprefix("from:") for i, cell in enumerate(notebook["cells"]) for tag in tags(cell) if tag.startswith("from:")
    }
    names = known([n for n in wanted.values() if n != "imports"], table, place)
    for i, name in wanted.items():
        chosen = [table[n] for n in names]
        notebook["cells"][i]["source"] = (
            merged_imports(chosen, keep_previous=False) if name == "imports" else f"# {table[name].place}\n{table[name].source}"
        )
    return bool(wanted)


def outputs(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file (or file with generated parts) and the text that it should have."""
    table = read_course(root)
    texts: dict[Path, str] = {}
    for folder in sorted(root.glob(f"ch[0-9][0-9]/{MAIN}")):
        chapter = folder.parent.name
        own = list({id(d): d for d in table.values() if d.chapter == chapter}.values())
        if own:
            texts[folder / f"{chapter}.py"] = module_text(f"The definitions that {chapter}.ipynb teaches.", own, keep_previous=True)
        names = known(imported_from_previous(root / chapter), earlier(chapter, table), f"{chapter}: previous_chapters")
        if names:
            texts[folder / "previous_chapters.py"] = module_text(
                f"What {chapter} uses of the chapters before it.", with_needs(names, table), keep_previous=False
            )
    for path in sorted(root.glob("*/*/*.py")):
        if path not in texts and "# <generated:" in (text := path.read_text(encoding="utf-8")):
            texts[path] = fill_script(text, table, path.name)
    for path in all_notebooks(root):
        notebook = read_notebook(path)
        fill_notebook(notebook, table, path.name)
        refresh_header(notebook, path, root)
        texts[path] = notebook_text(notebook)
    return texts | contents.outputs(root) | exercise_list.outputs(root)


def all_notebooks(root: Path = ROOT) -> list[Path]:
    """Every notebook of the course, in reading order."""
    return sorted(
        p
        for p in root.glob("*/*/*.ipynb")
        if p.relative_to(root).parts[0].startswith(("ch", "appendix")) and not p.name.endswith(".as-shipped.ipynb")
    )


def write_atomically(path: Path, text: str) -> None:
    """Write all of `text`, or leave the file as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def differences(root: Path = ROOT) -> list[str]:
    """One readable diff for every generated file that isn't what its notebook says."""
    found = []
    for path, text in outputs(root).items():
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if old != text:
            name = path.relative_to(root).as_posix()
            lines = list(
                difflib.unified_diff(
                    old.splitlines(), text.splitlines(), f"{name} (as it is)", f"{name} (as exported)", lineterm="", n=2
                )
            )
            found.append("\n".join(lines[:60] + (["..."] if len(lines) > 60 else []) or [f"{name}: line endings differ"]))
    return found


def main(check: bool = False) -> int:
    """Write (or with `check` compare) every generated file; returns an exit status."""
    try:
        if check:
            found = differences()
            print(
                "\n\n".join(found) + "\n\nThese differ from their notebooks; run `python course.py export`."
                if found
                else "export: every generated file agrees with its notebook"
            )
            return 1 if found else 0
        for path, text in outputs().items():
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_atomically(path, text)
                print(f"wrote {path.relative_to(ROOT).as_posix()}")
        return 0
    except ExportError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
