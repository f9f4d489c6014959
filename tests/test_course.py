"""The command line, a reader's attempts, `reset`, and the suite on a small course of its own."""

import ast
import contextlib
import os
import re
import shutil
import subprocess
import sys

import pytest

import course
from tests.support import ROOT
from tests.trees import code, copy_machinery, text, write_chapter, write_notebook
from tools import attempts, environment, export, headers, lab, notebooks

TOP = text(f"# A chapter\n\n*It is small.*\n\n{headers.START}\n{headers.END}")


def run(arguments, cwd, python=sys.executable, **options):
    """Run a command and return what it did."""
    return subprocess.run([python, *map(str, arguments)], cwd=cwd, capture_output=True, encoding="utf-8", **options)


# --- the command line -----------------------------------------------------------------------------------------------------------


def test_help_names_every_command_from_any_working_directory(tmp_path):
    done = run([ROOT / "course.py", "--help"], tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("lab", "run", "test", "bench", "export", "figures", "doctor", "reset"))


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["reset"], ["lab", "--port", "x"]])
def test_a_command_that_is_none_gets_usage_and_no_traceback(tmp_path, arguments):
    done = run([ROOT / "course.py", *arguments], tmp_path)
    assert done.returncode == 2 and "usage:" in done.stderr and "Traceback" not in done.stderr


