"""The bonus on variants: KTO, ORPO and SimPO by hand and by formula, and a small study that goes on where it stopped."""

import json
import math

import pytest
import torch

from tests.support import program

variants = program("ch07/04_preference-tuning-variants/variants.py")


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def four(seed=0, n=12):
    return -30 * torch.rand(4, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def test_kto_is_the_published_formula():
    pc, pr, rc, rr = four()
    h = [0.1 * (a - b).item() for a, b in zip(torch.cat((pc, pr)), torch.cat((rc, rr)), strict=True)]
    z = max(0.0, sum(h) / len(h))
    published = (sum(1 - sigmoid(x - z) for x in h[:12]) + sum(1 - sigmoid(z - x) for x in h[12:])) / 24
    assert variants.kto_loss(pc, pr, rc, rr).item() == pytest.approx(published, abs=1e-5)
    assert variants.kto_loss(rc, rr, rc, rr).item() == pytest.approx(0.5)               # at the start
    assert variants.kto_loss(rc + 5, rr - 5, rc, rr) < 0.5 < variants.kto_loss(rc - 5, rr + 5, rc, rr)


def test_orpo_is_the_published_formula():
    pc, pr, *_ = four()
    n = torch.arange(1, 13)
    total = 0.0
    for a, b, k in zip(pc.tolist(), pr.tolist(), n.tolist(), strict=True):
        p, q = math.exp(a / k), math.exp(b / k)
        total -= a / k + 0.1 * math.log(sigmoid(math.log(p / (1 - p)) - math.log(q / (1 - q))))
    assert variants.orpo_loss(pc, pr, n, n).item() == pytest.approx(total / 12, abs=1e-5)
    certain = torch.zeros(1, requires_grad=True)
    loss = variants.orpo_loss(certain, torch.tensor([-9.0]), torch.ones(1), torch.ones(1))
    loss.backward()
    assert loss.isfinite() and certain.grad.isfinite()


def test_simpo_by_hand_and_by_formula():
    pair, lengths = (torch.tensor([-2.0]), torch.tensor([-6.0])), (torch.tensor([2]), torch.tensor([3]))
    loss = variants.simpo_loss(*pair, *lengths, beta=2.0, margin=0.5)
    assert loss.item() == pytest.approx(-math.log(sigmoid(2 * (-1 + 2) - 0.5)), abs=1e-6)
    pc, pr, *_ = four(3)
    n, m = torch.arange(1, 13), torch.arange(2, 14)
    leads = [2 * (a / i - b / j) - 0.5 for a, b, i, j in zip(*map(torch.Tensor.tolist, (pc, pr, n, m)), strict=True)]
    published = -sum(math.log(sigmoid(lead)) for lead in leads) / 12
    assert variants.simpo_loss(pc, pr, n, m).item() == pytest.approx(published, abs=1e-5)


@pytest.mark.slow
def test_a_small_study_goes_on_where_it_stopped(tmp_path, capsys):
    out = tmp_path / "results.json"
    small = ["--requests", "42", "--pairs", "24", "--test", "21", "--out", str(out)]
    assert variants.main([*small, "--only", "finetuned", "KTO"]) == 0
    first = json.loads(out.read_text(encoding="utf-8"))
    assert set(first["variants"]) == {"finetuned", "KTO"} and first["variants"]["finetuned"]["wins"] == 0.5
    assert variants.main([*small, "--only", "KTO", "best of 2", "SimPO"]) == 0
    second = json.loads(out.read_text(encoding="utf-8"))
    assert second["variants"]["KTO"] == first["variants"]["KTO"]
    assert set(second["variants"]) == {"finetuned", "KTO", "best of 2", "SimPO"}
    capsys.readouterr()
    assert variants.main([*small, "--only", "KTO"]) == 0
    assert "has them all" in capsys.readouterr().out


def test_too_few_requests():
    with pytest.raises(SystemExit):
        variants.main(["--requests", "20"])


def test_the_record_fits_the_script():
    record = json.loads(variants.RESULTS.read_text(encoding="utf-8"))
    assert set(record["variants"]) == set(variants.VARIANTS)
    assert record["settings"] == {"requests": 1_000, "pairs": 800, "test": 210}
    for row in record["variants"].values():
        assert 0 <= row["true score"] <= 1 and 0 <= row["wins"] <= 1
