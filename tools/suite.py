"""What `course.py test` runs, cheapest first: generated files, lint, page checks, tests and light notebooks, heavy notebooks."""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tools import attempts, checks, export, figures
from tools.notebook_files import ROOT, ExportError, all_notebooks, read_notebook

NOTHING_TO_RUN = 5  # pytest's exit status
HEAVY = 20  # seconds, as measured in the header: from here on a notebook runs alone, with both cores
REFERENCE = 190  # GFLOP/s in float32 of the two cores that the budgets are meant for
MINUTES = {"ch02": 1, "ch03": 1, "ch04": 1.5, "ch05": 5, "ch06": 3, "ch07": 6, "ch08": 4}  # budgets of main notebooks


def main(paths: list[Path], whole: bool, quick: bool, full: bool) -> int:
    """Run the suite on all of the course (`whole`) or on the chapters of these notebooks; prints what failed, returns a status."""
    failed, start = [], time.perf_counter()
    folders = [] if whole else sorted({p.relative_to(ROOT).parts[0] for p in paths})
    with attempts.as_shipped(paths, ROOT) as shipped:
        left_alone = sorted(set(paths) - set(shipped))
        for name, step in steps(shipped, folders, left_alone, quick, full):
            print(f"\n== {name}", flush=True)
            if step():
                failed.append(name)
        print(f"\n{checks.report(shipped)}")
    print(f"test: {'FAILED: ' + ', '.join(failed) if failed else 'passed'} in {(time.perf_counter() - start) / 60:.1f} minutes")
    return 1 if failed else 0


def steps(paths: list[Path], folders: list[str], left_alone: list[Path], quick: bool, full: bool):
    """The steps as (name, function that returns an exit status); a later step also runs when an earlier one failed.

    `folders` are the chapters to test (none: everything); readers' attempts in `left_alone` stand in `paths` as shipped.
    """
    heavy = [p for p in paths if seconds(p) >= HEAVY]
    light = [p for p in paths if p not in heavy]
    where = folders or ["."]
    skipped = [p.relative_to(ROOT).as_posix() for p in left_alone]
    yield "generated files", lambda: export.main(check=True)
    yield "figures", lambda: figures.main(check=True)
    yield "ruff", lambda: tool("ruff", "check", "--quiet", *where, *(f"--extend-exclude={p}" for p in skipped))
    yield "codespell", lambda: tool("codespell_lib", *where, *(f"--skip=./{p},{p}" for p in skipped))
    pages = [p for p in checks.pages() if not folders or p.relative_to(ROOT).parts[0] in folders]
    yield "pages", lambda: checks.main(paths, pages)
    tests = [p for f in folders for p in sorted((ROOT / "tests").glob(f"test_{f.replace('-', '_')}*.py"))] if folders else ["tests"]
    marks = "" if full else "not full and not slow" if quick else "not full"
    if tests or light:
        together = [*map(str, tests), "-m", marks, "-n", "2", "--dist", "loadfile", *map(str, light)]
        yield "tests and light notebooks", lambda: pytest(together, one_thread=True)
    if heavy and not quick:
        yield "heavy notebooks", lambda: pytest(list(map(str, heavy)), one_thread=False)


def tool(module: str, *arguments: str) -> int:
    """Run a Python tool on the course."""
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT).returncode


def seconds(path: Path) -> float:
    """What the notebook took when its header was measured; 0 for one that wasn't, or that nobody can read."""
    try:
        return read_notebook(path)["metadata"].get("course", {}).get("seconds", 0)
    except ExportError:
        return 0


def budget(path: Path) -> float:
    """The seconds that a notebook may take on a quiet two-core machine."""
    if path.stem.split(".")[0] in MINUTES:
        return 60 * MINUTES[path.stem.split(".")[0]]
    return 90 if "appendix" in str(path) else 45 if "solutions" in path.name else 30


MEASURE = """
import time, torch
a = torch.randn(1024, 1024)
a @ a
start = time.perf_counter()
for _ in range(20):
    a @ a
print(20 * 2 * 1024**3 / (time.perf_counter() - start) / 1e9)
"""


def slowness() -> float:
    """How many times slower this machine multiplies matrices than the one that budgets are meant for; at least 1."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, encoding="utf-8", check=True)
    return max(1.0, REFERENCE / float(done.stdout))


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
        if status == NOTHING_TO_RUN and "tests" not in arguments:  # a chapter whose tests are all slow, under --quick
            status = 0
        over = over_budget(report, slowness()) if os.environ.get("COURSE_BUDGETS") == "1" and report.exists() else []
    for line in over:
        print(line)
    return status or (1 if over else 0)


def over_budget(report: Path, slower: float = 1.0) -> list[str]:
    """A line for every notebook of a JUnit report that took more than twice its budget, on a machine so many times `slower`."""
    spent: dict[str, float] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        if ".ipynb" in case.get("name", "") or "ipynb" in case.get("classname", ""):
            spent[case.get("classname")] = spent.get(case.get("classname"), 0) + float(case.get("time"))
    lines = []
    for name, total in spent.items():
        path = notebook_of(name)
        if path and total > 2 * budget(path) * slower:
            machine = f" ({slower:.1f} times as much for this machine)" if slower > 1 else ""
            lines.append(f"{path.name} took {total:.0f} s; twice its budget is {2 * budget(path):.0f} s{machine}")
    return lines


def notebook_of(classname: str) -> Path | None:
    """The notebook that a JUnit class name such as `ch02.01_main-chapter-code.ch02.ipynb` means."""
    return next((p for p in all_notebooks(ROOT) if classname.endswith(".".join(p.relative_to(ROOT).parts))), None)
