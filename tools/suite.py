"""What `course.py test` runs, cheapest first: generated files, lint, page checks, tests and light notebooks, heavy notebooks."""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tools import attempts, checks, export, figures, notebooks

ROOT = export.ROOT
HEAVY = 20  # seconds, as measured in the header: from here on a notebook runs alone, with both cores
MINUTES = {"ch02": 1, "ch03": 1, "ch04": 1.5, "ch05": 5, "ch06": 3, "ch07": 6, "ch08": 4}  # budgets of main notebooks


def main(chapters: list[str], quick: bool, full: bool) -> int:
    """Run the suite, or the share of it that belongs to some chapters; prints what failed and returns an exit status."""
    try:
        paths = notebooks.chosen(chapters)
    except ValueError as error:
        print(f"test: {error}")
        return 2
    failed, start = [], time.perf_counter()
    with attempts.as_shipped(paths) as paths:
        for name, step in steps(paths, chapters, quick, full):
            print(f"\n== {name}", flush=True)
            if step():
                failed.append(name)
    print(f"\n{checks.report(paths)}")
    print(f"test: {'FAILED: ' + ', '.join(failed) if failed else 'passed'} in {(time.perf_counter() - start) / 60:.1f} minutes")
    return 1 if failed else 0


def steps(paths: list[Path], chapters: list[str], quick: bool, full: bool):
    """The steps as (name, function that returns an exit status); a later step also runs when an earlier one failed."""
    heavy = [p for p in paths if seconds(p) >= HEAVY]
    light = [p for p in paths if p not in heavy]
    tests = (
        ["tests"]
        if not chapters
        else [str(p) for c in chapters for p in sorted((ROOT / "tests").glob(f"test_{c.replace('-', '_')}*.py"))]
    )
    marks = "" if full else "not full and not slow" if quick else "not full"
    yield "generated files", lambda: export.main(check=True)
    yield "figures", lambda: figures.main(check=True)
    yield "ruff", lambda: tool("ruff", "check", "--quiet", *lintable(paths, chapters))
    yield "codespell", lambda: tool("codespell_lib", *(chapters or ["."]))
    yield (
        "pages",
        lambda: checks.main(paths, [p for p in checks.pages() if not chapters or p.relative_to(ROOT).parts[0] in chapters]),
    )
    yield (
        "tests and light notebooks",
        lambda: pytest([*tests, "-m", marks, "-n", "2", "--dist", "loadfile", *map(str, light)], one_thread=True),
    )
    if heavy and not quick:
        yield "heavy notebooks", lambda: pytest(list(map(str, heavy)), one_thread=False)


def lintable(paths: list[Path], chapters: list[str]) -> list[str]:
    """What ruff reads: a chapter's folders, or everything but readers' attempts, which stand in `paths` as shipped."""
    attempted = [str(p.with_name(p.name.replace(".as-shipped", ""))) for p in paths if ".as-shipped" in p.name]
    return [*(chapters or ["."]), *(f"--exclude={p}" for p in attempted)]


def tool(module: str, *arguments: str) -> int:
    """Run a Python tool on the course."""
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT).returncode


def seconds(path: Path) -> float:
    """What the notebook took when its header was measured."""
    return export.read_notebook(path)["metadata"].get("course", {}).get("seconds", 0)


def budget(path: Path) -> float:
    """The seconds that a notebook may take on a quiet two-core machine."""
    if path.stem.split(".")[0] in MINUTES:
        return 60 * MINUTES[path.stem.split(".")[0]]
    return 90 if "appendix" in str(path) else 45 if "solutions" in path.name else 30


def pytest(arguments: list[str], one_thread: bool) -> int:
    """Run pytest with strict nbval; under COURSE_BUDGETS=1 also hold every notebook to twice its budget."""
    environment = dict(os.environ, PYTHONUTF8="1", JUPYTER_PLATFORM_DIRS="1", HF_HUB_OFFLINE="1")
    if one_thread:
        environment["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--nbval",
            "--nbval-cell-timeout=1800",
            f"--junitxml={report}",
            f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval.cfg'}",
            *arguments,
        ]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        over = over_budget(report) if os.environ.get("COURSE_BUDGETS") == "1" and report.exists() else []
    for line in over:
        print(line)
    return status or (1 if over else 0)


def over_budget(report: Path) -> list[str]:
    """A line for every notebook of a JUnit report that took more than twice its budget."""
    spent: dict[str, float] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        if ".ipynb" in case.get("name", "") or "ipynb" in case.get("classname", ""):
            spent[case.get("classname")] = spent.get(case.get("classname"), 0) + float(case.get("time"))
    lines = []
    for name, total in spent.items():
        path = notebook_of(name)
        if path and total > 2 * budget(path):
            lines.append(f"{path.name} took {total:.0f} s; twice its budget is {2 * budget(path):.0f} s")
    return lines


def notebook_of(classname: str) -> Path | None:
    """The notebook that a JUnit class name such as `ch02.01_main-chapter-code.ch02.ipynb` means."""
    return next((p for p in export.all_notebooks() if classname.endswith(".".join(p.relative_to(ROOT).parts))), None)
