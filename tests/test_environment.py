"""A Python with the course's packages, what the doctor says when there is none, and GPT-2's vocabulary without a network."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT
from tests.trees import copy_machinery
from tools import doctor, environment, vocabulary

BASE = getattr(sys, "_base_executable", sys.executable)  # the Python below this virtual environment
WINDOWS = os.name == "nt"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty course's folder with requirements of its own, and packages as a dictionary says."""
    packages = {}

    def version(name):
        if name not in packages:
            raise environment.metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment.metadata, "version", version)
    write_requirements(tmp_path, "torch==2.13.0  # pinned", "numpy>=2.0", "tqdm")
    return tmp_path, packages


def write_requirements(root, *lines, dev=()):
    (root / "requirements.txt").write_text("# learners\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    (root / "requirements-dev.txt").write_text("-r requirements.txt\n" + "\n".join(dev) + "\n", encoding="utf-8")


# --- what is missing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        ({"torch": "2.13.0", "numpy": "2.0", "tqdm": "1"}, []),
        ({"torch": "2.13.0+cpu", "numpy": "10.0.1", "tqdm": "0.0.1a2"}, []),
        ({"torch": "2.2.2", "numpy": "2.0", "tqdm": "1"}, ["torch==2.13.0 (found 2.2.2)"]),
        ({"torch": "2.13.1", "numpy": "1.26.4", "tqdm": "1"}, ["torch==2.13.0 (found 2.13.1)", "numpy>=2.0 (found 1.26.4)"]),
        ({"torch": "2.13.0", "tqdm": "1"}, ["numpy>=2.0 (not installed)"]),
        ({}, ["torch==2.13.0 (not installed)", "numpy>=2.0 (not installed)", "tqdm (not installed)"]),
    ],
)
def test_unmet_names_what_is_missing_or_outdated_and_nothing_else(here, found, missing):
    here[1].update(found)
    assert environment.unmet() == missing


def test_the_tests_requirements_count_only_for_the_tests(here):
    root, packages = here
    write_requirements(root, "tqdm", dev=["pytest>=8"])
    packages["tqdm"] = "1"
    assert environment.unmet() == [] and environment.unmet(dev=True) == ["pytest>=8 (not installed)"]


@pytest.mark.parametrize(("machine", "missing"), [("x86_64", ["torch==2.2.2 (found 2.13.0)"]), ("arm64", [])])
def test_markers_choose_the_line_for_this_machine(here, monkeypatch, machine, missing):
    root, packages = here
    intel = 'sys_platform == "darwin" and platform_machine == "x86_64"'
    other = "sys_platform == 'darwin' and platform_machine != 'x86_64'"
    write_requirements(root, f"torch==2.2.2; {intel}", f"torch==2.13.0; {other}")
    packages["torch"] = "2.13.0"
    monkeypatch.setattr(environment.sys, "platform", "darwin")
    monkeypatch.setattr(environment.platform, "machine", lambda: machine)
    assert environment.unmet() == missing


def test_a_requirement_in_another_form_is_an_error_that_quotes_it(here):
    write_requirements(here[0], "numpy~=2.0")
    with pytest.raises(ValueError, match="requirement 'numpy~=2.0' isn't of the form NAME, NAME==VERSION or NAME>=VERSION"):
        environment.unmet()


def test_the_courses_own_requirements_are_understood_and_pin_torch():
    lines = environment.requirements(dev=True)
    assert "torch==2.13.0" in [line.split(";")[0].strip() for line in lines] and len(lines) > 15
    environment.unmet(dev=True)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.sampled_from(["", "+cpu", "rc1", ".dev3", ".post1"]))
def test_version_numbers_are_read_to_the_first_word(parts, rest):
    assert environment.numbers(".".join(map(str, parts)) + rest) == tuple(parts)


# --- which Python ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def choices(here, monkeypatch):
    """Everything `python_with` may do, recorded instead of done."""
    did = []
    state = {"in_venv": False, "prefix": "/usr", "conda": False, "unmet": [], "starts": True}
    monkeypatch.setattr(environment, "in_venv", lambda: state["in_venv"])
    monkeypatch.setattr(environment, "unmet", lambda dev=False: state["unmet"])
    monkeypatch.setattr(environment, "venv_starts", lambda: state["starts"])
    monkeypatch.setattr(environment, "make_venv", lambda: did.append("make"))
    monkeypatch.setattr(environment, "install", lambda dev: did.append(f"install dev={dev}"))

    def choose(dev=False, **changes):
        state.update(changes)
        monkeypatch.setattr(environment.sys, "prefix", state["prefix"])
        monkeypatch.setattr(environment.sys, "base_prefix", "/usr")
        monkeypatch.setenv("CONDA_PREFIX", "x") if state["conda"] else monkeypatch.delenv("CONDA_PREFIX", raising=False)
        did.clear()
        return environment.python_with(dev), did

    return choose


