"""Turn a finished run of chapter 5's script into a bundled model: half-precision folder, measured card, curve.

    python models/bundle.py runs/tales-base models/tales-base

Everything that the card says of the model is measured here, on the folder as it is bundled, or read from the run's own records.
"""

import argparse
import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import course  # noqa: E402

course.setup("ch05/01_main-chapter-code")
import torch  # noqa: E402
from gpt_train import TOKENS_PER_TALE, pass_rates, sample_tales  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from tqdm import tqdm  # noqa: E402

from ch05 import load_checkpoint, load_pretrained, save_checkpoint  # noqa: E402
from data.ngram import NGram  # noqa: E402
from data.read_tale import TrainingIndex, longest_copied_span  # noqa: E402
from data.tales import generate_tales  # noqa: E402
from images.kit import plot_style  # noqa: E402
from previous_chapters import count_parameters  # noqa: E402

SPLITS = ("combinations", "skeletons")
N = 200                                                # tales sampled, and read of each held-out split


@torch.no_grad()
def perplexity(model, tokenizer, texts: list[str]) -> float:
    """exp of the mean loss a token, each tale read from its separator to the next."""
    total = n = 0
    for text in texts:
        ids = torch.tensor([[tokenizer.eot_token, *tokenizer.encode_ordinary(text), tokenizer.eot_token]])
        total += model(ids[:, :-1], targets=ids[:, 1:]).item() * (ids.shape[1] - 1)
        n += ids.shape[1] - 1
    return math.exp(total / n)


def training_tales(runs: list[dict]) -> list[str]:
    """The tales that the model was trained on, over all its runs."""
    counts = [int(run["tokens"] / TOKENS_PER_TALE[run["level"]]) + 1000 for run in runs]
    return [text for run, n in zip(runs, counts, strict=True) for _, text in generate_tales(n, run["seed"], run["level"])]


def measure(model, tokenizer, runs: list[dict]) -> dict:
    """Every figure of the card; `runs` are the settings of the runs that made the model, the last one last."""
    level, seed = runs[-1]["level"], runs[-1]["seed"]
    held_out = {split: [text for _, text in generate_tales(N, seed + 1, level, split)] for split in SPLITS}
    samples = sample_tales(model, tokenizer, N)
    train = training_tales(runs)
    index = TrainingIndex(tqdm(train, desc="indexing the training tales", disable=None), stride=8)
    copied = {name: sorted(longest_copied_span(text, index)[0] for text in texts)
              for name, texts in {"sampled": samples, **held_out}.items()}
    counts = NGram(5, tokenizer.encode_ordinary, tokenizer.decode).fit(train[:20_000])
    return {"rates": {name: pass_rates(texts, level) for name, texts in {"sampled": samples, **held_out}.items()},
            "perplexity": {split: perplexity(model, tokenizer, texts) for split, texts in held_out.items()},
            "perplexity of the 5-gram": {split: counts.perplexity(texts) for split, texts in held_out.items()},
            "copied": {name: {"median": spans[len(spans) // 2], "longest": spans[-1]} for name, spans in copied.items()},
            "samples": samples[:3]}


def plot_curve(curve: list[dict], path: Path) -> None:
    """The losses of the whole run over tokens."""
    plot_style()
    figure, axes = plt.subplots(figsize=(6, 3))
    axes.plot([row["tokens"] / 1e6 for row in curve], [row["loss"] for row in curve], label="train", linewidth=1)
    for split, marker in zip(SPLITS, "os"):
        rows = [row for row in curve if split in row]
        tokens = [row["tokens"] / 1e6 for row in rows]
        axes.plot(tokens, [row[split] for row in rows], marker, markersize=3, label=f"held-out {split}")
    axes.set(xlabel="million tokens", ylabel="loss, nats a token", yscale="log")
    axes.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def earlier(settings: dict) -> tuple[list[dict], list[dict]]:
    """Settings and curve of the runs before this one: those of the bundled model that it started from, if any."""
    if not settings.get("start"):
        return [], []
    folder = Path(settings["start"])
    return tuple(json.loads((folder / name).read_text(encoding="utf-8")) for name in ("runs.json", "curve.json"))


def described(runs: list[dict]) -> dict[str, str]:
    """What the card says of data and optimizer, a run after the other."""
    data = [f"{run['level']} tales, seed {run['seed']}, split `train`" for run in runs]
    tokens = [f"{run['tokens']:,.0f} in windows of {run['window']} that begin with a tale, {run['batch']} in a step"
              for run in runs]
    rates = [f"peak rate {run['learning_rate']:g} after {run['warmup']} steps of warm-up, cosine to a tenth, weight decay "
             f"{run['weight_decay']:g} on matrices" for run in runs]
    return {name: "; then ".join(parts) for name, parts in (("data", data), ("n_tokens", tokens), ("rates", rates))}


def card(name: str, config, curve: list[dict], runs: list[dict], found: dict, command: str, minutes: str) -> str:
    """The model card, in Markdown: `card-template.txt` with the figures filled in."""
    columns = [found["rates"][kind] for kind in ("sampled", *SPLITS)]
    rows = [f"| {skill} | {' | '.join(f'{column[skill]:.1%}' for column in columns)} |" for skill in columns[0]]
    ours, counts = found["perplexity"], found["perplexity of the 5-gram"]
    losses = [f"| {split} | {ours[split]:.2f} | {counts[split]:.2f} |" for split in SPLITS]
    spans = [f"| {kind} | {span['median']} | {span['longest']} |" for kind, span in found["copied"].items()]
    samples = "\n\n---\n\n".join("> " + text.replace("\n", "\n> ") for text in found["samples"])
    template = (Path(__file__).parent / "card-template.txt").read_text(encoding="utf-8")
    known = {**vars(config), **runs[-1], **described(runs), **curve[-1], "n_parameters": count_parameters(config), "n_sampled": N}
    return template.format(name=name, command=command, minutes=minutes, samples=samples, rows="\n".join(rows),
                           losses="\n".join(losses), spans="\n".join(spans), **known)


def main() -> None:
    """Write the folder, then measure it."""
    parser = argparse.ArgumentParser(description="Bundle a finished run: weights in half precision, a measured card, the curve.")
    parser.add_argument("run", type=Path, help="the run's folder, as gpt_train.py wrote it")
    parser.add_argument("out", type=Path, help="where the bundled model goes, such as models/tales-base")
    parser.add_argument("--command", required=True, help="the command that made the run, for the card")
    parser.add_argument("--minutes", required=True, help='how long it took on what, for the card: "110 minutes on one core of ..."')
    options = parser.parse_args()
    newest = max(options.run.glob("step-*"))
    model, state = load_checkpoint(newest)
    _, tokenizer = load_pretrained(newest)
    runs, curve = earlier(state["settings"])                     # now, as it may be the folder that is about to be replaced
    save_checkpoint(options.out, model, tokenizer, dtype=torch.float16)
    bundled, _ = load_pretrained(options.out)
    runs, seen = [*runs, state["settings"]], curve[-1]["tokens"] if curve else 0
    curve = [*curve, *({**row, "tokens": seen + row["tokens"]} for row in state["curve"])]
    found = measure(bundled, tokenizer, runs)
    plot_curve(curve, options.out / "curve.png")
    text = card(options.out.name, model.config, curve, runs, found, options.command, options.minutes)
    for file, content in {"curve.json": curve, "figures.json": found, "runs.json": runs}.items():
        (options.out / file).write_text(json.dumps(content, indent=1 if content is found else 0) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print(json.dumps(found["rates"]["sampled"], indent=1), found["perplexity"], found["copied"])


if __name__ == "__main__":
    main()
