"""The labeling tool of chapter 7 in JupyterLab and Chromium: mouse, keys, undo, a killed kernel, and nothing is lost."""

import json
import os
import signal
import time

import pytest

from tests.browser import open_page, run_all_cells, running_lab, wait_until_idle
from tests.support import ROOT, chapter

pytestmark = [pytest.mark.slow, pytest.mark.browser]
PAIRS = [
    {"id": "1", "prompt": "Who has the kite?", "a": "Lena has it.", "b": "Find it <i>yourself</i>."},
    {"id": "2", "prompt": "Tell me a tale.\n\nNot a long one.", "a": "<script>window.stolen = 1</script> No.",
     "b": "Once a fox found a bell. <img src=x onerror='window.stolen = 2'> It rang."},
    {"id": "3", "prompt": "What is blue? <script>window.stolen = 3</script>", "a": "The boat.", "b": "The boat is blue."},
    {"id": "4", "prompt": "Write the rest of this tale.\n\nThis is the story of Bibi, a kind little fox. Bibi had a long flute.",
     "a": "Then a frog came by. Bibi told him about the flute. The frog jumped in and swam to it. " * 3, "b": "The end."},
]
CELLS = ["import os\nfrom pathlib import Path\n{imports}", "_ = Path({pid!r}).write_text(str(os.getpid()))",
         "tool = LabelingTool(LabelStore({file!r}, {pairs!r}))\ntool", "print('below')"]


def import_lines(root):
    """Python that imports chapter 7's labeling tool in a copy of the course at `root`."""
    folders = [str(root), str(root / "ch07" / "01_main-chapter-code")]
    return f"import sys\nsys.path[:0] = {folders!r}\nfrom ch07 import LabelingTool, LabelStore\n"


def notebook(**values):
    """A notebook of a few cells, as JupyterLab reads it."""
    cells = [{"cell_type": "code", "id": f"cell-{i}", "metadata": {}, "outputs": [], "execution_count": None,
              "source": source.format(**values)} for i, source in enumerate(CELLS)]
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running_lab(tmp_path_factory.mktemp("lab")) as server:
        yield server


class Hand:
    """A reader's hand: it clicks and types as fast as somebody who reads, and looks at the file after each choice."""

    def __init__(self, page, store):
        self.page, self.store = page, store

    def wait_for(self, number):
        """Wait until the screen says so; then the file has to say so already."""
        self.page.wait_for_selector(f".jp-OutputArea :text('{number} of {len(PAIRS)} on disk')")
        seen = self.store.choices()
        assert len(seen) == number
        time.sleep(0.5)  # the tool takes two events within 0.3 seconds for one
        return seen

    def click(self, name, number):
        self.page.get_by_role("button", name=name).click()
        return self.wait_for(number)

    def press(self, key, number):
        self.page.keyboard.press(key)
        return self.wait_for(number)


def picture(page, name):
    (ROOT / "runs").mkdir(exist_ok=True)
    page.locator(".jp-OutputArea-output:has(.widget-vbox)").screenshot(path=str(ROOT / "runs" / name))


def test_label_undo_kill_the_kernel_and_reopen(lab):
    file, pid = lab.folder / "labels.db", lab.folder / "pid.txt"
    values = {"imports": import_lines(lab.root), "pid": str(pid), "file": str(file), "pairs": PAIRS}
    (lab.root / "labels.ipynb").write_text(json.dumps(notebook(**values)), encoding="utf-8")
    with open_page() as page:
        page.goto(lab.address.replace("README.md", "labels.ipynb"))
        wait_until_idle(page)
        run_all_cells(page)
        hand = Hand(page, chapter("ch07").LabelStore(file, PAIRS))
        assert hand.wait_for(0) == []
        hand.click("A is better", 1)
        assert page.locator(".jp-OutputArea :text('Once a fox found a bell. <img')").count()  # shown as text
        picture(page, "labeling-tool.png")
        hand.click("Tie", 2)
        chosen = hand.press("b", 3)  # the click has left the cursor in the field
        assert page.locator(".jp-Notebook .jp-Cell").count() == len(CELLS)  # where A and B insert no cell
        assert [choice for _, choice, _ in chosen][1] == "tie" and chosen[2][0] == "3"
        assert hand.click("Undo", 2) == chosen[:2]

        os.kill(int(pid.read_text()), signal.SIGKILL)
        page.wait_for_selector(".jp-Dialog :text('died')")
        page.locator(".jp-Dialog button").last.click()
        wait_until_idle(page)
        died = pid.read_text()
        run_all_cells(page)
        assert pid.read_text() != died
        assert hand.wait_for(2) == chosen[:2]

        page.locator(".jp-OutputArea input").click()
        hand.press("b", 3)
        assert hand.press("u", 2) == chosen[:2]
        assert hand.press("u", 1) == chosen[:1]  # a choice of the kernel that is no more
        for key, number in (("t", 2), ("A", 3), ("x", 3), ("s", 4)):  # x means nothing
            hand.press(key, number)
        page.wait_for_selector(".jp-OutputArea :text('All done')")
        assert [choice for _, choice, _ in hand.store.choices()][1::2] == ["tie", "skip"]
        assert page.evaluate("window.stolen") is None
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
