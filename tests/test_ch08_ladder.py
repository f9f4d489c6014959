"""The ladder of caches: every rung writes the same tokens, and the recorded table is of these rungs."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from tests.support import ROOT, program

ladder = program("ch08/02_bonus_kv-cache/ladder.py")
RECORDED = json.loads((ROOT / "ch08" / "02_bonus_kv-cache" / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def models():
    """Two small models with random weights, so large that an error shows."""
    torch.manual_seed(0)
    made = [ladder.GPTModel(ladder.GPTConfig(50, 40, n_channels=16, n_heads=2, n_layers=n)).eval() for n in (3, 1)]
    for model in made:
        for p in model.parameters():
            if p.dim() == 2:
                torch.nn.init.normal_(p, std=0.3)
    return made


@pytest.mark.parametrize(("prompt", "n"), [([1], 1), ([1, 2, 3], 20), (list(range(30)), 10)])
def test_every_rung_writes_the_same(models, prompt, n):
    texts = {name: write(prompt, n) for name, write in ladder.rungs(*models, compiled=False).items() if name != "int8"}
    assert len(texts) == 5 and all(text == texts["no cache"] and len(text) == n for text in texts.values()), texts


def test_a_second_text_sees_nothing_of_the_first(models):
    write = ladder.fixed_cache(models[0], False)
    first = write([1, 2, 3], 20)
    write(list(range(20, 50)), 10)
    assert write([1, 2, 3], 20) == first


COMPILED = """
import ladder, torch
torch.manual_seed(0)
model = ladder.GPTModel(ladder.GPTConfig(50, 40, n_channels=16, n_heads=2, n_layers=2)).eval()
texts = [ladder.fixed_cache(model, compiled)([1, 2, 3], 12) for compiled in (True, False)]
assert texts[0] == texts[1], texts
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_the_compiled_step_is_the_same():
    folder = ROOT / "ch08" / "02_bonus_kv-cache"                              # in a process where its modules keep their names
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=folder, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr


def test_a_climb_measures_every_rung():
    calls = []
    writers = {name: lambda prompt, n, name=name: calls.append((name, n)) for name in "ab"}
    speed = ladder.climb(writers, [1], 5, rounds=2)
    assert [name for name, _ in calls] == ["a", "b"] * 3 and all(value > 0 for value in speed.values())


def test_the_recorded_table_is_of_these_rungs(models):
    names = list(ladder.rungs(*models))
    assert list(RECORDED["tokens a second"]["tales-base"]) == names and list(RECORDED["tokens a second"]["random"]) == names[:-1]
