"""The benchmark of chapter 4 compares equal things, says what it couldn't measure, and judges each type against each reference."""

import re

import pytest
import torch

pytest.importorskip("transformers")
from tools import bench_gpt  # noqa: E402

TINY = ("a tiny step", {"vocab_size": 40, "n_layers": 1, "n_heads": 2, "n_channels": 16}, 8, 2, True, 2)


@pytest.mark.parametrize("fast", [True, False])
def test_each_type_is_judged_or_said_to_be_missing(monkeypatch, capsys, fast):
    monkeypatch.setattr(bench_gpt, "has_fast_bf16", lambda: fast)
    bench_gpt.bench(*TINY, 1e-9, 1e9)
    said = capsys.readouterr().out
    assert "equal results first" in said
    assert re.search(r"target 1e-09 x transformers in fp32, ours in fp32: [\d.]+, reached", said)
    in_bf16 = re.findall(r"x transformers in (fp32|bf16 autocast), ours in bf16 autocast: [\d.]+, not reached", said)
    assert in_bf16 == (["fp32", "bf16 autocast"] if fast else [])
    assert ("not measured" in said) is not fast


def test_bf16_is_judged_by_its_speed(monkeypatch):
    for speeds, fast in (({torch.bfloat16: 2.0, torch.float32: 1.0}, True), ({torch.bfloat16: 1.0, torch.float32: 5.0}, False)):
        monkeypatch.setattr(bench_gpt, "matrix_product_speed", speeds.get)
        assert bench_gpt.has_fast_bf16() is fast


def test_unequal_models_are_not_timed(monkeypatch):
    honest = bench_gpt.reference_with_weights_of

    def differing(model):
        reference = honest(model)
        with torch.no_grad():
            reference.transformer.h[0].mlp.c_fc.bias += 0.1
        return reference

    monkeypatch.setattr(bench_gpt, "reference_with_weights_of", differing)
    with pytest.raises(AssertionError):
        bench_gpt.bench(*TINY, 1.0, 1.0)
