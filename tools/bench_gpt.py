"""How fast chapter 4's GPTModel trains, beside `transformers`' GPT-2 of the same shape with the same weights.

Losses and gradients are checked equal first. Then every contender takes one turn a round, so that a busy moment of the machine hits
all of them, and the table shows medians over the rounds. `python course.py bench gpt` runs it.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

course.setup("ch04/01_main-chapter-code")
import ch04  # noqa: E402

sys.modules.pop("previous_chapters", None)                       # another benchmark's chapter has its own

CASES = [  # title, shape, T, B, with an optimizer step?, rounds, target in fp32, target under bf16 autocast
    ("forward and backward, 6 layers, 6 heads, 384 channels, T 256, batch 8, vocabulary 50,257",
     {"vocab_size": 50_257, "n_layers": 6, "n_heads": 6, "n_channels": 384}, 256, 8, False, 5, 1.05, 1.35),
    ("training step, 4 layers, 4 heads, 128 channels, T 192, batch 32, vocabulary 1,024",
     {"vocab_size": 1_024, "n_layers": 4, "n_heads": 4, "n_channels": 128}, 192, 32, True, 11, 1.2, 1.5),
]


def reference_with_weights_of(model: ch04.GPTModel) -> torch.nn.Module:
    """`transformers`' GPT-2 with the shape and the weights of our model."""
    from transformers import GPT2Config, GPT2LMHeadModel
    c = model.config
    reference = GPT2LMHeadModel(GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.n_channels, n_head=c.n_heads, n_layer=c.n_layers,
        attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, use_cache=False, bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        for ours, theirs, transposed in pairs(model, reference):
            theirs.copy_(ours.T if transposed else ours)
    return reference


def pairs(model: ch04.GPTModel, reference: torch.nn.Module) -> list[tuple]:
    """(our parameter, theirs, whether theirs is transposed) for all parameters."""
    body = reference.transformer
    found = [(model.token_embedding.weight, body.wte.weight, False), (model.position_embedding.weight, body.wpe.weight, False)]
    layers = [(model.final_norm, body.ln_f, False)]
    for ours, theirs in zip(model.blocks, body.h, strict=True):
        layers += [(ours.norm1, theirs.ln_1, False), (ours.attention.qkv, theirs.attn.c_attn, True),
                   (ours.attention.out, theirs.attn.c_proj, True), (ours.norm2, theirs.ln_2, False),
                   (ours.feed_forward.expand, theirs.mlp.c_fc, True), (ours.feed_forward.contract, theirs.mlp.c_proj, True)]
    for ours, theirs, transposed in layers:
        found += [(ours.weight, theirs.weight, transposed), (ours.bias, theirs.bias, False)]
    return found


def matrix_product_speed(dtype: torch.dtype, size: int = 1_024) -> float:
    """FLOPs a second of one large matrix product: the best of three."""
    a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def has_fast_bf16() -> bool:
    """Whether products in bfloat16 are faster here than in float32; measured, since emulation reports itself as support."""
    return matrix_product_speed(torch.bfloat16) > matrix_product_speed(torch.float32)


def step(model: torch.nn.Module, loss: Callable, optimizer: torch.optim.Optimizer | None, bf16: bool) -> Callable[[], float]:
    """A function that does one forward and backward pass, and a step of the optimizer if there is one; returns the loss."""
    def run() -> float:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            value = loss()
        value.backward()
        if optimizer:
            optimizer.step()
        return value.item()
    return run


def check_equal(model, reference, ours: Callable, theirs: Callable) -> str:
    """Run both once and compare loss and gradients; raises AssertionError where they differ."""
    a, b = ours(), theirs()
    assert abs(a - b) < 1e-5 * max(1, abs(b)), f"the losses differ: {a} and {b}"
    worst = 0.0
    for our, their, transposed in pairs(model, reference):
        torch.testing.assert_close(our.grad, their.grad.T if transposed else their.grad, atol=1e-5, rtol=1e-4)
        worst = max(worst, (our.grad - (their.grad.T if transposed else their.grad)).abs().max().item())
    return f"equal results first: loss {a:.5f} and {b:.5f}, gradients differ by at most {worst:.0e}"


def bench(title, shape, T, B, with_optimizer, rounds, target, target_bf16) -> None:
    """Print one table."""
    print(f"\n{title}" + (" (AdamW, fused, in all of them)" if with_optimizer else ""))
    torch.manual_seed(0)
    model = ch04.GPTModel(ch04.GPTConfig(context_length=T, **shape))
    reference = reference_with_weights_of(model)
    token_ids = torch.randint(shape["vocab_size"], (B, T))
    targets = torch.cat([token_ids[:, 1:], torch.full((B, 1), -100)], dim=1)         # what transformers makes of labels=token_ids

    def plain() -> torch.Tensor:
        return F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())

    losses = {"transformers": (reference, lambda: reference(token_ids, labels=token_ids).loss),
              "ours, all logits at once": (model, plain),
              "ours": (model, lambda: model(token_ids, targets=targets))}
    print("  " + check_equal(model, reference, *(step(*losses[name], None, False) for name in ("ours", "transformers"))))
    optimizers = {m: torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True) for m in (model, reference)} if with_optimizer else {}
    contenders = {(name, bf16): step(m, loss, optimizers.get(m), bf16)
                  for bf16 in ((False, True) if has_fast_bf16() else (False,)) for name, (m, loss) in losses.items()}
    seconds = {key: [] for key in contenders}
    peak = {bf16: [] for _, bf16 in contenders}
    for round_ in range(rounds + 1):
        for bf16 in peak:
            peak[bf16].append(matrix_product_speed(torch.bfloat16 if bf16 else torch.float32))
        for key, run in contenders.items():
            start = time.perf_counter()
            run()
            if round_:                                                               # the first round warms up
                seconds[key].append(time.perf_counter() - start)
    report(seconds, {k: statistics.median(v) for k, v in peak.items()}, B * T, 3 * ch04.flops_per_token(model.config, T),
           {False: target, True: target_bf16})


