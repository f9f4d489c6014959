"""Write copies of all notebooks for Colab, which shows neither relative images nor attachments: images become data, links absolute.

Figures are inlined as PNG where `rsvg-convert` is installed (the workflow installs it), as SVG elsewhere. Standard library only.
"""

import base64
import mimetypes
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import course
from tools import checks, headers, notebook_files

ROOT = notebook_files.ROOT


def picture(path: Path) -> str:
    """The picture as a data address."""
    content, kind = path.read_bytes(), mimetypes.guess_type(path.name)[0] or "image/svg+xml"
    if path.suffix == ".svg" and (converter := shutil.which("rsvg-convert")):
        content, kind = subprocess.run([converter, "--zoom=1.5", str(path)], capture_output=True, check=True).stdout, "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def address(target: str, path: Path, root: Path) -> str:
    """Where a relative link leads from Colab: to the copy of a notebook, or to the file on GitHub."""
    if re.match(r"https?:|mailto:|#|data:", target):
        return target
    name, _, anchor = target.partition("#")
    file = Path(os.path.normpath(path.parent / name))
    if file.suffix == ".ipynb":
        return headers.colab_address(file, root)
    return f"{course.REPOSITORY}/blob/main/{file.relative_to(root).as_posix()}" + (f"#{anchor}" if anchor else "")


def colab_copy(path: Path, root: Path = ROOT) -> dict:
    """The notebook with images inlined and links made absolute."""
    notebook = notebook_files.read_notebook(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = checks.IMAGE.sub(
                lambda m: f"![{m[1]}]({picture(path.parent / unquote(m[2]))})" if ":" not in m[2] else m[0], cell["source"]
            )
            cell["source"] = re.sub(r"\]\((?!data:)([^)\s]+)\)", lambda m: f"]({address(m[1], path, root)})", text)
    return notebook


def main(folder: Path, root: Path = ROOT) -> int:
    """Write a copy of every notebook under `folder`, at the same relative path; returns an exit status."""
    paths = notebook_files.all_notebooks(root)
    for path in paths:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        notebook_files.write_atomically(target, notebook_files.notebook_text(colab_copy(path, root)))
    print(f"colab: {len(paths)} copies written to {folder}")
    return 0