def test_a_command_started_in_the_courses_venv_completes_it_and_stays(choices):
    assert choices(in_venv=True, dev=True) == (sys.executable, ["install dev=True"])


@pytest.mark.parametrize("other", [{"prefix": "/home/venvs/mine"}, {"conda": True}])
def test_a_complete_environment_of_the_readers_own_is_used_as_it_is(choices, other):
    assert choices(**other) == (sys.executable, [])


@pytest.mark.parametrize("other", [{"prefix": "/home/venvs/mine"}, {"conda": True}])
def test_an_incomplete_environment_of_the_readers_own_is_left_alone(choices, other):
    assert choices(unmet=["torch (not installed)"], starts=False, **other) == (str(environment.venv_python()), ["make"])


def test_a_plain_python_gets_the_venv_even_if_it_happens_to_have_every_package(choices):
    assert choices(starts=True) == (str(environment.venv_python()), [])
    assert choices(starts=False) == (str(environment.venv_python()), ["make"])


@pytest.mark.skipif(WINDOWS, reason="copying python.exe takes more than a link")
def test_a_venv_whose_python_is_gone_or_was_replaced_does_not_start(here):
    root, _ = here
    assert not environment.venv_starts()
    python = environment.venv_python()
    python.parent.mkdir(parents=True)
    python.symlink_to(BASE)
    config = root / ".venv" / "pyvenv.cfg"
    config.write_text(f"home = {Path(BASE).parent}\nversion = {sys.version.split()[0]}\n", encoding="utf-8")
    assert environment.venv_starts() and doctor.stale_venv() is None
    config.write_text(f"home = {Path(BASE).parent}\nversion_info = {sys.version.split()[0]}.final.0\n", encoding="utf-8")
    assert environment.venv_starts()  # as uv and virtualenv write it
    config.write_text(f"home = {Path(BASE).parent}\nversion = 3.9.1\n", encoding="utf-8")
    assert not environment.venv_starts()
    python.unlink()
    python.symlink_to(root / "gone")
    assert not environment.venv_starts() and "doesn't start" in doctor.stale_venv()
    python.unlink()
    python.write_text("not a program", encoding="utf-8")
    assert not environment.venv_starts()


def wheel(folder, name, *modules, version="9.0"):
    """A wheel of empty modules, so that pip has something small to install without an index."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for module in modules:
            archive.writestr(module, "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def bench(root, cwd, *options):
    """A command that needs the packages and does nothing with them."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "CONDA"))}
    command = [BASE, str(root / "course.py"), "bench", "no-such", *options]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, encoding="utf-8")


@pytest.mark.slow
def test_first_call_makes_and_fills_the_venv_and_the_second_does_neither(tmp_path):
    root = copy_machinery(tmp_path / "a course, with spaces")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel(tmp_path / "wheels", "ipykernel", "ipykernel/__init__.py", "ipykernel/__main__.py")
    pip_options = ["--no-index", "--find-links ../wheels", "--find-links ../no-such-folder"]  # pip warns of the second, often
    write_requirements(root, *pip_options, "ipykernel>=6")
    first = bench(root, elsewhere)
    assert "Making a virtual environment in .venv" in first.stdout and "Installing requirements-dev.txt" in first.stdout
    assert first.returncode == 2 and "there is no benchmark no-such" in first.stdout, first.stdout + first.stderr
    assert "WARNING" not in first.stdout + first.stderr
    second = bench(root, elsewhere)
    assert second.returncode == 2 and "Making" not in second.stdout and "Installing" not in second.stdout

    # a requirement that nobody can install is said in one sentence, and installing is tried again until it works
    write_requirements(root, *pip_options, "ipykernel>=6", dev=["late-package>=1"])
    third = bench(root, elsewhere)
    assert third.returncode == 1 and "pip could not install requirements-dev.txt" in third.stderr
    assert "Traceback" not in third.stderr and "ERROR: No matching distribution found for late-package>=1" in third.stderr
    wheel(tmp_path / "wheels", "late_package", "late_package.py", version="1.2")
    fourth = bench(root, elsewhere)
    assert fourth.returncode == 2 and "Installing" in fourth.stdout

    # the doctor of another Python looks into .venv, and sees when it was made for another one
    said = subprocess.run([BASE, str(root / "course.py"), "doctor"], capture_output=True, encoding="utf-8").stdout
    assert "packages" not in said and ".venv" not in said
    config = root / ".venv" / "pyvenv.cfg"
    config.write_text(config.read_text(encoding="utf-8").replace("version = 3", "version = 2"), encoding="utf-8")
    said = subprocess.run([BASE, str(root / "course.py"), "doctor"], capture_output=True, encoding="utf-8").stdout
    assert "isn't the one it was made with" in said


