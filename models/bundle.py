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
from matplotlib import pyplot as plt  # noqa: E402
from tqdm import tqdm  # noqa: E402

from ch05 import generate_cached, load_checkpoint, load_pretrained, sample_next, save_checkpoint  # noqa: E402
from data.ngram import NGram  # noqa: E402
from data.read_tale import TrainingIndex, longest_copied_span, skills  # noqa: E402
from data.tales import generate_tales  # noqa: E402
from images.kit import plot_style  # noqa: E402
from previous_chapters import count_parameters  # noqa: E402

SPLITS = ("combinations", "skeletons")
N = 200                                                # tales sampled, and read of each held-out split


def sample_tales(model, tokenizer, n: int = N, seed: int = 0) -> list[str]:
    """n tales at temperature 0.8, from the separator on."""
    g, texts = torch.Generator().manual_seed(seed), []
    for _ in tqdm(range(n // 50), desc="sampling", disable=None):
        rows = generate_cached(model, [[tokenizer.eot_token]] * 50, model.config.context_length, tokenizer.eot_token,
                               lambda logits: sample_next(logits, 0.8, generator=g))
        texts += [tokenizer.decode([i for i in row if i != tokenizer.eot_token]) for row in rows]
    return texts


def rates(texts: list[str], level: str) -> dict[str, float]:
    """The share of texts that keep each skill of the checker, and of those that keep all."""
    found = [skills(text, level) for text in texts]
    return {"all of them": sum(all(f.values()) for f in found) / len(found),
            **{skill: sum(f[skill] for f in found) / len(found) for skill in found[0]}}


@torch.no_grad()
def perplexity(model, tokenizer, texts: list[str]) -> float:
    """exp of the mean loss a token, each tale read from its separator to the next."""
    total = n = 0
    for text in texts:
        ids = torch.tensor([[tokenizer.eot_token, *tokenizer.encode_ordinary(text), tokenizer.eot_token]])
        total += model(ids[:, :-1], targets=ids[:, 1:]).item() * (ids.shape[1] - 1)
        n += ids.shape[1] - 1
    return math.exp(total / n)


def measure(model, tokenizer, settings: dict, n_tales: int) -> dict:
    """Every figure of the card."""
    level, seed = settings["level"], settings["seed"]
    held_out = {split: [text for _, text in generate_tales(N, seed + 1, level, split)] for split in SPLITS}
    samples = sample_tales(model, tokenizer)
    train = [text for _, text in generate_tales(n_tales, seed, level)]
    index = TrainingIndex(tqdm(train, desc="indexing the training tales", disable=None), stride=8)
    copied = {name: sorted(longest_copied_span(text, index)[0] for text in texts)
              for name, texts in {"sampled": samples, **held_out}.items()}
    counts = NGram(5, tokenizer.encode_ordinary, tokenizer.decode).fit(train[:20_000])
    return {"rates": {"sampled": rates(samples, level), **{split: rates(texts, level) for split, texts in held_out.items()}},
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


def card(name: str, config, state: dict, found: dict, command: str, minutes: str) -> str:
    """The model card, in Markdown: `card-template.txt` with the figures filled in."""
    columns = [found["rates"][kind] for kind in ("sampled", *SPLITS)]
    rows = [f"| {skill} | {' | '.join(f'{column[skill]:.1%}' for column in columns)} |" for skill in columns[0]]
    ours, counts = found["perplexity"], found["perplexity of the 5-gram"]
    losses = [f"| {split} | {ours[split]:.2f} | {counts[split]:.2f} |" for split in SPLITS]
    spans = [f"| {kind} | {span['median']} | {span['longest']} |" for kind, span in found["copied"].items()]
    samples = "\n\n---\n\n".join("> " + text.replace("\n", "\n> ") for text in found["samples"])
    template = (Path(__file__).parent / "card-template.txt").read_text(encoding="utf-8")
    known = {**vars(config), **state["settings"], **state["curve"][-1], "n_parameters": count_parameters(config), "n_sampled": N}
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
    save_checkpoint(options.out, model, tokenizer, dtype=torch.float16)
    bundled, _ = load_pretrained(options.out)
    n_tales = int(state["settings"]["tokens"] / {"simple": 130, "full": 320}[state["settings"]["level"]]) + 1000
    found = measure(bundled, tokenizer, state["settings"], n_tales)
    plot_curve(state["curve"], options.out / "curve.png")
    (options.out / "curve.json").write_text(json.dumps(state["curve"], indent=0) + "\n", encoding="utf-8")
    (options.out / "figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = card(options.out.name, model.config, state, found, options.command, options.minutes)
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print(json.dumps(found["rates"]["sampled"], indent=1), found["perplexity"], found["copied"])


if __name__ == "__main__":
    main()
