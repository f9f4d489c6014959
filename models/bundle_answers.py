"""Turn a finished run of chapter 7's script into a bundled model: half-precision folder, measured card.

    python models/bundle_answers.py runs/sft models/tales-sft
    python models/bundle_answers.py runs/grpo models/tales-chat

A run that began with another run's folder is told with the stages before it.
Everything that the card says of the model is measured here, on the folder as it is bundled, or read from the run's own record.
Where a comparison stands beside the run, it goes along.
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
from gpt_human_feedback import LIMIT, answers_of, load_pretrained, save_checkpoint, write_files  # noqa: E402

from data.instructions import judge, make_instructions  # noqa: E402

N = 210                                                # requests of each kind: ten of each family that training has
SPLITS = ("held-out wordings", "held-out families")
WHAT = {
    "sft": "finetuned to answer, on {records:,} instructions and {conversations:,} conversations about {level} tales, made by "
           "`data/instructions.py`",
    "dpo": "trained on preferences about its own answers to {records:,} requests (direct preference optimization)",
    "ppo": "trained by a reward model's opinion of {records:,} of its own answers (proximal policy optimization)",
    "grpo": "trained on {records:,} requests, eight of its own answers to each, by the part of the course's judgment that a "
            "program can check (group relative policy optimization)"}
CARD = """# {name}

{what}.
Load it with `load_pretrained(course.ROOT / "models" / "{name}")`, ask it with chapter 7's `format_prompt` and `generate_cached`.

## Recipe

```bash
{commands}
python models/bundle_answers.py {run} models/{name}
```

{effort}
`run.json` has the settings and the curve{of_the_last}.

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
when several occur. It isn't a product; it is what this course's reader can make on a laptop, and look into.

## Samples

{samples}
"""


def scores_of(model, tokenizer, level: str) -> tuple[dict[str, torch.Tensor], list[dict], list[str]]:
    """The judge's scores (N,) of each split, and the requests and answers of the first."""
    asked = {split: list(make_instructions(N, 5, level, split)) for split in SPLITS}
    answers = {split: answers_of(model, tokenizer, requests, LIMIT[level]) for split, requests in asked.items()}
    scores = {split: torch.tensor([judge(r, text).score for r, text in zip(asked[split], answers[split], strict=True)])
              for split in SPLITS}
    return scores, asked[SPLITS[0]], answers[SPLITS[0]]


def row(scores: dict[str, torch.Tensor]) -> list[float]:
    """Mean and half the width of its 95 % interval, of each split in turn."""
    return [round(x, 4) for s in scores.values() for x in (s.mean().item(), 1.96 * s.std().item() / len(s) ** 0.5)]


def command_of(o: dict, run: Path) -> str:
    """The script's arguments that make this run again, whatever its defaults may become."""
    names = ["method", "start", "level", "records", *(["conversations"] if o["method"] == "sft" else ["beta"]), "epochs", "batch",
             "learning_rate", *(["reward"] if o["method"] == "ppo" else []), "seed"]
    return " ".join(f"--{name.replace('_', '-')} {o[name]}" for name in names) + f" --out {run.as_posix()}"


def stages_of(run: Path) -> list[tuple[Path, dict]]:
    """The runs that led to this one, from the first on, with their records; the first began with a bundled model."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    start = Path(record["settings"].get("start", ""))
    return [*(stages_of(start) if start.parts[:1] == ("runs",) and (start / "run.json").exists() else []), (run, record)]


def effort_of(record: dict) -> str:
    """What a run took, in words."""
    o = record["settings"]
    where = f"a CPU, {o['threads']} thread" + "s" * (o["threads"] > 1) if o["device"] == "cpu" else f"a GPU ({o['device']})"
    rate = o["learning_rate"]
    return f"{record['curve'][-1]['step']:,} steps, AdamW at a peak of {rate:g}, {o['minutes']} minutes on {where}."


def main(run: Path, target: Path) -> None:
    """Write `target` from the folder `run`."""
    stages = stages_of(run)
    record = stages[-1][1]
    o = record["settings"]
    if o["method"] not in WHAT or o["data"]:
        raise SystemExit(f"{run} was made with --method {o['method']}, --data {o['data']}; bundle a model that answers, made from "
                         "the course's own data")
    model, tokenizer = load_pretrained(run)
    save_checkpoint(target, model, tokenizer, dtype=torch.float16)
    model, tokenizer = load_pretrained(target)                     # as it is bundled
    before, _, _ = scores_of(*load_pretrained(o["start"]), o["level"])
    after, asked, answers = scores_of(model, tokenizer, o["level"])
    by_family = defaultdict(list)
    for r, score in zip(asked, after[SPLITS[0]].tolist(), strict=True):
        by_family[r["family"]].append(score)
    means = {family: sum(s) / len(s) for family, s in sorted(by_family.items(), key=lambda item: -sum(item[1]))}
    figures = {"before": row(before), "after": row(after), "families": {k: round(v, 3) for k, v in means.items()}}
    what = [WHAT[r["settings"]["method"]].format(**r["settings"]) for _, r in stages]
    card = CARD.format(
        name=target.name, run=run.as_posix(), n=N, effort=" Then ".join(effort_of(r) for _, r in stages),
        of_the_last=" of the last stage" * (len(stages) > 1),
        commands="\n".join(f"python ch07/01_main-chapter-code/gpt_human_feedback.py {command_of(r['settings'], path)}"
                           for path, r in stages),
        what=f"{Path(stages[0][1]['settings']['start']).name}, {'; then '.join(what)}", **figures | o | {
            "start": Path(o["start"]).name,
            "families": "\n".join(["| family | score |", "|:--|--:|", *(f"| {k} | {v:.2f} |" for k, v in means.items())])},
        samples="\n\n".join(f"> **{r['instruction']}** {r['input'][:160]}\n>\n> {text}"
                            for r, text in list(zip(asked, answers, strict=True))[:6]))
    files = {"README.md": card} | {f"{kind}.json": json.dumps(content, indent=1) + "\n"
                                   for kind, content in (("figures", figures), ("run", record))}
    comparison = run.parent / "comparison.json"
    if o["method"] != "sft" and comparison.exists():
        files["comparison.json"] = comparison.read_text(encoding="utf-8")
    write_files(target, files)
    print(f"{target}: {figures['after'][0]:.3f} on held-out wordings, {figures['before'][0]:.3f} before")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Bundle a finished run of chapter 7's script.")
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    main(arguments.run, arguments.target)
