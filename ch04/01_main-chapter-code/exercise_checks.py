"""What a right answer to each exercise of chapter 4 does, and the hint for each usual mistake."""

import torch
import torch.nn.functional as F
from torch import nn

import ch04
from exercises import expect


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two tensors agree in shape and value."""
    return isinstance(a, torch.Tensor) and a.shape == b.shape and torch.allclose(a.to(b.dtype), b, atol=tolerance, rtol=1e-4)


def small_model(seed: int = 0, **changes: int) -> ch04.GPTModel:
    """A random model with opinions strong enough that its choices differ."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 20, "context_length": 8, "n_channels": 16, "n_heads": 2, "n_layers": 2, "tie_head": False} | changes
    model = ch04.GPTModel(ch04.GPTConfig(**shape))
    for matrix in (p for p in model.parameters() if p.dim() == 2):
        nn.init.normal_(matrix, std=0.4)
    return model.eval()


def check_rms_norm(rms_norm) -> str:
    x, weight = 3 * seeded(2, 5, 6) + 2, seeded(6, seed=1).abs() + 0.5
    mean_square = x.square().mean(dim=-1, keepdim=True)
    y = rms_norm(x, weight)
    expect(isinstance(y, torch.Tensor) and y.shape == x.shape,
           f"x has shape {tuple(x.shape)}; the result should have the same.")
    expect(not close(y, ch04.F.layer_norm(x, (6,), weight)),
           "You subtract the mean. RMSNorm doesn't: that is one of the two things to leave out.")
    expect(not close(y, x / (mean_square + 1e-5).sqrt()),
           "The learned scale is missing: multiply by `weight` at the end.")
    expect(not close(y, x / (mean_square + 1e-5) * weight),
           "You divide by the mean of the squares; the root is missing.")
    over_time = x / (x.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * weight
    over_all = x / (x.square().mean() + 1e-5).sqrt() * weight
    expect(not close(y, over_time) and not close(y, over_all),
           "Tokens are mixed: take the mean over the last axis only, dim=-1, and keep that axis.")
    expect(not close(y, x / (x.square().sum(dim=-1, keepdim=True) + 1e-5).sqrt() * weight),
           "You divide by the root of the sum of squares; it should be of their mean.")
    expect(close(y, x / (mean_square + 1e-5).sqrt() * weight),
           "The numbers differ. Divide x by sqrt(mean(x²) + eps) over the last axis, then multiply by weight.")
    expect(bool(rms_norm(torch.zeros(1, 6), weight).isfinite().all()),
           "A token of zeros gives no finite number: add eps inside the root.")
    return "One mean fewer to compute, and models train as well."


def check_gelu_slope(gelu_slope) -> str:
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    cdf, bell = (1 + torch.erf(x / 2**0.5)) / 2, (-x.square() / 2).exp() / (2 * torch.pi) ** 0.5
    y = gelu_slope(x)
    expect(isinstance(y, torch.Tensor) and y.shape == x.shape,
           f"x has shape {tuple(x.shape)}; the result should have the same.")
    expect(not close(y, cdf),
           "That is Φ(x), the first term of the product rule. The second, x times the slope of Φ, is missing.")
    expect(not close(y, x * bell),
           "That is x · φ(x), the second term of the product rule. The first, Φ(x), is missing.")
    expect(not close(y, cdf + bell), "In the second term, φ(x) has to be multiplied by x.")
    expect(not close(y, x * cdf), "That is GELU itself; its slope is asked for.")
    expect(not close(y, cdf + x * (-x.square() / 2).exp()),
           "The bell curve needs its factor 1 / √(2π), or the area under it isn't 1.")
    expect(close(y, cdf + x * bell), "The numbers differ. Product rule: Φ(x) · 1 + x · φ(x).")
    return "This is what F.gelu's backward pass computes."


def check_swiglu(SwiGLU) -> str:
    layer, x = SwiGLU(6, 10), seeded(2, 3, 6)
    for name, shape in {"gate": (10, 6), "expand": (10, 6), "contract": (6, 10)}.items():
        part = getattr(layer, name, None)
        expect(isinstance(part, nn.Linear), f"The module needs a linear layer named `{name}`.")
        expect(tuple(part.weight.shape) == shape, f"For SwiGLU(6, 10), `{name}` should go from {shape[1]} to {shape[0]} "
               f"channels, but goes from {part.in_features} to {part.out_features}.")
        expect(part.bias is None, f"`{name}` has a bias; pass bias=False.")
    y, gate, expand = layer(x), layer.gate(x), layer.expand(x)
    expect(not close(y, layer.contract(gate * F.silu(expand))),
           "The silu is on the wrong branch: bend gate(x), leave expand(x) straight.")
    expect(not close(y, layer.contract(gate.sigmoid() * expand)),
           "That is GLU, with a sigmoid. SwiGLU bends by silu, x · sigmoid(x).")
    expect(not close(y, layer.contract(F.silu(gate) + expand)), "The two branches are multiplied, not added.")
    expect(not close(y, layer.contract(F.gelu(gate) * expand)), "That is GEGLU. SwiGLU bends by F.silu.")
    expect(close(y, layer.contract(F.silu(gate) * expand)),
           "The numbers differ from contract(silu(gate(x)) * expand(x)).")
    return "Llama, Qwen and most models since use it; chapter 8 will too."


def check_parallel_block(parallel_block) -> str:
    torch.manual_seed(0)
    block, x = ch04.TransformerBlock(ch04.GPTConfig(n_channels=8, n_heads=2)), seeded(2, 4, 8)
    nn.init.normal_(block.norm1.weight), nn.init.normal_(block.norm2.weight)
    with torch.no_grad():
        y = parallel_block(block, x)
        attention, feed_forward = block.attention(block.norm1(x)), block.feed_forward(block.norm2(x))
        expect(not close(y, block(x)),
               "That is the block as it was: feed-forward still waits for attention. Give it x itself.")
        expect(not close(y, attention + feed_forward), "The stream is missing: x itself belongs into the sum.")
        expect(not close(y, 2 * x + attention + feed_forward),
               "x is in the sum twice. Both side roads leave from one stream and join it once.")
        expect(not close(y, x + block.attention(x) + block.feed_forward(x)),
               "The norms are missing: each part reads x through its own.")
        expect(not close(y, x + attention + block.feed_forward(block.norm1(x))),
               "The feed-forward should read through norm2, not norm1.")
        expect(close(y, x + attention + feed_forward),
               "The numbers differ from x + attention(norm1(x)) + feed_forward(norm2(x)).")
    return "Two matrix products that don't wait for each other."


def check_token_log_probs(token_log_probs) -> str:
    model, ids = small_model(), torch.tensor([[1, 7, 3, 12, 5], [4, 4, 9, 0, 2]])
    with torch.no_grad():
        y, logits = token_log_probs(model, ids), model(ids)
    log_probs = logits.log_softmax(dim=-1)
    own = log_probs.gather(2, ids[..., None])[..., 0]
    right = log_probs[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    expect(isinstance(y, torch.Tensor), "Return a tensor.")
    expect(tuple(y.shape) != (2, 5),
           "There are as many numbers as tokens; the first token has nothing before it, so there should be one "
           "fewer.")
    expect(tuple(y.shape) == (2, 4),
           f"The result has shape {tuple(y.shape)}; one number for each token but the first is (2, 4).")
    expect(not close(y, own[:, 1:]) and not close(y, own[:, :-1]),
           "Not shifted: you ask the logits at a token for that very token. Those at t speak about t + 1.")
    expect(not close(y, logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0]),
           "Those are logits. Take log_softmax over the vocabulary first.")
    expect(not close(y, right.exp()),
           "Those are probabilities; take their logarithm (log_softmax does it without rounding to 0).")
    expect(not close(y, -right), "The sign is turned: that is the loss of each token.")
    expect(not close(y, log_probs[:, 1:].gather(2, ids[:, :-1, None])[..., 0]),
           "Shifted the wrong way: the logits at t speak about t + 1, not t - 1.")
    expect(close(y, right), "The numbers differ from log_softmax(logits[:, :-1]) read off at ids[:, 1:].")
    return "Their mean, with the sign turned, is the loss."


def check_training_bytes(training_bytes) -> str:
    for changes in ({}, {"tie_head": False, "n_layers": 3}):
        config = ch04.GPTConfig(**changes)
        n, y = ch04.count_parameters(config), training_bytes(config)
        untied = ch04.count_parameters(ch04.GPTConfig(**changes | {"tie_head": False}))
        for factor, hint in {1: "That is the number of parameters; each takes 4 bytes, and more than itself.",
                             4: "That is the weights alone. Add the gradient and AdamW's two averages.",
                             8: "Weights and gradients are there; AdamW's two running averages are missing.",
                             12: "Three numbers a parameter; there are four: itself, its gradient, and two averages."}.items():
            expect(y != factor * n, hint)
        expect(y != 16 * untied or untied == n, "The head is counted though it is tied: that matrix exists once.")
        name = "an untied model of 3 layers" if changes else "GPT-2 small"
        expect(y == 16 * n, f"For {name} the answer is {16 * n:,}, not {y}. "
               "`count_parameters` does the counting; four numbers of 4 bytes each.")
    return "Activations come on top, and grow with batch and length."


def check_ban(ban) -> str:
    logits = torch.tensor([[1.0, 5.0, 3.0, 2.0], [9.0, 0.0, -3.0, 4.0], [-5.0, -2.0, -1.0, -6.0]])
    before, choose = logits.clone(), ban([1, 0])
    expect(callable(choose), "`ban` should return a function that takes the logits.")
    y = choose(logits)
    expect(torch.equal(logits, before),
           "The logits that you were given have changed; work on a copy: logits.clone().")
    expect(isinstance(y, torch.Tensor) and y.shape == (3,),
           "The function should return one id for each row, shape (B,); take the argmax over the last axis.")
    expect(y.tolist() != [1, 0, 2], "The banned ids are still chosen.")
    negative = torch.tensor([[-3.0, -4.0, -1.0, -2.0]])
    expect(ban([2])(negative).tolist() != [2], "With all logits negative, a banned id wins: 0 isn't low enough. Use -inf.")
    expect(y.tolist() == [2, 3, 2] and ban([2])(negative).tolist() == [3],
           "A banned id got through, or the second best was missed. Set the banned columns to -inf, then take the argmax.")
    expect(ban([])(logits).tolist() == [1, 0, 2], "With nothing banned, the best token should be chosen.")
    return "Pass it as `choose=ban([...])`."


def check_generate_beyond(generate_beyond) -> str:
    model = small_model()

    def continued(prompt, n, window):
        ids = list(prompt)
        for _ in range(n):
            ids.append(model(torch.tensor([window(ids)]))[0, -1].argmax().item())
        return ids

    for prompt in ([3, 1, 4], [1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7]):
        with torch.no_grad():
            y = generate_beyond(model, list(prompt), 12)
            right = continued(prompt, 12, lambda ids: ids[-8:])
            shorter, first = continued(prompt, 12, lambda ids: ids[-7:]), continued(prompt, 12, lambda ids: ids[:8])
        expect(isinstance(y, list), "Return a list of ids.")
        expect(y != right[len(prompt):], "That is the continuation without the prompt; return both.")
        expect(len(y) not in (8, 9) and len(y) >= len(prompt),
               "It stops at the context of 8 tokens, or forgets what left the window. Keep the whole list, and "
               "show the model only its end.")
        expect(len(y) == len(prompt) + 12,
               f"{len(prompt)} tokens and 12 new ones make {len(prompt) + 12}; you return {len(y)}.")
        expect(y != first or first == right,
               "The window stands still at the beginning: show the last 8 tokens, ids[-8:], not the first.")
        expect(y != shorter or shorter == right,
               "The window is one token too short: the model can read all context_length tokens.")
        expect(y == right,
               "The tokens differ. At each step feed ids[-context_length:], take the last position's best "
               "token, append it.")
    return "Every position shifts at every step, so nothing could be cached here: chapter 8 returns to that."


CHECKS = {
    "4.1": check_rms_norm,
    "4.2": check_gelu_slope,
    "4.3": check_swiglu,
    "4.4": check_parallel_block,
    "4.5": check_token_log_probs,
    "4.6": check_training_bytes,
    "4.7": check_ban,
    "4.8": check_generate_beyond,
}
