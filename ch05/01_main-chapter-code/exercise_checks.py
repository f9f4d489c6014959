"""What a right answer to each exercise of chapter 5 does, and the hint for each usual mistake."""

import math
import tempfile
from pathlib import Path

import torch

import ch05
from exercises import expect

# ------------------------------------------------------------- the loss, the loop, the run and its head (5.1-5.3, 5.6, 5.7)

def close(a, b, tolerance: float = 1e-6) -> bool:
    """Whether two tensors or numbers agree in shape and value."""
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=1e-5)


def check_bits_per_byte(bits_per_byte) -> str:
    loss, n_tokens, n_bytes = 2.5, 300, 1_200
    y, right = bits_per_byte(loss, n_tokens, n_bytes), 2.5 / math.log(2) * 300 / 1_200
    for wrong, hint in {
        loss * n_tokens / n_bytes: "That is in nats. One nat is 1 / ln 2 bits.",
        loss * math.log(2) * n_tokens / n_bytes: "A nat is more than a bit, not less: divide by ln 2.",
        loss / math.log(2) * n_bytes / n_tokens: "Tokens and bytes have changed places: the total surprise is the loss times "
                                                 "the number of tokens.",
        loss / math.log(2): "Those are bits per token. Tokens differ from one tokenizer to the next; bytes don't.",
        loss / math.log(2) * n_tokens: "Those are the bits of the whole text; share them out among its bytes.",
        math.exp(loss) * n_tokens / n_bytes: "That starts from the perplexity. Take the loss: nats add up, perplexities don't.",
    }.items():
        expect(not close(y, wrong), hint)
    expect(close(y, right), "The number differs from loss / ln 2 · n_tokens / n_bytes.")
    return "A zip program is measured in the same unit."


def check_adamw_step(adamw_step) -> str:
    g = torch.Generator().manual_seed(0)
    start = torch.randn(5, generator=g)
    gradients = [torch.randn(5, generator=g) * scale for scale in (1.0, 100.0, 0.01)]
    weight = torch.nn.Parameter(start.clone())
    theirs = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8)
    w, m, v = start.clone(), torch.zeros(5), torch.zeros(5)
    for t, gradient in enumerate(gradients, start=1):
        weight.grad = gradient.clone()
        before = weight.detach().clone()
        theirs.step()
        kept = (w.clone(), gradient.clone(), m.clone(), v.clone())
        found = adamw_step(w, gradient, m, v, t, 0.1)
        expect(isinstance(found, tuple) and len(found) == 3, "Return three tensors: the new w, m and v.")
        expect(all(map(torch.equal, kept, (w, gradient, m, v))),
               "A tensor that you were given has changed; return new ones instead of writing into them.")
        state = theirs.state[weight]
        expect(not close(found[1], 0.1 * kept[2] + 0.9 * gradient),
               "In m, the old average and the new gradient have changed places: β₁ belongs to the old one.")
        expect(close(found[1], state["exp_avg"]), "m differs from β₁ m + (1 - β₁) g.")
        expect(not close(found[2], 0.95 * kept[3] + 0.05 * gradient), "v averages the squares of the gradient, not the gradient.")
        expect(close(found[2], state["exp_avg_sq"], 1e-4), "v differs from β₂ v + (1 - β₂) g².")
        new_m, new_v = found[1], found[2]
        m_hat, v_hat = new_m / (1 - 0.9**t), new_v / (1 - 0.95**t)
        step = 0.1 * m_hat / (v_hat.sqrt() + 1e-8)
        shrunk = 0.99 * before
        expect(not close(found[0], before + step), "You go up the slope, and without decay: the step is subtracted.")
        expect(not close(found[0], before - step), "The decay is missing: w also shrinks by rate · decay · w.")
        expect(not close(found[0], shrunk + step), "You go up the slope: the step is subtracted.")
        expect(not close(found[0], shrunk - 0.1 * new_m / (new_v.sqrt() + 1e-8)),
               "The averages are not corrected: divide m by 1 - β₁ᵗ and v by 1 - β₂ᵗ before they are used.")
        expect(not close(found[0], shrunk - 0.1 * m_hat / (v_hat + 1e-8)), "The root of v̂ is missing.")
        expect(not close(found[0], 0.9 * before - step),
               "w shrinks by the decay alone; it should by rate · decay, so that a smaller rate also decays less.")
        expect(close(found[0], weight.detach(), 1e-5),
               "w differs from PyTorch's AdamW: (1 - rate · decay) w - rate · m̂ / (√v̂ + ε).")
        w, m, v = found
    return "Three steps equal to PyTorch's."


