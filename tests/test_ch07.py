"""Chapter 7's first steps: prompts, what is learned of a record, the loss over parts of a batch, the order of batches."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from data.records import load_instructions
from tests.support import chapter

ch05, ch07 = chapter("ch05"), chapter("ch07")
TOKENIZER = ch05.load_pretrained("tales-small")[1]
USER, ASSISTANT, END = (*(TOKENIZER.special_tokens[name] for name in ("<|user|>", "<|assistant|>")), TOKENIZER.eot_token)
RECORDS = [{"instruction": "Say yes.", "input": "", "output": "Yes."},
           {"instruction": "Who is the hero?", "input": "Once there was a girl named Kate.", "output": "The hero is Kate."},
           {"instruction": "Tell me a tale.", "input": "",
            "output": "Once there was a boy. He had a kite. The kite was gone. He cried. He cried a lot."},
           {"instruction": "Where was the bell?", "input": "Ben lost it on the farm.", "output": "On the farm."}]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ch05.GPTModel(ch05.GPTConfig(TOKENIZER.n_vocab, 64, 16, 2, 2)).double().eval()


# ---------------------------------------------------------------- prompts

def test_a_prompt_is_user_text_assistant():
    ids = ch07.format_prompt("Who is it?", "A tale.", TOKENIZER)
    assert (ids[0], ids[-1]) == (USER, ASSISTANT)
    assert TOKENIZER.decode(ids[1:-1]) == "Who is it?\n\nA tale."
    assert TOKENIZER.decode(ch07.format_prompt("Who is it?", "", TOKENIZER)[1:-1]) == "Who is it?"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["<|user|>", "<|assistant|>", "<|endoftext|>", "<|pad|>", "hello", " ", "|>", "<|"]), min_size=1))
def test_no_special_token_can_be_typed(parts):
    text = "x" + "".join(parts)
    ids = ch07.format_prompt(text, text, TOKENIZER)
    assert not set(ids[1:-1]) & set(TOKENIZER.special_tokens.values())
    assert TOKENIZER.decode(ids[1:-1]) == f"{text}\n\n{text}"


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_instruction(empty):
    with pytest.raises(ValueError, match="the instruction is empty; say what is wanted"):
        ch07.format_prompt(empty, "A tale.", TOKENIZER)


def test_a_tokenizer_without_the_two_tokens_gets_headings():
    gpt2 = ch05.load_tokenizer("gpt2")
    for input_text in ("", "Once there was a cat."):
        ids = ch07.format_prompt("Who is it?", input_text, gpt2)
        assert ids[0] == gpt2.eot_token and gpt2.eot_token not in ids[1:]
        assert gpt2.decode(ids[1:]) == ch07.with_headings("Who is it?", input_text)
    assert ch07.with_headings("Who is it?", "") == "### Instruction:\nWho is it?\n\n### Response:\n"
    typed = ch07.format_prompt("Say <|endoftext|>.", "", gpt2)
    assert typed.count(gpt2.eot_token) == 1


# ---------------------------------------------------------------- what is learned

def test_targets_are_the_answer_and_its_end_and_nothing_else():
    for record, (ids, targets) in zip(RECORDS, ch07.InstructionDataset(RECORDS, TOKENIZER), strict=True):
        prompt = ch07.format_prompt(record["instruction"], record["input"], TOKENIZER)
        answer = [*TOKENIZER.encode_ordinary(record["output"]), END]
        assert ids == prompt + answer[:-1]
        assert [t for t in targets if t != -100] == answer
        assert targets[: len(prompt) - 1] == [-100] * (len(prompt) - 1)
        assert len(ids) == len(targets)


def test_a_record_must_fit():
    n = len(ch07.InstructionDataset(RECORDS[2:3], TOKENIZER)[0][0])
    assert len(ch07.InstructionDataset(RECORDS, TOKENIZER, max_length=n)) == 4
    with pytest.raises(ValueError, match=f"record 2 has .* tokens, at most {n - 1} fit; shorten it, or leave it out"):
        ch07.InstructionDataset(RECORDS, TOKENIZER, max_length=n - 1)


def test_the_loss_is_the_mean_over_answer_tokens_and_padding_changes_nothing(model):
    data = ch07.InstructionDataset(RECORDS, TOKENIZER)
    together = ch07.sft_loss(model, *ch07.instruction_batch([data[i] for i in range(4)]))
    total = n = 0
    for ids, targets in data:
        logits = model(torch.tensor([ids]))[0]                                           # (T, V)
        total = total + F.cross_entropy(logits, torch.tensor(targets), reduction="sum", ignore_index=-100)
        n += sum(t != -100 for t in targets)
    torch.testing.assert_close(together, total / n)


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(model):
    data = ch07.InstructionDataset(RECORDS, TOKENIZER)
    rows = [data[i] for i in range(4)]
    batch = ch07.instruction_batch(rows)
    ch07.sft_loss(model, *batch).backward()
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    n = int((batch[2] != -100).sum())
    for part in (rows[:1], rows[1:]):
        ch07.sft_loss(model, *ch07.instruction_batch(part), n_tokens=n).backward()
    for p, gradient in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    model.zero_grad()
    for part in (rows[:1], rows[1:]):
        (ch07.sft_loss(model, *ch07.instruction_batch(part)) / 2).backward()
    assert max((p.grad - g).abs().max() for p, g in zip(model.parameters(), whole, strict=True)) > 1e-4  # the mean of means


def test_no_gradient_reaches_the_prompt_tokens_targets(model):
    data = ch07.InstructionDataset(RECORDS[1:2], TOKENIZER)
    token_ids, mask, targets = ch07.instruction_batch([data[0]])
    logits = model(token_ids, mask).detach().requires_grad_()
    F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100).backward()
    learned = logits.grad.abs().sum(dim=-1)[0] > 0                                       # (T,)
    assert torch.equal(learned, targets[0] != -100)


# ---------------------------------------------------------------- batches

def test_every_epoch_has_every_record_once_in_an_order_of_its_own():
    records = [dict(r, instruction=f"{r['instruction']} {i}") for i in range(6) for r in RECORDS]
    data = ch07.InstructionDataset(records, TOKENIZER)
    batches = ch07.InstructionBatches(data, batch_size=5)
    assert batches.per_epoch == 5
    seen = []
    for epoch in range(2):
        order = []
        for step in range(5):
            token_ids, targets = batches[epoch * 5 + step]
            assert token_ids.shape == targets.shape
            order += batches.order[step]
        assert sorted(order) == list(range(24))
        seen.append(order)
    assert seen[0] != seen[1]
    again = ch07.InstructionBatches(data, batch_size=5)
    assert torch.equal(again[7][0], batches[7][0])


def test_supervised_finetuning_learns_four_answers():
    torch.manual_seed(0)
    model = ch05.GPTModel(ch05.GPTConfig(TOKENIZER.n_vocab, 96, 32, 2, 1, 0.0))
    batches = ch07.InstructionBatches(ch07.InstructionDataset(RECORDS, TOKENIZER), batch_size=4)
    optimizer = ch05.configure_optimizer(model, 1e-2)
    list(ch05.train(model, batches, optimizer, 60, lambda step: 1e-2, every=60))
    for record in RECORDS:
        prompt = ch07.format_prompt(record["instruction"], record["input"], TOKENIZER)
        (row,) = ch05.generate_cached(model.eval(), [prompt], 30, END)
        assert row[-1] == END
        assert TOKENIZER.decode(row[len(prompt):-1]) == record["output"]


def test_files_from_elsewhere_train_unchanged(tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text('[{"instruction": "Say it.", "input": "", "output": "It."}, {"instruction": "Say so.", "output": "So."}]',
                    encoding="utf-8")
    assert len(ch07.InstructionDataset(load_instructions(path), TOKENIZER)) == 2
    path = tmp_path / "broken.jsonl"
    path.write_text('{"instruction": "Say it.", "input": "", "output": "It."}\n{"instruction": "Say', encoding="utf-8")
    with pytest.raises(ValueError, match="broken.jsonl, line 2"):
        load_instructions(path)
