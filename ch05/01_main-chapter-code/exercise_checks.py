"""What a right answer to each exercise of chapter 5 does, and the hint for each usual mistake."""

import tempfile
from pathlib import Path

import torch

import ch05
from exercises import expect

# ------------------------------------------------------------- the loss, the loop, the run and its head (5.1-5.3, 5.6, 5.7)


# ------------------------------------------------------------------------------- sampling and the cache (5.4, 5.5), scale (5.10)

def check_gumbel_sample(gumbel_sample) -> str:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [-1.0, 0.0, 3.0, 0.0]])
    many = logits.repeat_interleave(6000, dim=0)                                 # (12000, 4)
    before = many.clone()

    def shares(temperature):
        y = gumbel_sample(many, temperature, torch.Generator().manual_seed(0))
        expect(isinstance(y, torch.Tensor) and y.shape == (12000,) and y.dtype == torch.long,
               "Return one id for each row, shape (B,): the argmax over the last axis.")
        return torch.stack([row.bincount(minlength=4) for row in y.view(2, 6000)]) / 6000

    def off(found, expected):
        return (found - expected).abs().max().item()

    at_one, cold = shares(1.0), shares(0.5)
    expect(torch.equal(many, before), "The logits that you were given have changed; add the noise to a new tensor.")
    one_hot = torch.eye(4)[logits.argmax(dim=-1)]
    expect(off(at_one, one_hot) > 0.01, "It always takes the best token. Is the noise added before the argmax?")
    expect(off(at_one, at_one.round()) > 0.01, "All rows with the same logits get the same token: each number needs noise of its "
           "own. Give torch.rand the shape of the logits.")
    right = logits.softmax(dim=-1)
    expect(off(at_one, (-logits).softmax(dim=-1)) > 0.05, "Bad tokens come out most often. Take the largest sum, not the smallest.")
    normal = torch.stack([(row + torch.randn(20_000, 4, generator=torch.Generator().manual_seed(1))).argmax(dim=-1)
                          .bincount(minlength=4) / 20_000 for row in logits])
    expect(off(at_one, normal) > 0.025 or off(at_one, right) < 0.02,
           "That is normal noise (randn); the sum is then not distributed as softmax. Use -ln(-ln u) with u from torch.rand.")
    expect(off(at_one, right) < 0.025,
           "At temperature 1 the shares differ from softmax. The noise is -ln(-ln u), with both minus signs, for u from 0 to 1.")
    expect(off(cold, right) > 0.025, "The temperature changes nothing, or it divides the sum of logits and noise, and the largest "
           "stays the largest. Divide the logits alone.")
    expect(off(cold, (logits / 2).softmax(dim=-1)) > 0.025,
           "Colder makes it more random: you multiply the logits by the temperature, or divide the noise by it. Divide the logits.")
    expect(off(cold, (logits / 0.5).softmax(dim=-1)) < 0.025,
           "At temperature 0.5 the shares differ from softmax(logits / 0.5). Only the logits are divided, the noise isn't.")
    first, again = (gumbel_sample(many, 1.0, torch.Generator().manual_seed(7)) for _ in range(2))
    expect(torch.equal(first, again), "Two runs with the same seed differ: pass `generator` on to torch.rand.")
    return "This is how one draws on a device without reading anything back, and how gradients can flow through a draw."


def check_cache_bytes(cache_bytes) -> str:
    for config, batch, n_tokens, bytes_each in ((ch05.GPTConfig(), 1, 1_024, 2), (ch05.GPTConfig(100, 64, 32, 4, 3), 5, 60, 4)):
        y = cache_bytes(config, batch, n_tokens, bytes_each)
        C, L, H = config.n_channels, config.n_layers, config.n_heads
        right = 2 * L * C * batch * n_tokens * bytes_each
        for wrong, hint in {
            right // 2: "That counts keys or values, not both.",
            right // L: "That is one layer; each layer keeps its own keys and values.",
            right // batch if batch > 1 else None: "That is one row; each row of the batch has its own cache.",
            right // bytes_each: "That is the number of numbers; each takes `bytes_each` bytes.",
            right * H: "The heads are counted twice: H heads of size D = C / H make C numbers, whatever H is.",
            right // H: "That is one head; all H of them, D = C / H each, make C numbers.",
            right * 3 // 2: "Queries needn't be kept: only the newest token asks.",
            right * config.context_length // n_tokens if n_tokens != config.context_length else None:
                "That is for the full context; this cache grows with the text, so count `n_tokens`.",
        }.items():
            expect(y != wrong or wrong == right, hint)
        expect(y == right, f"For {batch} rows of {n_tokens} tokens with {C} channels and {L} layers, {bytes_each} bytes each, "
               f"the answer is {right:,}, not {y}.")
    return "Real models share keys and values among heads for this reason; chapter 8's supplements do, too."


