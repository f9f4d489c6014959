"""Read and write notebooks as files: one form, whole or not at all. Standard library only."""

import ast
import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class ExportError(ValueError):
    """A cell that can't be exported; the message names notebook and cell."""


def all_notebooks(root: Path = ROOT) -> list[Path]:
    """Every notebook of the course, in reading order."""
    return sorted(
        p
        for p in root.glob("*/*/*.ipynb")
        if p.relative_to(root).parts[0].startswith(("ch", "appendix")) and not p.name.endswith(".as-shipped.ipynb")
    )


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


def write_atomically(path: Path, text: str) -> None:
    """Write all of `text`, or leave the file as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
