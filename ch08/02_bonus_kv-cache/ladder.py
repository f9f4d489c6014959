"""The ladder of caches: seven ways to write the same text, each rung built on the one below, and how fast each is.

    python ladder.py                    measures all rungs and writes results.json (some minutes; quiet machine, please)

kv-cache.ipynb explains the rungs, reads what this writes, and climbs the ladder live with fewer tokens.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch08/02_bonus_kv-cache")
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from ch08 import PackedInt8Linear, ServingModel, quantized, speculative_decode  # noqa: E402
from previous_chapters import GPTConfig, GPTModel, generate, generate_cached, load_pretrained  # noqa: E402

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
Writer = Callable[[list[int], int], list[int]]         # a prompt's ids and how many more, to the new ids; greedy


def no_cache(model: GPTModel) -> Writer:
    """Rung 0: read the whole text again for every token (chapter 4)."""
    return lambda prompt, n: generate(model, [prompt], n)[0][len(prompt):]


def growing_cache(model: GPTModel) -> Writer:
    """Rung 1: keep keys and values, and append to them (chapter 5)."""
    return lambda prompt, n: generate_cached(model, [prompt], n)[0][len(prompt):]


@torch.no_grad()
def write_static(model: GPTModel, prompt: list[int], n: int) -> list[int]:
    """Rung 2: keys and values in memory that was taken once (chapter 8)."""
    serving, row = ServingModel(model), list(prompt)
    logits = model.head(serving.read(torch.tensor([prompt]))[:, -1])                             # (1, V)
    for _ in range(n - 1):
        row.append(int(logits.argmax()))
        logits = model.head(serving.read(torch.tensor([row[-1:]]))[:, -1])
    return [*row, int(logits.argmax())][len(prompt):]


def static_cache(model: GPTModel) -> Writer:
    """Rung 2, for a model."""
    return lambda prompt, n: write_static(model, prompt, n)


class FixedStep(torch.nn.Module):
    """One token's pass in which no shape ever changes: attention looks at all the memory, and a mask hides what isn't read yet."""

    def __init__(self, model: GPTModel):
        super().__init__()
        self.model, c = model, model.config
        shape = (c.n_layers, 1, c.n_heads, c.context_length, c.n_channels // c.n_heads)
        self.register_buffer("keys", torch.zeros(shape))
        self.register_buffer("values", torch.zeros(shape))
        self.register_buffer("places", torch.arange(c.context_length))

    def forward(self, token: Tensor, position: Tensor) -> Tensor:
        """The newest id (1, 1) at its position (1,) to the logits (1, V)."""
        x = self.model.embed(token, position[None])                                              # (1, 1, C)
        mask = (self.places <= position)[None, None, None]                                       # (1, 1, 1, L)
        for block, keys, values in zip(self.model.blocks, self.keys, self.values, strict=True):
            attention, normed = block.attention, block.norm1(x)
            q, k, v = (part.view(1, 1, attention.n_heads, -1).transpose(1, 2)                    # (1, H, 1, D) each
                       for part in attention.qkv(normed).chunk(3, dim=-1))
            keys.index_copy_(2, position, k)
            values.index_copy_(2, position, v)
            mixed = F.scaled_dot_product_attention(q, keys, values, mask)                        # (1, H, 1, D)
            x = x + attention.out(mixed.transpose(1, 2).reshape(1, 1, -1))
            x = x + block.feed_forward(block.norm2(x))
        return self.model.head(self.model.final_norm(x)[:, -1])


def fixed_cache(model: GPTModel, compiled: bool) -> Writer:
    """Rung 3: a step without changing shapes, and, compiled, without Python."""
    step = FixedStep(model).eval()
    run = torch.compile(step, dynamic=False) if compiled else step

    @torch.no_grad()
    def write(prompt: list[int], n: int) -> list[int]:
        row = list(prompt)
        for position in range(len(prompt) + n - 1):
            logits = run(torch.tensor([[row[position]]]), torch.tensor([position]))
            if position + 1 >= len(row):
                row.append(int(logits.argmax()))
        return row[len(prompt):]
    return write


def speculative(model: GPTModel, draft: GPTModel, n_drafted: int = 4) -> Writer:
    """Rung 5: a smaller model drafts, the large one checks several tokens in a pass."""
    return lambda prompt, n: speculative_decode(model, draft, prompt, n, n_drafted=n_drafted, temperature=0)[0]


def rungs(model: GPTModel, draft: GPTModel | None = None, compiled: bool = True) -> dict[str, Writer]:
    """Name to writer, from the bottom up."""
    found = {"no cache": no_cache(model), "a cache that grows": growing_cache(model), "memory taken once": static_cache(model)}
    found["fixed shapes"] = fixed_cache(model, False)
    if compiled:
        found["fixed, compiled"] = fixed_cache(model, True)
    found["int8"] = static_cache(quantized(model, PackedInt8Linear))
    return found | ({"speculative": speculative(model, draft)} if draft else {})


def climb(writers: dict[str, Writer], prompt: list[int], n: int, rounds: int = 3) -> dict[str, float]:
    """Tokens a second of each writer: the best of some rounds, in each of which every writer has a turn; the first one warms up."""
    best = dict.fromkeys(writers, 0.0)
    for turn in range(rounds + 1):
        for name, write in writers.items():
            begun = time.perf_counter()
            write(prompt, n)
            if turn:
                best[name] = max(best[name], n / (time.perf_counter() - begun))
    return best


def random_model() -> GPTModel:
    """45 million random weights, so that they have to be fetched from memory."""
    torch.manual_seed(0)
    return GPTModel(GPTConfig(vocab_size=8192, context_length=512, n_channels=640, n_heads=10, n_layers=8)).eval()


def main() -> None:
    """Measure, print, record."""
    torch.set_num_threads(1)
    base, tokenizer = load_pretrained("tales-base")
    draft, _ = load_pretrained("tales-small")
    has_compiler = shutil.which("g++") is not None or shutil.which("clang++") is not None
    prompt = [tokenizer.eot_token, *tokenizer.encode_ordinary("Once there was")]
    found = {}
    for name, model, writers in (("tales-base", base, rungs(base, draft, has_compiler)),
                                 ("random", random_model(), None)):
        writers = writers or rungs(model, None, has_compiler)
        found[name] = {rung: round(speed, 1) for rung, speed in climb(writers, prompt, 128, 2).items()}
        print(name, found[name], flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    record = {"command": "python ch08/02_bonus_kv-cache/ladder.py", "device": "CPU, 1 thread", "commit": commit, "new tokens": 128,
              "tokens a second": found}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