def check_best_size(best_size) -> str:
    for flops in (1.2e10, 5.76e23):
        y = best_size(flops)
        expect(isinstance(y, tuple | list) and len(y) == 2, "Return two numbers: parameters and tokens.")
        n, d = map(float, y)
        close = {name: abs(value / target - 1) < 0.01 for name, (value, target) in {
            "right": (n, (flops / 120) ** 0.5), "swapped": (d, (flops / 120) ** 0.5), "no six": (n, (flops / 20) ** 0.5),
            "two": (n, (flops / 40) ** 0.5), "no root": (n, flops / 120), "turned": (n, (flops * 20 / 6) ** 0.5)}.items()}
        expect(not (close["swapped"] and abs(n / d / 20 - 1) < 0.01), "The two numbers are in the other order: parameters first.")
        expect(not close["no six"], "You spend one FLOP for each parameter and token; training costs six.")
        expect(not close["two"], "Two FLOPs for each parameter and token is the forward pass alone; training costs six.")
        expect(not close["no root"], "The root is missing: with D = 20 N the cost is 6 · N · 20 N, and N stands in it twice.")
        expect(not close["turned"], "You have 20 parameters for each token; it should be 20 tokens for each parameter.")
        expect(close["right"], f"For {flops:.3g} FLOPs, {(flops / 120) ** 0.5:.3g} parameters would be right, not {n:.3g}. "
               "Solve 6 N · 20 N = FLOPs for N.")
        expect(abs(d / n / 20 - 1) < 0.01, f"The size is right, but {d:.3g} tokens aren't 20 for each parameter.")
    return "Chinchilla itself: 70 billion parameters, 1.4 trillion tokens."


# ----------------------------------------------------------------------------------------------- checkpoints, data (5.8, 5.9)

def check_write_whole(write_whole) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "model.bin"
        seen: list[tuple] = []

        def pieces(breaks: bool):
            for piece in (b"new ", b"and ", b"whole"):
                seen.append((path.read_bytes() if path.exists() else None, sorted(p.name for p in folder.iterdir())))
                yield piece
            if breaks:
                raise RuntimeError("the machine that makes the pieces broke down")

        path.write_bytes(b"old")
        before = path.stat().st_ino
        raised = False
        try:
            write_whole(path, pieces(breaks=True))
        except RuntimeError:
            raised = True
        expect(bool(seen), "It never asks for a piece; loop over `pieces`.")
        expect(all(old == b"old" for old, _ in seen),
               "While the pieces come, the old file is already gone or half overwritten. Write under another name first.")
        expect(path.exists() and path.read_bytes() == b"old",
               "The pieces broke off, and the old file is not what it was. Rename only after the last piece is written.")
        expect(raised, "The pieces raised an error, and the caller never hears of it. Clean up in `finally`, and let it pass.")
        left = sorted(p.name for p in folder.iterdir() if p != path)
        expect(not left, f"After the error, {left[:1]} is left in the folder. Remove the temporary file in `finally`.")
        expect(all(len(names) == 2 for _, names in seen),
               "While the pieces come, no second file grows beside the old one. Either all pieces are collected in memory, or the "
               "temporary file lies in another folder, perhaps on another disk, where a rename becomes a copy.")
        write_whole(path, pieces(breaks=False))
        expect(path.read_bytes() == b"new and whole",
               f"The pieces b'new ', b'and ', b'whole' should make b'new and whole', but the file holds {path.read_bytes()!r}.")
        expect(path.stat().st_ino != before, "The new content was copied into the old file. Rename instead: os.replace.")
        expect(sorted(p.name for p in folder.iterdir()) == ["model.bin"], "A second file is left in the folder after success.")
        write_whole(folder / "first.bin", pieces(breaks=False))
        expect((folder / "first.bin").exists(), "It should also work where there is no old file.")
    return "That is the trick by which editors, databases and package managers save."


def check_combine(combine) -> str:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, generator=g, dtype=torch.float64), torch.randn(12, generator=g, dtype=torch.float64)
    weight, bias = torch.randn(3, generator=g, dtype=torch.float64), torch.zeros((), dtype=torch.float64)

    def gradient(rows: slice) -> list[torch.Tensor]:
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        return list(torch.autograd.grad((x[rows] @ w + b - y[rows]).square().mean(), (w, b)))

    parts, counts = [gradient(slice(0, 2)), gradient(slice(2, 5)), gradient(slice(5, 12))], [2, 3, 7]
    whole, copies = gradient(slice(0, 12)), [[p.clone() for p in part] for part in parts]
    result = combine(parts, counts)
    expect(isinstance(result, list | tuple) and len(result) == 2 and all(isinstance(r, torch.Tensor) for r in result),
           "Return a list with a tensor for each parameter; here there are two parameters and three processes.")
    expect([r.shape for r in result] == [w.shape for w in whole], "Each tensor should have the shape of its parameter.")

    def equals(weights: list[float]) -> bool:
        return all(torch.allclose(r, sum(w * part[i] for w, part in zip(weights, copies))) for i, r in enumerate(result))

    expect(not equals([1 / 3] * 3),
           "That is the mean of means: a target in the smallest share counts more than one in the largest.")
    expect(not equals([1.0] * 3), "That is the sum of the means; it grows with the number of processes.")
    expect(not equals([2.0, 3.0, 7.0]), "These are sums over targets. Divide by the number of all targets at the end.")
    expect(not equals([2 / 3, 3 / 3, 7 / 3]), "Divide by the number of all targets, 12 here, not by that of the processes.")
    expect(not equals([1 / 2, 1 / 3, 1 / 7]), "You divide each gradient by its count; each is a mean already, so multiply.")
    expect(all(torch.allclose(a, b) for a, b in zip(result, whole)),
           "The numbers differ from the gradient over all 12 targets. Weigh each gradient by its count / the sum of counts.")
    unharmed = all(torch.equal(a, b) for part, old in zip(parts, copies) for a, b in zip(part, old))
    expect(unharmed, "The gradients that you were given have changed; make new tensors.")
    return "Chapter 7's batches need it: their answers have all lengths."


CHECKS = {
    "5.4": check_gumbel_sample,
    "5.5": check_cache_bytes,
    "5.8": check_write_whole,
    "5.9": check_combine,
    "5.10": check_best_size,
}