@pytest.mark.parametrize("failure", [subprocess.CalledProcessError(1, "ensurepip"), OSError("disk full"), SystemExit(1)])
def test_a_venv_that_cannot_be_made_leaves_nothing_and_says_what_to_do(here, monkeypatch, failure):
    root, _ = here

    def fail(folder, **_):
        Path(folder).mkdir()
        raise failure

    monkeypatch.setattr(environment.venv, "create", fail)
    with pytest.raises(SystemExit, match=r"could not make .venv .*python3 course.py doctor.*apt install python3-venv"):
        environment.make_venv()
    assert not (root / ".venv").exists()


def test_colab_installs_what_is_missing_and_never_touches_torch_or_numpy(here, monkeypatch):
    root, packages = here
    write_requirements(root, "torch==2.13.0", "numpy>=2.0", "tiktoken>=0.12", "jupyterlab>=4", "tqdm>=4")
    packages.update(torch="2.5.1+cu121", numpy="1.26.4", tqdm="3.0")  # all outdated, none to be changed
    commands = []
    monkeypatch.setattr(environment.subprocess, "run", lambda command, **_: commands.append(command))
    environment.install_missing(keep=("torch", "numpy"), without=("jupyterlab",))
    (command,) = commands
    assert command[:3] == [sys.executable, "-m", "pip"] and "install" in command
    assert [a for a in command if ">=" in a or "==" in a] == ["tiktoken>=0.12"]
    pins = (root / ".cache" / "constraints.txt").read_text(encoding="utf-8").split()
    assert {pin.split("==")[0].lower() for pin in pins} <= {"torch", "numpy"} and command[-2] == "-c"
    packages["tiktoken"] = "0.12"
    environment.install_missing(keep=("torch", "numpy"), without=("jupyterlab",))
    assert len(commands) == 1


# --- doctor ---------------------------------------------------------------------------------------------------------------------


def sentence(said, *parts):
    """One sentence (two at most, with a remedy) on one line."""
    assert said and "\n" not in said and said.endswith((".", "`."))
    assert all(part in said for part in parts), said
    return True


def test_doctor_on_python_versions():
    assert sentence(doctor.python_version((3, 10, 2)), "Python 3.10 is too old", "python.org")
    assert sentence(doctor.python_version((3, 15, 0)), "Python 3.15 is newer")
    assert [doctor.python_version((3, minor)) for minor in (11, 12, 13, 14)] == [None] * 4


def test_doctor_on_disk():
    assert sentence(doctor.disk(2**30), "Only 1.0 GB of disk is free", "free some")
    assert doctor.disk(4 * 2**30) is None


def test_doctor_on_a_folder_that_cannot_be_written(tmp_path):
    assert doctor.permission(tmp_path) is None and not list(tmp_path.iterdir())
    assert sentence(doctor.permission(tmp_path / "gone"), "can't be written to", "move it")


def test_doctor_on_packages(here):
    assert sentence(doctor.missing_packages(), "torch==2.13.0 (not installed)", "run `python3 course.py lab`")
    here[1].update(torch="2.13.0", numpy="1.0", tqdm="1")
    assert sentence(doctor.missing_packages(), "packages: numpy>=2.0 (found 1.0);")
    here[1].update(numpy="2.0")
    assert doctor.missing_packages() is None


def test_doctor_on_a_stale_venv(here):
    assert doctor.stale_venv() is None
    (here[0] / ".venv").mkdir()
    assert sentence(doctor.stale_venv(), ".venv", "delete the folder .venv and run `python3 course.py lab`")


def test_doctor_on_a_port_in_use():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert sentence(doctor.port_in_use(port), f"Port {port} is in use", f"--port {port + 10}")
    assert doctor.port_in_use(port) is None


def test_doctor_on_gpt2s_table(tmp_path):
    assert doctor.gpt2_table() is None
    for content in (None, b"damaged"):
        path = tmp_path / "vocab.bpe"
        path.write_bytes(content) if content else None
        assert sentence(doctor.gpt2_table(path), "missing or damaged", "git checkout data/gpt2/vocab.bpe")


