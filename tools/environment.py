"""Find or make a Python that has the course's packages. Standard library only."""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
NOT_INSTALLED = " (not installed)"


def venv_python() -> Path:
    """The interpreter inside `.venv`, whether it exists or not."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def requirements(dev: bool = False) -> list[str]:
    """The requirements in requirements.txt (and requirements-dev.txt), without comments and pip's own options."""
    files = ["requirements.txt"] + (["requirements-dev.txt"] if dev else [])
    lines = [line.split("#")[0].strip() for name in files for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("-")]


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" is (2, 13, 0)."""
    return tuple(int(n) for n in re.match(r"\d+(?:\.\d+)*", version)[0].split("."))


def unmet(dev: bool = False) -> list[str]:
    """The requirements that this interpreter doesn't meet, each as "torch==2.13.0 (found 2.2.2)"."""
    found = []
    for line in requirements(dev):
        requirement, _, marker = line.partition(";")
        parts = re.fullmatch(r"([\w.-]+)\s*(?:(==|>=)\s*([\w.]+))?", requirement.strip())
        if not parts:
            raise ValueError(f"requirement {line!r} isn't of the form NAME, NAME==VERSION or NAME>=VERSION; write it so")
        name, operator, wanted = parts.groups()
        if marker and not marker_holds(marker):
            continue
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(line + NOT_INSTALLED)
            continue
        short = numbers(have)[: len(numbers(wanted))] if operator == "==" else numbers(have)
        if operator and (short != numbers(wanted) if operator == "==" else short < numbers(wanted)):
            found.append(f"{requirement.strip()} (found {have})")
    return found


def marker_holds(marker: str) -> bool:
    """Whether an environment marker such as `sys_platform == "darwin" and platform_machine == "x86_64"` holds here."""
    values = {"sys_platform": sys.platform, "platform_machine": platform.machine()}
    terms = re.findall(r"(\w+)\s*(==|!=)\s*[\"']([^\"']+)[\"']", marker)
    return all((values[name] == value) == (operator == "==") for name, operator, value in terms)


def in_venv() -> bool:
    """Whether this process runs in the course's own `.venv`."""
    return Path(sys.prefix).resolve() == VENV.resolve()


def python_with(dev: bool) -> str:
    """An interpreter for the command: `.venv`'s, or this one where it belongs to another environment that has every package.

    `.venv` is made if there is none that starts; run in it, the command comes back here and completes it.
    """
    if in_venv():
        install(dev)
        return sys.executable
    if (sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ) and not unmet(dev):
        return sys.executable
    if not venv_starts():
        make_venv()
    return str(venv_python())


def venv_starts() -> bool:
    """Whether `.venv` has an interpreter that starts and is of the version it was made for, so that it finds its packages."""
    made_for = re.search(r"^version\w* *= *(\d+\.\d+)", read_if_there(VENV / "pyvenv.cfg"), re.M)
    probe = [venv_python(), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        runs = subprocess.run(probe, capture_output=True, text=True).stdout.strip()
    except OSError:
        return False
    return bool(made_for) and runs == made_for[1]


def read_if_there(path: Path) -> str:
    """The text of a file, or nothing."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def make_venv() -> None:
    """Create `.venv`; a half-made one is removed."""
    print(f"Making a virtual environment in {VENV.name} with Python {sys.version.split()[0]} ...", flush=True)
    try:
        venv.create(VENV, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError, SystemExit) as error:  # Debian's venv without ensurepip exits by itself
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(
            f"could not make {VENV.name} ({error}); run `python3 course.py doctor` (on Debian and Ubuntu: apt install python3-venv)"
        )


def install(dev: bool) -> None:
    """Install what this interpreter lacks of the requirements; takes no time and no network if it lacks nothing."""
    if not unmet(dev):
        return
    name = "requirements-dev.txt" if dev else "requirements.txt"
    print(f"Installing {name} into .venv (about 1.5 GB; a minute or two) ...", flush=True)
    if subprocess.run([*PIP, "install", *quietly(), "-r", str(ROOT / name)]).returncode:
        sys.exit(
            f"pip could not install {name}; the lines above say why. Run `python3 course.py doctor`, or see "
            "appendix-A/01_optional-python-setup-preferences for proxies and offline machines."
        )
    kernel = ["ipykernel", "install", "--sys-prefix", "--name", "python3", "--display-name", "Python 3 (ipykernel)"]
    subprocess.run([sys.executable, "-m", *kernel], check=True, stdout=subprocess.DEVNULL)


def quietly() -> list[str]:
    """What keeps a log readable: errors only, though a person at a terminal sees pip's progress, as a download may take long."""
    return [] if sys.stdout.isatty() else ["-qq"]


def install_missing(keep: tuple[str, ...], without: tuple[str, ...]) -> None:
    """Install into this interpreter what requirements.txt lists and is missing altogether.

    The packages in `keep` are never touched, those in `without` aren't needed here.
    """
    missing = [line.removesuffix(NOT_INSTALLED) for line in unmet() if line.endswith(NOT_INSTALLED)]
    wanted = [line for line in missing if re.split(r"[\s=<>;]", line)[0] not in keep + without]
    if not wanted:
        return
    pins = [f"{d.name}=={d.version}" for d in metadata.distributions() if d.name and d.name.lower() in keep]
    constraints = ROOT / ".cache" / "constraints.txt"
    constraints.parent.mkdir(exist_ok=True)
    constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
    subprocess.run([*PIP, "install", *quietly(), *wanted, "-c", str(constraints)], check=True)


def call(command: list[str], **options) -> int:
    """Run a command to its end and return its exit status; Ctrl-C and a request to terminate go to the command."""
    process = subprocess.Popen(command, **options)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
