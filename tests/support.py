"""What several tests need: a chapter's modules by name, though every chapter has its own `previous_chapters`."""

import importlib
import importlib.util
import re
import sys
from functools import cache
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


@cache
def program(path: str) -> ModuleType:
    """Import a program that finds the chapters it needs by itself, such as a bonus's; `path` begins at the course's root."""
    before, own = list(sys.path), re.compile(r"ch\d\d|previous_chapters")
    known = {name: sys.modules.pop(name) for name in list(sys.modules) if own.fullmatch(name)}
    name = re.sub(r"\W", "_", path.removesuffix(".py"))
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)        # where dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
        for stale in [name for name in sys.modules if own.fullmatch(name)]:
            del sys.modules[stale]
        sys.modules.update(known)
    return module
