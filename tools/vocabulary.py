"""GPT-2's vocabulary without a network: rebuild encoder.json from the merge table, byte for byte. Standard library only.

tiktoken looks in `TIKTOKEN_CACHE_DIR` for files named by the sha1 of the address it would download. `data/gpt2/vocab.bpe` (MIT,
OpenAI's GPT-2 release) is one of the two; the other is a function of it: 256 bytes, 50,000 merges, one special token.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MERGES = ROOT / "data" / "gpt2" / "vocab.bpe"
FILES = {  # the sha1 names that tiktoken uses, and the sha256 of each file's bytes
    "vocab.bpe": ("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    "encoder.json": (
        "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ),
}


def byte_characters() -> list[str]:
    """GPT-2's 256 byte characters in the order of their ids: printable ones stand for themselves, the other 68 for U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def encoder_json(merges: str) -> str:
    """The text of GPT-2's encoder.json, made from the text of its vocab.bpe."""
    pairs = [line for line in merges.split("\n")[1:] if line]
    tokens = [*byte_characters(), *(pair.replace(" ", "") for pair in pairs), "<|endoftext|>"]
    return json.dumps({token: i for i, token in enumerate(tokens)})


def verified(name: str, content: bytes) -> bytes:
    """`content`, if it has the sha256 that the file should have; raises ValueError otherwise."""
    found = hashlib.sha256(content).hexdigest()
    if found != FILES[name][1]:
        raise ValueError(
            f"{name} has sha256 {found[:16]}..., not {FILES[name][1][:16]}...; restore data/gpt2/vocab.bpe with git or "
            "download the course again"
        )
    return content


def build_cache(folder: Path) -> Path:
    """Put both files into `folder` under tiktoken's names, each written whole or not at all; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if all(is_whole(folder / cached, digest) for cached, digest in FILES.values()):
        return folder
    merges = verified("vocab.bpe", MERGES.read_bytes())
    contents = {"vocab.bpe": merges, "encoder.json": verified("encoder.json", encoder_json(merges.decode("utf-8")).encode("utf-8"))}
    for name, content in contents.items():
        temporary = folder / f"{name}.{os.getpid()}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, folder / FILES[name][0])
    return folder


def is_whole(path: Path, digest: str) -> bool:
    """Whether the file is there with the right bytes; tiktoken would throw a damaged one away and go to the network."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def use_bundled_gpt2() -> None:
    """Point tiktoken at the bundled vocabulary, unless the reader has set a cache of their own."""
    if "TIKTOKEN_CACHE_DIR" in os.environ or "DATA_GYM_CACHE_DIR" in os.environ:
        return
    try:
        folder = build_cache(ROOT / ".cache" / "tiktoken")
    except OSError:  # a read-only copy of the course
        folder = build_cache(Path(tempfile.gettempdir()) / "from-bytes-to-chat" / "tiktoken")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
