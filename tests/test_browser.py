"""JupyterLab as `course.py lab` starts it, driven in headless Chromium: the contents page, then all of chapter 2."""

import json
import re
import sys
import time

import pytest

from tests.browser import open_page, processes, run_all_cells, running_lab, wait_until_idle
from tests.support import ROOT
from tools import attempts
from tools.notebook_files import read_notebook

pytestmark = [pytest.mark.slow, pytest.mark.browser]
NOTEBOOK = "ch02/01_main-chapter-code/ch02.ipynb"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running_lab(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def page(lab):
    with open_page() as page:
        yield page


def pictures(page, selector):
    """The widths that the browser found in the pictures it could decode; 0 for a broken one."""
    page.wait_for_function(f"[...document.querySelectorAll({selector!r})].every(image => image.complete)")
    return page.evaluate(f"[...document.querySelectorAll({selector!r})].map(image => image.naturalWidth)")


def test_lab_opens_the_contents_as_a_page_without_asking_anything_or_anyone(lab, page):
    page.goto(lab.address)
    page.wait_for_selector(".jp-MarkdownViewer h1")
    assert page.inner_text(".jp-MarkdownViewer h1").startswith("From Bytes to Chat")
    widths = pictures(page, ".jp-MarkdownViewer img")
    assert widths and all(widths)
    time.sleep(3)  # a question about news would be here by now
    assert page.locator(".Toastify__toast").count() == page.locator(".jp-Dialog").count() == 0
    foreign = [url for url in page.asked if not re.match(rf"(https?|ws)://(localhost|127\.0\.0\.1):{lab.port}/|data:|blob:", url)]
    assert foreign == []


def test_all_cells_of_chapter_2_run_and_its_figures_are_seen(lab, page):
    page.goto(lab.address.replace("README.md", NOTEBOOK))
    wait_until_idle(page)
    run_all_cells(page)

    shipped = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    raising = sum("raises-exception" in cell["metadata"].get("tags", []) for cell in shipped)
    assert page.locator(".jp-Notebook .jp-Cell").count() == len(shipped)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == raising
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    drawn, plotted = pictures(page, ".jp-MarkdownCell img"), pictures(page, ".jp-OutputArea img")
    assert len(drawn) >= 8 and all(drawn) and plotted and all(plotted)

    for _ in range(3):  # cells take their height when they come into view, which moves the ones below
        page.evaluate("[...document.querySelectorAll('.jp-OutputArea img')].at(-1).scrollIntoView({block: 'center'})")
        time.sleep(0.5)
    (ROOT / "runs").mkdir(exist_ok=True)
    page.screenshot(path=str(ROOT / "runs" / "ch02-in-jupyterlab.png"))  # tests/screenshots/ has one that was looked at

    # what a reader saves is what ran: everything in order, no error, the exercises still to do
    page.keyboard.press("Control+s")
    saved = lab.root / NOTEBOOK
    for _ in range(60):
        time.sleep(0.5)
        cells = [c for c in json.loads(saved.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        if saved.read_bytes() != (ROOT / NOTEBOOK).read_bytes():
            break
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    assert sum(o["output_type"] == "error" for c in cells for o in c["outputs"]) == raising
    mine = read_notebook(saved)  # `test` must know it for a reader's copy, not for a damaged chapter
    assert attempts.was_run_in_editor(mine) and attempts.sources(mine) == attempts.sources(read_notebook(ROOT / NOTEBOOK))
    exercises = [str(c["outputs"]) for c in cells if "exercise" in c["metadata"].get("tags", [])]
    assert exercises and all("not attempted yet" in output for output in exercises)


def test_stopping_leaves_no_process_behind(lab, page):
    assert processes(lab.folder) or sys.platform != "linux"
    assert lab.stop() == 0
    for _ in range(40):
        if not processes(lab.folder):
            break
        time.sleep(0.5)
    assert processes(lab.folder) == []
