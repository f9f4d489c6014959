"""What a right answer to each exercise of chapter 7 does, and the hint for each usual mistake."""

import math

import torch
import torch.nn.functional as F

from exercises import expect
from previous_chapters import load_pretrained


def close(a, b, tolerance: float = 1e-5) -> bool:
    """Whether two tensors or numbers agree in shape and value."""
    a, b = (torch.as_tensor(x).detach().to(torch.float64) for x in (a, b))
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=1e-5)


def check_conversation_row(conversation_row) -> str:
    tokenizer = load_pretrained("tales-small")[1]
    user, assistant, end = tokenizer.special_tokens["<|user|>"], tokenizer.special_tokens["<|assistant|>"], tokenizer.eot_token
    turns = ["Who has the kite?", "Ben.", "Is he sad?", "No, he laughed."]
    whole, learned = [], []
    for i, text in enumerate(turns):
        ids = tokenizer.encode_ordinary(text)
        row = [*ids, end] if i % 2 else [user, *ids, assistant]
        whole += row
        learned += [bool(i % 2)] * len(row)
    right = [token if use else -100 for token, use in zip(whole[1:], learned[1:], strict=True)]
    y = conversation_row(list(turns), tokenizer)
    expect(isinstance(y, tuple | list) and len(y) == 2, "Return two lists: ids, and targets.")
    ids, targets = (list(map(int, part)) for part in y)
    expect(len(ids) == len(targets), f"ids has {len(ids)} entries and targets {len(targets)}; they must be of one length.")
    expect(ids != whole, "The last token has nothing to predict; leave it out of ids. It's only a target.")
    expect(ids.count(end) >= 1, "After the first answer an end token is missing; it says that the user is to speak.")
    expect(ids == whole[:-1], "The row should be <|user|> text <|assistant|> answer <|endoftext|>, and again.")
    expect(targets != [token if use else -100 for token, use in zip(whole, learned, strict=True)][:-1],
           "The targets aren't shifted: targets[t] is what should follow ids[t].")
    n_last = len(tokenizer.encode_ordinary(turns[3])) + 1
    last = [-100] * (len(right) - n_last) + right[-n_last:]
    expect(targets != last, "Only the last answer is learned; learn every answer in the conversation.")
    expect(targets != whole[1:], "Everything is learned, the user's words too; set them to -100.")
    expect(targets.count(end) == 2, f"Two answers come to an end, but {targets.count(end)} end tokens are learned.")
    expect(assistant not in targets and user not in targets, "<|user|> and <|assistant|> are never learned: they aren't part of "
                                                             "an answer.")
    expect(targets == right, "Targets should be the tokens of both answers with their end tokens, and -100 elsewhere.")
    short = conversation_row(["Say yes.", "Yes."], tokenizer)
    expect(len(short[0]) == len(tokenizer.encode_ordinary("Say yes.")) + len(tokenizer.encode_ordinary("Yes.")) + 2,
           "With a single turn it should give what InstructionDataset gives.")
    typed = conversation_row(["Say <|assistant|> no.", "No."], tokenizer)[0]
    expect(list(typed).count(assistant) == 1, "A special token that is typed must stay text: use encode_ordinary.")
    return "So a chat of ten turns is one row, and teaches ten answers in one pass."


def check_elo_update(elo_update) -> str:
    y = elo_update(1400.0, 1600.0, 32.0)
    expect(isinstance(y, tuple | list) and len(y) == 2, "Return two ratings: the winner's and the loser's.")
    win, lose = map(float, y)
    p = 1 / (1 + 10 ** (200 / 400))                                                     # of the weaker one to win: 0.24
    for wrong, hint in {
        1400 + 32 * p: "You multiply k by the probability of winning; a surprise must move more: use that of losing.",
        1400 + 32.0: "The winner always gets k. A win that was expected should bring little, a surprise much.",
        1400 + 32 * (1 - 1 / (1 + math.exp(200 / 400))): "You use e where chess uses 10: a lead of 400 means ten to one.",
        1400 - 32 * (1 - p): "The sign is wrong: a winner's rating rises.",
    }.items():
        expect(not close(win, wrong, 1e-4), hint)
    expect(close(win, 1400 + 32 * (1 - p), 1e-4), f"The weaker winner should have {1400 + 32 * (1 - p):.2f}; yours has {win:.2f}.")
    expect(close(win + lose, 3000.0, 1e-6), "What the winner gets, the loser gives: the sum of the ratings must stay.")
    expected = elo_update(1600.0, 1400.0, 32.0)
    expect(close(float(expected[0]), 1600 + 32 * p, 1e-4), "If the stronger one wins, fewer points should change hands.")
    expect(close(float(elo_update(1500.0, 1500.0, 10.0)[0]), 1505.0, 1e-6), "Between equals, half of k changes hands; is 32 "
                                                                            "written somewhere?")
    return "About 24 of 32 points: the model had given the win one chance in four."


