"""Check that this Python can run the course: versions, device, a small computation, disk, memory, offline files.

    python python_environment_check.py

Prints a table and then every fault in a sentence with its remedy. It uses the same checks as `python course.py doctor` and exits
with 1 if anything is wrong. No network is used.
"""

import sys

if sys.version_info < (3, 11):  # this file has to be readable by older Pythons down to here
    found = "%d.%d" % sys.version_info[:2]
    sys.exit("Python " + found + " is too old; install Python 3.11 to 3.14 from python.org and run this with that one.")

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools import doctor, environment, vocabulary


def memory_gigabytes() -> float | None:  # a SyntaxError in this line? Then this is Python 2; install 3.11 to 3.14 from python.org
    """The machine's memory in GB, where the system tells (Linux and macOS do)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return None


def package_table() -> list[tuple[str, str]]:
    """Every required package with what was found: ("torch==2.13.0", "2.13.0+cpu"), ("tiktoken>=0.12", "missing")."""
    rows = []
    for line in environment.requirements():
        requirement = line.partition(";")[0].strip()
        name = requirement.replace(">=", "==").split("==")[0]
        try:
            rows.append((requirement, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((requirement, "missing"))
    return rows


def computation() -> str | None:
    """A fault if torch can't multiply matrices correctly on the device that the notebooks would choose."""
    try:
        import torch
    except Exception as error:                       # a broken installation can fail in many ways
        return f"torch can't be imported ({type(error).__name__}: {error}); delete .venv and run `python3 course.py lab`."
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    difference = ((a.to(device) @ a.to(device)).cpu().double() - a.double() @ a.double()).abs().max().item()
    if difference > 0.5:
        return f"A matrix product on {device} is wrong by {difference:.2g}; update the driver, or hide the device from torch."
    return None


def device_name() -> str:
    """The kind of device that the notebooks would choose: cpu, cuda, mps, xpu; "unknown" without torch."""
    try:
        import torch
    except Exception:
        return "unknown"
    return torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"


def low_memory(gigabytes: float | None = None) -> str | None:
    """A fault if the machine has less memory than the larger notebooks take."""
    gigabytes = memory_gigabytes() if gigabytes is None else gigabytes
    if gigabytes is not None and gigabytes < 4:
        return f"The machine has {gigabytes:.1f} GB of memory; the larger notebooks want 4 GB: close other programs, or use Colab."
    return None


def findings() -> list[str]:
    """Everything that is wrong with *this* Python and machine, a sentence each."""
    missing = environment.unmet()
    packages = "Missing or outdated packages: {}; run `python3 course.py lab` with a network, or pip install -r requirements.txt."
    found = [doctor.python_version(), packages.format("; ".join(missing)) if missing else None, doctor.disk(), doctor.permission(),
             low_memory(), doctor.gpt2_table(), None if missing else computation()]
    return [sentence for sentence in found if sentence]


def main() -> int:
    """Print the table and the faults; returns an exit status."""
    memory = memory_gigabytes()
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
          + (f"{memory:.0f} GB of memory, " if memory else "") + f"{shutil.disk_usage(ROOT).free / 2**30:.0f} GB of disk free")
    unmet = [line.split(" (")[0] for line in environment.unmet()]
    for requirement, version in package_table():
        print(f"  {requirement:22} {version}{'  <- not what is wanted' if requirement in unmet and version != 'missing' else ''}")
    print(f"  device                 {device_name()}")
    print(f"  GPT-2's vocabulary     {'there' if vocabulary.MERGES.exists() else 'missing'}")
    found = findings()
    print("\n".join(found) if found else "Nothing is wrong; the course can run.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
