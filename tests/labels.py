"""Chapter 7's labeling tool for the tests that use it: its module, and how another process imports it."""

from pathlib import Path

from tests.support import chapter


def module():
    """The module that defines LabelStore and LabelingTool."""
    return chapter("ch07")


def import_lines(root: Path) -> str:
    """Python that imports them in a copy of the course at `root`."""
    folders = [str(root), str(root / "ch07" / "01_main-chapter-code")]
    return f"import sys\nsys.path[:0] = {folders!r}\nfrom ch07 import LabelingTool, LabelStore\n"
