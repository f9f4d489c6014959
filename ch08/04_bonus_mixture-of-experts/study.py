"""The study of mixtures: a dense model, and models with experts, each trained on the same simple tales.

    python study.py                     all runs that results.json lacks; stop it whenever you like, it goes on from there
    python study.py --fresh             begin again (about ten minutes of one core)

One thread, so that a run gives the same figures wherever it is repeated. The notebook reads what this writes.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch08/04_bonus_mixture-of-experts")
sys.path.append(str(course.ROOT / "ch08" / "03_bonus_modern-architectures"))
import torch  # noqa: E402
from modern import ModernConfig, ModernModel  # noqa: E402
from moe import Mixture, MixtureConfig, MixtureModel, n_weights  # noqa: E402

HERE = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("dense_study", HERE.parent / "03_bonus_modern-architectures" / "study.py")
dense_study = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dense_study)

RESULTS, SEEDS = HERE / "results.json", (1, 2)
DENSE = replace(dense_study.BASE, norm="rms", positions="rope", feed_forward="swiglu", bias=False)


def with_experts(n_experts: int, n_chosen: int, balance: float) -> MixtureConfig:
    """The dense shape with experts; those that a token uses are together as wide as the dense part."""
    return MixtureConfig(**asdict(replace(DENSE, n_hidden=DENSE.hidden // n_chosen)), n_experts=n_experts, n_chosen=n_chosen,
                         balance=balance)


VARIANTS = {"dense": DENSE, "4 experts, 1 used": with_experts(4, 1, 0.01), "4 experts, no balance": with_experts(4, 1, 0.0),
            "8 half as wide, 2 used": with_experts(8, 2, 0.01)}


def run(config: ModernConfig, seed: int, n_steps: int = dense_study.STEPS) -> dict:
    """Train one model; its loss on held-out combinations, its weights, and how evenly its experts are used."""
    make = MixtureModel if isinstance(config, MixtureConfig) else ModernModel
    result, model = dense_study.run(config, seed, n_steps, make)
    every, active = n_weights(model)
    used = [block.feed_forward.used for block in model.blocks if isinstance(block.feed_forward, Mixture)]
    shares = [[round(share, 3) for share in (u / u.sum()).tolist()] for u in used]
    return {"loss": result["loss"], "weights": every, "used by a token": active, "seconds": result["seconds"], "shares": shares}


def main() -> None:
    """Do what is left to do."""
    parser = argparse.ArgumentParser(description="The study of mixtures.")
    parser.add_argument("--fresh", action="store_true", help="begin again")
    fresh = parser.parse_args().fresh
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    rows = {} if fresh or not RESULTS.exists() else json.loads(RESULTS.read_text(encoding="utf-8"))["runs"]
    for seed in SEEDS:
        for name, config in VARIANTS.items():
            if str(seed) in rows.get(name, {}):
                continue
            rows.setdefault(name, {})[str(seed)] = result = run(config, seed)
            print(f"{name:24s} seed {seed}: {result}", flush=True)
            record = {"command": "python ch08/04_bonus_mixture-of-experts/study.py", "device": "CPU, 1 thread", "commit": commit,
                      "runs": rows}
            temporary = RESULTS.with_suffix(".tmp")
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            temporary.replace(RESULTS)


if __name__ == "__main__":
    main()
