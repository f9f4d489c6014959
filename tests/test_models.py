"""The bundled models: small, in half precision, readable by us and by transformers alike, and as good as their cards say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.support import ROOT, chapter, program

MODELS = sorted(p.parent for p in (ROOT / "models").glob("*/model.safetensors"))
ch05, ch07 = chapter("ch05"), chapter("ch07")


TELLERS = [folder for folder in MODELS if (folder / "curve.json").exists()]                # the others answer
ANSWERERS = [folder for folder in MODELS if folder not in TELLERS]


@pytest.fixture(params=MODELS, ids=lambda folder: folder.name, scope="module")
def folder(request):
    return request.param


@pytest.fixture(params=TELLERS, ids=lambda folder: folder.name, scope="module")
def teller(request):
    return request.param


@pytest.fixture(params=ANSWERERS, ids=lambda folder: folder.name, scope="module")
def answerer(request):
    return request.param


def test_there_is_one():
    assert "tales-small" in [folder.name for folder in MODELS]


def test_the_weights_are_in_half_precision_and_small(folder):
    path = folder / "model.safetensors"
    assert path.stat().st_size < 15e6
    with safe_open(path, framework="pt") as stored:
        assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"] == "float32"
    model, _ = ch05.load_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_they_share_one_tokenizer(folder):
    _, tokenizer = ch05.load_pretrained(folder)
    shared = ch05.load_tokenizer(ROOT / "models" / "tokenizer")
    assert tokenizer.merges == shared.merges
    assert tokenizer.special_tokens == shared.special_tokens
    assert tokenizer.n_vocab == 2048


def test_transformers_reads_the_same_model(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = ch05.load_pretrained(folder)
    theirs, their_tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    text = "<|endoftext|>Once there was a girl named Mia. She was very curious."
    ids = tokenizer.encode(text, allowed_special="all")
    assert their_tokenizer(text)["input_ids"] == ids
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor([ids])), theirs(torch.tensor([ids])).logits, atol=1e-5, rtol=1e-5)
    chat = [{"role": "user", "content": "Who is it?"}]
    rendered = their_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|user|>Who is it?<|assistant|>"


def test_the_card_says_what_was_measured(teller):
    found = json.loads((teller / "figures.json").read_text(encoding="utf-8"))
    card = (teller / "README.md").read_text(encoding="utf-8")
    for skill, share in found["rates"]["sampled"].items():
        assert f"| {skill} | {share:.1%} |" in card
    for split, perplexity in found["perplexity"].items():
        assert f"| {split} | {perplexity:.2f} |" in card
    curve = json.loads((teller / "curve.json").read_text(encoding="utf-8"))
    runs = json.loads((teller / "runs.json").read_text(encoding="utf-8"))
    assert curve[-1]["tokens"] == pytest.approx(sum(run["tokens"] for run in runs), rel=0.001)
    for run in runs:
        assert f"{run['tokens']:,.0f} in windows of {run['window']}" in card


@pytest.mark.slow
def test_it_writes_as_well_as_its_card_says(teller):
    from data.read_tale import passes

    found = json.loads((teller / "figures.json").read_text(encoding="utf-8"))["rates"]["sampled"]["all of them"]
    level = "simple" if "simple tales" in (teller / "README.md").read_text(encoding="utf-8") else "full"
    model, tokenizer = ch05.load_pretrained(teller.name)
    g, n = torch.Generator().manual_seed(1), 60                                      # another seed than the card's
    rows = ch05.generate_cached(model, [[tokenizer.eot_token]] * n, 450, tokenizer.eot_token,
                                lambda logits: ch05.sample_next(logits, 0.8, generator=g))
    share = np.mean([passes(tokenizer.decode([i for i in row if i != tokenizer.eot_token]), level) for row in rows])
    assert abs(share - found) < 4 * (found * (1 - found) / n) ** 0.5 + 0.02            # four standard errors


def test_the_card_of_a_model_that_answers(answerer):
    found = json.loads((answerer / "figures.json").read_text(encoding="utf-8"))
    card = (answerer / "README.md").read_text(encoding="utf-8")
    run = json.loads((answerer / "run.json").read_text(encoding="utf-8"))
    cells = " | ".join(f"{mean:.3f} ± {half:.3f}" for mean, half in (found["after"][:2], found["after"][2:]))
    assert f"| {answerer.name} | {cells} |" in card
    for family, score in found["families"].items():
        assert f"| {family} | {score:.2f} |" in card
    assert f"--records {run['settings']['records']} " in card
    assert f"{run['curve'][-1]['step']:,} steps" in card


@pytest.mark.slow
def test_it_answers_as_well_as_its_card_says(answerer):
    from data.instructions import judge, make_instructions

    mean, half = json.loads((answerer / "figures.json").read_text(encoding="utf-8"))["after"][:2]
    model, tokenizer = ch05.load_pretrained(answerer)
    asked = list(make_instructions(63, 77, "simple", "held-out wordings"))                # other requests than the card's
    texts = ch07.answers_of(model, tokenizer, asked, 72)
    scores = [judge(r, text).score for r, text in zip(asked, texts, strict=True)]
    assert abs(np.mean(scores) - mean) < 2 * (half + 1.96 * np.std(scores) / len(scores) ** 0.5)   # four standard errors


# ----------------------------------------------------------------------------------------------------- the program that bundles

def test_the_cards_command_makes_the_run_again():
    bundle = program("models/bundle_answers.py")
    script = chapter("ch07", "gpt_human_feedback")
    for arguments in (["--method", "sft", "--conversations", "7"], ["--method", "grpo", "--beta", "0.3", "--level", "full"],
                      ["--method", "ppo", "--learning-rate", "0.01", "--reward", "runs/other"]):
        run = vars(script.parse([*arguments, "--start", "models/tales-sft"]))
        run["learning_rate"] = run["learning_rate"] or 0.5
        again = vars(script.parse(bundle.command_of(run, Path("runs/x")).split()))
        assert again | {"out": None} == run | {"out": None}


def test_a_run_is_told_with_the_stages_before_it(tmp_path, monkeypatch):
    bundle = program("models/bundle_answers.py")
    monkeypatch.chdir(tmp_path)
    for name, start in (("sft", "tales-base"), ("grpo", "runs/sft")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"settings": {"start": start}}), encoding="utf-8")
    assert [path.as_posix() for path, _ in bundle.stages_of(Path("runs/grpo"))] == ["runs/sft", "runs/grpo"]
    assert [path.as_posix() for path, _ in bundle.stages_of(Path("runs/sft"))] == ["runs/sft"]


@pytest.mark.parametrize("settings", [{"method": "reward", "data": None}, {"method": "sft", "data": "mine.json"}])
def test_what_a_card_cannot_describe_is_not_bundled(tmp_path, settings):
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings}), encoding="utf-8")
    with pytest.raises(SystemExit, match="bundle a model that answers"):
        program("models/bundle_answers.py").main(tmp_path, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
