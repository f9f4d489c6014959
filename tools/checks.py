"""Checks on notebooks and Markdown pages that need no kernel. Standard library only.

Every check yields one line "file: cell: what is wrong; remedy". The rules are those of CONTRIBUTING.md.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from tools.notebook_files import ROOT, ExportError, all_notebooks, notebook_text, parse, read_notebook, tags

IGNORE_CEILING = 0.08  # the share of code cells whose output nbval may ignore
LONGEST_CELL, LONGEST_DEFINITION = 25, 40  # lines
LONGEST_LINE = 110  # characters of code in a notebook: what a reader's screen shows without scrolling
ABSOLUTE = re.compile(r"(?<![\w.:/~])/(?:home|Users|root|work|tmp|opt|usr|private|content)/[\w.~-]+|\b[A-Z]:\\\\?Users\b")
TEXT, TARGET = r"((?:[^\[\]]|\[[^\[\]]*\])*)", r"\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)"
IMAGE = re.compile(rf"!\[{TEXT}\]{TARGET}")
LINK = re.compile(rf"(?<!!)\[{TEXT}\]{TARGET}")
IMAGE_TAG = re.compile(r"<img\b[^>]*>", re.I)
FILLER = re.compile(r"\b(simply|obviously|of course it is easy|trivially|easy as pie)\b", re.I)


def notebook_problems(path: Path) -> Iterator[str]:
    """What is wrong with one notebook."""
    try:
        notebook = read_notebook(path)
    except ExportError as error:
        yield str(error)
        return
    cells = notebook["cells"]
    if notebook_text(notebook) != path.read_text(encoding="utf-8"):
        yield "not written as the tools write it; run `python course.py execute` on it"
    code = [c for c in cells if c["cell_type"] == "code"]
    counts = [c["execution_count"] for c in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"execution counts are {counts[:6]}..., not 1, 2, 3, ...; run `python course.py execute` on it"
    if len({c.get("id") for c in cells}) != len(cells) or "widgets" in notebook["metadata"]:
        yield "cell ids are missing or double, or widget state is stored; run `python course.py execute` on it"
    if "setup" not in [t for c in code[:1] for t in tags(c)]:
        yield "the first code cell isn't tagged `setup`"
    for number, cell in enumerate(code, 1):
        yield from (f"In [{number}]: {problem}" for problem in code_problems(cell))
    ignored = sum(ignores_output(c) for c in code)
    if ignored > max(1, IGNORE_CEILING * len(code)):
        yield f"{ignored} of {len(code)} code cells ignore their output; the ceiling is {IGNORE_CEILING:.0%}"
    yield from text_problems([c["source"] for c in cells if c["cell_type"] == "markdown"], path)


def ignores_output(cell: dict) -> bool:
    """Whether nbval doesn't compare this cell's output."""
    return bool({"nbval-ignore-output", "nbval-skip"} & set(tags(cell))) or "NBVAL_" in cell["source"]


def prints_approximate(cell: dict) -> bool:
    """Whether the cell prints a machine-dependent number behind ≈."""
    return "≈" in output_text(cell)


def output_text(cell: dict) -> str:
    """All text that the cell printed or returned."""
    parts = []
    for output in cell["outputs"]:
        parts.append("".join(output.get("text", "")))
        parts += ["".join(v) for k, v in output.get("data", {}).items() if k.startswith("text/") and isinstance(v, str | list)]
    return "\n".join(parts)


def code_problems(cell: dict) -> Iterator[str]:
    """What is wrong with one code cell and its stored output."""
    source, printed = cell["source"], output_text(cell)
    for output in cell["outputs"]:
        if output["output_type"] == "error" and "raises-exception" not in tags(cell):
            yield f"stores an error ({output['ename']}: {output['evalue'][:80]}); mend it, or tag the cell `raises-exception`"
        if output.get("name") == "stderr":
            yield f"stores a warning or log line ({''.join(output['text'])[:80].strip()}); mend its cause"
    lines = len(source.strip().splitlines())
    if lines > (LONGEST_DEFINITION if is_one_definition(source) else LONGEST_CELL):
        yield f"has {lines} lines; split it ({LONGEST_CELL}, or {LONGEST_DEFINITION} for one definition)"
    if "setup" not in tags(cell):
        if mixes_imports(source):
            yield "mixes imports with work; move the imports to a cell of their own"
        if long := [n for n, line in enumerate(source.splitlines(), 1) if len(line) > LONGEST_LINE]:
            yield f"has {len(source.splitlines()[long[0] - 1])} characters in line {long[0]}; break it ({LONGEST_LINE} at most)"
    if "≈" in printed and "assert" not in source:
        yield "prints a number behind ≈ without asserting the range that it must lie in"
    if "exercise" in tags(cell) and "not attempted yet" not in printed:
        yield "is an exercise whose stored answer isn't `not attempted yet`"
    for text, where in ((source, "source"), (printed, "output")):
        if found := ABSOLUTE.search(text):
            yield f"has an absolute path in its {where}: {found[0]}"


def is_one_definition(source: str) -> bool:
    """Whether the cell holds exactly one function or class."""
    body = statements(source)
    return len(body) == 1 and isinstance(body[0], ast.FunctionDef | ast.ClassDef)


def mixes_imports(source: str) -> bool:
    """Whether the cell has imports beside anything that isn't an import."""
    return len({isinstance(node, ast.Import | ast.ImportFrom) for node in statements(source)}) == 2


