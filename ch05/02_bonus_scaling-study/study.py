"""The scaling study: train models of several sizes on several amounts of tales, and write down the loss of each.

    python study.py                     all runs that results.json lacks; stop it whenever you like, it goes on from there
    python study.py --minutes 5         the same, but begins no run after five minutes
    python study.py --fresh             begin again (about three minutes of one core, if nothing else runs)

One thread, so that a run gives the same figures wherever it is repeated. scaling-study.ipynb reads what this writes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch05/02_bonus_scaling-study")
sys.path.append(str(course.ROOT / "ch02" / "01_main-chapter-code"))
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from ch02 import train_bpe, write_files  # noqa: E402
from ch05 import TokenBatches, configure_optimizer, cosine_schedule, evaluate_loss, train  # noqa: E402
from data.tales import generate_tales  # noqa: E402
from previous_chapters import BytePairTokenizer, GPTConfig, GPTModel  # noqa: E402

HERE = Path(__file__).resolve().parent
VOCAB_SIZE, WINDOW, BATCH, SEED = 512, 64, 4, 5
SIZES = ((24, 2, 2), (32, 2, 2), (48, 3, 3), (64, 3, 4))          # channels, layers, heads: the law is fitted to these
BUDGETS = tuple(BATCH * WINDOW * steps for steps in (400, 800, 1600))        # tokens, on each of these
LARGER, LONGER = (96, 3, 6), 2 * BUDGETS[-1]                      # and has to predict a larger model, and longer runs
FITTED = [(size, budget, SEED) for size in SIZES for budget in BUDGETS]
HELD_OUT = [*((LARGER, budget, SEED) for budget in BUDGETS[:2]), *((size, LONGER, SEED) for size in SIZES[:3])]
REPEATED = [(SIZES[0], BUDGETS[0], SEED + 1), (SIZES[0], BUDGETS[0], SEED + 2), (SIZES[1], BUDGETS[0], SEED + 1)]
RESULTS = HERE / "results.json"


def weights(size: tuple[int, int, int]) -> int:
    """N: the weights that every token is multiplied with, in the blocks and in the head."""
    channels, layers, _ = size
    return 12 * layers * channels**2 + VOCAB_SIZE * channels


def train_tokenizer() -> BytePairTokenizer:
    """A small vocabulary, so that the models consist of blocks and not of embeddings."""
    return train_bpe((text for _, text in generate_tales(200, seed=SEED)), VOCAB_SIZE, ["<|endoftext|>"])


def token_stream(tokenizer: BytePairTokenizer, n_tokens: int, seed: int = SEED, split: str = "train") -> np.ndarray:
    """The first `n_tokens` ids of an endless row of full tales, each behind its `<|endoftext|>`."""
    encoding, ids, batch = tokenizer.to_tiktoken(), [], 200
    while len(ids) < n_tokens:                                    # batch after batch, so that the beginning is always the same
        for _, text in generate_tales(batch, seed=seed, split=split):
            ids += [tokenizer.eot_token, *encoding.encode_ordinary(text)]
        seed += 1
    return np.array(ids[:n_tokens], np.uint16)


def held_out_windows(tokenizer: BytePairTokenizer) -> list[tuple[Tensor, Tensor]]:
    """Batches (B, T) of tales whose combination of facts no training tale has."""
    batches = TokenBatches(token_stream(tokenizer, 128 * BATCH * WINDOW + 1, seed=99, split="combinations"), WINDOW, BATCH)
    return [batches[i] for i in range(batches.per_epoch)]


def learning_rate(channels: int) -> float:
    """The peak: a few trials at the smallest and the largest fitted size, and the root of the width in between."""
    return 0.008 * (24 / channels) ** 0.5


def one_run(size: tuple[int, int, int], n_tokens: int, stream: Sequence[int], held_out: list, seed: int = SEED) -> dict:
    """Train one model on the first `n_tokens` of the stream, each seen once; returns the record of it.

    The seed decides the first weights and the order of the windows; the text is the same for all.
    """
    channels, layers, heads = size
    peak = learning_rate(channels)
    torch.manual_seed(seed)
    model = GPTModel(GPTConfig(VOCAB_SIZE, WINDOW, channels, heads, layers))
    batches = TokenBatches(stream[:n_tokens + 1], WINDOW, BATCH, seed)
    n_steps = n_tokens // (BATCH * WINDOW)

    def schedule(step):
        return cosine_schedule(step, n_steps, peak, n_warmup=n_steps // 10)

    begun = time.process_time()
    for _ in train(model, batches, configure_optimizer(model, peak), n_steps, schedule, every=n_steps):
        pass
    return {"channels": channels, "layers": layers, "heads": heads, "N": weights(size), "D": n_tokens,
            "seed": seed, "learning_rate": round(peak, 5), "loss": round(evaluate_loss(model, held_out), 4),
            "processor_seconds": round(time.process_time() - begun, 1)}


def law(constants: Tensor, N: Tensor, D: Tensor) -> Tensor:
    """L = E + A / N^a + B / D^b for the constants (5,) = log E, log A, a, log B, b and n pairs (N, D), each (n,): (n,)."""
    log_E, log_A, a, log_B, b = constants
    return log_E.exp() + (log_A - a * N.log()).exp() + (log_B - b * D.log()).exp()                   # (n,)


STARTS = [torch.tensor([log_E, 11 * a + 0.5, a, 12 * b + 0.5, b], dtype=torch.double)               # both terms begin near 1.6
          for log_E in (-1.0, 0.5) for a in (0.2, 0.6) for b in (0.2, 0.6)]


def fit_law(N: Tensor, D: Tensor, loss: Tensor, starts: Sequence[Tensor] = STARTS,
            delta: float = 1e-3) -> tuple[Tensor, float]:
    """The constants (5,) with which `law` comes closest to n losses, and how far off it is, the best from all starts.

    The misfit is Huber's on the log of the loss, as Hoffmann and others (2022, section 3.3) take it: few bad
    runs don't pull the curve. Raises ValueError for fewer than six runs, as five constants fit any five of them.
    """
    if len(loss) < 6:
        raise ValueError(f"{len(loss)} runs can't test a law of five constants; give it at least 6")
    N, D, target = N.double(), D.double(), loss.double().log()                                       # (n,) each

    def misfit(constants):
        gap = law(constants, N, D).log() - target                                                    # (n,)
        return F.huber_loss(gap, torch.zeros_like(gap), reduction="mean", delta=delta) / delta

    fits = []
    for start in starts:
        constants = start.clone().requires_grad_()
        downhill = torch.optim.LBFGS([constants], max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-12,
                                     history_size=20, line_search_fn="strong_wolfe")

        def closure(constants=constants, downhill=downhill):
            downhill.zero_grad()
            value = misfit(constants)
            value.backward()
            return value

        downhill.step(closure)
        fits.append((misfit(constants).item(), constants.detach()))
    value, best = min((fit for fit in fits if fit[0] == fit[0]), key=lambda fit: fit[0])             # NaN is out
    return best, value


def commit() -> str:
    """The commit this ran at, or "unknown" outside a git checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def loss_of(runs: list[dict], wanted: list[tuple]) -> dict[tuple[int, int], float]:
    """{(N, D): loss} of the wanted (size, tokens, seed), in their order."""
    found = {(run["N"], run["D"], run["seed"]): run["loss"] for run in runs}
    return {(weights(size), tokens): found[weights(size), tokens, seed] for size, tokens, seed in wanted}


