"""Say what is wrong with this machine's set-up, one sentence each with the remedy. Standard library only."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from tools import environment, vocabulary

ROOT = environment.ROOT


def python_version(version: tuple[int, ...] = sys.version_info) -> str | None:
    """Too old a Python, or one too new to have been tried."""
    found = ".".join(map(str, version[:2]))
    if tuple(version[:2]) < (3, 11):
        return f"Python {found} is too old; install Python 3.11 to 3.14 from python.org and use that: python3.12 course.py lab."
    if tuple(version[:2]) > (3, 14):
        return f"Python {found} is newer than what the course was tried with (3.11 to 3.14); if installing fails, use one of those."
    return None


def disk(free: int | None = None) -> str | None:
    """Too little disk for the packages."""
    free = shutil.disk_usage(ROOT).free if free is None else free
    if free < 3 * 2**30:
        return f"Only {free / 2**30:.1f} GB of disk is free here; the packages need 3 GB: free some, or use another disk."
    return None


def permission(folder: Path = ROOT) -> str | None:
    """A folder that can't be written to."""
    probe = folder / f".write-probe-{os.getpid()}"
    try:
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        return f"The course's folder can't be written to ({error.strerror}); move it to a folder of your own."
    return None


def stale_venv() -> str | None:
    """A virtual environment whose Python is gone or was replaced."""
    if environment.VENV.exists() and not environment.venv_starts():
        return (
            "The Python inside .venv doesn't start, or isn't the one it was made with (was the folder moved, or Python upgraded?); "
            "delete the folder .venv and run `python3 course.py lab`."
        )
    return None


def missing_packages() -> str | None:
    """Packages that requirements.txt lists and the course's Python (`.venv`'s, or this one if there is none) doesn't have."""
    if environment.in_venv() or not environment.venv_starts():
        missing = environment.unmet()
    else:
        script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tools.environment import unmet; print('\\n'.join(unmet()))"
        missing = subprocess.run([environment.venv_python(), "-c", script], capture_output=True, text=True).stdout.split("\n")[:-1]
    names = "; ".join(line for line in missing if line)
    if names:
        return f"Missing or outdated packages: {names}; run `python3 course.py lab` with a network, it installs them."
    return None


def port_in_use(port: int = 8888) -> str | None:
    """A port on which something already listens."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return (
                f"Port {port} is in use (another JupyterLab?); stop that program, or choose another port: "
                f"`python3 course.py lab --port {port + 10}`."
            )
    return None


def gpt2_table(path: Path = vocabulary.MERGES) -> str | None:
    """GPT-2's merge table missing or damaged."""
    try:
        vocabulary.verified("vocab.bpe", path.read_bytes())
    except (OSError, ValueError):
        return "GPT-2's merge table data/gpt2/vocab.bpe is missing or damaged; run `git checkout data/gpt2/vocab.bpe`."
    return None


def findings(port: int = 8888) -> list[str]:
    """Everything that is wrong, a sentence each."""
    found = [python_version(), disk(), permission(), stale_venv(), missing_packages(), port_in_use(port), gpt2_table()]
    return [sentence for sentence in found if sentence]


def main(port: int = 8888) -> int:
    """Print the findings; returns 1 if there are any."""
    found = findings(port)
    print("\n".join(found) if found else "doctor: nothing is wrong; `python3 course.py lab` opens the course.")
    return 1 if found else 0
