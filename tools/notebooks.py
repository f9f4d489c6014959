"""Execute notebooks in a clean kernel and keep them tidy: same notebook, same bytes.

`execute` stores outputs in place. A run of an unchanged notebook changes no byte: an output that equals the stored one after
masking (`≈ 1.94`), a sampled text, and a picture of an unchanged notebook keep their old bytes, and so does the measured cost.
"""

import copy
import hashlib
import json
import os
import re
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tqdm import tqdm

from tools import headers
from tools.notebook_files import ROOT, ExportError, all_notebooks, notebook_text, read_notebook, tags, write_atomically

FAILURES = (CellExecutionError, CellTimeoutError, DeadKernelError, ExportError, nbformat.reader.NotJSONError)
APPROXIMATE = re.compile(r"≈ *[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")  # the same rule as in nbval.cfg
# On Linux getrusage also counts what the launching process held when it forked; VmHWM begins with the kernel itself.
PEAK = """import os as _o, resource as _r, sys as _s
_p = "/proc/self/status"
print(int(open(_p).read().split("VmHWM:")[1].split()[0]) / 2**20 if _o.path.exists(_p) else
      _r.getrusage(_r.RUSAGE_SELF).ru_maxrss / (2**30 if _s.platform == "darwin" else 2**20))"""


def chosen(names: list[str]) -> list[Path]:
    """The notebooks that `names` mean: chapters ("ch02", main notebook first), folders or files; all for no name.

    Raises ValueError for a name that means none.
    """
    every = all_notebooks(ROOT)
    paths = []
    for name in names:
        target = (ROOT / name) if (ROOT / name).exists() else Path(name).resolve()
        found = [p for p in every if p == target or target in p.parents]
        if not found:
            chapters = sorted({p.relative_to(ROOT).parts[0] for p in every})
            raise ValueError(f"no notebook belongs to {name!r}; chapters with notebooks: {', '.join(chapters)}")
        paths += found
    return list(dict.fromkeys(paths)) if names else every


def run_notebook(path: Path) -> tuple[nbformat.NotebookNode, dict]:
    """Execute a copy of the notebook in its own folder; returns it with {"seconds", "gigabytes"}. Raises CellExecutionError."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    client.extra_arguments = ["--log-level=ERROR"]  # the kernel's own log; it would say each time that it isn't encrypted
    start = time.perf_counter()
    with client.setup_kernel():
        for i, cell in enumerate(notebook.cells):
            client.execute_cell(cell, i)
        seconds = time.perf_counter() - start
        probe = nbformat.v4.new_code_cell(PEAK)
        notebook.cells.append(probe)
        client.execute_cell(probe, len(notebook.cells) - 1) if os.name != "nt" else None
        notebook.cells.pop()
    gigabytes = float(probe.outputs[0]["text"]) if probe.get("outputs") else 0.0
    return notebook, {"seconds": max(1, round(seconds)), "gigabytes": round(gigabytes, 1)}


def masked(output: dict) -> dict:
    """An output without what may differ from run to run: the digits after ≈, the bytes of a picture, the execution count."""
    text = copy.deepcopy({k: v for k, v in output.items() if k != "execution_count"})
    if "text" in text:
        text["text"] = APPROXIMATE.sub("≈ #", "".join(text["text"]))
    for kind, value in text.get("data", {}).items():
        joined = "".join(value) if isinstance(value, list | str) else value
        text["data"][kind] = (
            "picture" if kind.startswith("image/") else APPROXIMATE.sub("≈ #", joined) if isinstance(joined, str) else joined
        )
    return text


def joined_streams(outputs: list[dict]) -> list[dict]:
    """The outputs with neighboring pieces of the same stream made one, as their number depends on timing."""
    merged: list[dict] = []
    for output in outputs:
        if merged and output["output_type"] == "stream" and merged[-1].get("name") == output["name"]:
            merged[-1]["text"] = "".join(merged[-1]["text"]) + "".join(output["text"])
        else:
            merged.append(copy.deepcopy(dict(output)))
    return merged


def code_digest(notebook: dict) -> str:
    """A short hash of all code in the notebook, but for the generated setup cell."""
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code" and "setup" not in tags(c)]
    return hashlib.sha256("\0".join("".join(c["source"]) for c in cells).encode("utf-8")).hexdigest()[:12]


def stable_id(cell: dict, seen: dict[str, int]) -> str:
    """An id made from what the cell's author wrote (not from what the tools generate in it), with a count if it isn't the first."""
    tag = next((t for t in tags(cell) if t == "setup" or t.startswith("from:")), None)
    own = re.sub(f"{headers.START}.*?{headers.END}", "", cell["source"], flags=re.S)
    base = hashlib.sha256((cell["cell_type"] + (tag or own)).encode("utf-8")).hexdigest()[:8]
    seen[base] = seen.get(base, 0) + 1
    return base if seen[base] == 1 else f"{base}-{seen[base]}"


def tidy(new: dict, old: dict, cost: dict, fresh: bool) -> dict:
    """The executed notebook `new` with sequential counts, stable ids and bare metadata; `old` gives the outputs that may stay."""
    digest = code_digest(new)
    recorded = old["metadata"].get("course", {})
    unchanged = recorded.get("code") == digest and not fresh
    stored = {(c["source"], n): c for c, n in numbered(old["cells"])}
    seen: dict[str, int] = {}
    count = 0
    for cell, n in numbered(new["cells"]):
        cell["id"] = stable_id(cell, seen)
        cell["metadata"] = {"tags": tags(cell)} if tags(cell) else {}
        if cell["cell_type"] != "code":
            continue
        count += 1
        cell["execution_count"] = count
        cell["outputs"] = [tidy_output(output, count) for output in joined_streams(cell["outputs"])]
        before = stored.get((cell["source"], n), {}).get("outputs")
        if before is not None and unchanged and ("nbval-ignore-output" in tags(cell) or same(cell["outputs"], before)):
            cell["outputs"] = [tidy_output(output, count) for output in joined_streams(before)]
    new["metadata"] = {
        "course": recorded if unchanged else {**cost, "code": digest},
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    new["nbformat"], new["nbformat_minor"] = 4, 5
    return new


def tidy_output(output: dict, count: int) -> dict:
    """An output as it is stored: text in lines, no widget that has lost its state, no traceback that names this machine's files."""
    if output["output_type"] == "stream":
        return dict(output, text="".join(output["text"]).splitlines(keepends=True))
    if output["output_type"] == "error":
        return dict(output, traceback=[f"{output['ename']}: {output['evalue']}"])
    data = {
        kind: "".join(value).splitlines(keepends=True) if kind.startswith("text/") else value
        for kind, value in output["data"].items()
        if kind != "application/vnd.jupyter.widget-view+json"
    }
    return dict(output, data=data, metadata={}, **({"execution_count": count} if "execution_count" in output else {}))


