"""Colab: copies with their pictures inside, and a whole notebook run in an empty folder that pretends to be Colab."""

import base64
import json
import os
import re
import shutil
import subprocess

import nbformat
import pytest
from nbclient import NotebookClient

import course
from tests.support import ROOT
from tests.trees import code, text, write_notebook
from tools import colab, export, headers

ALT = "A square."
PNG = b"\x89PNG\r\n\x1a\nnot really"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"><rect width="4" height="4"/></svg>'


@pytest.fixture
def course_tree(tmp_path):
    """A chapter whose notebook has every kind of picture and link."""
    root = tmp_path / "course"
    (root / "images" / "ch 02").mkdir(parents=True)
    (root / "images" / "ch 02" / "a.png").write_bytes(PNG)
    (root / "images" / "b.svg").write_text(SVG, encoding="utf-8")
    prose = (
        f"![{ALT}](../../images/ch%2002/a.png) and ![{ALT} [B, T]](../../images/b.svg)\n\n"
        "[other](../02_bonus_x/x.ipynb) [page](../README.md#top) [out](https://example.org/a_(b)) [here](#part) "
        "[code](../../data/t.py)\n\n"
        f"[![{ALT}](../../images/b.svg)](../README.md)"
    )
    cells = [text("# T"), code("x = '[a](b.md) ![c](d.svg)'"), text(prose)]
    path = write_notebook(root / "ch02" / "01_main-chapter-code" / "ch02.ipynb", *cells)
    write_notebook(root / "ch02" / "02_bonus_x" / "x.ipynb", text("# X"))
    return root, path


def test_pictures_become_data_and_links_absolute(course_tree, monkeypatch):
    root, path = course_tree
    monkeypatch.setattr(colab.shutil, "which", lambda name: None)
    before = path.read_bytes()
    cells = colab.colab_copy(path, root)["cells"]
    prose = cells[2]["source"]
    assert f"![{ALT}](data:image/png;base64,{base64.b64encode(PNG).decode()})" in prose
    assert prose.count(f"(data:image/svg+xml;base64,{base64.b64encode(SVG.encode()).decode()})") == 2
    assert f"![{ALT} [B, T]](data:" in prose
    blob = f"{course.REPOSITORY}/blob/main"
    assert f"[other]({headers.colab_address(root / 'ch02/02_bonus_x/x.ipynb', root)})" in prose
    assert f"[page]({blob}/ch02/README.md#top)" in prose and f"[code]({blob}/data/t.py)" in prose
    assert "[out](https://example.org/a_(b))" in prose and "[here](#part)" in prose
    assert prose.endswith(f")]({blob}/ch02/README.md)")
    assert cells[1]["source"] == "x = '[a](b.md) ![c](d.svg)'" and path.read_bytes() == before


@pytest.mark.skipif(not shutil.which("rsvg-convert"), reason="rsvg-convert isn't installed; figures would be inlined as SVG")
def test_figures_become_png_where_a_converter_is(course_tree):
    root, path = course_tree
    data = re.search(r"data:image/png;base64,(iVBOR\S+?)\)", colab.colab_copy(path, root)["cells"][2]["source"])[1]
    assert base64.b64decode(data).startswith(b"\x89PNG\r\n\x1a\n")


def test_copies_are_written_at_the_same_places_and_stay_the_same(course_tree, tmp_path, capsys):
    root, _ = course_tree
    target = tmp_path / "copies"
    assert colab.main(target, root) == 0 and "2 copies" in capsys.readouterr().out
    files = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert set(files) == {"ch02/01_main-chapter-code/ch02.ipynb", "ch02/02_bonus_x/x.ipynb"}
    colab.main(target, root)
    assert files == {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()}


