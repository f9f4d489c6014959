"""Learning-rate schedules at the same budget: train one small model by each, and write down its losses.

    python study.py                     all runs that results.json lacks; stop it whenever you like, it goes on from there
    python study.py --minutes 5         the same, but begins no run after five minutes
    python study.py --fresh             begin again (about three minutes of one core, if nothing else runs)

One thread, so that a run gives the same figures wherever it is repeated. learning-rate-schedules.ipynb reads what this writes.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch05/04_bonus_learning-rate-schedules")
import numpy as np  # noqa: E402
import torch  # noqa: E402

from ch05 import TokenBatches, configure_optimizer, cosine_schedule, evaluate_loss, train  # noqa: E402
from data.tales import generate_tales  # noqa: E402
from previous_chapters import GPTConfig, GPTModel, load_tokenizer, write_files  # noqa: E402

HERE = Path(__file__).resolve().parent
WINDOW, BATCH, N_STEPS, N_WARMUP, SEED = 64, 8, 500, 25, 5        # 256,000 tokens in all
PEAKS = (3e-3, 6e-3, 1.2e-2)
RESULTS = HERE / "results.json"


def constant(step: int, n_steps: int, peak: float, n_warmup: int) -> float:
    """Up to the peak in a straight line, then stay there."""
    return peak * min(1.0, (step + 1) / max(1, n_warmup))


def linear(step: int, n_steps: int, peak: float, n_warmup: int) -> float:
    """Up, then straight down to 0."""
    left = (n_steps - step) / (n_steps - n_warmup)
    return min(constant(step, n_steps, peak, n_warmup), peak * left)


def cosine(step: int, n_steps: int, peak: float, n_warmup: int) -> float:
    """Up, then half a cosine down to 0: the chapter's schedule with another floor."""
    return cosine_schedule(step, n_steps, peak, n_warmup, floor=0.0)


def stable_decay(step: int, n_steps: int, peak: float, n_warmup: int, share: float = 0.2) -> float:
    """Up, stay, and only in the last fifth straight down to 0."""
    left = (n_steps - step) / (n_steps * share)
    return min(constant(step, n_steps, peak, n_warmup), peak * left)


def no_warmup(step: int, n_steps: int, peak: float, n_warmup: int) -> float:
    """The cosine from its peak on, at once."""
    return cosine(step, n_steps, peak, 0)


SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine, "warm-up, stable, decay": stable_decay,
             "cosine, no warm-up": no_warmup}


def load_data() -> tuple[object, np.ndarray, list]:
    """The tokenizer, the ids of some simple tales, and batches (B, T) of tales with combinations that training never sees."""
    tokenizer = load_tokenizer(course.ROOT / "models" / "tokenizer")
    encoding = tokenizer.to_tiktoken()

    def ids_of(n, seed, split):
        rows = encoding.encode_ordinary_batch([text for _, text in generate_tales(n, seed=seed, level="simple", split=split)])
        return np.concatenate([[tokenizer.eot_token, *row] for row in rows]).astype(np.uint16)

    held_out = TokenBatches(ids_of(80, 1, "combinations"), WINDOW, BATCH)
    return tokenizer, ids_of(2_200, 0, "train"), [held_out[i] for i in range(16)]


def one_run(name: str, peak: float, vocab_size: int, ids: np.ndarray, held_out: list, n_steps: int = N_STEPS,
            every: int = 50) -> dict:
    """Train by one schedule; returns the record: the held-out loss every `every` steps, and the training loss of the first 100."""
    torch.manual_seed(SEED)
    model = GPTModel(GPTConfig(vocab_size, WINDOW, n_channels=48, n_heads=3, n_layers=2))
    schedule = partial(SCHEDULES[name], n_steps=n_steps, peak=peak, n_warmup=N_WARMUP)
    begun, losses, early = time.process_time(), [], []
    for step, loss in train(model, TokenBatches(ids, WINDOW, BATCH, SEED), configure_optimizer(model), n_steps, schedule, every=10):
        if step <= 100:
            early.append(round(loss, 4))
        if step % every == 0:
            losses.append(round(evaluate_loss(model, held_out), 4))
    return {"schedule": name, "peak": peak, "loss": losses[-1], "losses": losses, "early": early,
            "processor_seconds": round(time.process_time() - begun, 1)}


def commit() -> str:
    """The commit this ran at, or "unknown" outside a git checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main(arguments: list[str] | None = None) -> int:
    """Do the runs that are missing, saving after each."""
    parser = argparse.ArgumentParser(description="Train one small model by several learning-rate schedules.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this time")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    torch.set_num_threads(1)
    record = {"command": "python study.py", "seed": SEED, "device": f"cpu, one thread, {torch.backends.cpu.get_cpu_capability()}",
              "torch": torch.__version__.split("+")[0], "window": WINDOW, "batch": BATCH, "steps": N_STEPS, "warmup": N_WARMUP,
              "runs": []}
    if RESULTS.exists() and not options.fresh:
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
    done = {(run["schedule"], run["peak"]) for run in record["runs"]}
    wanted = [(name, peak) for peak in PEAKS for name in SCHEDULES]
    tokenizer, ids, held_out = load_data()
    for name, peak in wanted:
        if (name, peak) in done:
            continue
        if time.monotonic() - begun > 60 * options.minutes:
            break
        record["runs"].append(one_run(name, peak, tokenizer.n_vocab, ids, held_out) | {"commit": commit()})
        write_files(HERE, {RESULTS.name: json.dumps(record, indent=1) + "\n"})
        print(record["runs"][-1], flush=True)
    print(f"{len(record['runs'])} of {len(wanted)} runs are in {RESULTS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
