"""How fast chapter 8 writes, beside `transformers`: `python course.py bench generate` runs it.

A model of GPT-2's shape with random weights continues a prompt of 32 tokens by 128, greedily. Contenders: `transformers`'
generate with its cache, our engine in float32, in bfloat16 where that is fast, with int8 weights in PyTorch's packed kernel, each
with one text and with eight at once, and chapter 4's loop without a cache; "packed" are weights that oneDNN has laid out for few
rows. All that compute in float32 must write the same tokens. Then every contender takes one turn a round, so that a busy moment of
the machine hits all of them; the table shows medians, and the memory's measured speed.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course
from tools.bench_gpt import has_fast_bf16, reference_with_weights_of

course.setup("ch08/01_main-chapter-code")
import ch08  # noqa: E402
import previous_chapters  # noqa: E402

sys.modules.pop("previous_chapters", None)                       # another benchmark's chapter has its own

SHAPE = {"vocab_size": 50_257, "context_length": 256, "n_channels": 768, "n_heads": 12, "n_layers": 12}  # GPT-2's, a short context
TARGETS = [  # contender, reference, at least so many times as fast
    ("ours, float32", "transformers, float32", 1.05), ("ours, float32, packed", "transformers, float32", 1.05),
    ("ours, bfloat16", "transformers, float32", 1.5), ("ours, bfloat16, packed", "transformers, float32", 1.5),
    ("ours, int8", "transformers, float32", 3.0),
    ("ours, float32", "no cache, float32", 4.0), ("ours, float32, packed", "no cache, float32", 4.0),
    *((f"{name}, 8 texts", name, 4.0) for name in ("ours, float32, packed", "ours, int8", "ours, bfloat16, packed"))]


def memory_speed(dtype: torch.dtype, repeats: int = 3) -> float:
    """Bytes a second that a product with one row reads of a matrix far larger than the processor's cache: the best of some."""
    weight, x = torch.zeros(16_384, 4_096, dtype=dtype), torch.zeros(1, 4_096, dtype=dtype)
    return weight.numel() * weight.element_size() / previous_chapters.fastest(lambda: F.linear(x, weight), repeats) * 1e3


def weight_bytes(model: torch.nn.Module, element_size: int) -> int:
    """What a step reads of a model: all matrices, with numbers of this size; of the embeddings only the head's."""
    return element_size * (sum(p.numel() for p in model.parameters()) - model.position_embedding.weight.numel())


def engine_run(model: torch.nn.Module, prompts: list[list[int]], n_new: int) -> Callable[[], list[list[int]]]:
    """A function that writes n_new tokens after each prompt, all at once."""
    def run() -> list[list[int]]:
        engine = ch08.Engine(model, len(prompts))
        requests = [engine.submit(ch08.Request(prompt, n_new)) for prompt in prompts]
        ch08.run(engine)
        return [request.new_ids for request in requests]
    return run


def contenders(model: torch.nn.Module, prompts: list[list[int]], n_new: int) -> dict[str, Callable[[], list[list[int]]]]:
    """Name to a function that returns the new ids of each text."""
    reference, one = reference_with_weights_of(model).eval(), prompts[:1]

    def transformers() -> list[list[int]]:
        with torch.no_grad():
            ids = torch.tensor(one)
            ids = reference.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n_new,
                                     use_cache=True, eos_token_id=None, pad_token_id=0)
        return ids[:, len(one[0]):].tolist()

    packed, int8 = (ch08.quantized(model, layer) for layer in (ch08.PackedLinear, ch08.PackedInt8Linear))
    models = {"ours, float32": model, "ours, float32, packed": packed, "ours, int8": int8}
    if has_fast_bf16():
        half = copy.deepcopy(model).to(torch.bfloat16)
        models |= {"ours, bfloat16": half, "ours, bfloat16, packed": ch08.quantized(half, ch08.PackedLinear)}
    found = {"transformers, float32": transformers}
    for name, gpt in models.items():
        found |= {name: engine_run(gpt, one, n_new), f"{name}, 8 texts": engine_run(gpt, prompts, n_new)}
    return found | {"no cache, float32": lambda: [row[len(one[0]):] for row in previous_chapters.generate(model, one, n_new)]}


def int8_loss(model: torch.nn.Module, row: list[int]) -> str:
    """What int8 changes on a text: the share of equal best tokens, and the KL divergence of the next token's distribution."""
    with torch.no_grad():
        a, b = (gpt(torch.tensor([row]))[0].log_softmax(dim=-1) for gpt in (model, ch08.quantized(model, ch08.PackedInt8Linear)))
    kl = (a.exp() * (a - b)).sum(dim=-1).mean()
    same = (a.argmax(dim=-1) == b.argmax(dim=-1)).float().mean()
    return f"int8 on a text of {len(row)} tokens: the same best token in {same:.0%}, KL {kl:.5f} nats"


def bench(shape: dict, n_prompt: int, n_new: int, rounds: int) -> None:
    """Print the table."""
    torch.manual_seed(0)
    model = previous_chapters.GPTModel(previous_chapters.GPTConfig(**shape)).eval()
    prompts = torch.randint(shape["vocab_size"], (8, n_prompt)).tolist()
    runs = contenders(model, prompts, n_new)
    theirs, ours, packed = (runs[name]() for name in ("transformers, float32", "ours, float32", "ours, float32, packed"))
    assert packed == ours == theirs, f"the tokens differ: {ours[0][:8]} ..., {packed[0][:8]} ... and {theirs[0][:8]} ..."
    print(f"  the same {n_new} tokens first, by transformers and by ours; {int8_loss(model, prompts[0] + ours[0])}")
    seconds = {name: [] for name in runs}
    for round_ in range(rounds):
        for name, run in runs.items():
            if name.startswith("no cache") and round_:
                continue                                                             # one turn is long enough
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    report({name: statistics.median(times) for name, times in seconds.items()}, n_new, model)


def report(seconds: dict[str, float], n_new: int, model: torch.nn.Module) -> None:
    """The table, and which targets were reached."""
    speed = {name: n_new * (8 if "8 texts" in name else 1) / s for name, s in seconds.items()}
    print(f"  {'':32s}{'tokens/s':>9s}{'x transformers':>16s}{'GB/s of weights':>17s}")
    for name, value in speed.items():
        size = 1 if "int8" in name else 2 if "bfloat16" in name else 4
        steps = value / (8 if "8 texts" in name else 1)
        times, bandwidth = value / speed["transformers, float32"], steps * weight_bytes(model, size) / 1e9
        print(f"  {name:32s}{value:9.1f}{times:16.2f}{bandwidth:17.1f}")
    for name, other, target in TARGETS:
        if name not in speed:
            print(f"  target {target} x {other}, {name}: not measured, since bfloat16 is slower than float32 here (emulated)")
            continue
        ratio = speed[name] / speed[other]
        print(f"  target {target} x {other}, {name}: {ratio:.2f}, {'reached' if ratio >= target else 'not reached'}")
    print(f"  bound: a product with one row reads {memory_speed(torch.float32) / 1e9:.1f} GB/s in float32")


def main() -> None:
    """Run it at the shape of GPT-2."""
    import transformers
    transformers.logging.set_verbosity_error()
    print(f"generate: torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads; "
          "GPT-2's shape, 32 + 128 tokens, greedy; medians over rounds in which every contender runs once")
    bench(SHAPE, 32, 128, 3)


if __name__ == "__main__":
    main()
