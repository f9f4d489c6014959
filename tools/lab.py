"""Open JupyterLab at the table of contents."""

import os
import sys
from pathlib import Path

from tools import environment

ROOT = Path(__file__).resolve().parent.parent


def main(port: int, no_browser: bool) -> int:
    """Serve JupyterLab until it is stopped; returns its exit status. A taken port moves to the next free one."""
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--port={port}",
        f"--ServerApp.root_dir={ROOT}",
        "--LabApp.default_url=/lab/tree/README.md",
        f"--LabApp.app_settings_dir={ROOT / 'tools' / 'lab-settings'}",
    ]
    if no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; Jupyter refuses to start for root unless it is told to
        command.append("--allow-root")
    print("JupyterLab opens at the table of contents; stop it with Ctrl-C here.", flush=True)
    return environment.call(command, cwd=ROOT)
