"""Seven ways to use the same preferences, side by side: DPO, IPO, KTO, ORPO, SimPO, rejection sampling, best of n; and none.

    python variants.py                       about a quarter of an hour on one slow core; writes results.json beside this file
    python variants.py --requests 60 --out /tmp/small.json

All begin with models/tales-sft, which answers each request twice; the simulated annotators choose. A run that is cut off goes on
where it stopped.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course  # noqa: E402

course.setup("ch07/01_main-chapter-code")
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from gpt_human_feedback import own_pairs  # noqa: E402
from torch import Tensor  # noqa: E402

from ch07 import (  # noqa: E402
    InstructionBatches,
    InstructionDataset,
    PreferenceDataset,
    RewardModel,
    answer_log_probs,
    answer_text,
    dpo_loss,
    examine,
    format_prompt,
    instruction_batch,
    pair_batches,
    sample_answers,
    score_answers,
    sequence_log_probs,
    train_on,
    train_reward_model,
    win_rate,
)
from data.instructions import judge, make_instructions  # noqa: E402
from data.preferences import make_preferences  # noqa: E402
from previous_chapters import configure_optimizer, cosine_schedule, load_pretrained, train, write_files  # noqa: E402

RESULTS = Path(__file__).with_name("results.json")


# ---------------------------------------------------------------- losses: log-probabilities (B,) in nats, lengths (B,) in tokens

def kto_loss(policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor,
             beta: float = 0.1) -> Tensor:
    """Kahneman-Tversky optimization (Ethayarajh et al., 2024): each answer is good or bad by itself, no pair is needed.

    Gains and losses are felt relative to where the policy stands: z, its mean log-ratio in the batch, held fixed and at least 0.
    (The paper estimates z from answers to other requests.)
    """
    chosen, rejected = beta * (policy_chosen - reference_chosen), beta * (policy_rejected - reference_rejected)
    z = torch.cat((chosen, rejected)).mean().clamp(min=0).detach()
    return torch.cat((1 - torch.sigmoid(chosen - z), 1 - torch.sigmoid(z - rejected))).mean()


def log_odds(mean_log_prob: Tensor) -> Tensor:
    """ln(p / (1 - p)) of the mean probability of a token, given as a logarithm."""
    return mean_log_prob - torch.log1p(-mean_log_prob.exp().clamp(max=1 - 1e-6))


def orpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, n_chosen: Tensor, n_rejected: Tensor, weight: float = 0.1) -> Tensor:
    """Odds ratio preference optimization (Hong, Lee and Thorne, 2024): finetune on the chosen answer, with a push away from the
    rejected one. There is no reference.
    """
    chosen, rejected = policy_chosen / n_chosen, policy_rejected / n_rejected            # mean log-probability of a token
    return -(chosen + weight * F.logsigmoid(log_odds(chosen) - log_odds(rejected))).mean()


def simpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, n_chosen: Tensor, n_rejected: Tensor, beta: float = 2.0,
               margin: float = 0.5) -> Tensor:
    """Simple preference optimization (Meng, Xia and Chen, 2024): the mean log-probability is the reward, a margin is asked for."""
    return -F.logsigmoid(beta * (policy_chosen / n_chosen - policy_rejected / n_rejected) - margin).mean()


# ---------------------------------------------------------------- the study

def lengths_of(rows: list[tuple[list[int], list[int]]]) -> Tensor:
    """The number of tokens (N,) in each row's answer."""
    return torch.tensor([sum(target != -100 for target in targets) for _, targets in rows])


def train_pairs(model, data: PreferenceDataset, reference: tuple[Tensor, Tensor], loss: Callable[..., Tensor], needs: str,
                learning_rate: float) -> None:
    """Train on pairs in place; the loss gets log-probabilities and what it `needs`: the "reference"'s or "lengths"."""
    sides = reference if needs == "reference" else (lengths_of(data.chosen), lengths_of(data.rejected))

    def loss_of(batch: list[int]) -> Tensor:
        rows = [data.chosen[i] for i in batch] + [data.rejected[i] for i in batch]
        policy = answer_log_probs(model, *instruction_batch(rows)).sum(dim=1)            # (2B,)
        return loss(*policy.chunk(2), *(side[batch] for side in sides))

    for _ in train_on(model, pair_batches(data, 8, 1), loss_of, learning_rate, weight_decay=0.0):
        pass


def best_of(model, tokenizer, rewards: RewardModel, requests: list[dict], n: int, seed: int) -> list[list[int]]:
    """Of n sampled answers to each request, the one with the highest reward, as ids."""
    prompts = [format_prompt(r["instruction"], r["input"], tokenizer) for r in requests]
    g = torch.Generator().manual_seed(seed)
    tries = [sample_answers(model, prompts, tokenizer.eot_token, g) for _ in range(n)]
    scored = torch.stack([score_answers(rewards, prompts, answers, tokenizer.eot_token) for answers in tries])   # (n, N)
    return [tries[k][i] for i, k in enumerate(scored.argmax(dim=0).tolist())]


