"""How fast chapter 5 trains, beside a plain version of the same: `python course.py bench train` runs it.

The plain version has three separate projections for queries, keys and values, writes attention's table down, holds all logits,
steps with AdamW parameter by parameter, computes in float32, and asks for the loss at every step. Model, batches, data and settings
of the optimizer are the same; the losses of the first steps are checked equal. Then both take turns, a few steps each, so that a
busy moment of the machine hits both; the table shows medians over the rounds, and what share of a step the data takes.
"""

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

course.setup("ch05/01_main-chapter-code")
import ch05  # noqa: E402

sys.modules.pop("previous_chapters", None)                       # another benchmark's chapter has its own

STEPS, ROUNDS, RATE = 2, 7, 1e-3
CASES = [  # title, shape, T, B, target
    ("one million parameters: 4 layers, 128 channels, vocabulary 2,048, T 192, batch 16",
     {"vocab_size": 2_048, "n_layers": 4, "n_heads": 4, "n_channels": 128}, 192, 16, 1.5),
    ("6 layers, 256 channels, vocabulary 4,096, T 256, batch 16",
     {"vocab_size": 4_096, "n_layers": 6, "n_heads": 8, "n_channels": 256}, 256, 16, 1.8),
]


class PlainAttention(nn.Module):
    """Chapter 3's first version: three projections, the table of weights written down."""

    def __init__(self, attention: nn.Module, context_length: int):
        super().__init__()
        C, self.n_heads = attention.out.in_features, attention.n_heads
        self.query, self.key, self.value = (nn.Linear(C, C) for _ in range(3))
        for i, layer in enumerate((self.query, self.key, self.value)):
            layer.load_state_dict({name: value[i * C:(i + 1) * C] for name, value in attention.qkv.state_dict().items()})
        self.out = attention.out
        self.register_buffer("mask", torch.ones(context_length, context_length, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor, padding_mask: None = None) -> Tensor:
        B, T, C = x.shape
        q, k, v = (layer(x).view(B, T, self.n_heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = q @ k.transpose(2, 3) / (C // self.n_heads) ** 0.5              # (B, H, T, T)
        weights = scores.masked_fill(self.mask[:T, :T], -torch.inf).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, C))


def plain_steps(model: ch05.GPTModel, batches: ch05.TokenBatches) -> Iterator[list[float]]:
    """The losses of the next `STEPS` steps of the plain version, again and again."""
    model = copy.deepcopy(model)
    for block in model.blocks:
        block.attention = PlainAttention(block.attention, model.config.context_length)
    groups = ch05.configure_optimizer(model, RATE).param_groups
    optimizer = torch.optim.AdamW([{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups], lr=RATE,
                                  betas=(0.9, 0.95), foreach=False, fused=False)
    losses, step = [], 0
    while True:
        inputs, targets = batches[step]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if len(losses) == STEPS:
            yield losses
            losses = []


def course_steps(model: ch05.GPTModel, batches: ch05.TokenBatches, dtype: torch.dtype) -> Iterator[list[float]]:
    """The mean loss of the next `STEPS` steps of the course's `train`, again and again."""
    model = copy.deepcopy(model)
    optimizer = ch05.configure_optimizer(model, RATE)
    for _, loss in ch05.train(model, batches, optimizer, 10**9, lambda step: RATE, every=STEPS, dtype=dtype):
        yield [loss]


def seconds(run: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def bench(title: str, shape: dict, T: int, B: int, target: float, ids: ch05.TokenShards) -> None:
    """Print one table."""
    print(f"\n{title}")
    torch.manual_seed(0)
    model, batches = ch05.GPTModel(ch05.GPTConfig(context_length=T, **shape)), ch05.TokenBatches(ids, T, B)
    dtype = ch05.autocast_dtype("cpu")
    contenders = {"plain, float32": plain_steps(model, batches), "ours, float32": course_steps(model, batches, torch.float32)}
    if dtype != torch.float32:
        contenders["ours, bfloat16"] = course_steps(model, batches, dtype)
    means = {name: statistics.mean(next(run)) for name, run in contenders.items()}           # warms up, too
    differences = [abs(mean - means["plain, float32"]) for name, mean in means.items() if "float32" in name]
    assert max(differences) < 1e-4, f"the losses differ: {means}"
    print(f"  equal losses first: {', '.join(f'{name} {mean:.5f}' for name, mean in means.items())}")
    times, data = {name: [] for name in contenders}, []
    for round_ in range(ROUNDS):
        for name, run in contenders.items():
            times[name].append(seconds(lambda run=run: next(run)) / STEPS)
        data += [seconds(lambda step=step: batches[step]) for step in range(1_000 + 9 * round_, 1_009 + 9 * round_)]
    report({name: statistics.median(values) for name, values in times.items()}, statistics.median(data), B * T, target)


def report(medians: dict[str, float], data: float, n_tokens: int, target: float) -> None:
    """The table of one case."""
    print(f"  {'':18s}{'ms a step':>10s}{'tokens/s':>10s}{'x plain':>9s}{'data, share of a step':>23s}")
    plain = medians["plain, float32"]
    for name, median in medians.items():
        print(f"  {name:18s}{1e3 * median:10.0f}{n_tokens / median:10,.0f}{plain / median:9.2f}{data / median:23.2%}")
    best, ratio = min(medians, key=medians.get), plain / min(medians.values())
    print(f"  target {target} x plain (set for processors with bf16): {best} {ratio:.2f}, "
          f"{'reached' if ratio >= target else 'not reached'}; data under 3 %: {data / medians[best]:.2%}, "
          f"{'reached' if data / medians[best] < 0.03 else 'not reached'}")


def main() -> None:
    """Run all cases on the same random ids, which lie on the disk as `write_shards` leaves them."""
    dtype = ch05.autocast_dtype("cpu")
    print(f"train: torch {torch.__version__}, {torch.get_num_threads()} threads; medians over {ROUNDS} rounds of {STEPS} steps each"
          + ("; no fast bfloat16 here, so both compute in float32" if dtype == torch.float32 else ""))
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "00000.npy", np.random.default_rng(0).integers(0, 2_048, 2_000_000).astype(np.uint16))
        for *case, target in CASES:
            bench(*case, target, ch05.TokenShards(folder))


if __name__ == "__main__":
    main()
