"""Draw every SVG figure from `images/*/figures.py`, or check that they are as drawn. Standard library only."""

import importlib.util
from pathlib import Path

from images import kit
from tools.notebook_files import ROOT, write_atomically


def drawn() -> dict[Path, str]:
    """Every registered figure as {file: SVG text}."""
    kit.FIGURES.clear()
    for source in [*sorted((ROOT / "images").glob("*/figures.py")), ROOT / "images" / "figures.py"]:
        if source.exists():
            spec = importlib.util.spec_from_file_location(f"figures_{source.parent.name}", source)
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return {Path(name): draw().svg() for name, draw in kit.FIGURES.items()}


def main(check: bool = False) -> int:
    """Write the figures; with `check` write nothing and fail if one would change or one has no code. Returns an exit status."""
    figures = drawn()
    stale = [path for path, text in figures.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    orphans = sorted(set((ROOT / "images").rglob("*.svg")) - set(figures))
    for path in orphans:
        print(f"{path.relative_to(ROOT).as_posix()}: no code draws this figure; add it to a figures.py or delete it")
    for path in stale:
        print(
            f"{path.relative_to(ROOT).as_posix()}: "
            + ("differs from its code; run `python course.py figures`" if check else "drawn")
        )
        if not check:
            write_atomically(path, figures[path])
    print(f"figures: {len(figures)} drawn by code" + (", all as stored" if check and not stale and not orphans else ""))
    return 1 if orphans or (check and stale) else 0
