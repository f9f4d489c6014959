"""The benchmark of chapter 8 compares equal things, and says honestly what was reached."""

import re

import pytest
import torch

from tools import bench_generate

TINY = {"vocab_size": 40, "context_length": 24, "n_channels": 16, "n_heads": 2, "n_layers": 1}


@pytest.mark.parametrize(("target", "verdict"), [(1e-9, "reached"), (1e9, "not reached")])
def test_ratios_are_judged(capsys, monkeypatch, target, verdict):
    monkeypatch.setattr(bench_generate, "TARGETS", [("ours, float32", "transformers, float32", target)])
    monkeypatch.setattr(bench_generate, "memory_speed", lambda dtype: 1e9)
    bench_generate.bench(TINY, 4, 6, 2)
    said = capsys.readouterr().out
    assert "the same 6 tokens first" in said and "int8 on a text of 10 tokens" in said
    assert re.search(rf"target {re.escape(str(target))} x transformers, float32, ours, float32: [\d.e+]+, {verdict}", said)
    for name in ("transformers, float32", "ours, int8", "ours, float32, packed, 8 texts", "no cache, float32"):
        assert re.search(rf"{name} +[\d.]+ +[\d.]+ +[\d.]+", said)
    assert ("ours, bfloat16" in said) == bench_generate.has_fast_bf16()


def test_all_contenders_write_the_same_tokens():
    torch.manual_seed(0)
    model = bench_generate.previous_chapters.GPTModel(bench_generate.previous_chapters.GPTConfig(**TINY)).eval()
    for p in model.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=0.3)
    prompts = torch.randint(40, (8, 4), generator=torch.Generator().manual_seed(0)).tolist()
    runs = bench_generate.contenders(model, prompts, 6)
    written = {name: run() for name, run in runs.items()}
    exact = [name for name in written if "float32" in name]
    assert len(exact) == 6 and all(written[name][0] == written["no cache, float32"][0] for name in exact)
    assert len(written["ours, float32, packed, 8 texts"]) == 8


def test_other_tokens_stop_it(monkeypatch):
    real = bench_generate.contenders
    monkeypatch.setattr(bench_generate, "contenders", lambda *a: real(*a) | {"ours, float32": lambda: [[0]]})
    with pytest.raises(AssertionError, match="the tokens differ"):
        bench_generate.bench(TINY, 4, 6, 1)


def test_a_step_reads_all_matrices_but_the_positions():
    model = bench_generate.previous_chapters.GPTModel(bench_generate.previous_chapters.GPTConfig(**TINY))
    n = sum(p.numel() for p in model.parameters())
    assert bench_generate.weight_bytes(model, 4) == 4 * (n - 24 * 16)
