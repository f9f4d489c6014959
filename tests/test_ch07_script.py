"""Chapter 7's script: each stage from a folder to a folder, files from elsewhere unchanged, and errors that name the remedy."""

import json

import pytest
import torch

from tests.support import ROOT, chapter

ch04, ch05, ch07 = chapter("ch04"), chapter("ch05"), chapter("ch07")
script = chapter("ch07", "gpt_human_feedback")
TOKENIZER = ch05.load_tokenizer(ch05.bundled_folder("tales-small"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a GPT of one narrow block and random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "gpt"
    ch05.save_checkpoint(folder, ch04.GPTModel(ch04.GPTConfig(2048, 512, 32, 2, 1, 0.0)), TOKENIZER)
    return folder


def instructions(path, n=48):
    rows = [{"instruction": f"Say {word} {i}.", "input": "", "output": f"{word}."} for i in range(n // 2) for word in ("yes", "no")]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def preferences(path, n=24):
    rows = [{"prompt": f"Are you there? {i}", "chosen": "Yes, gladly.", "rejected": "No."} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refused(capsys, *arguments):
    """What the script says on stderr, having ended with status 2."""
    assert script.main([*map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpt_human_feedback.py: ")
    return said


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_file_in_alpacas_format_trains_unchanged(tmp_path, tiny, capsys):
    data, out = instructions(tmp_path / "alpaca.json"), tmp_path / "sft"
    arguments = ["--method", "sft", "--start", tiny, "--data", data, "--epochs", 4, "--learning-rate", 1e-2, "--test-records", 21]
    assert script.main([*map(str, [*arguments, "--out", out])]) == 0
    said = capsys.readouterr().out
    assert "24 steps; loss " in said
    assert "drawn  true score before " in said and "nats an answer" in said
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["settings"]["learning_rate"] == 0.01
    assert record["settings"]["device"] in ("cpu", "cuda", "mps") and record["settings"]["threads"] >= 1
    assert record["curve"][-1]["step"] == 24
    assert 0 <= record["result"]["after"]["greedy"] <= 1
    model, tokenizer = ch05.load_pretrained(out)
    assert not same(model, ch05.load_pretrained(tiny)[0])
    (row,) = ch05.generate_cached(model, [ch07.format_prompt("Say yes 3.", "", tokenizer)], 8, tokenizer.eot_token)
    assert row[-1] == tokenizer.eot_token


def test_a_gpt2_takes_the_same_path(tmp_path, capsys):
    torch.manual_seed(0)
    gpt2, start, out = ch05.load_tokenizer("gpt2"), tmp_path / "gpt2", tmp_path / "sft"
    ch05.save_checkpoint(start, ch04.GPTModel(ch04.GPTConfig(gpt2.n_vocab, 512, 16, 2, 1, 0.0)), gpt2)
    for method, data in (("sft", instructions(tmp_path / "alpaca.json", 8)), ("dpo", preferences(tmp_path / "mine.jsonl", 8))):
        arguments = ["--method", method, "--start", start, "--data", data, "--test-records", 21, "--out", out]
        assert script.main([*map(str, arguments)]) == 0
        model, tokenizer = ch05.load_pretrained(out)
        assert tokenizer.n_vocab == 50_257 and not same(model, ch05.load_pretrained(start)[0])


def test_preferences_from_a_file_move_the_policy_and_not_the_start(tmp_path, tiny, capsys):
    before = ch05.load_pretrained(tiny)[0]
    data, out = preferences(tmp_path / "mine.jsonl"), tmp_path / "dpo"
    arguments = ["--method", "dpo", "--start", tiny, "--data", data, "--epochs", 3, "--learning-rate", 3e-3, "--test-records", 21]
    assert script.main([*map(str, [*arguments, "--out", out])]) == 0
    curve = json.loads((out / "run.json").read_text(encoding="utf-8"))["curve"]
    assert curve[-1]["loss"] < 0.69
    after = ch05.load_pretrained(out)[0]
    assert same(before, ch05.load_pretrained(tiny)[0])
    pair = ch07.PreferenceDataset([json.loads(data.read_text(encoding="utf-8").splitlines()[0])], TOKENIZER)
    lead = [ch07.sequence_log_probs(m, pair.chosen) - ch07.sequence_log_probs(m, pair.rejected) for m in (before, after)]
    assert lead[1] > lead[0]


@pytest.mark.slow
def test_the_models_own_answers_are_judged_and_learned_from_with_two_seeds(tmp_path, capsys):
    arguments = ["--method", "dpo", "--start", ROOT / "models" / "tales-sft", "--records", 40, "--test-records", 21, "--seeds", 2]
    assert script.main([*map(str, [*arguments, "--out", tmp_path / "dpo"])]) == 0
    said = capsys.readouterr().out
    assert said.count("pairs with a majority, of 40 requests") == 2
    assert "of the comparisons, ties counted half" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["comparison.json", "dpo-1", "dpo-2"]
    rows = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["dpo"]
    assert set(rows) == {"1", "2"} and rows["1"] != rows["2"]
    assert rows["1"] == json.loads((tmp_path / "dpo-1" / "run.json").read_text(encoding="utf-8"))["result"]


def test_a_reward_model_and_then_ppo(tmp_path, tiny, capsys):
    data = preferences(tmp_path / "mine.jsonl")
    reward, out = tmp_path / "runs" / "reward", tmp_path / "runs" / "ppo"
    assert script.main([*map(str, ["--method", "reward", "--start", tiny, "--data", data, "--batch", 4, "--out", reward])]) == 0
    assert "of 300 held-out pairs" in capsys.readouterr().out
    arguments = ["--method", "ppo", "--start", tiny, "--reward", reward, "--records", 8, "--batch", 4, "--test-records", 21]
    assert script.main([*map(str, [*arguments, "--out", out])]) == 0
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert [row["step"] for row in record["curve"]] == [1, 2] and record["curve"][0]["kl"] == pytest.approx(0, abs=1e-3)
    assert {"reward", "kl", "drawn"} <= set(record["result"]["after"])
    assert not same(ch05.load_pretrained(out)[0], ch05.load_pretrained(tiny)[0])


def test_grpo(tmp_path, tiny):
    arguments = ["--method", "grpo", "--start", tiny, "--records", 4, "--batch", 16, "--test-records", 21]
    assert script.main([*map(str, [*arguments, "--out", tmp_path / "grpo"])]) == 0
    record = json.loads((tmp_path / "grpo" / "run.json").read_text(encoding="utf-8"))
    assert len(record["curve"]) == 2 and 0 <= record["curve"][0]["reward"] <= 1


@pytest.mark.parametrize("method", ["ppo", "grpo", "dpo"])
def test_a_reward_model_that_is_not_there(tmp_path, tiny, capsys, method):
    arguments = ["--method", method, "--start", tiny, "--reward", tmp_path / "none", "--records", 4, "--out", tmp_path / "out"]
    said = refused(capsys, *arguments)
    assert "no reward model in" in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "text", "words"), [
    ("broken.jsonl", '{"prompt": "Hello?", "chosen": "Yes."', "line 1"),
    ("one-sided.jsonl", '{"prompt": "Hello?", "chosen": "Yes.", "rejected": ""}\n', "rejected"),
    ("same.jsonl", '{"prompt": "Hello?", "chosen": "Yes.", "rejected": "Yes."}\n', "same"),
    ("empty.jsonl", "", "the file is empty"),
    ("long.jsonl", json.dumps({"prompt": "Hello?", "chosen": "so " * 600, "rejected": "No."}) + "\n", "at most 512"),
])
def test_preferences_that_cannot_be_used(tmp_path, tiny, capsys, name, text, words):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert words in refused(capsys, "--method", "dpo", "--start", tiny, "--data", tmp_path / name, "--out", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_instructions_that_cannot_be_used(tmp_path, tiny, capsys):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"instruction": "Say it.", "output": "It."}\n{"instruction": ""}\n', encoding="utf-8")
    assert "line 2" in refused(capsys, "--method", "sft", "--start", tiny, "--data", path, "--out", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["broken.jsonl"]


def test_no_such_model(tmp_path, capsys):
    assert "no-such-folder" in refused(capsys, "--method", "sft", "--start", "no-such-folder", "--out", tmp_path / "out")


@pytest.mark.parametrize("arguments", [
    [], ["--method", "ppo2"], ["--method", "dpo", "--beta", "0"], ["--method", "sft", "--batch", "0"],
    ["--method", "grpo", "--data", "x.jsonl"], ["--method", "sft", "--seeds", "3"]])
def test_a_command_line_that_cannot_be(arguments):
    with pytest.raises(SystemExit):
        script.main(arguments)


def test_the_recorded_comparison_has_three_seeds_of_each_method_and_what_the_script_measures():
    rows = json.loads((ROOT / "ch07" / "01_main-chapter-code" / "comparison.json").read_text(encoding="utf-8"))
    assert {method: set(runs) for method, runs in rows.items()} == dict.fromkeys(("dpo", "ppo", "grpo"), {"1", "2", "3"})
    results = [result for runs in rows.values() for result in runs.values()]
    assert len({json.dumps(result) for result in results}) == 9
    for result in results:
        assert {"wins drawn", "half width drawn", "wins greedy", "half width greedy", "minutes"} <= set(result)
        measured = {"drawn", "greedy", "visible", "held out", "distinct", "kl", "reward"}
        assert set(result["after"]) == set(result["before"]) == measured
        assert result["before"]["kl"] == 0 < result["after"]["kl"]
