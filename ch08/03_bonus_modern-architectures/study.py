"""The study of architectures: our GPT, and one change after the other, each trained on the same simple tales.

    python study.py                     all runs that results.json lacks; stop it whenever you like, it goes on from there
    python study.py --fresh             begin again (about ten minutes of one core)

One thread, so that a run gives the same figures wherever it is repeated. The notebook reads what this writes.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch08/03_bonus_modern-architectures")
sys.path.append(str(course.ROOT / "ch05" / "01_main-chapter-code"))
import torch  # noqa: E402
from modern import ModernConfig, ModernModel, cache_bytes  # noqa: E402

from ch05 import TokenBatches, configure_optimizer, cosine_schedule, evaluate_loss, load_tokenizer, train  # noqa: E402
from data.tales import generate_tales  # noqa: E402

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
WINDOW, BATCH, STEPS, RATE, SEEDS = 128, 16, 300, 2e-3, (1, 2)
BASE = ModernConfig(2_048, WINDOW, n_channels=96, n_heads=4, n_layers=4)
CHANGES = [("GPT", {}), ("RMSNorm", {"norm": "rms"}), ("rotary positions", {"positions": "rope"}),
           ("SwiGLU", {"feed_forward": "swiglu"}), ("no biases", {"bias": False}), ("grouped queries", {"n_kv_heads": 2}),
           ("norms of q and k", {"qk_norm": True})]


def variants() -> dict[str, ModernConfig]:
    """Name to configuration: each has all the changes before it too."""
    config, found = BASE, {}
    for name, change in CHANGES:
        config = replace(config, **change)
        found[name] = config
    return found


def stream(n_tokens: int, split: str, seed: int):
    """The first `n_tokens` ids of an endless row of simple tales, each behind its end token."""
    tokenizer, ids, n = load_tokenizer(course.ROOT / "models" / "tokenizer"), [], 0
    encoding = tokenizer.to_tiktoken()
    while len(ids) < n_tokens:
        for _, text in generate_tales(500, seed=seed + n, level="simple", split=split):
            ids += [tokenizer.eot_token, *encoding.encode_ordinary(text)]
        n += 1
    return torch.tensor(ids[:n_tokens])


def run(config: ModernConfig, seed: int, n_steps: int = STEPS, make=ModernModel) -> tuple[dict, ModernModel]:
    """Train one model; its loss on held-out combinations, its size and its time, and the model."""
    torch.manual_seed(seed)
    model = make(config)
    n_tokens = n_steps * BATCH * WINDOW + 1
    batches = TokenBatches(stream(n_tokens, "train", 1_000 * seed).numpy(), WINDOW, BATCH, seed)
    optimizer = configure_optimizer(model, RATE)
    begun = time.perf_counter()
    for _ in train(model, batches, optimizer, n_steps, lambda step: cosine_schedule(step, n_steps, RATE, 50), every=n_steps):
        pass
    seconds = time.perf_counter() - begun
    held_out = TokenBatches(stream(240 * WINDOW + 1, "combinations", 7).numpy(), WINDOW, 30, 0)
    with torch.no_grad():
        loss = evaluate_loss(model.eval(), [held_out[step] for step in range(held_out.per_epoch)])
    n = sum(p.numel() for p in model.parameters())
    return {"loss": round(loss, 4), "parameters": n, "cache bytes": cache_bytes(config), "seconds": round(seconds, 1)}, model


def main() -> None:
    """Do what is left to do."""
    parser = argparse.ArgumentParser(description="The study of architectures.")
    parser.add_argument("--fresh", action="store_true", help="begin again")
    fresh = parser.parse_args().fresh
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    rows = {} if fresh or not RESULTS.exists() else json.loads(RESULTS.read_text(encoding="utf-8"))["runs"]
    for seed in SEEDS:
        for name, config in variants().items():
            if str(seed) in rows.get(name, {}):
                continue
            rows.setdefault(name, {})[str(seed)] = result = run(config, seed)[0]
            print(f"{name:18s} seed {seed}: {result}", flush=True)
            record = {"command": "python ch08/03_bonus_modern-architectures/study.py", "device": "CPU, 1 thread", "commit": commit,
                      "tokens": STEPS * BATCH * WINDOW, "runs": rows}
            temporary = RESULTS.with_suffix(".tmp")
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            temporary.replace(RESULTS)


if __name__ == "__main__":
    main()
