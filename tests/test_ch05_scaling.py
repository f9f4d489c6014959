"""The scaling bonus: the fit finds constants that are known, the study goes on where it stopped, and its record fits its script."""

import json

import pytest
import torch

from tests.support import ROOT, program

FOLDER = ROOT / "ch05" / "02_bonus_scaling-study"
KNOWN = torch.tensor([0.2, 5.5, 0.45, 6.0, 0.5], dtype=torch.double)          # log E, log A, a, log B, b


def script():
    return program("ch05/02_bonus_scaling-study/study.py")


def grid():
    """N and D of the study's own runs that the law may see."""
    study = script()
    N, D = torch.meshgrid(torch.tensor([study.weights(size) for size in study.SIZES]), torch.tensor(study.BUDGETS), indexing="ij")
    return N.flatten().double(), D.flatten().double()


def test_the_law_by_hand():
    fit = torch.tensor([0.0, 3.0, 0.5, 2.0, 1.0], dtype=torch.double)
    N, D = torch.tensor([100.0, 400.0]).double(), torch.tensor([10.0, 20.0]).double()
    e = 2.718281828459045
    wanted = [1 + e**3 / 10 + e**2 / 10, 1 + e**3 / 20 + e**2 / 20]
    torch.testing.assert_close(script().law(fit, N, D), torch.tensor(wanted, dtype=torch.double))


def test_the_fit_recovers_known_constants():
    N, D = grid()
    found, misfit = script().fit_law(N, D, script().law(KNOWN, N, D))
    torch.testing.assert_close(found, KNOWN, atol=1e-3, rtol=0)
    assert misfit < 1e-9


def test_noise_moves_predictions_little_and_one_bad_run_hardly():
    study, (N, D) = script(), grid()
    clean = study.law(KNOWN, N, D)
    noisy = clean * (1 + 0.005 * torch.randn(len(N), generator=torch.Generator().manual_seed(5)).double())
    larger = torch.tensor([4 * N.max()]).double(), torch.tensor([D.max()]).double()
    fit, _ = study.fit_law(N, D, noisy)
    assert abs(study.law(fit, *larger) / study.law(KNOWN, *larger) - 1) < 0.03
    bad = clean.clone()
    bad[5] *= 1.5
    moved = {delta: (study.law(study.fit_law(N, D, bad, [KNOWN], delta)[0], N, D) / clean - 1).abs().mean() for delta in (1e-3, 10)}
    assert moved[1e-3] < 0.005 < 0.02 < moved[10]


def test_too_few_runs_are_refused():
    N, D = (x[:5] for x in grid())
    with pytest.raises(ValueError, match="5 runs can't test a law of five constants; give it at least 6"):
        script().fit_law(N, D, script().law(KNOWN, N, D))


def test_losses_are_found_by_size_budget_and_seed():
    study, runs = script(), []
    for n, (size, budget, seed) in enumerate([*study.FITTED, *study.REPEATED]):
        runs.append({"N": study.weights(size), "D": budget, "seed": seed, "loss": float(n)})
    assert list(study.loss_of(runs[::-1], study.FITTED).values()) == [float(n) for n in range(len(study.FITTED))]
    held_out = {(size, budget) for size, budget, _ in study.HELD_OUT}
    assert not held_out & {(size, budget) for size, budget, _ in study.FITTED}


def test_weights_are_those_that_multiply():
    study = script()
    config = study.GPTConfig(study.VOCAB_SIZE, study.WINDOW, 48, 3, 3)
    matrices = sum(p.numel() for name, p in study.GPTModel(config).named_parameters() if p.ndim == 2 and "position" not in name)
    assert study.weights((48, 3, 3)) == matrices


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The study, shrunk to two sizes and two budgets, and writing elsewhere."""
    study = script()
    small, large = (8, 1, 1), (16, 1, 1)
    for name, value in {"FITTED": [(small, 512, 5), (small, 1024, 5)], "HELD_OUT": [(large, 512, 5), (large, 1024, 5)],
                        "REPEATED": [(small, 512, 6), (large, 512, 6)], "LONGER": 1024, "HERE": tmp_path,
                        "RESULTS": tmp_path / "results.json", "held_out_windows": lambda tokenizer: windows(study),
                        "fitted": lambda runs: {"a": 1.0}}.items():
        monkeypatch.setattr(study, name, value)
    return study


def windows(study):
    ids = torch.randint(study.VOCAB_SIZE, (2 * study.BATCH, study.WINDOW + 1), generator=torch.Generator().manual_seed(1))
    return [(part[:, :-1], part[:, 1:]) for part in ids.split(study.BATCH)]


def test_a_study_that_was_stopped_goes_on_and_repeats_itself(tiny, capsys):
    before = torch.get_num_threads()
    try:
        assert tiny.main(["--minutes", "0"]) == 0 and not tiny.RESULTS.exists()
        assert tiny.main([]) == 0
        whole = json.loads(tiny.RESULTS.read_text(encoding="utf-8"))
        assert [(run["channels"], run["D"], run["seed"]) for run in whole["runs"]] == [
            (8, 512, 5), (8, 1024, 5), (16, 512, 5), (16, 1024, 5), (8, 512, 6), (16, 512, 6)]
        assert whole["runs"][0]["loss"] != whole["runs"][4]["loss"]
        assert whole["law"] == {"a": 1.0}
        stopped = {name: value for name, value in whole.items() if name != "law"} | {"runs": whole["runs"][:1]}
        stopped["runs"][0]["loss"] = 99.0                                          # would change, were it run again
        tiny.RESULTS.write_text(json.dumps(stopped), encoding="utf-8")
        assert tiny.main([]) == 0
        again = json.loads(tiny.RESULTS.read_text(encoding="utf-8"))
        assert [run["loss"] for run in again["runs"]] == [99.0, *(run["loss"] for run in whole["runs"][1:])]
        assert "6 of 6 runs" in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)


def test_runs_of_different_budgets_begin_with_the_same_text(tiny):
    tokenizer = tiny.train_tokenizer()
    short, long = tiny.token_stream(tokenizer, 1_000), tiny.token_stream(tokenizer, 3_000)
    assert (long[:1_000] == short).all() and long[0] == tokenizer.eot_token and long.max() < tiny.VOCAB_SIZE


def test_the_record_fits_the_script():
    study = script()
    record = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    assert {"command", "device", "torch", "runs", "law"} <= set(record)
    wanted = {(study.weights(size), budget, seed) for size, budget, seed in [*study.FITTED, *study.HELD_OUT, *study.REPEATED]}
    assert {(run["N"], run["D"], run["seed"]) for run in record["runs"]} == wanted and len(record["runs"]) == len(wanted)
    assert all(run["commit"] != "unknown" and 0 < run["loss"] < 6.24 for run in record["runs"])
    fitted = study.fitted(record["runs"])
    assert all(abs(fitted[name] - value) < 0.02 * max(1, abs(value)) for name, value in record["law"].items())
