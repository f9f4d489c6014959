"""What several tests need: a chapter's modules by name, though every chapter has its own `previous_chapters`."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import course
from tools import headers

ROOT = Path(__file__).resolve().parent.parent
course.setup()


def chapter(name: str, module: str | None = None) -> ModuleType:
    """Import `module` (default: the chapter's generated one) from the main folder of chapter `name`, freshly."""
    folder = str(ROOT / headers.main_folder(name))
    own = ("previous_chapters", "exercise_checks", module or name)
    for stale in own:
        sys.modules.pop(stale, None)
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module or name)
    finally:
        sys.path.remove(folder)
        for stale in own:
            sys.modules.pop(stale, None)
