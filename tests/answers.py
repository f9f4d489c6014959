"""The right answers to a chapter's exercises, taken from its notebook of solutions, for the tests of its checks."""

import ast
import re

from tests.support import ROOT, chapter
from tools import headers
from tools.notebook_files import read_notebook


def solutions(name: str) -> dict[str, object]:
    """Exercise number to the object that the solutions pass to `check`; of the notebook only definitions are run."""
    path = ROOT / headers.main_folder(name) / "exercise-solutions.ipynb"
    names = vars(chapter(name, "previous_chapters")) | vars(chapter(name))
    cells = [c["source"] for c in read_notebook(path)["cells"] if c["cell_type"] == "code"]
    for source in cells[1:]:
        tree = ast.parse(source)
        tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import)]
        exec(compile(tree, str(path), "exec"), names)
    checked = re.findall(r'(?m)^check\("(\d\.\d+)", (\w+)\)', "\n".join(cells))
    return {number: names[attempt] for number, attempt in checked}