def check_best_of(best_of) -> str:
    rewards, truth = torch.tensor([0.3, 2.0, -1.0, 0.9]), torch.tensor([0.2, 0.6, 0.0, 1.0])
    by_rank = truth[rewards.argsort()].tolist()                                          # 0.0, 0.2, 1.0, 0.6

    def count(k):
        return sum(math.comb(i, k - 1) * t for i, t in enumerate(by_rank)) / math.comb(4, k)

    y = float(best_of(rewards, truth, 2))
    for wrong, hint in {
        sum(math.comb(i, 1) * t for i, t in enumerate(sorted(truth.tolist()))) / 6: "You sort by the truth; the reward chooses.",
        sum(math.comb(i, 1) * t for i, t in enumerate(by_rank[::-1])) / 6: "You sort the highest reward first; the lowest comes "
                                                                           "first.",
        sum(math.comb(i, 1) * r for i, r in enumerate(sorted(rewards.tolist()))) / 6: "That's the mean *reward* of the best; "
                                                                                      "return its truth.",
        sum(math.comb(i + 1, 1) * t for i, t in enumerate(by_rank)) / 6: "Places count from 0: i answers lie below the one at "
                                                                         "place i.",
        sum(math.comb(i, 2) * t for i, t in enumerate(by_rank)) / 6: "The other k - 1 are chosen from those below, not k.",
        sum(math.comb(i, 1) * t for i, t in enumerate(by_rank)): "Divide by the number of ways to draw k of n.",
        truth[rewards.argmax()].item(): "That is the best of all n; only k of them are drawn.",
    }.items():
        expect(not close(y, wrong), hint)
    expect(close(y, count(2)), f"Of the six pairs that can be drawn, the mean true score of the better by reward is "
                               f"{count(2):.4f}; "
           f"you return {y:.4f}.")
    expect(close(float(best_of(rewards, truth, 1)), truth.mean()), "The best of one is any answer: return the plain mean.")
    expect(close(float(best_of(rewards, truth, 4)), 0.6), "The best of all is the answer with the highest reward.")
    expect(close(float(best_of(rewards, truth, 3)), count(3)), "For k = 3 it's off.")
    return "In the check, the best of four is worse than the best of three: the highest reward isn't the best answer."


def check_dpo_with_slips(dpo_with_slips) -> str:
    g = torch.Generator().manual_seed(0)
    four = -5 * torch.rand(4, 9, generator=g)                                            # (B,) four times
    h = 0.3 * ((four[0] - four[2]) - (four[1] - four[3]))
    right = (-0.8 * F.logsigmoid(h) - 0.2 * F.logsigmoid(-h)).mean()
    y = dpo_with_slips(*four, beta=0.3, slips=0.2)
    expect(torch.as_tensor(y).numel() == 1, "Return one number for the batch.")
    for wrong, hint in (
        (-F.logsigmoid(h).mean(), "That is dpo_loss; mix in the surprise of the label that is wrong."),
        ((-0.2 * F.logsigmoid(h) - 0.8 * F.logsigmoid(-h)).mean(), "The two shares have changed places."),
        (-right, "The sign is wrong."),
        (-F.logsigmoid(0.8 * h).mean(), "Shrinking the lead isn't mixing two surprises."),
        ((-0.8 * F.logsigmoid(h) + 0.2 * F.logsigmoid(-h)).mean(), "You subtract the second surprise; add it."),
        (-(0.8 * torch.sigmoid(h) + 0.2 * torch.sigmoid(-h)).log().mean(), "You mix the probabilities and take the logarithm "
                                                                           "after; "
         "mix the two surprises."),
        ((-0.8 * F.logsigmoid(h / 0.3) - 0.2 * F.logsigmoid(-h / 0.3)).mean(), "β is missing in the lead."),
    ):
        expect(not close(torch.as_tensor(y).reshape(()), wrong.reshape(())), hint)
    expect(close(torch.as_tensor(y).reshape(()), right), f"For the check's pairs the loss is {right:.4f}; yours is {float(y):.4f}.")
    expect(close(torch.as_tensor(dpo_with_slips(*four, beta=0.3, slips=0.0)).reshape(()), -F.logsigmoid(h).mean()),
           "Without slips it should be DPO.")
    far = torch.tensor([400.0]), torch.tensor([-400.0]), torch.zeros(1), torch.zeros(1)
    expect(math.isfinite(float(dpo_with_slips(*far, beta=1.0, slips=0.1))), "For a large lead it overflows; use F.logsigmoid.")
    return "It is lowest where σ(h) = 0.9, at h = ln 9: no pair can be surer than its label."


