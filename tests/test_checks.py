"""Every rule on notebooks and pages fails on one deliberate fault and passes once it is mended; `test` itself runs them all."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images import kit
from tests.support import ROOT
from tests.trees import code, printed, text, write_notebook
from tools import checks, suite

ALT = "A bar chart in which the second bar is twice as tall as the first."
TITLE = text("# Title")
SETUP = code("import os\nos.getcwd()\n" + "x" * 200 + " = 1", "setup", count=1)  # generated: its lines are nobody's to break


def numbered(*cells):
    """The cells with execution counts 1, 2, 3, ..."""
    count = 0
    for cell in cells:
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"] = count
    return cells


def problems_of(tmp_path, *cells, metadata=None, title=True):
    """What the checks say of a notebook of these cells, after a title and a setup cell."""
    (tmp_path / "there.svg").write_text("<svg/>", encoding="utf-8")
    (tmp_path / "page.md").write_text("# Page\n\n## A *section*, too\n", encoding="utf-8")
    write_notebook(tmp_path / "other.ipynb", text("# Other\n\n## 1.2 Why?"))
    head = [TITLE, SETUP] if title else []
    path = write_notebook(tmp_path / "n.ipynb", *numbered(*[dict(c) for c in (*head, *cells)]), metadata=metadata)
    return list(checks.notebook_problems(path))


def lines(n, body="x = {}"):
    return "\n".join(body.format(i) for i in range(n))


def error(name="ValueError"):
    return [{"output_type": "error", "ename": name, "evalue": "no", "traceback": []}]


CELLS = {  # rule: (broken cell, what is said of it, mended cell)
    "an error output": (
        code("f()", outputs=error()),
        "In [2]: stores an error (ValueError: no)",
        code("f()", "raises-exception", outputs=error()),
    ),
    "a warning": (
        code("f()", outputs=[{"output_type": "stream", "name": "stderr", "text": ["Warning: x\n"]}]),
        "stores a warning or log line (Warning: x)",
        code("f()", outputs=printed("fine")),
    ),
    "a long cell": (code(lines(26)), "has 26 lines; split it (25, or 40 for one definition)", code(lines(25))),
    "a long definition": (
        code("def f():\n" + lines(40, "    x = {}")),
        "has 41 lines; split it",
        code("@cache\ndef f():\n" + lines(38, "    x = {}")),
    ),
    "two definitions in a long cell": (
        code("def f():\n" + lines(13, "    x = {}") + "\n\ndef g():\n" + lines(13, "    x = {}")),
        "has 29 lines; split it",
        code("class C:\n" + lines(28, "    x{} = 1")),
    ),
    "a long line": (
        code("x = 1\ny = '" + "a" * 106 + "'"),
        "has 112 characters in line 2; break it (110 at most)",
        code("y = '" + "a" * 104 + "'"),
    ),
    "imports among work": (code("import os\nx = 1"), "mixes imports with work", code("import os\nfrom math import pi")),
    "≈ without an assert": (
        code("print(f'≈ {x}')", outputs=printed("≈ 1.2")),
        "prints a number behind ≈ without asserting",
        code("print(f'≈ {x}')\nassert 1 < x < 2", outputs=printed("≈ 1.2")),
    ),
    "an exercise that is filled in": (
        code("check('2.1', f)", "exercise", outputs=printed("Exercise 2.1: right.")),
        "is an exercise whose stored answer isn't `not attempted yet`",
        code("check('2.1', f)", "exercise", outputs=printed("Exercise 2.1: not attempted yet")),
    ),
    "an absolute path in a source": (
        code("open('/home/me/x.txt')"),
        "has an absolute path in its source: /home/me",
        code("open('data/x.txt')"),
    ),
    "a Windows path in an output": (
        code("f", outputs=printed(r"C:\Users\me\x")),
        r"has an absolute path in its output: C:\Users",
        code("f", outputs=printed("x/home/y and https://x.org/home/me")),
    ),
    "no alt text": (text("![](there.svg)"), "image there.svg has no alt text", text(f"![{ALT}](there.svg)")),
    "a thin alt text": (text("![a figure](there.svg)"), "image there.svg has no alt text", text(f"![{ALT}\nAnd more.](there.svg)")),
    "brackets in a thin alt text": (text("![x [B, T]](there.svg)"), "has no alt text", text(f"![{ALT} Shape [B, T].](there.svg)")),
    "an HTML image without alt": (
        text('<img src="there.svg" width="3">'),
        "image there.svg has no alt text",
        text(f'<img alt="{ALT}" src="there.svg">'),
    ),
    "no image file": (text(f"![{ALT}](gone.svg)"), "image gone.svg leads to no file", text(f"![{ALT}](there.svg)")),
    "no image file, with a title": (
        text(f'![{ALT}](gone.svg "t")'),
        "image gone.svg leads to no file",
        text(f'![{ALT}](there.svg "t")'),
    ),
    "no HTML image file": (
        text(f'<img src="gone.svg" alt="{ALT}"/>'),
        "image gone.svg leads to no file",
        text(f'<img src="there.svg" alt="{ALT}"/>'),
    ),
    "another site's image": (text(f"![{ALT}](https://x.org/a.png)"), "comes from another site", text("[a](https://x.org/a.png)")),
    "an attachment": (text(f"![{ALT}](attachment:a.png)"), "leads to no file", text(f"![{ALT}](there.svg)")),
    "a broken link": (text("[see](gone.md)"), "link gone.md leads to no file", text("[see](page.md) and `[x](gone.md)`")),
    "a broken link with a title": (text('[see](gone.md "t")'), "link gone.md leads to no file", text('[see](page.md "t")')),
    "a broken link around an image": (
        text(f"[![{ALT}](there.svg)](gone.ipynb)"),
        "link gone.ipynb leads to no file",
        text(f"[![{ALT}](there.svg)](https://x.org)"),
    ),
    "a broken image in a link": (
        text(f"[![{ALT}](gone.svg)](page.md)"),
        "image gone.svg leads",
        text(f"[![{ALT}](there.svg)](page.md)"),
    ),
    "a broken anchor": (text("[see](page.md#no)"), "link page.md#no leads to no heading", text("[see](page.md#a-section-too)")),
    "a broken anchor in a notebook": (
        text("[see](other.ipynb#2)"),
        "link other.ipynb#2 leads to no heading",
        text("[see](other.ipynb#1.2-Why?)"),
    ),
    "a broken anchor of its own": (text("[up](#nowhere)"), "link #nowhere leads to no heading", text("[up](#Title)")),
    "a second H1": (text("# Again"), "has 2 headings of level 1", text("## Again")),
    "a skipped level": (
        text("### Deep"),
        "skips a heading level, from 1 to 3",
        text("## Middle\n\n### Deep\n\n## Back\n\n```\n# code\n```"),
    ),
    "filler": (text("This is simply a sum."), "filler word in the prose: simply", text("This is a sum; `simply` is a name.")),
}


@pytest.mark.parametrize("rule", CELLS)
def test_each_rule_on_cells_fails_on_the_fault_and_passes_when_mended(tmp_path, rule):
    broken, said, mended = CELLS[rule]
    found = problems_of(tmp_path, broken)
    assert len(found) == 1 and said in found[0], found
    assert problems_of(tmp_path, mended) == []


def test_outputs_have_to_be_there_and_in_order(tmp_path):
    def counted(*counts):
        cells = [dict(SETUP), code("1"), code("2")]
        path = write_notebook(
            tmp_path / "n.ipynb", TITLE, *(dict(c, execution_count=n) for c, n in zip(cells, counts, strict=True))
        )
        return list(checks.notebook_problems(path))

    assert counted(1, 2, 3) == []
    for counts in ((None, None, None), (1, 3, 2), (1, 2, None), (2, 3, 4)):
        assert "not 1, 2, 3, ...; run `python course.py execute`" in counted(*counts)[0]


def test_ids_widget_state_and_form_have_to_be_the_tools(tmp_path):
    assert "widget state" in problems_of(tmp_path, metadata={"widgets": {}})[0]
    path = tmp_path / "n.ipynb"
    assert problems_of(tmp_path, code("1")) == []
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"][1]["id"] = notebook["cells"][0]["id"]
    path.write_text(json.dumps(notebook, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert ["ids are missing or double" in p for p in checks.notebook_problems(path)] == [True]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert "not written as the tools write it" in next(checks.notebook_problems(path))


def test_the_setup_cell_comes_first_and_a_title_is_needed(tmp_path):
    assert problems_of(tmp_path, TITLE, code("1"), title=False) == ["the first code cell isn't tagged `setup`"]
    found = problems_of(tmp_path, text("## Section\n\n# Late"), SETUP, title=False)
    assert found == ["has 1 headings of level 1; it needs one, at the top"]


def test_the_share_of_ignored_cells_has_a_ceiling(tmp_path):
    ignoring = [code("1", "nbval-ignore-output"), code("# NBVAL_IGNORE_OUTPUT\n1")]
    assert problems_of(tmp_path, *ignoring, *[code("1")] * 22) == []  # 2 of 25 is 8 %
    found = problems_of(tmp_path, *ignoring, *[code("1")] * 21)
    assert found == ["2 of 24 code cells ignore their output; the ceiling is 8%"]
    assert problems_of(tmp_path, ignoring[0]) == []  # one is always allowed


@pytest.mark.parametrize("source", ["%%bash\nfor x in *; do echo $x; done", "%matplotlib inline\n!ls", "def f(:"])
def test_cells_that_are_not_python_are_no_crash(tmp_path, source):
    assert problems_of(tmp_path, code(source)) == []


def test_a_damaged_notebook_is_one_problem_and_the_others_are_still_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    bad = tmp_path / "bad.ipynb"
    bad.write_text("{", encoding="utf-8")
    good = write_notebook(tmp_path / "good.ipynb", TITLE, dict(SETUP), text("## a\n\n# b"))
    assert checks.main([bad, good], []) == 1
    printed = capsys.readouterr().out
    assert "bad.ipynb: " in printed and "not a notebook" in printed and "good.ipynb: has 2 headings" in printed
    assert "checks: 2 problems; 2 notebooks, 1 code cells" in printed


def test_pages_are_held_to_the_same_rules(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    page = tmp_path / "README.md"
    page.write_text(f"# Title\n\n## Part\n\n![{ALT}](gone.svg) [l](gone.md) [a](#part)\n\n#### Deep\n", encoding="utf-8")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "copy.md").write_text("no title", encoding="utf-8")
    assert checks.pages(tmp_path) == [page]
    assert checks.main([], checks.pages(tmp_path)) == 1
    assert capsys.readouterr().out.count("README.md: ") == 3


def test_the_report_counts_ignoring_and_approximate_cells(tmp_path):
    cells = [code("1", "nbval-ignore-output"), code("assert 1", outputs=printed("≈ 1")), code("2"), code("3")]
    path = write_notebook(tmp_path / "n.ipynb", *cells)
    report = "1 notebooks, 4 code cells: 1 (25.0%) ignore their output, 1 (25.0%) print a number behind ≈"
    assert checks.report([path]) == report


# --- strict nbval ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nbval(tmp_path_factory):
    """Run nbval as `course.py test` does on notebooks of a folder; returns (exit status, failed cells, report)."""
    folder = tmp_path_factory.mktemp("course")
    report = folder / "report.xml"

    def run(**notebooks):
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        chapter = folder / "ch02" / "01_main-chapter-code"
        paths = [write_notebook(chapter / f"{name}.ipynb", *cells) for name, cells in notebooks.items()]
        command = [sys.executable, "-m", "pytest", "--nbval", f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval.cfg'}", "-q"]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}", f"--rootdir={folder}", *map(str, paths)]
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
        failed = [line.split("::")[1].split(" ")[1] for line in done.stdout.splitlines() if line.startswith("FAILED")]
        return done.returncode, sorted(map(int, failed)), report

    return run


def said(*stored, source=None):
    """A cell that stores one text and prints another."""
    return code(f"print({source or stored[0]!r})", outputs=printed(*stored), count=1)


def test_nbval_compares_everything_but_the_number_behind_the_sign(nbval):
    cells = [
        said("loss ≈ 1.94 after 3 steps", source="loss ≈ 2.6e-05 after 3 steps"),
        said("loss ≈ 1.94 after 3 steps", source="loss ≈ 1.94 after 4 steps"),
        said("loss 1.94", source="loss 1.95"),
        said("same"),
        code("1 + 1", count=1),  # its output isn't stored
        code("'sampled'", "nbval-ignore-output", outputs=printed("other"), count=1),
        said("≈ 1.94", source="≈ nan"),
        code("raise ValueError('no')", "raises-exception", outputs=error(), count=1),
        code("raise ValueError('other')", "raises-exception", outputs=error(), count=1),
    ]
    status, failed, _ = nbval(n=cells)
    assert status == 1 and failed == [1, 2, 4, 6, 8]


def test_budgets_are_read_from_nbvals_real_report(nbval, tmp_path, monkeypatch):
    slow = [code("import time", count=1), code("time.sleep(0.6)", count=2)]
    status, _, report = nbval(ch02=slow, dataloader=[code("x = 1", count=1)])
    folder = report.parent
    monkeypatch.setattr(suite, "ROOT", folder)
    assert status == 0 and suite.over_budget(report) == []
    monkeypatch.setitem(suite.MINUTES, "ch02", 0.005)  # twice 0.3 s
    (line,) = suite.over_budget(report)
    assert re.fullmatch(r"ch02\.ipynb took \d+ s; twice its budget is 1 s", line)
    assert suite.over_budget(report, slower=1000) == []                # a slow machine may take longer
    assert 1 <= suite.slowness() < 1000
    assert suite.notebook_of("ch02.01_main-chapter-code.dataloader.ipynb").name == "dataloader.ipynb"
    assert suite.notebook_of("tests.test_x") is None


def test_every_notebook_has_a_budget():
    path = ROOT / "ch05" / "01_main-chapter-code"
    assert suite.budget(path / "ch05.ipynb") == 300 and suite.budget(path / "exercise-solutions.ipynb") == 45
    assert suite.budget(ROOT / "ch05" / "02_bonus_x" / "x.ipynb") == 30
    assert suite.budget(ROOT / "appendix-A" / "03_main-chapter-code" / "code-part1.ipynb") == 90


# --- the steps of `course.py test` ----------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """What the suite would run, instead of running it."""
    calls = []
    monkeypatch.setattr(suite, "pytest", lambda arguments, one_thread: calls.append(("pytest", one_thread, arguments)) or 0)
    monkeypatch.setattr(suite, "tool", lambda *arguments: calls.append(arguments) or 0)
    monkeypatch.setattr(suite.export, "main", lambda check: calls.append(("export", check)) or 0)
    monkeypatch.setattr(suite.figures, "main", lambda check: calls.append(("figures", check)) or 0)
    monkeypatch.setattr(suite.checks, "main", lambda notebooks, pages: calls.append(("pages", notebooks, pages)) or 0)
    return calls


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Two chapters: ch02 with a heavy notebook, a light one and tests; ch03 with neither tests nor a light notebook."""
    for module in (suite, suite.attempts, checks):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(suite.checks, "pages", lambda: [tmp_path / "README.md", tmp_path / "ch02" / "README.md"])
    cost = {"course": {"seconds": 21, "gigabytes": 1}}
    heavy = write_notebook(tmp_path / "ch02" / "01_main-chapter-code" / "ch02.ipynb", TITLE, metadata=cost)
    light = write_notebook(tmp_path / "ch02" / "02_bonus_x" / "x.ipynb", TITLE)
    other = write_notebook(tmp_path / "ch03" / "01_main-chapter-code" / "ch03.ipynb", TITLE, metadata=cost)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_ch02.py").write_text("", encoding="utf-8")
    return tmp_path, heavy, light, other


