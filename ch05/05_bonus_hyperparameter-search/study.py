"""A random search: learning rate, width and batch drawn at random, one small model trained for each draw.

    python study.py                     all trials that results.json lacks; stop it whenever you like, it goes on from there
    python study.py --minutes 5         the same, but begins no trial after five minutes
    python study.py --fresh             begin again (about a minute and a half of one core, if nothing else runs)

One thread, so that a trial gives the same figures wherever it is repeated. hyperparameter-search.ipynb reads what this writes.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch05/05_bonus_hyperparameter-search")
import numpy as np  # noqa: E402
import torch  # noqa: E402

from ch05 import TokenBatches, configure_optimizer, cosine_schedule, evaluate_loss, train  # noqa: E402
from data.tales import generate_tales  # noqa: E402
from previous_chapters import GPTConfig, GPTModel, load_tokenizer, write_files  # noqa: E402

HERE = Path(__file__).resolve().parent
WINDOW, N_TOKENS, N_TRIALS, SEED = 64, 100_000, 24, 83
WIDTHS, BATCHES = (24, 48, 96), (4, 8, 16)
RATES = (5e-4, 5e-2)                                              # drawn evenly on a logarithmic axis between these
RESULTS = HERE / "results.json"


def draw(trial: int) -> dict:
    """The hyperparameters of a trial, from a random generator of its own: trial 7 is the same in every search."""
    rng = Random(f"{SEED} {trial}")
    rate = RATES[0] * (RATES[1] / RATES[0]) ** rng.random()
    return {"trial": trial, "rate": float(f"{rate:.3g}"), "width": rng.choice(WIDTHS), "batch": rng.choice(BATCHES)}


def load_data() -> tuple[object, np.ndarray, list]:
    """The tokenizer, the ids of some simple tales, and batches (B, T) of tales with combinations that training never sees."""
    tokenizer = load_tokenizer(course.ROOT / "models" / "tokenizer")
    encoding = tokenizer.to_tiktoken()

    def ids_of(n, seed, split):
        rows = encoding.encode_ordinary_batch([text for _, text in generate_tales(n, seed=seed, level="simple", split=split)])
        return np.concatenate([[tokenizer.eot_token, *row] for row in rows]).astype(np.uint16)

    held_out = TokenBatches(ids_of(80, 1, "combinations"), WINDOW, 8)
    return tokenizer, ids_of(1_000, 0, "train"), [held_out[i] for i in range(16)]


def one_trial(settings: dict, vocab_size: int, ids: np.ndarray, held_out: list, n_tokens: int = N_TOKENS) -> dict:
    """Train with these settings on `n_tokens`, whatever the batch; returns them with the held-out loss."""
    torch.manual_seed(SEED)
    model = GPTModel(GPTConfig(vocab_size, WINDOW, settings["width"], n_heads=3, n_layers=2))
    n_steps = n_tokens // (WINDOW * settings["batch"])
    schedule = partial(cosine_schedule, n_steps=n_steps, peak=settings["rate"], n_warmup=n_steps // 20)
    begun = time.process_time()
    batches = TokenBatches(ids, WINDOW, settings["batch"], SEED)
    for _ in train(model, batches, configure_optimizer(model), n_steps, schedule, every=n_steps):
        pass
    return settings | {"loss": round(evaluate_loss(model, held_out), 4), "processor_seconds": round(time.process_time() - begun, 1)}


def commit() -> str:
    """The commit this ran at, or "unknown" outside a git checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main(arguments: list[str] | None = None) -> int:
    """Do the trials that are missing, saving after each."""
    parser = argparse.ArgumentParser(description="Search learning rate, width and batch at random.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no trial after this time")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    torch.set_num_threads(1)
    record = {"command": "python study.py", "seed": SEED, "device": f"cpu, one thread, {torch.backends.cpu.get_cpu_capability()}",
              "torch": torch.__version__.split("+")[0], "window": WINDOW, "tokens": N_TOKENS, "trials": []}
    if RESULTS.exists() and not options.fresh:
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
    done = {trial["trial"] for trial in record["trials"]}
    tokenizer, ids, held_out = load_data()
    for trial in range(N_TRIALS):
        if trial in done:
            continue
        if time.monotonic() - begun > 60 * options.minutes:
            break
        record["trials"].append(one_trial(draw(trial), tokenizer.n_vocab, ids, held_out) | {"commit": commit()})
        write_files(HERE, {RESULTS.name: json.dumps(record, indent=1) + "\n"})
        print(record["trials"][-1], flush=True)
    print(f"{len(record['trials'])} of {N_TRIALS} trials are in {RESULTS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
