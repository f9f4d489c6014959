"""DDP-script.py under torchrun on this machine: equal to one process, and no orphans when a worker is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support import ROOT

SCRIPT = ROOT / "appendix-A" / "03_main-chapter-code" / "DDP-script.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
SMALL = ["--epochs", "10", "--examples", "256", "--dtype", "float64"]
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", PYTHONUTF8="1")
linux = pytest.mark.skipif(os.name == "nt", reason="torchrun's store and signals differ on Windows")


def run(command, *options):
    return subprocess.run([*command, *map(str, options)], env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=600)


def losses(folder):
    return json.loads((folder / "losses.json").read_text(encoding="utf-8"))


@linux
@pytest.mark.slow
@pytest.mark.parametrize("average", ["ddp", "by-hand"])
def test_two_processes_equal_one(tmp_path, average):
    one = run([sys.executable, str(SCRIPT)], *SMALL, "--out", tmp_path / "one")
    two = run(TORCHRUN, *SMALL, "--average", average, "--out", tmp_path / "two")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    a, b = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(a) == len(b) == 40
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-5
    assert a[-1] < a[0] - 0.1
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["losses.json", "model.safetensors"]


ENDS = """import os, runpy, sys
try:
    runpy.run_path(sys.argv.pop(1), run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
left = {open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")}
print("THREADS", *sorted(left), flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="lists threads in /proc")
@pytest.mark.slow
@pytest.mark.parametrize("average", ["ddp", "by-hand"])
def test_the_group_is_really_gone_at_the_end(tmp_path, average):
    """A thread of gloo that still holds a tensor while Python shuts down aborts the process, now and then."""
    ends = tmp_path / "ends.py"
    ends.write_text(ENDS, encoding="utf-8")
    done = run([*TORCHRUN[:-1], str(ends), str(SCRIPT)], "--epochs", 1, "--average", average)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("THREADS") == 2
    assert "gloo" not in done.stdout


SHARDED = """import copy, sys, torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
{lines}
class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x

dist.init_process_group("gloo")
torch.manual_seed(0)
model = Stack().double()
whole = copy.deepcopy(model)
{calls}
optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (model, whole)]
for step in range(20):
    x = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    for network, optimizer, rows in zip((model, whole), optimizers, (x[dist.get_rank()::2], x)):
        optimizer.zero_grad()
        F.mse_loss(network(rows), rows.flip(1)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()
pairs = list(zip(model.parameters(), whole.parameters(), strict=True))
apart = max((p.full_tensor() - q).abs().max().item() for p, q in pairs)
share = sum(p.to_local().numel() for p, _ in pairs) / sum(q.numel() for _, q in pairs)
sys.stdout.write(f"APART {{apart}}\\nSHARE {{share}}\\n")          # one write: the other process uses the same pipe
dist.destroy_process_group()
"""


@linux
@pytest.mark.slow
def test_the_guide_shards_a_model_in_its_four_lines(tmp_path):
    guide = (SCRIPT.parent / "from-two-processes-to-many-machines.md").read_text(encoding="utf-8")
    lines, calls = re.search(r"```python\n(.+?)\n\n(.+?)\n```", guide, re.S).groups()
    sharded = tmp_path / "sharded.py"
    sharded.write_text(SHARDED.format(lines=lines, calls=calls), encoding="utf-8")
    done = run([*TORCHRUN[:-1], str(sharded)])
    assert done.returncode == 0, done.stderr
    apart = [float(x) for x in re.findall(r"APART (\S+)", done.stdout)]
    assert len(apart) == 2
    assert max(apart) < 1e-12
    assert re.findall(r"SHARE (\S+)", done.stdout) == ["0.5", "0.5"]


@linux
@pytest.mark.slow
def test_a_killed_worker_ends_the_job_without_orphans():
    job = subprocess.Popen([*TORCHRUN, "--epochs", "1000000"], env=ENVIRONMENT, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        workers = []
        deadline = time.monotonic() + 60
        while len(workers) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
            workers = [p for p in psutil.Process(job.pid).children(recursive=True) if "DDP-script.py" in " ".join(p.cmdline())]
        assert len(workers) == 2
        time.sleep(8)                                                # into the training loop
        workers[1].send_signal(signal.SIGKILL)
        _, said = job.communicate(timeout=600)
    finally:
        job.kill()
    assert job.returncode != 0
    assert "SIGKILL" in said or "Signal 9" in said
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


@pytest.mark.parametrize(("options", "message"), [
    (["--examples", "10"], "10 examples don't fill one batch of 64; choose a smaller --batch"),
])
def test_bad_sizes_are_named(options, message):
    done = run([sys.executable, str(SCRIPT)], *options)
    assert done.returncode == 2
    assert message in done.stderr


@linux
@pytest.mark.slow
def test_an_odd_batch_on_two_processes_is_named():
    done = run(TORCHRUN, "--batch", "63")
    assert done.returncode != 0
    assert "a batch of 63 can't be dealt out evenly to 2 processes; choose a multiple of 2" in done.stderr