def numbered(cells: list[dict]) -> list[tuple[dict, int]]:
    """Each cell with how many cells of the same source stand before it."""
    seen: dict[str, int] = {}
    pairs = []
    for cell in cells:
        cell["source"] = "".join(cell["source"])
        pairs.append((cell, seen.get(cell["source"], 0)))
        seen[cell["source"]] = pairs[-1][1] + 1
    return pairs


def same(new: list[dict], old: list[dict]) -> bool:
    """Whether two lists of outputs agree after masking."""
    return [masked(o) for o in joined_streams(new)] == [masked(o) for o in joined_streams(old)]


def relative(path: Path) -> str:
    """The path as readers write it."""
    return path.relative_to(ROOT).as_posix()


def last_error(error: Exception) -> str:
    """The failing cell and its error, without the colored traceback."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))


def execute(paths: list[Path], fresh: bool = False) -> int:
    """Run notebooks and store their outputs in place; returns an exit status. A notebook that fails is left as it was."""
    failed = 0
    for path in paths:
        print(f"{relative(path)} ... ", end="", flush=True)
        try:
            old = read_notebook(path)
            run, cost = run_notebook(path)
        except FAILURES as error:
            failed += 1
            print(f"failed\n{last_error(error)}")
            continue
        new = tidy(json.loads(nbformat.writes(run)), old, cost, fresh)
        headers.refresh_header(new, path, ROOT)
        text = notebook_text(new)
        if text != path.read_text(encoding="utf-8"):
            write_atomically(path, text)
        print(f"{cost['seconds']} s, {cost['gigabytes']} GB")
    return 1 if failed else 0


def achievements(notebook: dict) -> list[str]:
    """The closing lines of the last cell that printed something, exercises left out."""
    texts = ["".join(o["text"]) for c in notebook["cells"] for o in c.get("outputs", ()) if o.get("name") == "stdout"]
    closing = [text for text in texts if text.strip() and not text.startswith("Exercise ")][-1:]
    return [line for text in closing for line in text.splitlines() if line.strip()][-3:]


def run(paths: list[Path], names: list[str]) -> int:
    """Run the main notebooks of `paths`, and those named as files, with a progress bar; print what each achieved.

    The executed copies are kept under runs/. Returns an exit status.
    """
    mains = headers.main_notebooks(ROOT)
    named = [Path(name).name for name in names]
    paths = [p for p in paths if p in mains or p.name in named]
    failed = 0
    for path in tqdm(paths, desc="notebooks", disable=None):
        target = ROOT / "runs" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            notebook, cost = run_notebook(path)
        except FAILURES as error:
            failed += 1
            tqdm.write(f"{relative(path)} failed\n{last_error(error)}")
            continue
        write_atomically(target, nbformat.writes(notebook) + "\n")
        tqdm.write(f"{relative(path)}: {cost['seconds']} s, {cost['gigabytes']} GB; executed copy in {relative(target)}")
        for line in achievements(notebook):
            tqdm.write(f"    {line}")
    return 1 if failed else 0