def test_an_older_python_is_told_what_to_install():
    source = (ROOT / "course.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))
    script = f"import sys; sys.version_info = (3, 8, 1, 'final', 0); exec(compile({source!r}, 'course.py', 'exec'))"
    done = run(["-c", script], ROOT)
    assert done.returncode == 1 and done.stderr.startswith("This course needs Python 3.11 or newer; this is 3.8.")


@pytest.mark.parametrize("command", ["run", "test", "execute"])
def test_an_unknown_chapter_is_one_sentence(command, capsys, monkeypatch):
    monkeypatch.setattr(environment, "python_with", lambda dev: sys.executable)
    assert course.main([command, "ch99"]) == 2
    assert re.fullmatch(rf"{command}: no notebook belongs to 'ch99'; chapters with notebooks: .*\n", capsys.readouterr().err)


def test_commands_that_need_packages_go_on_in_the_python_that_has_them(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(environment, "python_with", lambda dev: calls.append(dev) or str(tmp_path / "python"))
    monkeypatch.setattr(environment, "call", lambda command, **_: calls.append(command) or 7)
    for arguments, dev in ((["lab", "--no-browser"], False), (["run"], False), (["test", "--quick"], True), (["bench"], True)):
        calls.clear()
        assert course.main(arguments) == 7
        assert calls == [dev, [str(tmp_path / "python"), str(ROOT / "course.py"), *arguments]]


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
def test_who_terminates_the_command_terminates_what_it_started(tmp_path):
    beat = "import sys, time\nprint('up', flush=True)\ntime.sleep(60)"
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tools import environment\n"
    script += f"sys.exit(environment.call([sys.executable, '-c', {beat!r}]))"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    process.terminate()
    process.communicate(timeout=30)  # returns only when the last one that holds the pipe is gone
    assert process.returncode != 0


def test_run_reaches_the_notebooks_named(monkeypatch):
    monkeypatch.setattr(environment, "python_with", lambda dev: sys.executable)
    monkeypatch.setattr(notebooks, "chosen", lambda names: [f"path of {n}" for n in names])
    monkeypatch.setattr(notebooks, "run", lambda paths, names: (paths, names))
    monkeypatch.setattr(notebooks, "execute", lambda paths, fresh: (paths, fresh))
    assert course.main(["run", "ch02"]) == (["path of ch02"], ["ch02"])
    assert course.main(["execute", "--fresh", "ch02"]) == (["path of ch02"], True)


def test_lab_serves_the_root_without_news(monkeypatch):
    commands = []
    monkeypatch.setattr(environment, "call", lambda command, **options: commands.append((command, options)) or 0)
    assert lab.main(8890, no_browser=True) == 0
    (command, options) = commands[0]
    assert "--port=8890" in command and "--no-browser" in command and options["cwd"] == ROOT
    assert "--LabApp.default_url=/lab/tree/README.md" in command
    assert '"fetchNews": "false"' in (ROOT / "tools" / "lab-settings" / "overrides.json").read_text(encoding="utf-8")


def test_setup_makes_root_folder_and_main_code_importable_in_that_order(tmp_path):
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import course, os; "
    for folder in ("ch02/02_bonus_x", "appendix-A/04_bonus_x", "ch02/01_main-chapter-code", ""):
        done = run(["-c", start + f"course.setup({folder!r}); course.setup({folder!r}); print(sys.path[:4])"], tmp_path)
        head = ast.literal_eval(done.stdout)
        main = headers.main_folder(folder.split("/")[0])
        expected = list(dict.fromkeys(["", folder, main] if folder else [""]))
        assert head[: len(expected)] == [str(ROOT / path) for path in expected], done.stderr
    done = run(["-c", start + "course.setup(); print(os.environ['TIKTOKEN_CACHE_DIR'])"], tmp_path)
    assert done.stdout.strip()


# --- a reader's attempts --------------------------------------------------------------------------------------------------------

STUB = 'def f(x): ...\n\n\ncheck("2.1", f)'
CELLS = [
    TOP,
    code("", "setup"),
    code("from exercises import check"),
    code("def double(x):\n    return 2 * x", "export"),
    code("print(double(2))"),
    code(STUB, "exercise"),
]


def git(root, *arguments):
    identity = ["-c", "user.name=Reader", "-c", "user.email=reader@example.org", "-c", "core.autocrlf=false"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path):
    """A clone of a course with one chapter."""
    root = tmp_path / "a course"
    path = write_chapter(root, "ch02", *CELLS)
    (path.parent / "exercise_checks.py").write_text("CHECKS = {'2.1': lambda f: None}\n", encoding="utf-8")
    git(root.parent, "init", "-q", str(root))
    git(root, "add", "-A")
    git(root, "commit", "-qm", "as shipped")
    return root, path


def change(path, index, source=None, **other):
    """Change a cell as a reader does in JupyterLab."""
    notebook = export.read_notebook(path)
    notebook["cells"][index].update(other, **({"source": source} if source is not None else {}))
    path.write_text(export.notebook_text(notebook), encoding="utf-8", newline="\n")


def test_an_attempt_is_a_change_of_exercise_cells_only(clone):
    root, path = clone
    assert not attempts.is_readers_copy(path, root)
    change(path, 4, outputs=[{"output_type": "stream", "name": "stdout", "text": ["4\n"]}])
    assert not attempts.is_readers_copy(path, root)  # a stored output that somebody broke: for the tests to see
    change(path, 5, STUB.replace("...", "return 2 * x"))
    assert attempts.is_readers_copy(path, root)
    change(path, 0, execution_count=3)
    assert attempts.is_readers_copy(path, root)
    change(path, 4, "print(double(3))")
    assert not attempts.is_readers_copy(path, root)


def test_a_run_in_jupyterlab_makes_a_readers_copy_but_no_change_of_the_chapter(clone):
    root, path = clone
    notebook = export.read_notebook(path)
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.12.1"}
    notebook["cells"].append(code(""))  # below the last cell, where Shift-Enter puts one
    path.write_text(export.notebook_text(notebook), encoding="utf-8", newline="\n")
    assert attempts.is_readers_copy(path, root)
    change(path, 4, "print(double(3))")
    assert not attempts.is_readers_copy(path, root)


@pytest.mark.parametrize("fault", ["cell added", "prose changed", "damaged", "not committed", "no clone"])
def test_other_changes_are_no_attempts(clone, fault, tmp_path):
    root, path = clone
    change(path, 5, "my own")
    if fault == "cell added":
        write_notebook(path, *export.read_notebook(path)["cells"], code("mine"))
    elif fault == "prose changed":
        change(path, 0, "# Another title")
    elif fault == "damaged":
        path.write_text("{", encoding="utf-8")
    elif fault == "not committed":
        path = write_notebook(path.with_name("new.ipynb"), TOP, code("mine", "exercise"))
    else:
        root, path = tmp_path / "b", write_chapter(tmp_path / "b", "ch02", TOP, code("mine", "exercise"))
    assert not attempts.is_readers_copy(path, root)


def test_the_shipped_text_stands_in_while_the_tests_run_and_goes_even_if_they_crash(clone, capsys):
    root, path = clone
    shipped = path.read_text(encoding="utf-8")
    other = write_notebook(path.with_name("other.ipynb"), TOP)
    change(path, 5, "my own work")
    mine = path.read_bytes()
    with contextlib.suppress(RuntimeError), attempts.as_shipped([path, other], root) as paths:
        assert [p.name for p in paths] == ["ch02.as-shipped.ipynb", "other.ipynb"]
        assert paths[0].read_text(encoding="utf-8") == shipped
        assert paths[0] not in export.all_notebooks(root) and "my own" not in export.outputs(root)[path.with_name("ch02.py")]
        raise RuntimeError
    assert path.read_bytes() == mine and not list(root.rglob("*.as-shipped.ipynb"))
    assert "ch02/01_main-chapter-code/ch02.ipynb: your copy is left alone" in capsys.readouterr().out


def test_reset_puts_a_chapter_back_and_keeps_the_readers_copies(clone, capsys):
    root, path = clone
    shipped, checks_file = path.read_bytes(), path.with_name("exercise_checks.py")
    change(path, 5, "my own work")
    mine = path.read_bytes()
    checks_file.unlink()
    (path.parent / "notes of mine.txt").write_text("kept", encoding="utf-8")
    write_chapter(root, "ch03", TOP)
    assert attempts.reset(["ch02/"], root) == 0
    assert path.read_bytes() == shipped and checks_file.exists() and (path.parent / "notes of mine.txt").exists()
    (copy,) = (root / "kept").rglob("ch02.ipynb")
    said = capsys.readouterr().out
    assert copy.read_bytes() == mine and f"your copies are in {copy.relative_to(root).parents[2].as_posix()}" in said
    assert attempts.reset(["ch02"], root) == 0 and "0 changed files" in capsys.readouterr().out


def test_reset_twice_in_a_second_keeps_both_copies(clone):
    root, path = clone
    for work in ("first", "second"):
        change(path, 5, work)
        attempts.reset(["ch02"], root)
    kept = [p.read_text(encoding="utf-8") for p in (root / "kept").rglob("ch02.ipynb")]
    assert len(kept) == 2 and "first" in "".join(kept) and "second" in "".join(kept)


@pytest.mark.parametrize("name", ["ch99", "kept", "..", "tools", "ch02/../tools"])
def test_reset_of_what_is_no_chapter_changes_nothing(clone, capsys, name):
    root, path = clone
    change(path, 5, "mine")
    mine = path.read_bytes()
    assert attempts.reset([name], root) == 1 and path.read_bytes() == mine
    assert f"there is no chapter {name!r} here; name a folder such as ch02" in capsys.readouterr().out


def test_reset_without_git_says_so(tmp_path, capsys, monkeypatch):
    write_chapter(tmp_path, "ch02", TOP)
    assert attempts.reset(["ch02"], tmp_path) == 1 and "not a git clone" in capsys.readouterr().out
    monkeypatch.setattr(attempts.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("git")))
    assert attempts.reset(["ch02"], tmp_path) == 1


# --- all of `course.py test` on a small course ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_suite_passes_with_an_attempt_and_fails_on_each_deliberate_fault(tmp_path):
    if environment.unmet(dev=True):
        pytest.skip("this Python lacks some of requirements-dev.txt, so that course.py would go elsewhere")
    root = copy_machinery(tmp_path / "a course")
    (root / "tests" / "test_ch02.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
    (root / ".gitignore").write_text((ROOT / ".gitignore").read_text(encoding="utf-8"), encoding="utf-8")
    shutil.copyfile(ROOT / "images" / "figures.py", root / "images" / "figures.py")
    (root / "README.md").write_text("# The course\n", encoding="utf-8")
    picture = text("![A picture that shows nothing at all, on purpose.](../../images/mental-model.svg)")
    path = write_chapter(root, "ch02", *CELLS[:3], *CELLS[3:], picture)
    (path.parent / "exercise_checks.py").write_text('CHECKS = {"2.1": lambda f: None}\n', encoding="utf-8")
    environ = dict(os.environ, COURSE_BUDGETS="", PYTEST_ADDOPTS="-p no:cacheprovider")

    def course_py(*arguments):
        return run([root / "course.py", *arguments], tmp_path, env=environ)

    for step in (["figures"], ["export"], ["execute", "ch02"], ["export"]):
        done = course_py(*step)
        assert done.returncode == 0, done.stdout + done.stderr
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", "-A")
    git(root, "commit", "-qm", "as shipped")

    half_done = "from previous_chapters import lang" + "auge\nimport os; f("
    change(path, 5, half_done, outputs=[], execution_count=None)
    attempt = path.read_bytes()
    done = course_py("test", "ch02")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "your copy is left alone" in done.stdout and path.read_bytes() == attempt

    module = path.with_name("ch02.py")
    module.write_text(module.read_text(encoding="utf-8").replace("2 * x", "3 * x"), encoding="utf-8")
    change(path, 4, outputs=[{"output_type": "stream", "name": "stdout", "text": ["5\n"]}])
    change(path, 5, STUB)
    change(path, 6, "![A picture that shows nothing at all, on purpose.](../../images/gone.svg) ![](../../images/mental-model.svg)")
    done = course_py("test", "ch02")
    (failed,) = re.findall(r"^test: FAILED: (.*) in", done.stdout, re.M)
    assert done.returncode == 1 and {"generated files", "pages", "tests and light notebooks"} <= set(failed.split(", "))
    assert "-    return 3 * x\n+    return 2 * x" in done.stdout
    assert "gone.svg leads to no file" in done.stdout and "mental-model.svg has no alt text" in done.stdout
