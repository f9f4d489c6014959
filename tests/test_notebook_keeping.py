"""`course.py execute` and `run`: same notebook, same bytes; nothing of this machine in what is stored."""

import json
import re
import subprocess
import sys

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import code, copy_machinery, text, write_chapter, write_notebook
from tools import checks, export, headers, notebooks

TOP = text(f"# A notebook\n\n*It is kept.*\n\n{headers.START}\n{headers.END}")
LIVELY = [
    TOP,
    code("", "setup"),
    code("import random\nimport time\n\nimport matplotlib.pyplot as plt"),
    code('print(f"took ≈ {time.time():.2f} s, exactly {1 + 1} cells")\nassert time.time() > 0'),
    code("random.SystemRandom().random()", "nbval-ignore-output"),
    code("plt.plot([random.SystemRandom().random() for _ in range(5)])\nplt.show()"),
    code('raise ValueError("on purpose")', "raises-exception"),
    code('for i in range(3):\n    print("piece", i, flush=True)\n    time.sleep(0.02)'),
    code("{1: 'one'}"),
    code("{1: 'one'}"),
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A course without chapters, on which the tools work."""
    for module in (export, notebooks, checks):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return copy_machinery(tmp_path)


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_a_second_run_of_an_unchanged_notebook_changes_no_byte(root, capsys):
    path = write_chapter(root, "ch02", *LIVELY)
    assert notebooks.execute([path]) == 0
    first, cells = path.read_bytes(), cells_of(path)
    assert notebooks.execute([path]) == 0
    assert path.read_bytes() == first
    assert not list(root.rglob("*.tmp")) and not list(root.rglob(".ipynb_checkpoints"))

    # what was stored: counts, ids, tags and nothing else, one stream, a picture, an error without this machine's paths
    runs = [c for c in cells if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in runs] == list(range(1, len(runs) + 1))
    assert len({c["id"] for c in cells}) == len(cells)
    assert [c["metadata"] for c in runs[:2]] == [{"tags": ["setup"]}, {}]
    assert "".join(runs[6]["outputs"][0]["text"]) == "piece 0\npiece 1\npiece 2\n" and len(runs[6]["outputs"]) == 1
    assert "image/png" in runs[4]["outputs"][0]["data"]
    assert runs[5]["outputs"][0] == {
        "output_type": "error",
        "ename": "ValueError",
        "evalue": "on purpose",
        "traceback": ["ValueError: on purpose"],
    }
    assert str(root) not in path.read_text(encoding="utf-8")
    nbformat.validate(nbformat.read(path, as_version=4))

    # the header holds what this run took
    stored = json.loads(path.read_text(encoding="utf-8"))["metadata"]["course"]
    assert stored["seconds"] >= 1 and 0 < stored["gigabytes"] < 2
    assert f"{stored['seconds']} s, {stored['gigabytes']} GB of memory" in "".join(cells[0]["source"])
    assert re.fullmatch(r"ch02/01_main-chapter-code/ch02.ipynb \.\.\. \d+ s, [\d.]+ GB", capsys.readouterr().out.splitlines()[0])

    # `export` agrees with all of it, and jupytext's round trip, after which an author executes again, too
    assert not [d for d in export.differences(root) if "ch02.ipynb" in d]
    script = root / "ch02.py"
    for command in (["--to", "py:percent", "--output", script, path], ["--to", "ipynb", "--update", "--output", path, script]):
        subprocess.run([sys.executable, "-m", "jupytext", *map(str, command)], check=True, capture_output=True)
    assert notebooks.execute([path]) == 0 and path.read_bytes() == first

    # `--fresh` measures again and takes the new text and picture
    assert notebooks.execute([path], fresh=True) == 0
    fresh = cells_of(path)
    assert all(fresh[i]["outputs"] != cells[i]["outputs"] for i in (3, 4, 5)) and fresh[8:] == cells[8:]


def test_changed_code_brings_new_outputs_and_changed_prose_does_not(root):
    cells = [TOP, code("import time"), code('print(f"≈ {time.time()}", 1)\nassert True'), text("Prose.")]
    path = write_chapter(root, "ch02", *cells)
    notebooks.execute([path])
    first = cells_of(path)

    def edit(i, source):
        notebook = export.read_notebook(path)
        notebook["cells"][i]["source"] = source
        path.write_text(export.notebook_text(notebook), encoding="utf-8", newline="\n")
        notebooks.execute([path])
        return cells_of(path)

    reworded = edit(3, "Other prose.")
    assert reworded[2] == first[2] and reworded[0] == first[0]
    changed = edit(2, 'print(f"≈ {time.time()}", 2)\nassert True')
    assert changed[2]["outputs"] != first[2]["outputs"] and changed[2]["outputs"][0]["text"][0].endswith(" 2\n")


def test_the_measured_cost_stays_with_the_code_that_it_was_measured_on():
    def tidied(old, seconds, fresh=False):
        new = json.loads(json.dumps({"cells": [code("1 + 1")], "metadata": {}}))
        return notebooks.tidy(new, old, {"seconds": seconds, "gigabytes": 0.5}, fresh)

    first = tidied({"cells": [], "metadata": {}}, 3)
    assert first["metadata"]["course"]["seconds"] == 3
    assert tidied(first, 4)["metadata"] == first["metadata"]
    assert tidied(first, 4, fresh=True)["metadata"]["course"]["seconds"] == 4
    first["metadata"]["course"]["code"] = "of other code"
    assert tidied(first, 4)["metadata"]["course"]["seconds"] == 4


def test_an_output_that_really_changed_is_stored_though_the_code_did_not(root):
    path = write_chapter(root, "ch02", TOP, code("from pathlib import Path"), code('print("≈ 1", Path("x.txt").read_text())'))
    (path.parent / "x.txt").write_text("old", encoding="utf-8")
    notebooks.execute([path])
    (path.parent / "x.txt").write_text("new", encoding="utf-8")
    notebooks.execute([path])
    assert cells_of(path)[2]["outputs"][0]["text"] == ["≈ 1 new\n"]


@pytest.mark.parametrize("fault", ["1 / 0", "import os\n\nos._exit(3)"])
def test_a_failing_notebook_is_left_as_it_was_and_the_next_one_still_runs(root, fault, capsys):
    bad = write_chapter(root, "ch02", TOP, code("print(1)"), code(fault))
    good = write_chapter(root, "ch03", TOP, code("print(2)"))
    before = bad.read_bytes()
    assert notebooks.execute([bad, good]) == 1
    assert bad.read_bytes() == before and cells_of(good)[1]["execution_count"] == 1
    printed = capsys.readouterr().out
    assert "ch02/01_main-chapter-code/ch02.ipynb ... failed" in printed
    assert "ZeroDivisionError: division by zero" in printed or "died" in printed.lower()
    assert "\x1b" not in printed


def test_a_damaged_notebook_is_named_and_left_alone(root, capsys):
    bad = write_chapter(root, "ch02", TOP)
    bad.write_text("{", encoding="utf-8")
    assert notebooks.execute([bad]) == 1 and bad.read_text(encoding="utf-8") == "{"
    assert "not a notebook" in capsys.readouterr().out


def test_the_kernel_is_clean_and_starts_in_the_notebooks_folder(root):
    path = write_chapter(
        root, "ch02", TOP, code("from pathlib import Path"), code("print(Path.cwd().parts[-2:], 'leak' in globals())\nleak = 1")
    )
    notebooks.execute([path])
    notebooks.execute([path])
    assert "('ch02', '01_main-chapter-code') False" in str(cells_of(path)[2]["outputs"])


def test_widgets_leave_no_state_and_no_random_id(root):
    cells = [TOP, code("from tqdm.auto import tqdm"), code("for _ in tqdm(range(3), desc='count'):\n    pass")]
    path = write_chapter(root, "ch02", *cells)
    notebooks.execute([path])
    first = path.read_text(encoding="utf-8")
    assert "widget" not in first and "count:" in first
    notebooks.execute([path])
    assert path.read_text(encoding="utf-8") == first


def test_foreign_metadata_goes_and_generated_text_moves_no_id(root, monkeypatch):
    noisy = dict(code("1 + 1", "mine"), metadata={"tags": ["mine"], "collapsed": True, "execution": {"iopub.status.busy": "2026"}})
    path = write_notebook(
        root / "ch02" / "01_main-chapter-code" / "ch02.ipynb", TOP, code("", "setup"), noisy, metadata={"widgets": {}, "colab": {}}
    )
    notebooks.execute([path])
    before = export.read_notebook(path)
    assert before["cells"][2]["metadata"] == {"tags": ["mine"]}
    assert set(before["metadata"]) == {"course", "kernelspec", "language_info"}
    write_chapter(root, "ch03", TOP)  # a "Next" link in the header
    monkeypatch.setattr(headers.course, "REPOSITORY", "https://github.com/someone/fork")
    path.write_text(export.outputs(root)[path], encoding="utf-8", newline="\n")
    exported = path.read_bytes()
    notebooks.execute([path])
    assert path.read_bytes() == exported
    assert [c["id"] for c in export.read_notebook(path)["cells"]] == [c["id"] for c in before["cells"]]


# --- masking --------------------------------------------------------------------------------------------------------------------


def test_execute_and_nbval_mask_by_the_same_rule():
    rule = re.search(r"^regex: (.*)$", (notebooks.Path(__file__).parent / "nbval.cfg").read_text(encoding="utf-8"), re.M)[1]
    assert rule == notebooks.APPROXIMATE.pattern


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("≈ 1.94", "≈ 2"),
        ("≈ 1.94", "≈ -1.94"),
        ("≈ 1.5e-05 s", "≈ 3 s"),
        ("≈ 12,345 tokens", "≈ 9 tokens"),
        ("loss ≈  9.5", "loss ≈ 10.5"),
        ("(≈ 3.5)", "(≈ 4)"),
    ],
)
def test_numbers_behind_the_sign_are_masked(before, after):
    assert notebooks.APPROXIMATE.sub("≈ #", before) == notebooks.APPROXIMATE.sub("≈ #", after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("= 1.94", "= 1.95"),
        ("≈ 1.94 of 3", "≈ 1.94 of 4"),
        ("≈ 1.94 s", "≈ 1.94 ms"),
        ("≈ 1.94, 7", "≈ 1.94. 7"),
        ("≈ 1.94.", "≈ 1.94"),
        ("≈ nan", "≈ 1.0"),
        ("≈ inf", "≈ 2.0"),
        ("1 ≈", "2 ≈"),
        ("≈\n1", "≈\n2"),
    ],
)
def test_nothing_else_is_masked(before, after):
    assert notebooks.APPROXIMATE.sub("≈ #", before) != notebooks.APPROXIMATE.sub("≈ #", after)


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["{}", "{:.2f}", "{:,.1f}", "{:.3e}", "{:8.2f}"]),
    st.text(alphabet="ab ,.", max_size=3),
)
def test_any_printed_float_is_masked_whole_and_its_surroundings_stay(number, form, after):
    line = f"x ≈ {form.format(number)} {after}"
    assert notebooks.APPROXIMATE.sub("≈ #", line) == f"x ≈ # {after}"


# --- which notebooks, and `run` -------------------------------------------------------------------------------------------------


def test_chapters_folders_and_files_are_found_from_anywhere(root, monkeypatch):
    main = write_chapter(root, "ch02", TOP)
    extra = write_notebook(root / "ch02" / "02_bonus_x" / "x.ipynb", TOP)
    other = write_chapter(root, "ch03", TOP)
    monkeypatch.chdir(main.parent)
    assert notebooks.chosen([]) == [main, extra, other]
    assert notebooks.chosen(["ch02"]) == [main, extra] and notebooks.chosen(["ch02", "ch02.ipynb"]) == [main, extra]
    assert notebooks.chosen(["ch02.ipynb"]) == [main] and notebooks.chosen(["../02_bonus_x"]) == [extra]
    with pytest.raises(ValueError, match=r"no notebook belongs to 'ch99'; chapters with notebooks: ch02, ch03"):
        notebooks.chosen(["ch99"])


def test_run_keeps_executed_copies_and_says_what_was_achieved(root, capfd):
    main = write_chapter(
        root,
        "ch02",
        TOP,
        code("print('a table')"),
        code("print('loss 1')"),
        code("print('Exercise 2.1: not attempted yet')", "exercise"),
    )
    write_notebook(main.parent / "dataloader.ipynb", TOP, code("1 / 0"))  # a summary: not run unless it is named
    before = main.read_bytes()
    assert notebooks.run(notebooks.chosen(["ch02"]), ["ch02"]) == 0
    copy = root / "runs" / "ch02" / "01_main-chapter-code" / "ch02.ipynb"
    assert "loss 1" in copy.read_text(encoding="utf-8") and main.read_bytes() == before
    assert list(copy.parent.iterdir()) == [copy]
    printed, logged = capfd.readouterr()
    assert "    loss 1" in printed and "Exercise" not in printed and "a table" not in printed and "WARNING" not in logged
    named = ["ch02/01_main-chapter-code/dataloader.ipynb"]
    assert notebooks.run(notebooks.chosen(named), named) == 1
    assert "ZeroDivisionError" in capfd.readouterr().out
