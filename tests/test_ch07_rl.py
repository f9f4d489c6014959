"""Reinforcement learning in chapter 7: advantages, PPO and GRPO by hand and by formula, their first step, one round, errors."""

import copy
import math

import pytest
import torch

from tests.support import chapter

ch05, ch07 = chapter("ch05"), chapter("ch07")
TOKENIZER = ch05.load_pretrained("tales-small")[1]
END = TOKENIZER.eot_token
RECORDS = [{"instruction": f"Say {word}.", "input": "", "output": f"{word}."} for word in ("yes", "no", "red", "blue")]
PROMPTS = [ch07.format_prompt(r["instruction"], "", TOKENIZER) for r in RECORDS]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ch05.GPTModel(ch05.GPTConfig(TOKENIZER.n_vocab, 64, 16, 2, 2)).eval()


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learned_mask():
    """Answers of 3, 1 and 4 tokens in rows of 6, as padding on the right leaves them."""
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0, 1:4] = mask[1, 2:3] = mask[2, 2:6] = True
    return mask


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


# ------------------------------------------------------------- generalized advantages

def test_advantages_by_hand():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.2, 0.6]])
    advantages, returns = ch07.generalized_advantages(rewards, values, torch.ones(1, 3, dtype=torch.bool), 0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.0, 0.6, 0.4]]))
    torch.testing.assert_close(returns, torch.tensor([[0.5, 0.8, 1.0]]))


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_advantages_are_the_published_sum(lam):
    rewards, values, learned = numbers(1, 3, 6), numbers(2, 3, 6), learned_mask()
    advantages, returns = ch07.generalized_advantages(rewards, values, learned, lam)
    for row in range(3):
        places = learned[row].nonzero().flatten().tolist()
        v = [values[row, t].item() for t in places] + [0.0]
        deltas = [rewards[row, t].item() + v[i + 1] - v[i] for i, t in enumerate(places)]
        for i, t in enumerate(places):
            published = sum(lam ** k * delta for k, delta in enumerate(deltas[i:]))
            assert advantages[row, t].item() == pytest.approx(published, abs=1e-5)
            assert returns[row, t].item() == pytest.approx(published + v[i], abs=1e-5)
    assert not advantages[~learned].any() and not returns[~learned].any()


def test_what_stands_outside_the_answers_changes_no_advantage():
    rewards, values, learned = numbers(1, 3, 6), numbers(2, 3, 6), learned_mask()
    noisy = torch.where(learned, values, 100 * numbers(3, 3, 6)), torch.where(learned, rewards, 100 * numbers(4, 3, 6))
    wider = [torch.nn.functional.pad(x, (0, 5), value=7.0) for x in (rewards, values)]
    plain = ch07.generalized_advantages(rewards, values, learned)[0]
    torch.testing.assert_close(ch07.generalized_advantages(noisy[1], noisy[0], learned)[0], plain)
    torch.testing.assert_close(ch07.generalized_advantages(*wider, torch.nn.functional.pad(learned, (0, 5)))[0][:, :6], plain)


# ------------------------------------------------------------- the two losses

def test_ppo_by_hand():
    ratios, advantages = torch.tensor([[1.5, 1.5, 0.5, 0.5, 9.0]]), torch.tensor([[1.0, -1.0, 1.0, -1.0, 5.0]])
    learned = torch.tensor([[True, True, True, True, False]])
    loss = ch07.ppo_loss(ratios.log(), torch.zeros(1, 5), advantages, learned)
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4, abs=1e-6)


def test_ppo_is_the_published_formula():
    new, old, advantages, learned = 0.3 * numbers(1, 3, 6), 0.3 * numbers(2, 3, 6), numbers(3, 3, 6), learned_mask()
    total = 0.0
    for row, t in learned.nonzero().tolist():
        ratio, a = math.exp(new[row, t] - old[row, t]), advantages[row, t].item()
        total += min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
    assert ch07.ppo_loss(new, old, advantages, learned).item() == pytest.approx(-total / int(learned.sum()), abs=1e-5)


def test_grpo_by_hand_and_by_the_published_formula():
    new, old, reference = 0.3 * numbers(1, 3, 6), 0.3 * numbers(2, 3, 6), 0.3 * numbers(3, 3, 6)
    advantages, learned = numbers(4, 3), learned_mask()
    per_answer, every = [], []
    for row in range(3):
        tokens = []
        for t in learned[row].nonzero().flatten().tolist():
            ratio, a = math.exp(new[row, t] - old[row, t]), advantages[row].item()
            d = (reference[row, t] - new[row, t]).item()
            tokens.append(min(ratio * a, min(max(ratio, 0.8), 1.2) * a) - 0.04 * (math.exp(d) - d - 1))
        per_answer.append(sum(tokens) / len(tokens))
        every += tokens
    for per, published in (("answer", sum(per_answer) / 3), ("token", sum(every) / len(every))):
        loss = ch07.grpo_loss(new, old, reference, advantages, learned, per=per)
        assert loss.item() == pytest.approx(-published, abs=1e-5)
    with pytest.raises(ValueError, match="per is 'row'; choose 'answer' or 'token'"):
        ch07.grpo_loss(new, old, reference, advantages, learned, per="row")


