"""Each notebook's header (badge, links, measured time and memory) and its setup cell. Standard library only.

Both are generated: the header between `<!-- header -->` and `<!-- /header -->` in the first cell, the setup cell wherever the tag
`setup` is. When `course.REPOSITORY` changes, `python course.py export` rewrites them all.
"""

import os
from pathlib import Path

import course

MAIN = "01_main-chapter-code"
MAP = {  # chapter folder: main notebooks, condensed summaries; all in the folder of main code
    "ch02": (["ch02.ipynb"], ["dataloader.ipynb"]),
    "ch03": (["ch03.ipynb"], ["multihead-attention.ipynb"]),
    "ch04": (["ch04.ipynb"], ["gpt.py"]),
    "ch05": (["ch05.ipynb"], ["gpt_train.py", "gpt_generate.py"]),
    "ch06": (["ch06.ipynb"], ["gpt_class_finetune.py"]),
    "ch07": (["ch07.ipynb"], ["gpt_human_feedback.py"]),
    "ch08": (["ch08.ipynb"], ["gpt_serve.py"]),
    "appendix-A": (["code-part1.ipynb", "code-part2.ipynb"], ["DDP-script.py"]),
}
START, END = "<!-- header -->", "<!-- /header -->"

SETUP = """\
# Setup, the same in every notebook: find the course (on Colab: fetch it) and let it prepare this session.
import os, subprocess, sys
from pathlib import Path

folder, clone = "{folder}", Path("from-bytes-to-chat")
if "google.colab" in sys.modules and not Path.cwd().match(folder):
    if not clone.exists():
        address = "{address}"
        subprocess.run(["git", "clone", "--quiet", "--depth=1", address, clone.name], check=True)
    os.chdir(clone / folder)
root = next((p for p in Path.cwd().parents if (p / "course.py").exists()), None)
assert root, "open this notebook inside the course: no folder above it has a course.py"
sys.path.insert(0, str(root))
import course

course.setup(folder)"""


def main_folder(chapter: str) -> str:
    """The folder of a chapter's main code, relative to the root."""
    return f"{chapter}/03_main-chapter-code" if chapter == "appendix-A" else f"{chapter}/{MAIN}"


def main_notebooks(root: Path) -> list[Path]:
    """The main notebooks that exist, in reading order."""
    paths = [root / main_folder(chapter) / name for chapter, (names, _) in MAP.items() for name in names]
    return [p for p in paths if p.exists()]


def link(text: str, target: Path, source: Path) -> str:
    """A Markdown link from the notebook `source` to the file `target`."""
    return f"[{text}]({Path(os.path.relpath(target, source.parent)).as_posix()})"


def colab_address(path: Path, root: Path) -> str:
    """Where Colab opens this notebook's copy (branch `colab`, images inlined)."""
    repository = course.REPOSITORY.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{repository}/blob/colab/{path.relative_to(root).as_posix()}"


def header_lines(notebook: dict, path: Path, root: Path) -> list[str]:
    """Badge, links and measured cost of one notebook."""
    folder, chapter = path.parent, path.relative_to(root).parts[0]
    mains, summaries = MAP.get(chapter, ([], []))
    home, links = root / main_folder(chapter), []
    if path in (order := main_notebooks(root)):
        links += [link(f"Summary: {name}", folder / name, path) for name in summaries if (folder / name).exists()]
        if (folder / "exercise-solutions.ipynb").exists():
            links.append(link("Solutions", folder / "exercise-solutions.ipynb", path))
        at = order.index(path)
        links += [link(f"Previous: {order[at - 1].stem}", order[at - 1], path)] if at else []
        links += [link(f"Next: {order[at + 1].stem}", order[at + 1], path)] if at + 1 < len(order) else []
    else:
        links += [link(f"Main notebook: {name}", home / name, path) for name in mains if (home / name).exists()]
    links.append(link("Contents", root / "README.md", path))
    if (root / "glossary.md").exists():
        links.append(link("Glossary", root / "glossary.md", path))
    image = Path(os.path.relpath(root / "images" / "colab-badge.svg", folder)).as_posix()
    badge = f"[![Badge that says: open in Colab]({image})]({colab_address(path, root)})"
    measured = notebook["metadata"].get("course")
    cost = (
        f"Measured on two CPU cores: {measured['seconds']} s, {measured['gigabytes']} GB of memory."
        if measured
        else "Not measured yet."
    )
    return [badge, "", " · ".join(links), "", cost]


def refresh_header(notebook: dict, path: Path, root: Path) -> None:
    """Rewrite the generated part of the first cell and the setup cell, in place."""
    if not notebook["cells"]:
        return
    first = notebook["cells"][0]
    if START in first["source"] and END in first["source"]:
        before, rest = first["source"].split(START, 1)
        after = rest.split(END, 1)[1]
        first["source"] = before + START + "\n" + "\n".join(header_lines(notebook, path, root)) + "\n" + END + after
    for cell in notebook["cells"]:
        if "setup" in cell["metadata"].get("tags", []):
            folder = path.parent.relative_to(root).as_posix()
            cell["source"] = SETUP.format(folder=folder, address=course.REPOSITORY)
