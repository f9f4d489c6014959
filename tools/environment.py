"""Find or make a Python that has the course's packages. Standard library only."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def venv_python() -> Path:
    """The interpreter inside `.venv`, whether it exists or not."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def requirements(dev: bool = False) -> list[str]:
    """The lines of requirements.txt (and requirements-dev.txt), without comments."""
    files = ["requirements.txt"] + (["requirements-dev.txt"] if dev else [])
    lines = [line.split("#")[0].strip() for name in files for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("-r")]


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" is (2, 13, 0)."""
    return tuple(int(n) for n in re.match(r"\d+(?:\.\d+)*", version)[0].split("."))


def unmet(dev: bool = False) -> list[str]:
    """The requirements that this interpreter doesn't meet, each as "torch==2.13.0 (found 2.2.2)"."""
    found = []
    for line in requirements(dev):
        requirement, _, marker = line.partition(";")
        name, operator, wanted = re.fullmatch(r"([\w.-]+)\s*(?:(==|>=)\s*([\w.]+))?", requirement.strip()).groups()
        if marker and not marker_holds(marker):
            continue
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(f"{line} (not installed)")
            continue
        short = numbers(have)[: len(numbers(wanted))] if operator == "==" else numbers(have)
        if operator and (short != numbers(wanted) if operator == "==" else short < numbers(wanted)):
            found.append(f"{requirement.strip()} (found {have})")
    return found


def marker_holds(marker: str) -> bool:
    """Whether an environment marker such as `sys_platform == "darwin" and platform_machine == "x86_64"` holds here."""
    import platform

    values = {"sys_platform": sys.platform, "platform_machine": platform.machine()}
    terms = re.findall(r"(\w+)\s*(==|!=)\s*[\"']([^\"']+)[\"']", marker)
    return all((values[name] == value) == (operator == "==") for name, operator, value in terms)


def stamp(dev: bool) -> str:
    """What `.venv` was built from: the requirements and the Python version."""
    return hashlib.sha256("\n".join([*requirements(dev), sys.version]).encode()).hexdigest()


def python_with(dev: bool) -> str:
    """An interpreter that has every package: this one, or `.venv`'s, which is made or completed first."""
    if (
        Path(sys.prefix).resolve() == VENV.resolve()
        or (sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ)
        and not unmet(dev)
    ):
        if Path(sys.prefix).resolve() == VENV.resolve():
            install(dev)
        return sys.executable
    if not venv_python().exists():
        make_venv()
    install(dev)
    return str(venv_python())


def make_venv() -> None:
    """Create `.venv`; a half-made one is removed."""
    print(f"Making a virtual environment in {VENV.name} with Python {sys.version.split()[0]} ...", flush=True)
    try:
        venv.create(VENV, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(
            f"could not make {VENV.name} ({error}); run `python3 course.py doctor` (on Debian and Ubuntu: apt install python3-venv)"
        )


def install(dev: bool) -> None:
    """Install the requirements into `.venv`, unless its stamp says that they are there."""
    record = VENV / f"requirements{'-dev' if dev else ''}.stamp"
    if record.exists() and record.read_text() == stamp(dev):
        return
    name = "requirements-dev.txt" if dev else "requirements.txt"
    print(f"Installing {name} into .venv (about 1.5 GB; a minute or two) ...", flush=True)
    pip = [str(venv_python()), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-r", str(ROOT / name)]
    if subprocess.run(pip).returncode:
        sys.exit(
            f"pip could not install {name}; the lines above say why. Run `python3 course.py doctor`, or see "
            "appendix-A/01_optional-python-setup-preferences for proxies and offline machines."
        )
    subprocess.run(
        [
            str(venv_python()),
            "-m",
            "ipykernel",
            "install",
            "--sys-prefix",
            "--name",
            "python3",
            "--display-name",
            "Python 3 (ipykernel)",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    record.write_text(stamp(dev))


def install_missing(keep: tuple[str, ...]) -> None:
    """Install into this interpreter what requirements.txt lists and is missing, never touching the packages in `keep`."""
    missing = [line for line in unmet() if line.endswith("(not installed)")]
    wanted = [line.removesuffix(" (not installed)") for line in missing if re.split(r"[=<>;]", line)[0] not in keep]
    if not wanted:
        return
    pins = [f"{name}=={metadata.version(name)}" for name in keep if name + " " not in " ".join(missing)]
    constraints = ROOT / ".cache" / "constraints.txt"
    constraints.parent.mkdir(exist_ok=True)
    constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted, "-c", str(constraints)], check=True)


def call(command: list[str], **options) -> int:
    """Run a command to its end and return its exit status; Ctrl-C goes to the command."""
    process = subprocess.Popen(command, **options)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