def statements(source: str) -> list[ast.stmt]:
    """The cell's statements; none for a cell that isn't Python, such as one that begins with %%bash or shows a syntax error."""
    try:
        return parse(source, "cell").body
    except ExportError:
        return []


def text_problems(texts: list[str], path: Path) -> Iterator[str]:
    """What is wrong with headings, images, links and wording; `texts` are a page's Markdown cells, or one whole page."""
    prose = [re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S) for text in texts]
    levels = [len(m[1]) for text in prose for m in re.finditer(r"^(#{1,6}) \S", text, re.M)]
    if levels.count(1) != 1 or levels[:1] != [1]:
        yield f"has {levels.count(1)} headings of level 1; it needs one, at the top"
    for above, below in zip(levels, levels[1:], strict=False):
        if below > above + 1:
            yield f"skips a heading level, from {above} to {below}"
    for text in prose:
        for alt, target in [*IMAGE.findall(text), *map(tag_parts, IMAGE_TAG.findall(text))]:
            if len(alt.strip()) < 15:
                yield f"image {target} has no alt text that says what the picture says"
            yield from missing_file(target, path, image=True)
        for _, target in LINK.findall(text):
            yield from missing_file(target, path)
        if found := FILLER.search(text):
            yield f"filler word in the prose: {found[0]}"


def tag_parts(tag: str) -> tuple[str, str]:
    """Alt text and address of an HTML image."""
    parts = dict(re.findall(r"""\b(alt|src)\s*=\s*["']([^"']*)["']""", tag, re.I))
    return parts.get("alt", ""), parts.get("src", "")


def missing_file(target: str, path: Path, image: bool = False) -> Iterator[str]:
    """Complain about a relative link or image without a file, or an image that isn't ours."""
    if re.match(r"https?:|mailto:", target):
        if image:
            yield f"image {target} comes from another site; draw our own"
        return
    name, _, anchor = unquote(target).partition("#")
    file = path.parent / name if name else path
    if not file.exists():
        yield f"{'image' if image else 'link'} {target} leads to no file"
    elif anchor and file.suffix in (".md", ".ipynb") and anchor not in anchors(file):
        yield f"link {target} leads to no heading"


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub and JupyterLab give to a page's or notebook's headings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join(c["source"] for c in read_notebook(path)["cells"] if c["cell_type"] == "markdown")
    heads = [h.strip() for h in re.findall(r"^#{1,6} (.+)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads} | {h.replace(" ", "-") for h in heads}


def pages(root: Path = ROOT) -> list[Path]:
    """Every Markdown page of the course."""
    skip = {".venv", "runs", "build", "kept", ".cache", "node_modules", ".git", ".pytest_cache", ".ipynb_checkpoints"}
    return sorted(p for p in root.rglob("*.md") if not skip & set(p.relative_to(root).parts))


def problems(notebooks: list[Path], markdown: list[Path]) -> list[str]:
    """All problems of these files, a line each."""
    found = [f"{p.relative_to(ROOT).as_posix()}: {problem}" for p in notebooks for problem in notebook_problems(p)]
    return found + [
        f"{p.relative_to(ROOT).as_posix()}: {problem}"
        for p in markdown
        for problem in text_problems([p.read_text(encoding="utf-8")], p)
    ]


def report(notebooks: list[Path]) -> str:
    """How many cells ignore their output, and how many print a number behind ≈."""
    code = [c for p in notebooks for c in readable_cells(p) if c["cell_type"] == "code"]
    ignored, approximate = sum(map(ignores_output, code)), sum(map(prints_approximate, code))
    total = max(1, len(code))
    return (
        f"{len(notebooks)} notebooks, {len(code)} code cells: {ignored} ({ignored / total:.1%}) ignore their output, "
        f"{approximate} ({approximate / total:.1%}) print a number behind ≈"
    )


def readable_cells(path: Path) -> list[dict]:
    """The notebook's cells; none if it is damaged, which `notebook_problems` says."""
    try:
        return read_notebook(path)["cells"]
    except ExportError:
        return []


def main(notebooks: list[Path] | None = None, markdown: list[Path] | None = None) -> int:
    """Print every problem; returns an exit status."""
    notebooks = all_notebooks() if notebooks is None else notebooks
    found = problems(notebooks, pages() if markdown is None else markdown)
    for line in found:
        print(line)
    print(f"checks: {len(found) or 'no'} problem{'s' if len(found) != 1 else ''}; {report(notebooks)}")
    return 1 if found else 0