def test_group_advantages():
    rewards = numbers(5, 6, 4)
    for scale in (True, False):
        assert ch07.group_advantages(rewards, scale).sum(dim=1).abs().max() < 1e-9
    torch.testing.assert_close(ch07.group_advantages(3 * rewards + 1), ch07.group_advantages(rewards), atol=1e-3, rtol=0)
    assert not ch07.group_advantages(torch.ones(2, 5)).any()
    with pytest.raises(ValueError, match="a group has 1 answer; compare at least two"):
        ch07.group_advantages(torch.ones(3, 1))


def test_at_the_first_step_the_ratio_is_1_and_the_distance_0(model):
    answers = ch07.sample_answers(model, PROMPTS, END, torch.Generator().manual_seed(0), 6)
    rollouts = ch07.roll_out(model, copy.deepcopy(model), PROMPTS, answers)
    now = ch07.answer_log_probs(model, rollouts.token_ids, rollouts.mask, rollouts.targets)
    torch.testing.assert_close((now - rollouts.log_probs).exp(), torch.ones_like(now), atol=1e-5, rtol=0)
    assert torch.equal(rollouts.log_probs, rollouts.reference)
    advantages = torch.randn(4, generator=torch.Generator().manual_seed(1))
    loss = ch07.grpo_loss(now, rollouts.log_probs, rollouts.reference, advantages, rollouts.learned)
    assert loss.item() == pytest.approx(-advantages.mean().item(), abs=1e-5)            # no price, and every ratio is 1
    prices = ch07.token_rewards(rollouts, torch.tensor([1.0, 2.0, 3.0, 4.0]), 0.5)
    torch.testing.assert_close(prices.sum(dim=1), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert [row.nonzero().item() for row in prices] == (rollouts.mask.sum(dim=1) - 1).tolist()


def test_padding_changes_no_rollout(model):
    answers = ch07.sample_answers(model, PROMPTS, END, torch.Generator().manual_seed(0), 6)
    together = ch07.roll_out(model, model, PROMPTS, answers)
    for i in range(4):
        alone = ch07.roll_out(model, model, PROMPTS[i:i + 1], answers[i:i + 1])
        n = alone.mask.shape[1]
        torch.testing.assert_close(together.log_probs[i, :n], alone.log_probs[0], atol=1e-5, rtol=0)
        assert not together.log_probs[i, n:].any() and not together.learned[i, n:].any()


def test_the_gradient_is_the_policy_gradient():
    """With a ratio of 1, the loss's gradient by the logits is that of -E[A ln pi]."""
    logits = numbers(7, 2, 3, 5).requires_grad_()
    chosen, advantages, learned = torch.tensor([[0, 3, 1], [4, 2, 2]]), numbers(8, 2, 3), torch.ones(2, 3, dtype=torch.bool)
    log_probs = logits.log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
    slope, = torch.autograd.grad(ch07.ppo_loss(log_probs, log_probs.detach(), advantages, learned), logits, retain_graph=True)
    plain, = torch.autograd.grad(-(advantages * log_probs).mean(), logits)
    torch.testing.assert_close(slope, plain)


# ------------------------------------------------------------- training

def test_grpo_learns_to_say_what_is_rewarded(model):
    torch.manual_seed(1)
    policy, reference = copy.deepcopy(model), copy.deepcopy(model)
    rounds = list(ch07.train_grpo(policy, reference, TOKENIZER, RECORDS, lambda record, text: float(text.count("e")), 30, 4, 8,
                                  beta=0.0, learning_rate=1e-2, max_new_tokens=6, kl_limit=10.0))
    first, last = (sum(r["reward"] for r in part) / 5 for part in (rounds[:5], rounds[-5:]))
    assert last > first + 0.5
    assert rounds[0]["kl"] == pytest.approx(0, abs=1e-4) and rounds[-1]["kl"] > 0.1
    assert same(reference, model) and not same(policy, model)


def test_a_group_of_equal_rewards_is_not_mixed(model):
    def rounds(reward_of, **settings):
        return next(ch07.train_grpo(copy.deepcopy(model), model, TOKENIZER, RECORDS, reward_of, 1, 4, max_new_tokens=4, **settings))

    assert rounds(lambda record, text: 0.9439, group_size=7)["mixed"] == 0              # whose mean in floats is another number
    drawn = iter(range(28))
    assert rounds(lambda record, text: float(next(drawn)), group_size=7)["mixed"] == 1


def test_ppo_moves_the_policy_and_nothing_else(model):
    torch.manual_seed(1)
    policy, reference = copy.deepcopy(model), copy.deepcopy(model)
    judge = ch07.RewardModel(copy.deepcopy(model), TOKENIZER)
    before = copy.deepcopy(judge)
    rounds = list(ch07.train_ppo(policy, reference, judge, TOKENIZER, PROMPTS, 3, 8, learning_rate=1e-2, max_new_tokens=6))
    assert {"reward", "kl", "value loss", "loss", "steps"} == set(rounds[0])
    assert rounds[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert same(reference, model) and same(judge, before) and not same(policy, model)


def test_a_round_ends_when_the_policy_has_moved_far(model):
    policy = copy.deepcopy(model)
    answers = ch07.sample_answers(policy, PROMPTS * 4, END, torch.Generator().manual_seed(0), 6)
    rollouts = ch07.roll_out(policy, model, PROMPTS * 4, answers)
    optimizer = ch05.configure_optimizer(policy, 1e-1)
    figures = ch07.update_policy(policy, rollouts, lambda i, log_probs: -log_probs.mean(), optimizer, 50, 4, 0.01,
                                 torch.Generator().manual_seed(0))
    assert 1 <= figures["steps"] < 20


def test_standardized_rewards_have_mean_0_and_spread_1(model):
    judge = ch07.RewardModel(copy.deepcopy(model), TOKENIZER)
    rows = [[*prompt, 5 + i, END] for i, prompt in enumerate(PROMPTS)]
    raw = 40 * ch07.predict_rewards(judge, rows)
    with torch.no_grad():
        judge.scorer.head.weight *= 40
        judge.scorer.head.bias *= 40
    new = ch07.predict_rewards(ch07.standardize(judge, raw), rows)
    assert new.mean().item() == pytest.approx(0, abs=1e-4) and new.std().item() == pytest.approx(1, abs=1e-4)


# ------------------------------------------------------------- errors

def test_an_answer_without_an_end_gets_the_fixed_reward(model):
    judge = ch07.RewardModel(copy.deepcopy(model), TOKENIZER)
    rewards = ch07.score_answers(judge, PROMPTS[:3], [[5, 6], [5, END], []], END, unfinished=-9.0)
    assert rewards[0] == rewards[2] == -9.0 and rewards[1] != -9.0


def test_rewards_that_are_no_numbers(model):
    judge = ch07.RewardModel(copy.deepcopy(model), TOKENIZER)
    with torch.no_grad():
        judge.scorer.head.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="the reward of row 0 is no number; the reward model is broken"):
        ch07.score_answers(judge, PROMPTS[:1], [[5, END]], END)
    with pytest.raises(FloatingPointError, match="the reward of .* is nan; mend the function"):
        list(ch07.train_grpo(model, model, TOKENIZER, RECORDS, lambda record, text: float("nan"), 1, 1, 2, max_new_tokens=4))


def test_a_reward_model_of_another_tokenizer(model, tmp_path):
    other = chapter("ch02").BytePairTokenizer(TOKENIZER.merges[:1_000], TOKENIZER.special_tokens)
    judge = ch07.RewardModel(copy.deepcopy(model), TOKENIZER)
    with pytest.raises(ValueError, match="another tokenizer"):
        next(ch07.train_ppo(model, model, judge, other, PROMPTS, 1))
    ch07.save_reward_model(tmp_path / "reward", judge, TOKENIZER)
    with pytest.raises(ValueError, match="another tokenizer"):
        ch07.load_reward_model(tmp_path / "reward", other)
    with pytest.raises(ValueError, match="another tokenizer"):
        ch07.save_reward_model(tmp_path / "second", judge, other)
    assert [p.name for p in tmp_path.iterdir()] == ["reward"]


def test_a_reward_model_comes_back_as_it_was_or_not_at_all(model, tmp_path):
    judge, rows = ch07.RewardModel(copy.deepcopy(model), TOKENIZER), [[*PROMPTS[0], 5, END]]
    ch07.save_reward_model(tmp_path / "reward", judge, TOKENIZER)
    again = ch07.load_reward_model(tmp_path / "reward", TOKENIZER)
    assert torch.equal(ch07.predict_rewards(again, rows), ch07.predict_rewards(judge, rows))
    with pytest.raises(ValueError, match="no reward model in .*train one first"):
        ch07.load_reward_model(tmp_path / "none", TOKENIZER)
    head = tmp_path / "reward" / "reward.safetensors"
    head.write_bytes(head.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"reward.safetensors in .* can't be used"):
        ch07.load_reward_model(tmp_path / "reward", TOKENIZER)