def check_contaminated_share(contaminated_share) -> str:
    train = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10]]
    inside = [[0, 0, 2, 3, 4, 0]]                          # three in a row
    expect(contaminated_share(train, inside, 3) != 0,
           "[0, 0, 2, 3, 4, 0] shares the run 2, 3, 4 with a training text; with n = 3 it is contaminated.")
    expect(not 0 < contaminated_share(train, inside, 3) < 1, "That counts the shared runs. Count texts, each once, however long.")
    expect(contaminated_share(train, inside, 3) == 1,
           "With n = 3, a text that holds 2, 3, 4 is contaminated: the share should be 1.")
    expect(contaminated_share(train, inside, 4) == 0, "With n = 4 it isn't: only three tokens in a row are shared.")
    expect(contaminated_share(train, [[4, 3, 2]], 3) == 0,
           "The order matters: 4, 3, 2 isn't in any training text. Sets of tokens forget it.")
    expect(contaminated_share(train, [[5, 6, 7, 8]], 3) == 0,
           "No training text holds 5, 6, 7: that run crosses from one text into the next. Collect the runs of each text by itself.")
    expect(contaminated_share(train, [[4, 5, 6]], 3) == 1 and contaminated_share(train, [[8, 9, 10]], 3) == 1,
           "4, 5, 6 and 8, 9, 10 are the last runs of their texts and are missed: there are len - n + 1 runs.")
    found = contaminated_share(train, [[1, 2, 3, 4, 5, 6], [0, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3]], 3)
    expect(found != 5, "That counts the shared runs. Count texts, each once, however long.")
    expect(found != 2, "That is a number of texts; return the share, between 0 and 1.")
    expect(found == 0.5, f"Two of four validation texts are contaminated, so the share is 0.5; you return {found}.")
    expect(contaminated_share(train, [[1, 2]], 3) == 0, "A text shorter than n has no run of n tokens and isn't contaminated.")
    return "Reports on large models call it n-gram overlap; 13 words is a usual length."


def check_window_starts(window_starts) -> str:
    ids = [9, 1, 2, 3, 9, 4, 5, 6, 7, 8, 1, 2, 9, 3]       # texts at 0, 4 and 12; the second has eight tokens
    y = list(window_starts(ids, 9, 3))
    right = [0, 3, 4, 7, 10, 12]
    expect(y != [0, 4, 12], "Long texts get one window only, and their rest is never read: go on every T tokens inside them.")
    expect(y != list(range(0, 14, 3)), "That cuts anywhere. Begin anew at every separator.")
    expect(sorted(y) != [1, 4, 5, 8, 11, 13],
           "You begin after the separator; begin at it, so that the window tells that a text begins.")
    expect(len(set(y)) == len(y), f"Some positions come twice: {y}.")
    expect(y == sorted(y), f"Return the positions in order; yours are {y}.")
    expect(y == right, f"For the ids {ids}, separator 9 and T = 3, the starts are {right}; you return {y}.")
    middle = list(window_starts([1, 2, 9, 3], 9, 8))
    expect(middle != [2], "A row that doesn't begin with a separator begins with a text all the same: position 0 is missing.")
    expect(middle == [0, 2], f"For [1, 2, 9, 3] the starts are [0, 2]; you return {middle}.")
    return "`TokenShards.window_starts` in section 5.14 does this for text larger than memory."


