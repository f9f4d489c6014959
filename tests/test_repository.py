"""The repository as a visitor finds it: README, licence, citation, workflows, and files that belong to no single machine."""

import os
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml

import course
from tests.support import ROOT
from tools import attempts, contents, doctor, export, headers

README = (ROOT / "README.md").read_text(encoding="utf-8")
MACHINE = re.compile(r"(?<![\w.:~/])/(?:root|work/(?:main|shared)|(?:home|Users)/(?!you/|reader/)\w+)/|\b[A-Z]:\\{1,2}Users\b")
REGISTRY = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|debian|ubuntu|conda|crates)\.(?:org|com|io)\b"
    r"|(?:index-url|find-links|registry)[\s=:\"']+https?://(?!download\.pytorch\.org|[\w.-]*example)"
)


def tracked():
    """Every file that git keeps."""
    names = attempts.git("ls-files", "-z")
    if names is None:
        pytest.skip("this folder is no git clone, so there is no list of its files")
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).exists()]


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


# --- README ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["python3 course.py lab", "python3 course.py test", "pip install -r requirements.txt", "jupyter lab"]
)
def test_readme_gives_each_set_up_command_a_line_of_a_code_block(command):
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, re.M | re.S)
    assert command in [line for block in blocks for line in block.splitlines()]


def test_readme_names_every_command_of_course_py():
    commands = next(a for a in course.parser()._actions if a.dest == "command").choices
    named = set(re.findall(r"`(?:python3 course\.py )?(\w+)(?: ch02)?`", README))
    assert set(commands) - named == {"execute", "colab"}  # for authors and the workflow: CONTRIBUTING.md has the first


def test_every_chapter_of_the_map_is_in_the_table():
    table = README.split(contents.START)[1].split(contents.END)[0]
    assert set(headers.MAP) <= set(contents.CHAPTERS)
    for label, title, supplements in contents.CHAPTERS.values():
        assert f"| **{label}** {title} |" in table
        assert all(name in table for name in supplements.values())


def test_every_supplement_that_git_keeps_is_in_the_map():
    folders = {p.relative_to(ROOT).parts[:2] for p in tracked() if len(p.relative_to(ROOT).parts) > 2}
    for chapter, folder in folders:
        if re.match(r"(ch\d\d|appendix-\w)$", chapter) and f"{chapter}/{folder}" != headers.main_folder(chapter):
            assert folder in contents.CHAPTERS[chapter][2], f"give {chapter}/{folder} a line in tools/contents.py"


