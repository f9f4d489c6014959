"""Appendix C's list: every exercise once, with prompt and solution; a prompt without a solution is an error."""

import json

import pytest

from tests.support import ROOT, chapter
from tools import exercise_list


def notebook(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"cell_type": "markdown", "source": text} for text in texts]
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")


@pytest.fixture
def course(tmp_path):
    folder = tmp_path / "ch02" / "01_main-chapter-code"
    first = "## 2.1 Why (not)?\n\n**Exercise 2.1** (two minutes). Do."
    notebook(folder / "ch02.ipynb", first, "### Deeper\n\n**Exercise 2.2** (ten minutes: why?). Do.")
    notebook(folder / "exercise-solutions.ipynb", "# Solutions", "## 2.1 First\n\nSo.", "## 2.2 Second")
    page = tmp_path / "appendix-C" / "README.md"
    page.parent.mkdir()
    page.write_text("# C\n\n<!-- exercises -->\nold\n<!-- /exercises -->\n\nend\n", encoding="utf-8")
    return tmp_path


def test_rows_name_title_time_prompt_and_solution(course):
    first, second = exercise_list.rows("ch02", course)
    main = "../ch02/01_main-chapter-code"
    assert first == (f"| 2.1 | First | two minutes | [prompt]({main}/ch02.ipynb#2.1-Why-%28not%29?) | "
                     f"[solution]({main}/exercise-solutions.ipynb#2.1-First) |")
    assert second.startswith("| 2.2 | Second | ten minutes | [prompt]") and "#Deeper)" in second


def test_only_the_tables_are_rewritten(course):
    (text,) = exercise_list.outputs(course).values()
    assert text.startswith("# C\n\n<!-- exercises -->\n## Chapter 2")
    assert text.endswith("<!-- /exercises -->\n\nend\n")
    assert "old" not in text


@pytest.mark.parametrize("missing", ["solution", "prompt"])
def test_half_an_exercise_is_an_error(course, missing):
    folder = course / "ch02" / "01_main-chapter-code"
    if missing == "solution":
        notebook(folder / "exercise-solutions.ipynb", "## 2.1 First")
    else:
        notebook(folder / "ch02.ipynb", "**Exercise 2.1** (two minutes). Do.")
    with pytest.raises(ValueError, match=r"2\.2 has a prompt or a solution, but not both"):
        exercise_list.rows("ch02", course)


def test_every_exercise_with_a_check_is_listed():
    page = (ROOT / "appendix-C" / "README.md").read_text(encoding="utf-8")
    folders = [p.parents[1].name for p in sorted(ROOT.glob("*/*/exercise_checks.py"))]
    assert "appendix-A" in folders
    for name in folders:
        missing = [number for number in chapter(name, "exercise_checks").CHECKS if f"| {number} | " not in page]
        assert not missing, name
