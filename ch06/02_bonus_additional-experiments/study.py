"""What matters when a small GPT is finetuned to classify: one choice changed at a time, and written down.

    python study.py                     all runs that results.json lacks; stop it whenever you like, it goes on from there
    python study.py --minutes 5         the same, but begins no run after five minutes
    python study.py --only endings      one of the two tasks
    python study.py --fresh             begin again

One thread, so that a run gives the same figures wherever it is repeated. additional-experiments.ipynb reads what this writes, and
so does chapter 6, for its learning curves.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch06/02_bonus_additional-experiments")
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from ch06 import (  # noqa: E402
    MessageDataset,
    SequenceClassifier,
    add_lora,
    ending_kind,
    freeze_below,
    predict_logits,
    train_classifier,
)
from data.endings import load_endings  # noqa: E402
from data.messages import load_messages, split_messages  # noqa: E402
from previous_chapters import GPTModel, load_pretrained, write_files  # noqa: E402

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
SIZES = {64: 12, 128: 8, 256: 6, 512: 4, 1024: 4, 2048: 3}        # labelled tales: epochs
N_VALIDATION, N_TEST = 200, 600                                   # tales
MESSAGE_EPOCHS, FROZEN_SIZE = 3, 256


@dataclass(frozen=True)
class Run:
    """What one run does; the defaults are the chapter's."""

    task: str = "messages"          # or "endings"
    n: int = 0                      # labelled examples; 0 is all there are
    start: str = "pretrained"       # or "random", the same shape
    trains: str = "everything"      # or "last block", "head", "LoRA"
    rank: int = 0                   # of LoRA
    reads: str = "last"             # or "mean", "first", "padding"
    padding: str = "right, sorted"  # or "right, to the longest", "left"
    model: str = "tales-small"
    longer: int = 1                 # times as many epochs
    seed: int = 0

    @property
    def rate(self) -> float:
        """The peak of the learning rate: the fewer weights move, and the less they know, the larger."""
        if self.start == "random":
            return 2e-3
        return {"everything": 1e-3, "last block": 2e-3, "head": 1e-2, "LoRA": 4e-3}[self.trains]

    @property
    def epochs(self) -> int:
        return self.longer * (SIZES.get(self.n, 4) if self.task == "endings" else MESSAGE_EPOCHS)


def planned() -> list[Run]:
    """All runs, what matters most first."""
    pretrained, random = ({n: Run("endings", n, start) for n in SIZES} for start in ("pretrained", "random"))
    frozen = [Run("endings", FROZEN_SIZE, trains=trains) for trains in ("last block", "head")]
    ranks = {rank: Run("endings", FROZEN_SIZE, trains="LoRA", rank=rank) for rank in (1, 2, 4, 8, 16)}
    first = [*(pretrained[n] for n in (64, 128, 256, 512)), random[512], *frozen, ranks[8], *(random[n] for n in (256, 128, 64)),
             random[2048], pretrained[1024], random[1024], ranks[1], ranks[4]]
    ablation = [Run(), Run(start="random"), Run(reads="mean"), Run(reads="first"),
                Run(reads="padding", padding="right, to the longest"), Run(padding="right, to the longest"), Run(padding="left"),
                Run(trains="last block"), Run(trains="head"), *(Run(trains="LoRA", rank=rank) for rank in (8, 1, 2, 4, 16))]
    again = [Run("endings", n, start, seed=1) for n in (64, 128, 256, 512) for start in ("pretrained", "random")]
    longer = Run("endings", 512, "random", longer=4)
    return list(dict.fromkeys([*first, *ablation[:6], pretrained[2048], *ablation[6:], longer, ranks[2], ranks[16],
                               *again, Run(seed=1), Run(start="random", seed=1), Run(model="tales-base")]))


class PaddedClassifier(SequenceClassifier):
    """The chapter's classifier that pads each row to `longest`, on the "right" or the "left", and may read the padding."""

    def __init__(self, gpt: GPTModel, longest: int, side: str = "right", reads: str = "last"):
        super().__init__(gpt, reads="last" if reads == "padding" else reads)
        self.longest, self.side, self.column = longest, side, side == "left" or reads == "padding"

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        missing = max(0, self.longest - token_ids.shape[1])
        token_ids, mask = F.pad(token_ids, (0, missing)), F.pad(mask, (0, missing), value=False)     # (B, longest)
        if self.side == "left":
            order = mask.int().argsort(dim=1, stable=True)                                           # padding first
            token_ids, mask = token_ids.gather(1, order), mask.gather(1, order)
        return super().forward(token_ids, mask)

    def read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[:, -1] if self.column else super().read(hidden, mask)                          # (B, T, C) -> (B, C)


