"""The losses of chapter 7: hand-computed examples, published formulas, invariances, errors."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from tests.support import chapter

ch02, ch05, ch07 = chapter("ch02"), chapter("ch05"), chapter("ch07")
TOKENIZER = ch05.load_pretrained("tales-small")[1]
PAIRS = [{"prompt": "Who is it?", "chosen": "It is Kate.", "rejected": "Who cares? Find it yourself next time."},
         {"prompt": "Tell me where the boy with the kite is.", "chosen": "He is on the hill.", "rejected": "On."},
         {"prompt": "What is lost?", "chosen": "The red bell.", "rejected": "A boat."},
         {"prompt": "Is it sad?", "chosen": "No, it has a happy end.", "rejected": "Soup."}]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ch05.GPTModel(ch05.GPTConfig(TOKENIZER.n_vocab, 64, 16, 2, 2)).eval()


@pytest.fixture
def data():
    return ch07.PreferenceDataset(PAIRS, TOKENIZER, 64)


def four(seed=0, n=20):
    return -5 * torch.rand(4, n, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------- Bradley-Terry

def test_bradley_terry_by_hand():
    loss = ch07.bradley_terry_loss(torch.tensor([math.log(3), 0.0]), torch.tensor([0.0, math.log(3)]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, abs=1e-6)


def test_bradley_terry_is_the_published_formula():
    c, r = 3 * torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    published = sum(-math.log(math.exp(a) / (math.exp(a) + math.exp(b))) for a, b in zip(c.tolist(), r.tolist())) / 50
    assert ch07.bradley_terry_loss(c, r).item() == pytest.approx(published, abs=1e-5)
    margin = sum(math.log(1 + math.exp(b + 0.5 - a)) for a, b in zip(c.tolist(), r.tolist())) / 50
    assert ch07.bradley_terry_loss(c, r, 0.5).item() == pytest.approx(margin, abs=1e-5)


def test_bradley_terry_mirrors_shifts_and_pulls_the_right_way():
    c = torch.tensor([0.7], requires_grad=True)
    r = torch.tensor([-0.4], requires_grad=True)
    there, back = ch07.bradley_terry_loss(c, r), ch07.bradley_terry_loss(r, c)
    assert (-there).exp().item() + (-back).exp().item() == pytest.approx(1, abs=1e-6) and there < back
    assert torch.isclose(ch07.bradley_terry_loss(c + 9, r + 9), there, atol=1e-5)
    there.backward()
    assert c.grad < 0 < r.grad


@pytest.mark.parametrize(("c", "r", "error"), [([1.0], [1.0, 2.0], ValueError), ([], [], ValueError),
                                         ([math.nan], [1.0], FloatingPointError), ([1.0], [math.inf], FloatingPointError)])
def test_bradley_terry_refuses(c, r, error):
    with pytest.raises(error):
        ch07.bradley_terry_loss(torch.tensor(c), torch.tensor(r))


# ------------------------------------------------------------- DPO

def test_dpo_by_hand():
    example = [torch.tensor([n]) for n in (-10.0, -9.0, -12.0, -8.0)]
    assert ch07.dpo_loss(*example, beta=0.5).item() == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-6)
    assert ch07.dpo_loss(*example, beta=0.5, kind="ipo").item() == pytest.approx(4)


def test_dpo_is_the_published_formula():
    pc, pr, rc, rr = four()
    z = [0.3 * (math.log(math.exp(a) / math.exp(c)) - math.log(math.exp(b) / math.exp(d)))
         for a, b, c, d in zip(*(t.tolist() for t in (pc, pr, rc, rr)))]
    assert ch07.dpo_loss(pc, pr, rc, rr, 0.3).item() == pytest.approx(
        sum(-math.log(1 / (1 + math.exp(-x))) for x in z) / len(z), abs=1e-5)
    assert ch07.dpo_loss(pc, pr, rc, rr, 0.3, "ipo").item() == pytest.approx(
        sum((x / 0.3 - 1 / 0.6) ** 2 for x in z) / len(z), rel=1e-5)


@pytest.mark.parametrize("beta", [0.01, 0.1, 3.0])
def test_dpo_starts_at_ln_2_and_mirrors(beta):
    pc, pr, rc, rr = four(2, 1)
    assert ch07.dpo_loss(rc, rr, rc, rr, beta).item() == pytest.approx(math.log(2), abs=1e-6)
    there, back = ch07.dpo_loss(pc, pr, rc, rr, beta), ch07.dpo_loss(pr, pc, rr, rc, beta)
    assert (-there).exp().item() + (-back).exp().item() == pytest.approx(1, abs=1e-6)


def test_dpo_raises_the_chosen_and_lowers_the_rejected():
    pc, pr, rc, rr = four(3)
    pc.requires_grad_(), pr.requires_grad_()
    ch07.dpo_loss(pc, pr, rc, rr).backward()
    assert (pc.grad < 0).all() and (pr.grad > 0).all()


def test_dpo_refuses():
    pc, pr, rc, rr = four()
    for bad in ({"beta": 0}, {"beta": math.nan}, {"kind": "hinge"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ch07.dpo_loss(pc, pr, rc, rr, **bad)
    with pytest.raises(ValueError, match="shapes"):
        ch07.dpo_loss(pc, pr[:1], rc, rr)
    with pytest.raises(ValueError, match="gradient"):
        ch07.dpo_loss(pc, pr, rc.clone().requires_grad_(), rr)
    with pytest.raises(FloatingPointError):
        ch07.dpo_loss(pc * math.nan, pr, rc, rr)


# ------------------------------------------------------------- with a model

def test_padding_changes_no_log_probability(model, data):
    token_ids, mask, targets = ch07.instruction_batch(data.chosen)
    plain = ch07.answer_log_probs(model, token_ids, mask, targets)
    more = ch07.answer_log_probs(model, F.pad(token_ids, (0, 9), value=7), F.pad(mask, (0, 9)), F.pad(targets, (0, 9), value=-100))
    assert torch.allclose(plain, more[:, :plain.shape[1]], atol=1e-5) and not more[:, plain.shape[1]:].any()
    assert (plain[targets == -100] == 0).all() and (plain[targets != -100] < 0).all()
    assert torch.allclose(ch07.sequence_log_probs(model, data.chosen, 1), plain.sum(1), atol=1e-4)


def test_accumulation_equals_one_large_batch(model, data):
    reference = [ch07.sequence_log_probs(model, rows) + 0.1 * i for i, rows in enumerate((data.chosen, data.rejected))]

    def gradient(batches):
        model.zero_grad()
        for batch in batches:
            policy = [ch07.answer_log_probs(model, *ch07.instruction_batch([rows[i] for i in batch])).sum(1)
                      for rows in (data.chosen, data.rejected)]
            (ch07.dpo_loss(*policy, *(side[batch] for side in reference)) / len(batches)).backward()
        return torch.cat([p.grad.flatten().clone() for p in model.parameters()])

    assert torch.allclose(gradient([[0, 1, 2, 3]]), gradient([[0, 1], [2, 3]]), atol=1e-6)


def test_training_prefers_the_chosen_answers(model, data):
    reference = tuple(ch07.sequence_log_probs(model, rows) for rows in (data.chosen, data.rejected))
    kept = copy.deepcopy(reference)
    losses = list(ch07.train_dpo(model, data, reference, n_epochs=10, learning_rate=1e-2, batch_size=2))
    now = tuple(ch07.sequence_log_probs(model, rows) for rows in (data.chosen, data.rejected))
    assert losses[-1][1] < 0.6 and ((now[0] - reference[0]) > (now[1] - reference[1])).all()
    assert all(map(torch.equal, kept, reference))


def test_reward_model_learns_and_reads_the_last_real_token(model, data):
    rewarding = ch07.RewardModel(model, TOKENIZER)
    list(ch07.train_reward_model(rewarding, data, n_epochs=15, learning_rate=1e-2, batch_size=2))
    chosen, rejected = (ch07.predict_rewards(rewarding, rows) for rows in data.whole_rows())
    assert (chosen > rejected).all()
    alone = torch.cat([ch07.predict_rewards(rewarding, [row]) for row in data.whole_rows()[0]])
    assert torch.allclose(chosen, alone, atol=1e-4)
    assert data.whole_rows()[0][0][-1] == TOKENIZER.eot_token


def test_reward_model_refuses(model, data):
    rewarding = ch07.RewardModel(model, TOKENIZER)
    other = ch02.BytePairTokenizer(TOKENIZER.merges[:1_000], TOKENIZER.special_tokens)
    with pytest.raises(ValueError, match="another tokenizer"):
        list(ch07.train_reward_model(rewarding, ch07.PreferenceDataset(PAIRS, other, 200)))
    with torch.no_grad():
        rewarding.scorer.head.weight[0, 0] = math.nan
    with pytest.raises(FloatingPointError):
        ch07.predict_rewards(rewarding, data.whole_rows()[0])
    with pytest.raises(FloatingPointError):
        list(ch07.train_reward_model(rewarding, data))


@pytest.mark.parametrize(("flaw", "words"), [
    ({"rejected": ""}, "rejected"), ({"chosen": None}, "chosen"), ({"prompt": " "}, "prompt"),
    ({"rejected": "It is Kate. "}, "both answers"), ({"chosen": "so " * 90}, "at most 64")])
def test_pairs_that_cannot_train_are_refused(flaw, words):
    with pytest.raises(ValueError, match=words):
        ch07.PreferenceDataset([PAIRS[0] | flaw], TOKENIZER, 64)
    with pytest.raises(ValueError, match="rejected"):
        ch07.PreferenceDataset([{"prompt": "x", "chosen": "y"}], TOKENIZER)
    with pytest.raises(ValueError, match="at least one"):
        ch07.PreferenceDataset([], TOKENIZER)