def check_mean_ablated(mean_ablated) -> str:
    torch.manual_seed(0)
    model = ch05.GPTModel(ch05.GPTConfig(30, 16, 24, 3, 2)).eval()
    for matrix in (p for p in model.parameters() if p.dim() == 2):
        torch.nn.init.normal_(matrix, std=0.3)
    token_ids = torch.randint(30, (2, 7), generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def changed(layer, part, change):
        def hook(_, inputs):
            x = inputs[0].clone()                          # (B, T, C)
            x[..., part] = change(x[..., part])
            return (x,)

        handle = model.blocks[layer].attention.out.register_forward_pre_hook(hook)
        try:
            return model(token_ids)
        finally:
            handle.remove()

    with torch.no_grad():
        y, plain = mean_ablated(model, 1, 2, token_ids), model(token_ids)
    expect(all(torch.equal(before[name], value) for name, value in model.state_dict().items()),
           "The model's weights have changed; it should be as before when you are done.")
    hooked = bool(model.blocks[1].attention.out._forward_pre_hooks) or bool(model.blocks[0].attention.out._forward_pre_hooks)
    expect(not hooked, "Your hook is still there: every later call will be changed too. Call `remove()` on its handle.")
    expect(isinstance(y, torch.Tensor) and y.shape == (2, 7, 30), "Return the logits of all positions, (B, T, V).")
    own, across = slice(16, 24), slice(2, 24, 3)
    expect(not close(y, plain), "Nothing changed. A pre-hook has to return the new input, as a tuple or tensor.")
    expect(not close(y, changed(1, own, torch.zeros_like)), "That is silence: the head gives zeros. Give its mean instead.")
    expect(not close(y, changed(1, own, lambda x: x.mean(dim=1, keepdim=True).expand_as(x))),
           "The mean is taken over the positions of each row; take it over the rows as well.")
    expect(not close(y, changed(1, own, lambda x: x.mean().expand_as(x))),
           "One number for all of the head's D channels: keep the channels apart, mean over rows and positions only.")
    expect(not close(y, changed(1, own, lambda x: x.mean(dim=-1, keepdim=True).expand_as(x))),
           "The mean is taken over the channels; take it over rows and positions, for each channel.")
    mean = lambda x: x.mean(dim=(0, 1), keepdim=True).expand_as(x)  # noqa: E731
    expect(not close(y, changed(1, across, mean)),
           "Wrong slice: the heads lie side by side; head h has the channels from h · D to (h + 1) · D.")
    expect(not close(y, changed(0, own, mean)), "Wrong layer: layers are counted from 0, as in model.blocks[layer].")
    expect(not close(y, changed(1, slice(None), mean)), "All heads are replaced; only the given one should be.")
    expect(close(y, changed(1, own, mean), 1e-5),
           "The logits differ. Replace x[:, :, h · D:(h + 1) · D] by its mean over the first two axes.")
    return "The field's default, since it removes what the head says about this text, and nothing else."


# ------------------------------------------------------------------------------- sampling and the cache (5.4, 5.5), scale (5.10)

def check_gumbel_sample(gumbel_sample) -> str:
    logits = torch.tensor([[1.0, 0.5, 0.0, -0.5], [-0.5, 0.0, 1.2, 0.3]])
    many = logits.repeat_interleave(6000, dim=0)                                 # (12000, 4)
    before = many.clone()

    def shares(temperature, seed=0):
        y = gumbel_sample(many, temperature, torch.Generator().manual_seed(seed))
        expect(isinstance(y, torch.Tensor) and y.shape == (12000,) and y.dtype == torch.long,
               "Return one id for each row, shape (B,): the argmax over the last axis.")
        return torch.stack([row.bincount(minlength=4) for row in y.view(2, 6000)]) / 6000

    def off(found, expected):
        return (found - expected).abs().max().item()

    at_one, cold = shares(1.0), shares(0.5)
    expect(torch.equal(many, before), "The logits that you were given have changed; add the noise to a new tensor.")
    if off(at_one, at_one.round()) < 0.01:
        best = torch.eye(4)[logits.argmax(dim=-1)]
        expect(any(off(shares(1.0, seed), best) > 0.01 for seed in range(8)),
               "It always takes the best token. Is the noise added before the argmax?")
        expect(False, "All rows with the same logits get the same token: each number needs noise of its own. Give torch.rand the "
               "shape of the logits.")
    right = logits.softmax(dim=-1)
    expect(at_one[0, 0] > at_one[0, 3], "Bad tokens come out most often. Take the largest sum, not the smallest.")
    u = torch.rand(many.shape, generator=torch.Generator().manual_seed(0))
    turned = (many + (-u.log()).log()).argmax(dim=-1)
    expect(not torch.equal(gumbel_sample(many, 1.0, torch.Generator().manual_seed(0)), turned),
           "The noise has the wrong sign: -ln(-ln u) has two minus signs.")
    noise = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(1))
    normal = torch.stack([(row + noise).argmax(dim=-1).bincount(minlength=4) / 20_000 for row in logits])
    expect(off(at_one, normal) > min(0.025, off(at_one, right)),
           "That is normal noise (randn); the sum is then not distributed as softmax. Use -ln(-ln u) with u from torch.rand.")
    expect(off(at_one, right) < 0.025,
           "At temperature 1 the shares differ from softmax. The noise is -ln(-ln u), for u from 0 to 1.")
    expect(off(cold, right) > 0.025,
           "The temperature changes nothing, or it divides the sum of logits and noise, and the largest "
           "stays the largest. Divide the logits alone.")
    expect(off(cold, (logits / 2).softmax(dim=-1)) > 0.025,
           "Colder makes it more random: you multiply the logits by the temperature, or divide the noise by it. Divide the logits.")
    expect(off(cold, (logits / 0.5).softmax(dim=-1)) < 0.025,
           "At temperature 0.5 the shares differ from softmax(logits / 0.5). Only the logits are divided, the noise isn't.")
    first, again = (gumbel_sample(many, 1.0, torch.Generator().manual_seed(7)) for _ in range(2))
    expect(torch.equal(first, again), "Two runs with the same seed differ: pass `generator` on to torch.rand.")
    return "This is how one draws on a device without reading anything back, and how gradients can flow through a draw."