def load_sets(run: Run, tokenizer) -> tuple[list[MessageDataset], list[str]]:
    """Sets to train, validate and test on, and the kind of each test text (endings only)."""
    if run.task == "messages":
        return [MessageDataset(list(part.text), list(part.label), tokenizer)
                for part in split_messages(load_messages(quiet=True))], []
    parts = [load_endings(run.n, 10 + run.seed), load_endings(N_VALIDATION, 3), load_endings(N_TEST, 2, split="combinations")]
    sets = [MessageDataset([text for text, _ in part], [("sad", "happy")[label] for _, label in part], tokenizer, ("sad", "happy"))
            for part in parts]
    return sets, [ending_kind(text) for text, _ in parts[2]]


def make_classifier(run: Run, gpt: GPTModel, longest: int) -> SequenceClassifier:
    """The classifier before training, with what isn't trained frozen."""
    torch.manual_seed(run.seed)
    gpt = GPTModel(gpt.config) if run.start == "random" else gpt
    if run.trains == "LoRA":
        add_lora(gpt, run.rank, alpha=2.0 * run.rank)             # the same scale, 2, for every rank
    if run.padding == "right, sorted":
        classifier = SequenceClassifier(gpt, reads=run.reads)
    else:
        classifier = PaddedClassifier(gpt, longest, run.padding.split(",")[0], run.reads)
    if run.trains in ("head", "last block"):
        freeze_below(classifier, 0 if run.trains == "head" else 1)
    return classifier


def share_right(logits: Tensor, labels: Tensor, which: list[int] | slice = slice(None)) -> float:
    return round((logits.argmax(dim=1) == labels)[which].float().mean().item(), 4)


def one_run(run: Run, epochs: int | None = None) -> dict:
    """Train and test as `run` says; returns the record."""
    gpt, tokenizer = load_pretrained(run.model)
    (train_set, validation_set, test_set), kinds = load_sets(run, tokenizer)
    longest = max(len(row) for data in (train_set, validation_set, test_set) for row in data.rows)
    classifier = make_classifier(run, gpt, longest)
    begun = time.process_time()
    history = train_classifier(classifier, train_set, validation_set, epochs or run.epochs, run.rate,
                               patience=epochs or run.epochs, seed=run.seed)
    seconds = time.process_time() - begun
    logits, labels = predict_logits(classifier, test_set.rows), test_set.labels
    record = asdict(run) | {
        "trained": sum(p.numel() for p in classifier.parameters() if p.requires_grad), "examples": len(train_set),
        "epochs": len(history), "rate": run.rate, "train": [round(row["train"], 4) for row in history],
        "validation": [round(row["validation"], 4) for row in history],
        "validation_accuracy": max(round(row["accuracy"], 4) for row in history
                                   if row["validation"] == min(r["validation"] for r in history)),
        "test_loss": round(F.cross_entropy(logits, labels).item(), 4), "accuracy": share_right(logits, labels),
        "processor_seconds": round(seconds, 1)}
    for kind in sorted(set(kinds)):
        record[kind] = share_right(logits, labels, [i for i, k in enumerate(kinds) if k == kind])
    if run.reads == "padding":                                    # the same texts, each alone and so without padding
        classifier.longest = 0
        record["alone"] = share_right(predict_logits(classifier, test_set.rows, batch_size=1), labels)
    return record


def commit() -> str:
    """The commit this ran at, or "unknown" outside a git checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main(arguments: list[str] | None = None) -> int:
    """Do the runs that are missing, saving after each."""
    parser = argparse.ArgumentParser(description="Finetune a small GPT to classify, one choice changed at a time.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this time")
    parser.add_argument("--only", choices=("messages", "endings"), help="only the runs on this task")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    torch.set_num_threads(1)
    record = {"command": "python study.py", "seeds": sorted({run.seed for run in planned()}),
              "device": f"cpu, one thread, {torch.backends.cpu.get_cpu_capability()}", "torch": torch.__version__.split("+")[0],
              "runs": []}
    if RESULTS.exists() and not options.fresh:
        record = json.loads(RESULTS.read_text(encoding="utf-8"))
    fields = asdict(Run())
    done = {Run(**{name: run[name] for name in fields}) for run in record["runs"]}
    for run in planned():
        if run in done or options.only not in (None, run.task):
            continue
        if time.monotonic() - begun > 60 * options.minutes:
            break
        record["runs"].append(one_run(run) | {"commit": commit()})
        write_files(HERE, {RESULTS.name: json.dumps(record, indent=1) + "\n"})
        print(record["runs"][-1], flush=True)
    print(f"{len(record['runs'])} of {len(planned())} runs are in {RESULTS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