def test_the_whole_suite_runs_light_ones_side_by_side_and_heavy_ones_alone(calls, tree, capsys):
    _, heavy, light, other = tree
    assert suite.main([heavy, light, other], whole=True, quick=False, full=False) == 0
    assert calls[0] == ("export", True) and calls[1] == ("figures", True)
    assert calls[2][:2] == ("ruff", "check") and calls[2][-1] == "." and calls[3] == ("codespell_lib", ".")
    assert calls[5] == ("pytest", True, ["tests", "-m", "not full", "-n", "2", "--dist", "loadfile", str(light)])
    assert calls[6] == ("pytest", False, [str(heavy), str(other)])
    assert "test: passed" in capsys.readouterr().out


def test_quick_leaves_out_slow_tests_and_heavy_notebooks_and_full_nothing(calls, tree):
    _, heavy, light, other = tree
    suite.main([heavy, light, other], whole=True, quick=True, full=False)
    assert [c[2][2] for c in calls if c[0] == "pytest"] == ["not full and not slow"]
    calls.clear()
    suite.main([heavy, light, other], whole=True, quick=False, full=True)
    assert [c[2][:3] for c in calls if c[:2] == ("pytest", True)] == [["tests", "-m", ""]]


def test_one_chapters_share_is_its_notebooks_pages_and_tests_and_no_more(calls, tree):
    root, heavy, light, other = tree
    suite.main([heavy, light], whole=False, quick=False, full=False)
    assert calls[2][-1] == "ch02" and calls[3] == ("codespell_lib", "ch02")
    assert calls[4] == ("pages", [heavy, light], [root / "ch02" / "README.md"])
    assert calls[5][2][0] == str(root / "tests" / "test_ch02.py") and calls[5][2][-1] == str(light)
    calls.clear()
    suite.main([other], whole=False, quick=False, full=False)  # no test and no light notebook: pytest must not fall back on all
    assert [c for c in calls if c[0] == "pytest"] == [("pytest", False, [str(other)])]


