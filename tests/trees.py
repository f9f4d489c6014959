"""Small courses in a temporary folder: notebooks of a few cells, and copies of the course's own machinery without its chapters."""

import shutil
from pathlib import Path

from tests.support import ROOT
from tools import export

MACHINERY = (
    [
        "course.py",
        "exercises.py",
        "pyproject.toml",
        "requirements.txt",
        "requirements-dev.txt",
        "tests/nbval.cfg",
        "data/__init__.py",
    ]
    + [f"tools/{p.name}" for p in sorted((ROOT / "tools").glob("*.py"))]
    + ["tools/lab-settings/overrides.json", "images/__init__.py", "images/kit.py", "data/gpt2/vocab.bpe"]
)


def code(source: str, *tags: str, outputs: list[dict] | None = None, count: int | None = None) -> dict:
    """A code cell."""
    cell = {"cell_type": "code", "source": source, "metadata": {}, "outputs": outputs or [], "execution_count": count}
    return dict(cell, metadata={"tags": list(tags)} if tags else {})


def text(source: str) -> dict:
    """A Markdown cell."""
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def printed(*lines: str) -> list[dict]:
    """The stored output of a cell that printed these lines."""
    return [{"output_type": "stream", "name": "stdout", "text": [line + "\n" for line in lines]}]


def write_notebook(path: Path, *cells: dict, metadata: dict | None = None) -> Path:
    """Write a notebook of these cells, as the course's tools do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [dict(cell, id=f"cell-{i}") for i, cell in enumerate(cells)]
    notebook = {"cells": cells, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(export.notebook_text(notebook), encoding="utf-8", newline="\n")
    return path


def write_chapter(root: Path, name: str, *cells: dict) -> Path:
    """Write a chapter's main notebook."""
    return write_notebook(root / name / "01_main-chapter-code" / f"{name}.ipynb", *cells)


def copy_machinery(root: Path) -> Path:
    """Copy course.py and everything it needs, but no chapter; returns the new root."""
    for name in MACHINERY:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    return root
