"""Leave a reader's attempts at exercises out of the tests, and put chapters back. Needs git for what the course looked like.

A notebook is a reader's copy if its sources are the committed ones but for cells tagged `exercise`, and somebody either changed one
of those or ran and saved it in JupyterLab or another editor. `test` leaves it alone, runs the committed text beside it instead, as
`<name>.as-shipped.ipynb`, and removes that again.
"""

import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tools.notebook_files import ROOT, read_notebook, tags


def git(*arguments: str, root: Path = ROOT) -> str | None:
    """What a git command prints, or None where it fails, git is missing or this is no clone."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def shipped_text(path: Path, root: Path = ROOT) -> str | None:
    """The committed text of a file, or None if there is none."""
    return git("show", f"HEAD:{path.relative_to(root).as_posix()}", root=root)


def is_readers_copy(path: Path, root: Path = ROOT) -> bool:
    """Whether a notebook differs from the committed one only as a reader's work on it makes it differ."""
    shipped = shipped_text(path, root)
    if shipped is None or shipped == path.read_text(encoding="utf-8"):
        return False
    try:
        mine, theirs = read_notebook(path), json.loads(shipped)
    except ValueError:  # damaged: for the tests to say
        return False
    attempted = sources(mine) != sources(theirs)
    return sources(mine, exercises=False) == sources(theirs, exercises=False) and (attempted or was_run_in_editor(mine))


def sources(notebook: dict, exercises: bool = True) -> list[tuple[str, str]]:
    """All cells' kinds and sources; the empty cell is left out that JupyterLab adds below the last one."""
    cells = [(c["cell_type"], "".join(c["source"])) for c in notebook["cells"] if exercises or "exercise" not in tags(c)]
    return [(kind, source) for kind, source in cells if source.strip()]


def was_run_in_editor(notebook: dict) -> bool:
    """Whether an editor saved it after a run: then it has written down the kernel's version, which our tools never do."""
    return "version" in notebook["metadata"].get("language_info", {})


@contextlib.contextmanager
def as_shipped(notebooks: list[Path], root: Path = ROOT) -> Iterator[list[Path]]:
    """The notebooks to test: a reader's copy is replaced by the committed text in a file beside it while the block runs."""
    stand_ins = {p: p.with_name(p.name.replace(".ipynb", ".as-shipped.ipynb")) for p in notebooks if is_readers_copy(p, root)}
    try:
        for path, stand_in in stand_ins.items():
            print(f"{path.relative_to(root).as_posix()}: your copy is left alone; testing the notebook as it came")
            stand_in.write_text(shipped_text(path, root), encoding="utf-8", newline="\n")
        yield [stand_ins.get(p, p) for p in notebooks]
    finally:
        for stand_in in stand_ins.values():
            stand_in.unlink(missing_ok=True)


def unused(folder: Path) -> Path:
    """This folder's name, with a count if there is one of that name already."""
    counted = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(f for f in itertools.chain([folder], counted) if not f.exists())


def reset(chapters: list[str], root: Path = ROOT) -> int:
    """Put chapters back as they were committed; changed files are first copied to kept/<time>/. Returns an exit status."""
    for chapter in (name.rstrip("/\\") for name in chapters):
        if not chapter.startswith(("ch", "appendix")) or not (root / chapter).is_dir():
            print(f"reset: there is no chapter {chapter!r} here; name a folder such as ch02")
            return 1
        status = git("status", "--porcelain", "-z", "--no-renames", "--", chapter, root=root)
        if status is None:
            print(
                "reset: this folder is not a git clone, so there is no record of how it came; download the course again beside it"
            )
            return 1
        changed = [entry[3:] for entry in status.split("\0") if entry and entry[:2] != "??"]
        aside = unused(root / "kept" / time.strftime("%Y-%m-%d-%H%M%S"))
        for name in changed:
            if (root / name).exists():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, aside / name)
        if changed and git("checkout", "HEAD", "--", *changed, root=root) is None:
            print(f"reset: git could not put {chapter} back; your copies are in {aside.relative_to(root).as_posix()}")
            return 1
        print(
            f"{chapter}: {len(changed)} changed {'file' if len(changed) == 1 else 'files'} put back"
            + (f"; your copies are in {aside.relative_to(root).as_posix()}" if changed else "")
        )
    return 0