def test_a_failed_step_fails_the_suite_and_the_later_ones_still_run(calls, tree, monkeypatch, capsys):
    _, heavy, light, other = tree
    monkeypatch.setattr(suite.figures, "main", lambda check: 1)
    assert suite.main([heavy, light, other], whole=True, quick=False, full=False) == 1
    assert "test: FAILED: figures in" in capsys.readouterr().out and calls[-1][0] == "pytest"


def test_linters_fail_on_a_fault_and_skip_only_the_attempt(tmp_path, monkeypatch, tree):
    root, heavy, light, _ = tree
    shutil.copyfile(ROOT / "pyproject.toml", root / "pyproject.toml")
    wrong = [TITLE, code("import os\nlangauge = 1")]  # an unused import and a misspelling
    write_notebook(heavy, *wrong)
    (root / ".venv" / "lib").mkdir(parents=True)
    (root / ".venv" / "lib" / "foreign.py").write_text("import os\n", encoding="utf-8")  # no business of ours

    def linted(left_alone):
        steps = dict(suite.steps([heavy, light], [], left_alone, True, False))
        return bool(steps["ruff"]()), bool(steps["codespell"]())

    assert linted([]) == (True, True)
    assert linted([heavy]) == (False, False)
    (light.parent / "helper.py").write_text("import os\n# " + "rec" + "ieve\n", encoding="utf-8")
    assert linted([heavy]) == (True, True)