PRETEND = """
# What Colab is to us: a module of this name, torch and numpy of its own, and pip.
import importlib.metadata, subprocess, sys, types
sys.modules["google"], sys.modules["google.colab"] = types.ModuleType("google"), types.ModuleType("google.colab")
commands, really_run, real_version = [], subprocess.run, importlib.metadata.version

def run(command, **options):
    commands.append([str(part) for part in command])
    return really_run(command, **options) if "git" in str(command[0]) else None

def version(name):
    if name in ("tiktoken", "jupyterlab"):
        raise importlib.metadata.PackageNotFoundError(name)
    return {"torch": "2.5.1+cu121", "numpy": "1.26.4"}.get(name) or real_version(name)

subprocess.run, importlib.metadata.version = run, version
"""
REPORT = """
import json, os
print(json.dumps({"commands": commands, "cwd": os.getcwd(), "course": course.__file__}))
"""


@pytest.mark.slow
def test_a_copy_of_a_chapters_notebook_runs_on_colab_from_its_first_cell_to_its_last(tmp_path):
    """In an empty folder, with the repository's address led to this clone: what is committed is what a reader gets."""
    name = "ch02/01_main-chapter-code/dataloader.ipynb"
    git = {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf", "GIT_CONFIG_VALUE_0": course.REPOSITORY}
    git |= {"GIT_CONFIG_KEY_1": "safe.directory", "GIT_CONFIG_VALUE_1": "*"}
    source = tmp_path / "source"
    clone = ["git", "clone", "--quiet", "--depth=1", course.REPOSITORY, str(source)]
    if subprocess.run(clone, env=os.environ | git, capture_output=True).returncode or not (source / name).exists():
        pytest.skip("this folder is no git clone with chapter 2 committed, so there is nothing to fetch")

    colab.main(tmp_path / "copies", source)
    copy = nbformat.read(tmp_path / "copies" / name, as_version=4)
    prose = "\n".join(c.source for c in copy.cells if c.cell_type == "markdown")
    assert all(target.startswith("data:image/") for target in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", prose))
    assert all(re.match(r"https://|data:|#", target) for target in re.findall(r"\]\(([^)\s]*)\)", prose))

    content = tmp_path / "content"
    content.mkdir()
    cells = [nbformat.v4.new_code_cell(PRETEND), *copy.cells, nbformat.v4.new_code_cell(REPORT)]
    setup = next(c for c in copy.cells if "setup" in export.tags(c))
    cells.insert(-1, nbformat.v4.new_code_cell(setup.source))  # a reader runs the first cell again
    environment = {k: v for k, v in os.environ.items() if k not in ("TIKTOKEN_CACHE_DIR", "PYTHONPATH")} | git
    client = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=300, resources={"metadata": {"path": str(content)}})
    ran = client.execute(env=environment)  # raises at the first cell that fails
    assert not [o for c in ran.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]

    report = json.loads(ran.cells[-1].outputs[0].text)
    fetched = content / "from-bytes-to-chat"
    assert report["cwd"] == str(fetched / "ch02" / "01_main-chapter-code") and report["course"] == str(fetched / "course.py")
    assert list(content.iterdir()) == [fetched]
    clones = [c for c in report["commands"] if c[0] == "git"]
    pips = [c for c in report["commands"] if "pip" in c]
    assert clones == [["git", "clone", "--quiet", "--depth=1", course.REPOSITORY, "from-bytes-to-chat"]]
    assert pips and len(pips) + len(clones) == len(report["commands"])
    for pip in pips:  # tiktoken alone: not the server that Colab has already, and neither torch nor numpy
        wanted = pip[pip.index("-qq") + 1 : pip.index("-c")]
        assert [re.split("[=<>]", w)[0] for w in wanted] == ["tiktoken"]
    pins = (fetched / ".cache" / "constraints.txt").read_text(encoding="utf-8").split()
    assert {pin.split("==")[0] for pin in pins} == {"torch", "numpy"}


def test_outside_the_course_and_outside_colab_the_setup_cell_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = headers.SETUP.format(folder="ch02/01_main-chapter-code", address=course.REPOSITORY)
    with pytest.raises(AssertionError, match="open this notebook inside the course"):
        exec(compile(source, "setup", "exec"), {})