def test_contents_link_what_exists_and_plan_what_does_not(tmp_path):
    assert "](" not in contents.contents(tmp_path)
    assert contents.contents(tmp_path).count("planned") > 30
    for name in ("ch02/01_main-chapter-code/ch02.ipynb", "ch02/03_bonus_embedding-vs-matmul/README.md", "appendix-B/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    text = contents.contents(tmp_path)
    assert "| **2** Working with text data | [ch02](ch02/01_main-chapter-code/ch02.ipynb) | planned | planned | " in text
    assert "product](ch02/03_bonus_embedding-vs-matmul/README.md) · planned: Byte-pair encoders side by side |" in text
    assert "| **B** References and further reading | [read](appendix-B/README.md) | – | – | – |" in text
    assert text.count("](") == 3


def test_export_keeps_the_table_and_the_address(tmp_path, monkeypatch):
    for name in ("README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(course, "REPOSITORY", "https://github.com/somebody/fork")
    texts = {path.name: text for path, text in export.outputs(tmp_path).items()}
    assert "git clone https://github.com/somebody/fork\n" in texts["README.md"]
    assert 'repository-code: "https://github.com/somebody/fork"\n' in texts["CITATION.cff"]
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="\n")
    assert {path.name: text for path, text in export.outputs(tmp_path).items()} == texts  # a second export changes nothing


def test_readme_promises_what_is_enforced():
    from tools.suite import MINUTES

    assert "from one minute (chapter 2) to six (chapter 7)" in README
    assert (min(MINUTES.values()), max(MINUTES.values())) == (MINUTES["ch02"], MINUTES["ch07"]) == (1, 6)
    assert "Python 3.11 to 3.14" in README
    assert doctor.python_version((3, 10)) and doctor.python_version((3, 15))
    assert not doctor.python_version((3, 11)) and not doctor.python_version((3, 14))
    assert "3 GB of free disk" in README
    assert doctor.disk(3 * 2**30 - 1) and not doctor.disk(3 * 2**30)


def test_no_notebook_needs_more_than_four_gigabytes():
    assert "None may need more than 4 GB" in README
    for path in export.all_notebooks():
        used = export.read_notebook(path)["metadata"].get("course", {}).get("gigabytes", 0)
        assert used <= 4, f"{path.relative_to(ROOT).as_posix()} needs {used} GB of memory; the README promises at most 4"


# --- licence and citation -------------------------------------------------------------------------------------------------------


def test_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert all(f"\n   {number}. " in text for number in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Copyright 2026 The authors of From Bytes to Chat" in text
    assert "[yyyy]" not in text


def test_citation_has_what_a_citation_needs():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == "From Bytes to Chat"
    assert citation["message"]
    assert citation["authors"] == [{"name": "The authors of From Bytes to Chat"}]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"]) == ("0.1.0", "Apache-2.0")
    assert citation["repository-code"] == course.REPOSITORY
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", citation["date-released"])


# --- what runs elsewhere --------------------------------------------------------------------------------------------------------


def test_workflow_tests_three_systems_with_oldest_and_newest_python():
    flow = workflow("test.yml")
    triggers = flow[True]  # YAML 1.1 reads the key `on` as true
    assert {"push", "pull_request", "schedule"} <= set(triggers)
    minute, hour, day, month, weekday = triggers["schedule"][0]["cron"].split()
    assert (day, month) == ("*", "*") and weekday.isdigit()  # once a week
    job = flow["jobs"]["test"]
    assert job["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "macos-latest", "windows-latest"],
        "python": ["3.11", "3.14"],
    }
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["python course.py test"]  # no step of its own fetches a browser


def test_workflow_puts_copies_on_the_branch_that_badges_open():
    flow = workflow("colab.yml")
    steps = " ".join(step.get("run", "") for step in flow["jobs"]["copies"]["steps"])
    assert steps.index("librsvg2-bin") < steps.index("python course.py colab build/colab") < steps.index("git push")
    branch = re.search(r"refs/heads/([\w-]+)", steps)[1]
    assert f"/blob/{branch}/" in headers.colab_address(ROOT / "ch02" / "x.ipynb", ROOT)
    assert flow["permissions"] == {"contents": "write"}


def stand_ins(folder, **programs):
    """Programs of ours to be found first: {name: body of a shell script}."""
    folder.mkdir()
    for name, body in programs.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8", newline="\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    (folder / "dirname").symlink_to(shutil.which("dirname"))


@pytest.mark.skipif(os.name == "nt", reason="a bash script; on Windows the workflow calls course.py itself")
@pytest.mark.parametrize("apt", ["exit 1", "exit 0"])
def test_ci_run_calls_the_readmes_command_from_anywhere(tmp_path, apt):
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    noisy = f"echo noise; echo noise >&2; {apt}"
    stand_ins(tmp_path / "bin", python3='pwd; echo "$COURSE_BUDGETS python3 $@"', id="echo 0", apt_get=noisy)
    environment = {"PATH": str(tmp_path / "bin"), "CDPATH": str(tmp_path)}
    done = subprocess.run(
        [shutil.which("bash"), script, "ch02"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[-2:] == [str(ROOT), "1 python3 course.py test ch02"]
    assert lines[:-2] == (["could not install Chromium; going on without it"] if apt == "exit 1" else [])
    assert done.stderr == ""


# --- files ----------------------------------------------------------------------------------------------------------------------


def test_no_file_is_larger_than_15_megabytes():
    large = {p.relative_to(ROOT).as_posix(): p.stat().st_size for p in tracked() if p.stat().st_size > 15e6}
    assert not large


def test_no_file_names_a_machine_or_a_package_registry():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT).as_posix()
        patterns = [REGISTRY] if name.startswith("tests/") else [REGISTRY, MACHINE]  # tests hold paths that checks must object to
        found += [f"{name}: {match[0]}" for pattern in patterns for match in pattern.finditer(text)]
    assert not found


@pytest.mark.parametrize("bad", ["/root/x", "/home/anna/y", "/Users/bo/z", "C:\\Users\\bo", "C:\\\\Users", "/work/main/x"])
def test_a_path_of_a_machine_is_recognized(bad):
    assert MACHINE.search(f"see {bad}")
    assert not MACHINE.search("see /home/you/course, ../root/x and https://host.example/~home/anna")


@pytest.mark.parametrize("bad", ["https://pypi." + "org/simple", "--index-url " + "http://10.0.0.7/simple", "deb.debian." + "org"])
def test_a_registry_is_recognized(bad):
    assert REGISTRY.search(f"see {bad}")
    assert not REGISTRY.search("pip install --index-url https://download.pytorch.org/whl/cpu torch")
