"""JupyterLab as `course.py lab` starts it, and a headless Chromium to look at it with."""

import contextlib
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
from tools import environment

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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


@contextlib.contextmanager
def running_lab(folder):
    """JupyterLab on a copy of the course in `folder`; the test is skipped, with the reason, where there can be none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian, Ubuntu: apt install chromium)")
    if environment.unmet():
        pytest.skip("this Python lacks some of requirements.txt, so that course.py would go elsewhere")
    server = Lab(folder)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


@contextlib.contextmanager
def open_page():
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


def wait_until_idle(page):
    """Wait until the notebook's kernel is ready for cells."""
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector("#jp-main-statusbar :text('Idle')")
    time.sleep(1.5)  # the kernel says so a little before JupyterLab may run cells


def run_all_cells(page, timeout=400_000):
    """Choose Run All Cells from the menu, and wait until the last one is done."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector(".jp-InputPrompt:has-text('[*]')", state="attached")
    waiting = "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.textContent.includes('[*]'))"
    page.wait_for_function(waiting, timeout=timeout)
    page.wait_for_selector("#jp-main-statusbar :text('Idle')")


@pytest.fixture(scope="module")
def chromium():
    """A browser for a module's pages; without one, its tests are skipped and say why."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian, Ubuntu: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright isn't installed; requirements-dev.txt lists it")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        yield browser
        browser.close()