def fitted(runs: list[dict]) -> dict:
    """The law's constants, from the runs that it may see."""
    losses = loss_of(runs, FITTED)
    N, D = torch.tensor(list(losses)).T                                                              # (n,) each
    loss = torch.tensor(list(losses.values()))                                                       # (n,)
    (log_E, log_A, a, log_B, b), misfit = fit_law(N, D, loss)
    constants = {"E": log_E.exp(), "A": log_A.exp(), "a": a, "B": log_B.exp(), "b": b, "misfit": misfit}
    return {name: float(f"{value:.4g}") for name, value in constants.items()}


def main(arguments: list[str] | None = None) -> int:
    """Do the runs that are missing, first one of each, the cheapest first, saving after each."""
    parser = argparse.ArgumentParser(description="Train models of several sizes on several amounts of text.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this time")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    torch.set_num_threads(1)
    record = {"command": "python study.py", "device": f"cpu, one thread, {torch.backends.cpu.get_cpu_capability()}",
              "torch": torch.__version__.split("+")[0], "vocab_size": VOCAB_SIZE, "window": WINDOW, "batch": BATCH, "runs": []}
    if RESULTS.exists() and not options.fresh:
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
    done = {(run["channels"], run["D"], run["seed"]) for run in record["runs"]}
    wanted = sorted([*FITTED, *HELD_OUT, *REPEATED], key=lambda run: (run[2], weights(run[0]) * run[1]))
    missing = [(size, budget, seed) for size, budget, seed in wanted if (size[0], budget, seed) not in done]
    tokenizer = train_tokenizer()
    stream, held_out = token_stream(tokenizer, LONGER + 1), held_out_windows(tokenizer)
    for size, budget, seed in missing:
        if time.monotonic() - begun > 60 * options.minutes:
            break
        record["runs"].append(one_run(size, budget, stream, held_out, seed) | {"commit": commit()})
        write_files(HERE, {RESULTS.name: json.dumps(record, indent=1) + "\n"})
        print(record["runs"][-1], flush=True)
    if len(record["runs"]) == len(wanted):
        write_files(HERE, {RESULTS.name: json.dumps(record | {"law": fitted(record["runs"])}, indent=1) + "\n"})
    print(f"{len(record['runs'])} of {len(wanted)} runs are in {RESULTS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