class Study:
    """What all variants share: model, requests, pairs, reward model, and how a policy is measured."""

    def __init__(self, n_requests: int, n_pairs: int, n_test: int):
        self.start, self.tokenizer = load_pretrained(course.ROOT / "models" / "tales-sft")
        self.start.requires_grad_(False).eval()
        self.requests = list(make_instructions(n_requests, 11, "simple"))
        self.test = list(make_instructions(n_test, 12, "simple", "held-out wordings"))
        self.pairs = own_pairs(self.requests, self.start, self.tokenizer, 64, seed=3)
        self.data = PreferenceDataset(self.pairs, self.tokenizer)
        self.reference = sequence_log_probs(self.start, self.data.chosen), sequence_log_probs(self.start, self.data.rejected)
        torch.manual_seed(0)
        self.rewards = RewardModel(copy.deepcopy(self.start).requires_grad_(True), self.tokenizer)
        labeled = PreferenceDataset(self.pairs + list(make_preferences(n_pairs, 1)), self.tokenizer)
        for _ in train_reward_model(self.rewards, labeled):
            pass
        self.before = self.look(self.start)

    def look(self, model) -> dict:
        """Sampled answers to the test requests, and what they are worth."""
        return examine(model, self.start, self.tokenizer, self.test, lambda r, text: judge(r, text).score)

    def row(self, scores: Tensor, kl: float | None, minutes: float) -> dict:
        """A variant's line in the results."""
        wins, half = win_rate(scores, self.before["scores"])
        return {"true score": round(scores.mean().item(), 4), "wins": round(wins, 4), "half width": round(half, 4),
                "kl": None if kl is None else round(kl, 3), "minutes": round(minutes, 1)}

    def preference(self, loss: Callable[..., Tensor], needs: str, learning_rate: float = 2e-4) -> dict:
        """Train by a loss of pairs, and measure."""
        model, begun = copy.deepcopy(self.start).requires_grad_(True), time.perf_counter()
        train_pairs(model, self.data, self.reference, loss, needs, learning_rate)
        minutes, seen = (time.perf_counter() - begun) / 60, self.look(model)
        return self.row(seen["scores"], seen["kl"], minutes)

    def rejection_sampling(self, n: int = 4) -> dict:
        """Finetune on the best of n answers to each request, by the reward model."""
        model, begun = copy.deepcopy(self.start).requires_grad_(True), time.perf_counter()
        best = best_of(self.start, self.tokenizer, self.rewards, self.requests, n, 5)
        records = [{"instruction": r["instruction"], "input": r["input"], "output": answer_text(ids, self.tokenizer)}
                   for r, ids in zip(self.requests, best, strict=True)]
        batches = InstructionBatches(InstructionDataset([r for r in records if r["output"]], self.tokenizer), 8)
        optimizer, n_steps = configure_optimizer(model, 2e-4, weight_decay=0.0), batches.per_epoch
        for _ in train(model, batches, optimizer, n_steps, lambda step: cosine_schedule(step, n_steps, 2e-4, 10)):
            pass
        minutes, seen = (time.perf_counter() - begun) / 60, self.look(model)
        return self.row(seen["scores"], seen["kl"], minutes)

    def best_of_n(self, n: int) -> dict:
        """No training: answer n times, keep the best by the reward model."""
        begun = time.perf_counter()
        texts = [answer_text(ids, self.tokenizer) for ids in best_of(self.start, self.tokenizer, self.rewards, self.test, n, 6)]
        scores = torch.tensor([judge(r, text).score for r, text in zip(self.test, texts, strict=True)])
        return self.row(scores, None, (time.perf_counter() - begun) / 60)

    def cooler(self) -> dict:
        """No training and no preferences: sample at a temperature of one half."""
        begun = time.perf_counter()
        seen = examine(self.start, self.start, self.tokenizer, self.test, lambda r, text: judge(r, text).score, temperature=0.5)
        return self.row(seen["scores"], None, (time.perf_counter() - begun) / 60)


VARIANTS: dict[str, Callable[[Study], dict]] = {
    "finetuned": lambda s: s.row(s.before["scores"], 0.0, 0.0),
    "finetuned, temperature 1/2": Study.cooler,
    "DPO": lambda s: s.preference(partial(dpo_loss, beta=0.1), "reference"),
    "IPO": lambda s: s.preference(partial(dpo_loss, beta=0.1, kind="ipo"), "reference"),
    "KTO": lambda s: s.preference(kto_loss, "reference"),
    "ORPO": lambda s: s.preference(orpo_loss, "lengths"),
    "SimPO": lambda s: s.preference(simpo_loss, "lengths", 1e-4),
    "rejection sampling": Study.rejection_sampling,
    "best of 2": lambda s: s.best_of_n(2),
    "best of 8": lambda s: s.best_of_n(8),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000, metavar="N", help="answered twice (1,000)")
    parser.add_argument("--pairs", type=int, default=800, metavar="N", help="further pairs for the reward model (800)")
    parser.add_argument("--test", type=int, default=210, metavar="N", help="held-out requests (210)")
    parser.add_argument("--only", choices=[*VARIANTS], nargs="+", default=[*VARIANTS], help="some of the variants")
    parser.add_argument("--out", type=Path, default=RESULTS)
    o = parser.parse_args(arguments)
    if min(o.requests, o.pairs, o.test) < 21:
        parser.error("ask for at least 21 requests, pairs and test requests: one of each family")
    settings = {"requests": o.requests, "pairs": o.pairs, "test": o.test}
    found = json.loads(o.out.read_text(encoding="utf-8")) if o.out.exists() else {}
    if found.get("settings") != settings:
        found = {"settings": settings, "variants": {}}
    if not (left := [name for name in o.only if name not in found["variants"]]):
        print(f"{o.out} has them all; delete it to begin anew")
        return 0
    study = Study(o.requests, o.pairs, o.test)
    found["own pairs"] = len(study.pairs)
    for name in left:
        found["variants"][name] = VARIANTS[name](study)
        write_files(o.out.parent, {o.out.name: json.dumps(found, indent=1) + "\n"})
        print(f"{name:28s}", found["variants"][name], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