@pytest.mark.parametrize(("enforced", "status", "expected"), [("", 0, 0), ("1", 0, 1), ("", 1, 1), ("", 5, 5)])
def test_pytest_is_strict_and_budgets_count_only_where_they_are_enforced(monkeypatch, enforced, status, expected, capsys):
    commands = []

    def fake(command, cwd, env):
        commands.append((command, env))
        report = next(a for a in command if a.startswith("--junitxml=")).removeprefix("--junitxml=")
        Path(report).write_text("<testsuite/>", encoding="utf-8")
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(suite.subprocess, "run", fake)
    monkeypatch.setattr(suite, "slowness", lambda: 1.0)
    monkeypatch.setattr(suite, "over_budget", lambda report, slower: ["ch02.ipynb took 999 s"])
    monkeypatch.setenv("COURSE_BUDGETS", enforced)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert suite.pytest(["tests"], one_thread=True) == expected
    assert suite.pytest(["tests"], one_thread=False) == expected
    assert suite.pytest(["one.ipynb"], one_thread=True) == (0 if status == 5 else expected)
    (command, together), (_, alone), _ = commands
    assert "--nbval" in command and f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval.cfg'}" in command
    assert together["OMP_NUM_THREADS"] == "1" and "OMP_NUM_THREADS" not in alone
    assert ("took 999 s" in capsys.readouterr().out) is (enforced == "1")


def test_a_coordinate_is_written_alike_where_a_sum_rounds_otherwise():
    """Python 3.12 adds floats more exactly than 3.11, and a stored figure has to be what either draws."""
    for value in (0.15, 149.35, 207.95, 62.25, -3.45):
        assert len({kit.number(value + error) for error in (-1e-13, 0, 1e-13)}) == 1
    assert [kit.number(v) for v in (2.0, 0.31, 100)] == ["2", "0.3", "100"]
