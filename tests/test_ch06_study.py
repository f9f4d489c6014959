"""The additional experiments of chapter 6: the study goes on where it stopped, its paddings agree, its record fits its plan."""

import json

import pytest
import torch

from tests.support import ROOT, program

FOLDER = ROOT / "ch06" / "02_bonus_additional-experiments"


def script():
    return program("ch06/02_bonus_additional-experiments/study.py")


def test_no_run_is_planned_twice_and_every_choice_has_its_rate():
    runs = script().planned()
    assert len(set(runs)) == len(runs) and all(0 < run.rate < 0.1 and run.epochs > 0 for run in runs)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_on_either_side_changes_no_verdict(side):
    study = script()
    gpt, _ = study.load_pretrained("tales-small")
    torch.manual_seed(1)
    plain = study.SequenceClassifier(gpt).eval()
    padded = study.PaddedClassifier(gpt, 20, side).eval()
    padded.head = plain.head
    rows = [[2044, 5, 6, 7, 2044], [2044, 8, 2044], [2044, *range(9, 18), 2044]]
    torch.testing.assert_close(study.predict_logits(padded, rows), study.predict_logits(plain, rows), atol=1e-5, rtol=0)


def test_who_reads_padding_reads_something_else():
    study = script()
    gpt, _ = study.load_pretrained("tales-small")
    torch.manual_seed(1)
    plain = study.SequenceClassifier(gpt).eval()
    padded = study.PaddedClassifier(gpt, 20, "right", "padding").eval()
    padded.head = plain.head
    row = [[2044, 5, 6, 7, 2044]]
    wanted = study.predict_logits(plain, row)
    assert not torch.allclose(study.predict_logits(padded, row), wanted, atol=1e-3)
    padded.longest = 0                                           # alone, its last column is the last real token
    torch.testing.assert_close(study.predict_logits(padded, row), wanted)


def test_a_study_that_was_stopped_goes_on(monkeypatch, tmp_path):
    study, done = script(), []
    runs = [study.Run("endings", 64, seed=seed) for seed in range(3)]
    for name, value in {"HERE": tmp_path, "RESULTS": tmp_path / "results.json", "planned": lambda: runs,
                        "one_run": lambda run: done.append(run) or study.asdict(run) | {"accuracy": 0.5}}.items():
        monkeypatch.setattr(study, name, value)
    before = torch.get_num_threads()
    try:
        assert study.main(["--minutes", "-1"]) == 0 and not done
        assert study.main(["--only", "messages"]) == 0 and not done
        monkeypatch.setattr(study, "planned", lambda: runs[:2])
        assert study.main([]) == 0 and done == runs[:2]
        monkeypatch.setattr(study, "planned", lambda: runs)
        assert study.main([]) == 0 and done == runs
    finally:
        torch.set_num_threads(before)
    record = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in record["runs"]] == [0, 1, 2] and {"command", "device", "torch", "seeds"} <= set(record)


def test_the_record_fits_the_plan():
    study = script()
    record = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    runs = [study.Run(**{name: run[name] for name in study.asdict(study.Run())}) for run in record["runs"]]
    assert len(set(runs)) == len(runs) and set(runs) <= set(study.planned())
    for run, recorded in zip(runs, record["runs"]):
        assert recorded["commit"] != "unknown" and 0 < recorded["accuracy"] <= 1 and recorded["rate"] == run.rate
        assert recorded["epochs"] == run.epochs == len(recorded["validation"])
