"""Appendix C, the list of all exercises, made from the notebooks: title, time, prompt, solution. Standard library only.

A prompt is a paragraph that begins "**Exercise 2.3** (ten minutes). ..." in a main notebook; its solution is the section
"## 2.3 Title" of that chapter's exercise-solutions.ipynb.
"""

import json
import re
from pathlib import Path

from tools import headers

PROMPT = re.compile(r"^\*\*Exercise ([\w.]+)\*\* \(([^)]*)\)", re.M)
TITLE = re.compile(r"^## ([\w]+\.\d+) (.+)$", re.M)
HEADING = re.compile(r"^#{2,3} (.+)$", re.M)
START, END = "<!-- exercises -->", "<!-- /exercises -->"


def markdown(path: Path) -> list[str]:
    """The sources of a notebook's Markdown cells; none if there is no such notebook."""
    if not path.exists():
        return []
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]


def anchor(heading: str) -> str:
    """The anchor that JupyterLab gives to a heading."""
    return heading.strip().replace(" ", "-").replace("`", "").replace("(", "%28").replace(")", "%29")


def prompts(path: Path) -> list[tuple[str, str, str]]:
    """Every exercise of a main notebook: its number, its time, and the heading that it stands under."""
    found, heading = [], ""
    for text in markdown(path):
        for match in sorted([*PROMPT.finditer(text), *HEADING.finditer(text)], key=lambda m: m.start()):
            if match.re is HEADING:
                heading = match[1]
            else:
                found.append((match[1], re.split(r"[:;]", match[2])[0], heading))
    return found


def rows(chapter: str, root: Path) -> list[str]:
    """The table rows of one chapter; raises ValueError for an exercise without a solution, or a solution without an exercise."""
    folder = headers.main_folder(chapter)
    solved = root / folder / "exercise-solutions.ipynb"
    titles = {number: title for text in markdown(solved) for number, title in TITLE.findall(text)}
    lines, asked = [], []
    for name in headers.MAP[chapter][0]:
        for number, minutes, heading in prompts(root / folder / name):
            asked.append(number)
            title = titles.get(number, "")
            prompt = f"[prompt](../{folder}/{name}#{anchor(heading)})"
            solution = f"[solution](../{folder}/{solved.name}#{anchor(f'{number} {title}')})"
            lines.append(f"| {number} | {title} | {minutes} | {prompt} | {solution} |")
    if titles and sorted(asked) != sorted(titles):
        odd = sorted(set(asked) ^ set(titles))
        raise ValueError(f"{chapter}: {', '.join(odd)} has a prompt or a solution, but not both; mend the notebooks")
    return lines if titles else []


def table(root: Path) -> str:
    """One table a chapter that has exercises."""
    parts = []
    for chapter in headers.MAP:
        if lines := rows(chapter, root):
            name = chapter.replace("ch0", "Chapter ").replace("appendix-", "Appendix ")
            parts.append("\n".join([f"## {name}", "", "| | exercise | time | | |", "|--:|:--|:--|:--|:--|", *lines]))
    return "\n\n".join(parts)


def outputs(root: Path) -> dict[Path, str]:
    """The page with its tables between the markers; nothing where the page isn't there."""
    page = root / "appendix-C" / "README.md"
    if not page.exists():
        return {}
    before, rest = page.read_text(encoding="utf-8").split(START, 1)
    return {page: before + START + "\n" + table(root) + "\n" + END + rest.split(END, 1)[1]}