def report(seconds: dict, peak: dict, n_tokens: int, flops: int, targets: dict) -> None:
    """The table of one case."""
    medians = {key: statistics.median(times) for key, times in seconds.items()}
    reference = medians["transformers", False]
    print(f"  {'':34s}{'tokens/s':>9s}{'x transformers fp32':>21s}{'x the same in its type':>24s}{'of the peak':>13s}")
    for (name, bf16), median in medians.items():
        speed = n_tokens / median
        print(f"  {name + (', bf16 autocast' if bf16 else ', fp32'):34s}{speed:9,.0f}{reference / median:21.2f}"
              f"{medians['transformers', bf16] / median:24.2f}{speed * flops / peak[bf16]:13.0%}")
    for bf16, target in targets.items():
        kind = "bf16 autocast" if bf16 else "fp32"
        if ("ours", bf16) not in medians:
            print(f"  target {target} x in {kind}: not measured, since bfloat16 is slower than float32 here (emulated)")
            continue
        for other, divisor in {"transformers in fp32": reference, f"transformers in {kind}": medians["transformers", bf16]}.items():
            ratio = divisor / medians["ours", bf16]
            print(f"  target {target} x {other}, ours in {kind}: {ratio:.2f}, {'reached' if ratio >= target else 'not reached'}")
    for bf16, value in peak.items():
        print(f"  peak: 1,024 x 1,024 matrix product in {'bf16' if bf16 else 'fp32'}, median: {value / 1e9:.0f} GFLOP/s")


def main() -> None:
    """Run both cases."""
    import transformers
    transformers.logging.set_verbosity_error()
    print(f"gpt: torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads; "
          "medians over rounds in which every contender runs once")
    for case in CASES:
        bench(*case)


if __name__ == "__main__":
    main()
