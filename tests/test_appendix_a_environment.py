"""The environment check, tried on broken environments: a Python without packages, an outdated package, too old a Python."""

import importlib.util
import os
import subprocess
import sys
import venv

import pytest

from tests.support import ROOT

SCRIPT = ROOT / "appendix-A" / "02_installing-python-libraries" / "python_environment_check.py"
spec = importlib.util.spec_from_file_location("python_environment_check", SCRIPT)
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A virtual environment with nothing in it."""
    folder = tmp_path_factory.mktemp("bare environment")
    venv.create(folder, with_pip=False)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(python, *before, **environment):
    command = [str(python), *before, str(SCRIPT)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1", **environment})


def test_a_python_without_packages_is_told_which(bare):
    done = run(bare)
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("Missing or outdated packages: torch==2.13.0 (not installed); tiktoken")
    assert "pip install -r requirements.txt" in last
    assert "Traceback" not in done.stdout + done.stderr


def test_an_outdated_package_is_told_with_both_versions(bare, tmp_path):
    info = tmp_path / "tiktoken-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiktoken\nVersion: 0.1.2\n", encoding="utf-8")
    done = run(bare, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "tiktoken>=0.12         0.1.2  <- not what is wanted\n" in done.stdout
    assert "tiktoken>=0.12 (found 0.1.2); jupyterlab" in done.stdout


def test_an_old_python_is_told_at_once():
    old = "import sys, runpy; sys.version_info = (3, 9, 18); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", old, str(SCRIPT)], capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert done.stderr.strip() == "Python 3.9 is too old; install Python 3.11 to 3.14 from python.org and run this with that one."


def test_this_environment_is_complete():
    done = run(sys.executable)
    assert (done.returncode, done.stdout.strip().splitlines()[-1]) == (0, "Nothing is wrong; the course can run.")


def test_torch_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert check.computation().startswith("torch can't be imported (ModuleNotFoundError")


def test_little_memory_is_named():
    assert "2.0 GB of memory" in check.low_memory(2.0)
    assert check.low_memory(8.0) is None
