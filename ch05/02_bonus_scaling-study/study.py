"""The scaling study: train models of several sizes on several amounts of tales, and write down the loss of each.

    python study.py                     all runs that results.json lacks; stop it whenever you like, it goes on from there
    python study.py --minutes 5         the same, but begins no run after five minutes
    python study.py --fresh             begin again (some three minutes of one core, if nothing else runs)

One thread, so that a run gives the same figures wherever it is repeated. scaling-study.ipynb reads what this writes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
import course

course.setup("ch05/02_bonus_scaling-study")
sys.path.append(str(course.ROOT / "ch02" / "01_main-chapter-code"))
import numpy as np
import torch
import torch.nn.functional as F
from ch02 import train_bpe, write_files
from ch05 import TokenBatches, configure_optimizer, cosine_schedule, evaluate_loss, train
from previous_chapters import BytePairTokenizer, GPTConfig, GPTModel
from torch import Tensor

from data.tales import generate_tales

VOCAB_SIZE, WINDOW, BATCH, SEED = 512, 64, 4, 5
SIZES = ((24, 2, 2), (32, 2, 2), (48, 3, 3), (64, 3, 4))          # channels, layers, heads: the law is fitted to these
HELD_OUT = (96, 3, 6)                                             # and has to predict this one
BUDGETS = tuple(BATCH * WINDOW * steps for steps in (200, 400, 800, 1600))     # tokens
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


def one_run(size: tuple[int, int, int], n_tokens: int, stream: Sequence[int], held_out: list, peak: float | None = None) -> dict:
    """Train one model on the first `n_tokens` of the stream, each seen once; returns the record of it."""
    channels, layers, heads = size
    peak = learning_rate(channels) if peak is None else peak
    torch.manual_seed(SEED)
    model = GPTModel(GPTConfig(VOCAB_SIZE, WINDOW, channels, heads, layers))
    batches = TokenBatches(stream[:n_tokens + 1], WINDOW, BATCH, SEED)
    n_steps = n_tokens // (BATCH * WINDOW)

    def schedule(step):
        return cosine_schedule(step, n_steps, peak, n_warmup=n_steps // 10)

    begun = time.process_time()
    for _ in train(model, batches, configure_optimizer(model, peak), n_steps, schedule, every=n_steps):
        pass
    return {"channels": channels, "layers": layers, "heads": heads, "N": weights(size), "D": n_tokens,
            "learning_rate": round(peak, 5), "loss": round(evaluate_loss(model, held_out), 4),
            "processor_seconds": round(time.process_time() - begun, 1)}


def commit() -> str:
    """The commit this ran at, or "unknown" outside a git checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main(arguments: list[str] | None = None) -> int:
    """Do the runs that are missing, the cheapest first, saving after each."""
    parser = argparse.ArgumentParser(description="Train models of several sizes on several amounts of text.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this time")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    torch.set_num_threads(1)
    record = {"command": "python study.py", "seed": SEED, "device": f"cpu, one thread, {torch.backends.cpu.get_cpu_capability()}",
              "torch": torch.__version__.split("+")[0], "vocab_size": VOCAB_SIZE, "window": WINDOW, "batch": BATCH, "runs": []}
    if RESULTS.exists() and not options.fresh:
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
    done = {(run["channels"], run["D"]) for run in record["runs"]}
    wanted = sorted((weights(size) * budget, size, budget) for size in (*SIZES, HELD_OUT) for budget in BUDGETS)
    missing = [(size, budget) for _, size, budget in wanted if (size[0], budget) not in done]
    tokenizer = train_tokenizer()
    stream, held_out = token_stream(tokenizer, max(BUDGETS) + 1), held_out_windows(tokenizer)
    for size, budget in missing:
        if time.monotonic() - begun > 60 * options.minutes:
            break
        record["runs"].append(one_run(size, budget, stream, held_out) | {"commit": commit()})
        write_files(HERE, {RESULTS.name: json.dumps(record, indent=1) + "\n"})
        print(record["runs"][-1], flush=True)
    print(f"{len(record['runs'])} of {len(wanted)} runs are in {RESULTS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