def check_cache_bytes(cache_bytes) -> str:
    config, batch, n_tokens, bytes_each = ch05.GPTConfig(100, 64, 40, 5, 3), 7, 60, 4
    C, L, H = config.n_channels, config.n_layers, config.n_heads
    right = 2 * L * C * batch * n_tokens * bytes_each
    y = cache_bytes(config, batch, n_tokens, bytes_each)
    for wrong, hint in {
        right // 2: "That counts keys or values, not both.",
        right // L: "That is one layer; each layer keeps its own keys and values.",
        right // batch: "That is one row; each row of the batch has its own cache.",
        right // bytes_each: "That is the number of numbers; each takes `bytes_each` bytes.",
        right * H: "The heads are counted twice: H heads of size D = C / H make C numbers, whatever H is.",
        right // H: "That is one head; all H of them, D = C / H each, make C numbers.",
        right * 3 // 2: "Queries needn't be kept: only the newest token asks.",
        right * config.context_length // n_tokens: "That is for the full context; this cache grows with the text.",
    }.items():
        expect(y != wrong, hint)
    expect(y == right, f"For {batch} rows of {n_tokens} tokens with {C} channels and {L} layers, {bytes_each} bytes each, "
           f"the answer is {right:,}, not {y}.")
    expect(cache_bytes(ch05.GPTConfig(), 1, 1_024, 2) == 36 * 2**20,
           "For one full context of GPT-2 small, at 2 bytes a number, the answer isn't 36 MiB. Is a size written into your code?")
    return "Many models since share keys and values among their heads, for this reason."


def check_best_size(best_size) -> str:
    for flops in (1.2e10, 5.76e23):
        y = best_size(flops)
        expect(isinstance(y, tuple | list) and len(y) == 2, "Return two numbers: parameters and tokens.")
        n, d = map(float, y)
        close = {name: abs(value / target - 1) < 0.01 for name, (value, target) in {
            "right": (n, (flops / 120) ** 0.5), "swapped": (d, (flops / 120) ** 0.5), "no six": (n, (flops / 20) ** 0.5),
            "two": (n, (flops / 40) ** 0.5), "no root": (n, flops / 120)}.items()}
        expect(not (close["swapped"] and abs(n / d / 20 - 1) < 0.01), "Twenty times more parameters than tokens: the two "
               "numbers are in the other order, or the twenty is on the wrong side. D = 20 N, parameters first.")
        expect(not close["no six"], "You spend one FLOP for each parameter and token; training costs six.")
        expect(not close["two"], "Two FLOPs for each parameter and token is the forward pass alone; training costs six.")
        expect(not close["no root"], "The root is missing: with D = 20 N the cost is 6 · N · 20 N, and N stands in it twice.")
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
    "5.1": check_bits_per_byte,
    "5.2": check_adamw_step,
    "5.3": check_contaminated_share,
    "5.4": check_gumbel_sample,
    "5.5": check_cache_bytes,
    "5.6": check_window_starts,
    "5.7": check_mean_ablated,
    "5.8": check_write_whole,
    "5.9": check_combine,
    "5.10": check_best_size,
}