def check_kl_estimates(kl_estimates) -> str:
    p, q = torch.tensor([-1.0, -2.0, -0.5, -3.0]), torch.tensor([-1.4, -1.7, -0.9, -2.0])
    d = q - p
    right = (-d).mean(), (d**2 / 2).mean(), (d.exp() - 1 - d).mean()
    y = kl_estimates(p, q)
    expect(isinstance(y, tuple | list) and len(y) == 3, "Return three numbers: the means of -d, of d²/2 and of e^d - 1 - d.")
    expect(all(torch.as_tensor(x).numel() == 1 for x in y), "Each estimate is one number, a mean over the answers.")
    y = [torch.as_tensor(x).reshape(()) for x in y]
    expect(not close(y[0], d.mean()), "The first has the wrong sign: d is ln of the reference minus ln of the policy, and you "
                                      "want the mean of -d.")
    expect(not close(y[0], -d.sum()), "Take means, not sums.")
    expect(not close(y[1], (d**2).mean()), "The second lacks its half: d²/2.")
    expect(not close(y[1], d.mean() ** 2 / 2), "Square each d, then take the mean.")
    expect(not close(y[2], ((-d).exp() - 1 + d).mean()), "In the third d has the wrong sign; with answers from the policy, it is "
                                                         "the ratio π_ref/π whose mean is 1.")
    for i, (mine, wanted) in enumerate(zip(y, right, strict=True), 1):
        expect(close(mine, wanted), f"Estimate {i} should be {wanted:.4f} for the check's answers; yours is {mine:.4f}.")
    return "Of these four answers, the first estimate makes a negative distance. Run the solution to see how often."


def check_leave_one_out(leave_one_out) -> str:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 3.0], [0.5, 0.5, 0.5, 0.5]])
    right = torch.tensor([[0.0, -4 / 3, -4 / 3, 8 / 3], [0.0, 0.0, 0.0, 0.0]])
    y = torch.as_tensor(leave_one_out(rewards))
    expect(y.shape == rewards.shape, f"Return a tensor of shape (2, 4); yours is {tuple(y.shape)}.")
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    for wrong, hint in (
        (centered, "That is the distance from the mean of all; leave the answer itself out of the mean."),
        (-right, "The sign is wrong: better than the others is positive."),
        (rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / 4, "There are K - 1 others; divide by 3, not by 4."),
        (rewards - (rewards.sum() - rewards) / 7, "The others are those of the same group."),
        (centered / (rewards.std(dim=1, keepdim=True) + 1e-4), "That is GRPO's advantage; here nothing is divided by a spread."),
    ):
        expect(not close(y, wrong), hint)
    expect(close(y, right), f"For the rewards 1, 0, 0, 3 the advantages are 0, -4/3, -4/3, 8/3; yours are {y[0].tolist()}.")
    try:
        leave_one_out(torch.ones(2, 1))
    except ValueError:
        return "The answer's own reward has no part in its baseline, and the groups still add up to zero."
    expect(False, "A group of one has no others: raise a ValueError that says what to do.")
    return ""


CHECKS = {
    "7.1": check_conversation_row,
    "7.2": check_elo_update,
    "7.3": check_best_of,
    "7.4": check_dpo_with_slips,
    "7.5": check_kl_estimates,
    "7.6": check_leave_one_out,
}
