"""The benchmark of chapter 5 compares equal things, and says honestly what was reached."""

import re

import numpy as np
import pytest
import torch

from tools import bench_train

TINY = ("a tiny step", {"vocab_size": 40, "n_layers": 1, "n_heads": 2, "n_channels": 16}, 8, 2)


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(0, 40, 50_000).astype(np.uint16)


@pytest.mark.parametrize(("target", "verdict"), [(1e-9, "reached"), (1e9, "not reached")])
def test_the_ratio_is_judged(capsys, ids, target, verdict):
    bench_train.bench(*TINY, target, ids)
    said = capsys.readouterr().out
    a, b = re.search(r"plain, float32 ([\d.]+), ours, float32 ([\d.]+)", said).groups()
    assert abs(float(a) - float(b)) < 1e-4
    assert re.search(rf"target {target} x plain .*: [\w, ]+ [\d.]+, {verdict}; data under 3 %: [\d.]+%", said)
    assert ("ours, bfloat16" in said) == (bench_train.ch05.autocast_dtype("cpu") == torch.bfloat16)


def test_unequal_losses_stop_it(ids, monkeypatch):
    monkeypatch.setattr(bench_train, "RATE", 1e-3)
    real = bench_train.plain_steps
    monkeypatch.setattr(bench_train, "plain_steps", lambda model, batches: real(bench_train.ch05.GPTModel(model.config), batches))
    with pytest.raises(AssertionError, match="the losses differ"):
        bench_train.bench(*TINY, 1.0, ids)