def test_doctor_prints_every_finding_on_its_own_line_and_fails(monkeypatch, capsys):
    for name in ("python_version", "disk", "permission", "stale_venv", "missing_packages", "gpt2_table"):
        monkeypatch.setattr(doctor, name, lambda name=name: f"{name} is wrong.")
    monkeypatch.setattr(doctor, "port_in_use", lambda port: None)
    assert doctor.main() == 1 and len(capsys.readouterr().out.splitlines()) == 6
    monkeypatch.setattr(doctor, "findings", lambda port: [])
    assert doctor.main() == 0 and "nothing is wrong" in capsys.readouterr().out


def test_doctor_runs_before_anything_is_installed(tmp_path):
    root = copy_machinery(tmp_path / "a course")
    (root / "data" / "gpt2" / "vocab.bpe").write_bytes(b"")
    done = subprocess.run([sys.executable, "-I", "-S", str(root / "course.py"), "doctor"], capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and done.stderr == ""
    assert "Missing or outdated packages: torch==2.13.0 (not installed)" in done.stdout and "GPT-2's merge table" in done.stdout


# --- vocabulary -----------------------------------------------------------------------------------------------------------------


def test_encoder_json_is_rebuilt_byte_for_byte_from_the_merges():
    text = vocabulary.encoder_json(vocabulary.MERGES.read_text(encoding="utf-8"))
    assert hashlib.sha256(text.encode("utf-8")).hexdigest() == vocabulary.FILES["encoder.json"][1]
    table = json.loads(text)
    assert len(table) == 50_257 and table["!"] == 0 and table["<|endoftext|>"] == 50_256


def test_the_cache_is_built_once_whole_and_repaired_when_damaged(tmp_path):
    folder = vocabulary.build_cache(tmp_path / "cache")
    names = {cached for cached, _ in vocabulary.FILES.values()}
    assert {p.name for p in folder.iterdir()} == names
    times = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    vocabulary.build_cache(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == times
    for path in times:
        path.write_bytes(path.read_bytes()[:1000])
    vocabulary.build_cache(folder)
    for cached, digest in vocabulary.FILES.values():
        assert hashlib.sha256((folder / cached).read_bytes()).hexdigest() == digest


def test_a_damaged_merge_table_is_named_and_nothing_is_left_behind(tmp_path, monkeypatch):
    damaged = tmp_path / "vocab.bpe"
    damaged.write_bytes(vocabulary.MERGES.read_bytes().replace(b"\n", b"\r\n"))  # as a careless checkout would
    monkeypatch.setattr(vocabulary, "MERGES", damaged)
    with pytest.raises(ValueError, match=r"vocab.bpe has sha256 \w{16}\.\.\., not 1ce16647.*restore data/gpt2/vocab.bpe with git"):
        vocabulary.build_cache(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_readers_own_cache_stays(monkeypatch):
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
        monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
        monkeypatch.setenv(name, "mine")
        vocabulary.use_bundled_gpt2()
        assert os.environ[name] == "mine" and os.environ.get("TIKTOKEN_CACHE_DIR", "mine") == "mine"


def test_a_read_only_course_keeps_its_cache_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / ".cache").write_text("in the way, as a read-only folder is", encoding="utf-8")
    monkeypatch.setattr(vocabulary, "ROOT", tmp_path / "course")
    monkeypatch.setattr(vocabulary.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "x")  # so that monkeypatch restores it
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    vocabulary.use_bundled_gpt2()
    folder = Path(os.environ["TIKTOKEN_CACHE_DIR"])
    assert tmp_path / "temporary" in folder.parents and len(list(folder.iterdir())) == 2


def test_tiktoken_finds_gpt2_with_the_network_blocked(tmp_path):
    root = copy_machinery(tmp_path / "a course")
    script = f"""
import socket, sys
def blocked(*args, **kwargs): raise AssertionError("the network was asked")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = blocked
sys.path.insert(0, {str(root)!r})
import course
course.setup()
import tiktoken
gpt2 = tiktoken.get_encoding("gpt2")
print(gpt2.n_vocab, gpt2.encode("Hello, world"), gpt2.decode([15496, 11, 995]))
"""
    environ = {k: v for k, v in os.environ.items() if k not in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")}
    done = subprocess.run([sys.executable, "-c", script], env=environ, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.stdout == "50257 [15496, 11, 995] Hello, world\n", done.stderr
    shutil.rmtree(root / ".cache")  # without the bundled cache the same script would have asked
    offline = script.replace("course.setup()", "")
    failed = subprocess.run(
        [sys.executable, "-c", offline],
        env=dict(environ, TIKTOKEN_CACHE_DIR=str(tmp_path / "empty")),
        capture_output=True,
        encoding="utf-8",
    )
    assert failed.returncode != 0 and "the network was asked" in failed.stderr


def test_the_bundled_table_carries_its_licence():
    assert "MIT" in (ROOT / "data" / "gpt2" / "LICENSE").read_text(encoding="utf-8")
