"""JupyterLab as `course.py lab` starts it, driven in headless Chromium: the contents page, then all of chapter 2."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support import ROOT
from tools import attempts, environment
from tools.notebook_files import read_notebook

pytestmark = [pytest.mark.slow, pytest.mark.browser]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOTEBOOK = "ch02/01_main-chapter-code/ch02.ipynb"
LEFT_BEHIND = (
    ".venv",
    ".git",
    "runs",
    "kept",
    "build",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    "*.safetensors",
)


def processes(mark):
    """Command lines of running processes that name `mark` (Linux; none elsewhere)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return [line for line in found if str(mark) in line]


class Lab:
    """A running `course.py lab` on a copy of the course, with settings and state of its own."""

    def __init__(self, folder):
        self.folder, self.root, self.log = folder, folder / "From Bytes to Chat", folder / "log.txt"
        shutil.copytree(ROOT, self.root, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        names = {
            "JUPYTER_RUNTIME_DIR",
            "JUPYTER_CONFIG_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "JUPYTER_DATA_DIR",
        }
        environ = os.environ | {name: str(folder / name.lower()) for name in names}
        environ.pop("TIKTOKEN_CACHE_DIR", None)
        command = [sys.executable, str(self.root / "course.py"), "lab", "--no-browser", "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=self.log.open("wb"), stderr=subprocess.STDOUT
        )
        self.address = self.wait_for_address()

    def wait_for_address(self):
        """The address that the server prints when it is ready."""
        for _ in range(240):
            printed = self.log.read_text(encoding="utf-8", errors="replace")
            if found := re.search(rf"http://(?:localhost|127\.0\.0\.1):{self.port}/lab\S*token=\w+", printed):
                return found[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.5)
        self.process.kill()
        raise AssertionError(f"JupyterLab did not start:\n{printed[-3000:]}")

    def stop(self):
        """Shut down as the menu's File, Shut Down does; returns the exit status of `course.py lab`."""
        if self.process.poll() is None:
            base, token = self.address.split("/lab")[0], self.address.split("token=")[1]
            request = urllib.request.Request(f"{base}/api/shutdown", method="POST", headers={"Authorization": f"token {token}"})
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()
        return self.process.wait(60)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the course in a folder with spaces; the reason where there can be none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian, Ubuntu: apt install chromium)")
    if environment.unmet():
        pytest.skip("this Python lacks some of requirements.txt, so that course.py would go elsewhere")
    server = Lab(tmp_path_factory.mktemp("lab"))
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


@pytest.fixture(scope="module")
def page(lab):
    """A browser's page that remembers every address it asked for."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright isn't installed; requirements-dev.txt lists it")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.set_default_timeout(120_000)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        yield page
        browser.close()


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
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector("#jp-main-statusbar :text('Idle')")
    time.sleep(1.5)  # the kernel says so a little before JupyterLab may run cells
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector(".jp-InputPrompt:has-text('[*]')", state="attached")
    waiting = "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.textContent.includes('[*]'))"
    page.wait_for_function(waiting, timeout=400_000)
    page.wait_for_selector("#jp-main-statusbar :text('Idle')")

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
