"""The README's table of contents, from the map of the course and from which files exist. Standard library only.

`python course.py export` rewrites what stands between `<!-- contents -->` and `<!-- /contents -->`, and the repository's address in
README.md and CITATION.cff; `export --check` compares. What isn't there yet says "planned", without a link.
"""

import re
from pathlib import Path

import course
from tools import headers

START, END = "<!-- contents -->", "<!-- /contents -->"
PLANNED = "planned"
CHAPTERS = {  # folder: label, title, supplements as {folder: title}
    "ch01": ("1", "Understanding large language models", {}),
    "ch02": (
        "2",
        "Working with text data",
        {
            "02_bonus_bytepair-encoder": "Byte-pair encoders side by side",
            "03_bonus_embedding-vs-matmul": "Embedding as look-up and as matrix product",
        },
    ),
    "ch03": (
        "3",
        "Coding attention mechanisms",
        {
            "02_bonus_efficient-multihead-attention": "Efficient multi-head attention",
            "03_bonus_understanding-buffers": "Understanding buffers",
        },
    ),
    "ch04": ("4", "A GPT model from scratch", {"02_bonus_performance-analysis": "Performance analysis"}),
    "ch05": (
        "5",
        "Pretraining on unlabeled data",
        {
            "02_bonus_scaling-study": "A scaling study",
            "03_bonus_pretraining-on-real-text": "Pretraining on real text",
            "04_bonus_learning-rate-schedules": "Learning-rate schedules",
            "05_bonus_hyperparameter-search": "A search for hyperparameters",
        },
    ),
    "ch06": (
        "6",
        "Finetuning for text classification",
        {
            "02_bonus_additional-experiments": "Additional experiments",
            "03_bonus_movie-reviews": "Movie reviews",
            "04_user_interface": "A page to try the filter",
        },
    ),
    "ch07": (
        "7",
        "Finetuning with human feedback",
        {
            "02_bonus_dataset-utilities": "Dataset utilities",
            "03_bonus_model-evaluation": "Judging models in pairs",
            "04_preference-tuning-variants": "Variants of preference tuning",
        },
    ),
    "ch08": (
        "8",
        "Using LLMs in practice",
        {
            "02_bonus_kv-cache": "The ladder of caches",
            "03_bonus_modern-architectures": "Modern architectures",
            "04_bonus_mixture-of-experts": "Mixture of experts",
        },
    ),
    "appendix-A": (
        "A",
        "Introduction to PyTorch",
        {
            "01_optional-python-setup-preferences": "Setting up Python",
            "02_installing-python-libraries": "Checking the installation",
            "04_bonus_autograd-engine": "An autograd engine",
        },
    ),
    "appendix-B": ("B", "References and further reading", {}),
    "appendix-C": ("C", "The list of exercises", {}),
}
BESIDE = {  # pages that belong to no chapter
    "data/README.md": "the card of the course's texts",
    "models/README.md": "its trained models",
    "glossary.md": "a glossary",
}


def links(files: dict[str, str], root: Path) -> str:
    """The files (path: text) as links; those that aren't there yet are named after the word "planned"."""
    there = [f"[{text}]({path})" for path, text in files.items() if (root / path).exists()]
    missing = [text for path, text in files.items() if not (root / path).exists()]
    return " · ".join(there + ([f"{PLANNED}: {', '.join(missing)}"] if missing else []))


def row(folder: str, root: Path) -> str:
    """One chapter's line of the table."""
    label, title, supplements = CHAPTERS[folder]
    mains, summaries = headers.MAP.get(folder, ([], []))
    home = headers.main_folder(folder)
    if mains:
        groups = [{name: name.removesuffix(".ipynb") for name in names} for names in (mains, summaries)]
        groups.append({"exercise-solutions.ipynb": "solutions"})
        cells = [or_planned({f"{home}/{name}": text for name, text in group.items()}, root) for group in groups]
        cells.append(links({f"{folder}/{name}/README.md": text for name, text in supplements.items()}, root))
    else:
        cells = [or_planned({f"{folder}/README.md": "read"}, root), "–", "–", "–"]
    return f"| **{label}** {title} | " + " | ".join(cells) + " |"


def or_planned(files: dict[str, str], root: Path) -> str:
    """The links, or the one word "planned" while none of the files is there."""
    return links(files, root) if any((root / path).exists() for path in files) else PLANNED


def contents(root: Path) -> str:
    """The text between the two marks."""
    head = ["| Chapter | Main code | Summary | Solutions | Supplements |", "|:--|:--|:--|:--|:--|"]
    beside = [f"[{text}]({path})" if (root / path).exists() else f"{text} ({PLANNED})" for path, text in BESIDE.items()]
    rows = [row(folder, root) for folder in CHAPTERS]
    return "\n".join([*head, *rows, "", f"Beside the chapters stand {', '.join(beside[:-1])} and {beside[-1]}."])


def outputs(root: Path) -> dict[Path, str]:
    """README.md and CITATION.cff as they should be; a file that isn't there is left out."""
    texts = {path: path.read_text(encoding="utf-8") for path in (root / "README.md", root / "CITATION.cff") if path.exists()}
    for path, text in texts.items():
        text = re.sub(f"{START}.*?{END}", lambda _: f"{START}\n{contents(root)}\n{END}", text, flags=re.S)
        text = re.sub(r"(?<=git clone )\S+", course.REPOSITORY, text)
        texts[path] = re.sub(r'(?<=^repository-code: ").*(?="$)', course.REPOSITORY, text, flags=re.M)
    return texts
