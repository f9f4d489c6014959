"""Turn a finished run of chapter 7's script into a bundled model: half-precision folder, measured card.

    python models/bundle_answers.py runs/sft models/tales-sft

Everything that the card says of the model is measured here, on the folder as it is bundled, or read from the run's own record.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import course  # noqa: E402

course.setup("ch07/01_main-chapter-code")
import torch  # noqa: E402
from gpt_human_feedback import answer, load_pretrained, save_checkpoint, write_files  # noqa: E402

from data.instructions import judge, make_instructions  # noqa: E402

N = 210                                                # requests of each kind: ten of each family that training has
SPLITS = ("held-out wordings", "held-out families")

CARD = """# {name}

{start}, finetuned to answer: {records:,} instructions about {level} tales, made by `data/instructions.py`, each read {times}.
Load it with `load_pretrained(course.ROOT / "models" / "{name}")`, ask it with chapter 7's `format_prompt` and `generate_cached`.

## Recipe

```bash
python ch07/01_main-chapter-code/gpt_human_feedback.py {command}
python models/bundle_answers.py {run} models/{name}
```

{steps:,} steps of {batch} records, AdamW at a peak of {learning_rate:g}, {minutes} minutes on one core of a slow processor.
`run.json` has the settings and the curve.

## How good is it?

Greedy answers to {n} requests in wordings that training never had, and to {n} of families that it never had, scored from 0 to 1 by
the course's judge, which knows the facts of each tale:

| model | held-out wordings | held-out families |
|:--|--:|--:|
| {start} | {before[0]:.3f} ± {before[1]:.3f} | {before[2]:.3f} ± {before[3]:.3f} |
| {name} | {after[0]:.3f} ± {after[1]:.3f} | {after[2]:.3f} ± {after[3]:.3f} |

By family, in held-out wordings (ten requests each, so each of these is rough):

{families}

## What it can't do

It knows the {level} tales of this course and nothing else. It answers with confidence what it doesn't know, and mixes up names
when several occur. It isn't a product; it is where chapter 7's preferences begin.

## Samples

{samples}
"""


def scores_of(model, tokenizer) -> tuple[dict[str, torch.Tensor], list[dict], list[str]]:
    """The judge's scores (N,) of each split, and the requests and answers of the first."""
    asked = {split: list(make_instructions(N, 5, "simple", split)) for split in SPLITS}
    answers = {split: answer(model, tokenizer, requests) for split, requests in asked.items()}
    scores = {split: torch.tensor([judge(r, text).score for r, text in zip(asked[split], answers[split], strict=True)])
              for split in SPLITS}
    return scores, asked[SPLITS[0]], answers[SPLITS[0]]


def row(scores: dict[str, torch.Tensor]) -> list[float]:
    """Mean and half the width of its 95 % interval, of each split in turn."""
    return [round(x, 4) for s in scores.values() for x in (s.mean().item(), 1.96 * s.std().item() / len(s) ** 0.5)]


def main(run: Path, target: Path) -> None:
    """Write `target` from the folder `run`."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    o = record["settings"]
    model, tokenizer = load_pretrained(run)
    save_checkpoint(target, model, tokenizer, dtype=torch.float16)
    model, tokenizer = load_pretrained(target)                     # as it is bundled
    before, _, _ = scores_of(*load_pretrained(o["start"]))
    after, asked, answers = scores_of(model, tokenizer)
    by_family = defaultdict(list)
    for r, score in zip(asked, after[SPLITS[0]].tolist(), strict=True):
        by_family[r["family"]].append(score)
    means = {family: sum(s) / len(s) for family, s in sorted(by_family.items(), key=lambda item: -sum(item[1]))}
    figures = {"before": row(before), "after": row(after), "families": {k: round(v, 3) for k, v in means.items()}}
    given = {"sft": f"--method sft --start {o['start']} --records {o['records']} --seed {o['seed']} --out {run.as_posix()}"}
    card = CARD.format(
        name=target.name, run=run.as_posix(), command=given[o["method"]], n=N, steps=record["curve"][-1]["step"],
        times={1: "once", 2: "twice"}.get(o["epochs"], f"{o['epochs']} times"), **figures | o | {
            "families": "\n".join(["| family | score |", "|:--|--:|", *(f"| {k} | {v:.2f} |" for k, v in means.items())])},
        samples="\n\n".join(f"> **{r['instruction']}** {r['input'][:160]}\n>\n> {text}"
                            for r, text in list(zip(asked, answers, strict=True))[:4]))
    write_files(target, {"README.md": card, "figures.json": json.dumps(figures, indent=1) + "\n",
                         "run.json": json.dumps(record, indent=1) + "\n"})
    print(f"{target}: {figures['after'][0]:.3f} on held-out wordings, {figures['before'][0]:.3f} before")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Bundle a finished run of chapter 7's script.")
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    main(arguments.run, arguments.target)
