"""Chapter 3: our attention is PyTorch's, it can't see the future or the padding, and the exercise checks know right from wrong."""

import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exercises import verdict
from tests.support import chapter

ch03 = chapter("ch03")
CHECKS = chapter("ch03", "exercise_checks").CHECKS
MultiHeadAttention = ch03.MultiHeadAttention


def noise(*shape, seed=3, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attention_and_witness(C, H, bias=True, dtype=torch.float32):
    """Ours and PyTorch's own module with the same random weights."""
    torch.manual_seed(3)
    ours = MultiHeadAttention(C, H, bias=bias).to(dtype)
    witness = nn.MultiheadAttention(C, H, bias=bias, batch_first=True, dtype=dtype)
    weights = {"in_proj_weight": ours.qkv.weight, "out_proj.weight": ours.out.weight}
    if bias:
        nn.init.normal_(ours.qkv.bias)
        nn.init.normal_(ours.out.bias)
        weights |= {"in_proj_bias": ours.qkv.bias, "out_proj.bias": ours.out.bias}
    witness.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()})
    return ours, witness


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 17), st.sampled_from([1, 2, 4]), st.sampled_from([1, 3, 8]), st.booleans())
def test_equals_pytorchs_module(B, T, H, D, bias):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        ours, witness = attention_and_witness(H * D, H, bias, dtype)
        x, future = noise(B, T, H * D, dtype=dtype), torch.ones(T, T, dtype=torch.bool).triu(1)
        expected = witness(x, x, x, attn_mask=future, need_weights=False)[0]
        torch.testing.assert_close(ours(x), expected, atol=tolerance, rtol=tolerance)


def test_gradients_equal_pytorchs_module():
    ours, witness = attention_and_witness(12, 3, dtype=torch.float64)
    x = noise(2, 7, 12, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours(a).square().sum().backward()
    witness(b, b, b, attn_mask=torch.ones(7, 7, dtype=torch.bool).triu(1), need_weights=False)[0].square().sum().backward()
    pairs = [(a, b), (ours.qkv.weight, witness.in_proj_weight), (ours.qkv.bias, witness.in_proj_bias)]
    for one, other in [*pairs, (ours.out.weight, witness.out_proj.weight), (ours.out.bias, witness.out_proj.bias)]:
        torch.testing.assert_close(one.grad, other.grad, atol=1e-10, rtol=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 12), st.integers(1, 9), st.integers(1, 5))
def test_causal_attention_equals_the_fused_kernel(lead, T, D, E):
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-10)):
        q, k = noise(*lead, 1, T, D, dtype=dtype), noise(*lead, 1, T, D, seed=4, dtype=dtype)
        v = noise(*lead, 1, T, E, seed=5, dtype=dtype)
        mixed, weights = ch03.causal_attention(q, k, v)
        expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(mixed, expected, atol=tolerance, rtol=tolerance)
        assert weights.shape == (*lead, 1, T, T)
        assert not weights.triu(1).any()
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 45))
def test_blocks_of_queries_equal_the_fused_kernel(B, H, T, D, block):
    q, k, v = (noise(B, H, T, D, seed=seed, dtype=torch.float64).requires_grad_() for seed in (3, 4, 5))
    mixed = ch03.query_block_attention(q, k, v, block=block)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(mixed, expected, atol=1e-10, rtol=1e-10)
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (mixed, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_blocks_of_queries_drop_weights_as_the_fused_kernel_does():
    q, k, v = (noise(4, 4, 64, 8, seed=seed) for seed in (3, 4, 5))
    torch.manual_seed(0)
    mean = torch.stack([ch03.query_block_attention(q, k, v, 0.3, block=16) for _ in range(400)]).mean(0)
    torch.testing.assert_close(mean, ch03.query_block_attention(q, k, v), atol=0.35, rtol=0)
    assert not torch.equal(ch03.query_block_attention(q, k, v, 0.3), ch03.query_block_attention(q, k, v, 0.3))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_bfloat16_on_a_processor_goes_through_blocks_and_padding_doesnt(monkeypatch, dropout):
    calls = []
    real = ch03.query_block_attention
    monkeypatch.setattr(ch03, "query_block_attention", lambda *a: calls.append(a[3]) or real(*a))
    layer, x = MultiHeadAttention(12, 3, dropout=dropout), noise(2, 150, 12)
    exact = layer.eval()(x)
    assert not calls
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), exact, atol=0.03, rtol=0)
        layer.train()(x)
        assert calls == [0.0, dropout]                                               # none is dropped in evaluation
        layer(x, torch.ones(2, 150, dtype=torch.bool))
    assert len(calls) == 2


def every_version():
    """The chapter's three classes with the same weights, and without biases."""
    torch.manual_seed(3)
    listed, batched, fused = ch03.HeadList(24, 4), ch03.BatchedHeads(24, 4), MultiHeadAttention(24, 4, bias=False)
    kinds = [[getattr(head, kind).weight for head in listed.heads] for kind in ("query", "key", "value")]
    state = {"qkv.weight": torch.cat([w for kind in kinds for w in kind]), "out.weight": listed.out.weight}
    batched.load_state_dict(state)
    fused.load_state_dict(state)
    return listed, batched, fused


def test_list_batch_and_fused_agree():
    listed, batched, fused = every_version()
    x = noise(2, 9, 24)
    torch.testing.assert_close(batched(x), listed(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(fused(x), listed(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
def test_the_future_has_no_influence(padded):
    x = noise(1, 10, 24)
    for layer in every_version()[2 if padded else 0:]:
        options = {"padding_mask": torch.ones(1, 10, dtype=torch.bool)} if padded else {}
        before = layer(x, **options)
        for t in range(10):
            changed = x.clone()
            changed[:, t:] = noise(1, 10 - t, 24, seed=t + 10)
            moved = (layer(changed, **options) != before).any(-1)[0]
            assert moved.tolist() == [False] * t + [True] * (10 - t), (type(layer).__name__, t)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_has_no_influence(side):
    layer, _ = attention_and_witness(12, 3)
    lengths, T = (1, 4, 7), 7
    real = torch.stack([torch.arange(T) >= T - n if side == "left" else torch.arange(T) < n for n in lengths])
    x = noise(3, T, 12)
    rubbish = torch.where(real[:, :, None], x, noise(3, T, 12, seed=9) * 100)
    assert torch.equal(layer(x, real)[real], layer(rubbish, real)[real])
    for row in range(len(lengths)):
        torch.testing.assert_close(layer(x, real)[row][real[row]], layer(x[row][real[row]][None])[0], atol=1e-6, rtol=1e-5)


def test_a_row_of_padding_is_a_number_and_so_is_its_gradient():
    layer, _ = attention_and_witness(12, 3)
    real = torch.tensor([[False] * 5, [False, False, True, True, True]])
    x = noise(2, 5, 12).requires_grad_()
    result = layer(x, real)
    assert result.isfinite().all()
    result[real].sum().backward()
    assert x.grad.isfinite().all()
    assert not x.grad[~real].any()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3))
def test_who_is_visible(rows):
    real = torch.tensor(rows)
    visible = MultiHeadAttention.visible(real, *real.shape)
    for b in range(len(rows)):
        for t in range(6):
            assert visible[b, 0, t].tolist() == [s == t or (s < t and rows[b][s]) for s in range(6)]


def test_a_mask_without_padding_changes_nothing():
    layer, _ = attention_and_witness(12, 3)
    x = noise(2, 6, 12)
    torch.testing.assert_close(layer(x, torch.ones(2, 6, dtype=torch.bool)), layer(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [MultiHeadAttention, ch03.HeadList, ch03.BatchedHeads])
def test_dropout_works_in_training_and_only_there(make):
    torch.manual_seed(3)
    layer, x = make(24, 4, dropout=0.5), noise(2, 9, 24)
    assert not torch.allclose(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    plain = make(24, 4)
    plain.load_state_dict(layer.state_dict())
    assert torch.allclose(layer(x), plain(x), atol=1e-6)


def test_dropout_keeps_the_expected_result():
    torch.manual_seed(3)
    layer, x = MultiHeadAttention(8, 2, dropout=0.3), noise(1, 4, 8)
    mean = layer(x.expand(20_000, 4, 8)).mean(0)
    torch.testing.assert_close(mean, layer.eval()(x)[0], atol=0.02, rtol=0)


@pytest.mark.parametrize(("arguments", "parts"), [
    ((50, 4), ("n_channels is 50", "n_heads 4", "divide")),
    ((8, 0), ("n_channels is 8", "n_heads 0")),
    ((8, 2, 1.0), ("dropout is 1.0", "share")),
    ((8, 2, -0.1), ("dropout is -0.1", "share")),
])
def test_wrong_sizes_are_named(arguments, parts):
    with pytest.raises(ValueError) as error:
        MultiHeadAttention(*arguments)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("mask", [torch.ones(2, 5), torch.ones(2, 5, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool),
                                  torch.ones(5, dtype=torch.bool)])
def test_a_wrong_padding_mask_is_named(mask):
    with pytest.raises(ValueError, match=r"padding_mask is torch\.\w+ of shape \([\d, ]+\); pass booleans of shape \(2, 5\)"):
        MultiHeadAttention(8, 2)(noise(2, 5, 8), mask)


def test_parameters_are_named_and_counted_as_promised():
    names = {name: tuple(p.shape) for name, p in MultiHeadAttention(12, 3).named_parameters()}
    assert names == {"qkv.weight": (36, 12), "qkv.bias": (36,), "out.weight": (12, 12), "out.bias": (12,)}


def test_copying_rows_repeat_and_the_untrained_model_knows_nothing():
    ids, period = ch03.copying_batch(50, torch.Generator().manual_seed(3))
    assert ids.shape == (50, 24)
    assert set(period.flatten().tolist()) == {4, 5, 6, 7, 8, 9}
    for row, length in zip(ids.tolist(), period.flatten().tolist(), strict=True):
        assert row[length:] == row[:-length]
        assert len(set(row[:length])) == length
    torch.manual_seed(3)
    model = ch03.CopyingModel(lambda C: MultiHeadAttention(C, 1))
    assert ch03.copying_accuracy(model, torch.Generator().manual_seed(3)) < 0.3
    losses = ch03.train_copying(model, torch.Generator().manual_seed(3), n_steps=150)
    assert len(losses) == 150
    assert losses[-1] < losses[0] - 1
    assert ch03.copying_accuracy(model, torch.Generator().manual_seed(4)) > 0.6


# ---------------------------------------------------------- the exercises: each solution, and wrong answers with their hints

def fading_weights(T, decay):
    steps = torch.arange(T)[:, None] - torch.arange(T)
    weights = (decay ** steps.clamp(min=0)).tril()
    return weights / weights.sum(-1, keepdim=True)


def fading_unnormalized(T, decay):
    return (decay ** (torch.arange(T)[:, None] - torch.arange(T)).clamp(min=0)).tril()


def fading_both_ways(T, decay):
    weights = decay ** (torch.arange(T)[:, None] - torch.arange(T)).abs()
    return weights / weights.sum(-1, keepdim=True)


def fading_from_the_start(T, decay):
    weights = (decay ** torch.arange(T).expand(T, T)).tril()
    return weights / weights.sum(-1, keepdim=True)


def running_average(T, decay):
    return torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]


def stable_softmax(scores):
    powers = (scores - scores.max(-1, keepdim=True).values).exp()
    return powers / powers.sum(-1, keepdim=True)


def softmax_with_one_maximum(scores):
    powers = (scores - scores.max()).exp()
    return powers / powers.sum(-1, keepdim=True)


def softmax_in_place(scores):
    scores -= scores.max(-1, keepdim=True).values
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def cross(queries="x", axis=-1, divide=1.0):
    """A cross-attention with a mistake."""
    def attention(x, memory, W_q, W_k, W_v):
        asks, asked = (x, memory) if queries != "memory" else (memory, x)
        asked = x if queries == "self" else asked
        return (asks @ W_q @ (asked @ W_k).T / divide).softmax(axis) @ (asked @ W_v)
    return attention


def window(T, low=0, high=0, flip=False):
    steps = torch.arange(T)[:, None] - torch.arange(T)
    mask = (steps >= low) & (steps < high)
    return ~mask if flip else mask


def drop(weights, keep, scale):
    return weights * keep * scale


def drop_weights(weights, p, generator):
    return weights * (torch.rand(weights.shape, generator=generator) >= p) / (1 - p)


def merge_heads(mixed):
    B, H, T, D = mixed.shape
    return mixed.transpose(1, 2).reshape(B, T, H * D)


def grouped(repeat="interleave", causal=True, scale=None):
    """Grouped-query attention with a mistake."""
    def attention(q, k, v):
        n = q.shape[1] // k.shape[1]
        copies = {"interleave": lambda t: t.repeat_interleave(n, 1), "cycle": lambda t: t.repeat(1, n, 1, 1),
                  "two": lambda t: t.repeat_interleave(2, 1), "first": lambda t: t[:, :1].expand(-1, q.shape[1], -1, -1)}[repeat]
        return F.scaled_dot_product_attention(q, copies(k), copies(v), is_causal=causal, scale=scale)
    return attention


def alibi(first=1, sign=-1, future=-math.inf, same=False):
    """An ALiBi bias with a mistake."""
    def bias(n_heads, T):
        slopes = 2.0 ** (-8 * (torch.arange(n_heads) * (not same) + first) / n_heads)
        steps = torch.arange(T)[:, None] - torch.arange(T)
        result = sign * slopes[:, None, None] * steps
        return result if future is None else result.masked_fill(steps < 0, future)
    return bias


def chosen(scale, causal=True, bias=False):
    """A layer whose scale comes from scale(C, D, scaled)."""
    class Layer(nn.Module):
        def __init__(self, n_channels, head_size, scaled):
            super().__init__()
            self.qkv, self.out = nn.Linear(n_channels, 3 * head_size, bias=bias), nn.Linear(head_size, n_channels, bias=bias)
            self.scale = scale(n_channels, head_size, scaled)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=self.scale))
    return Layer


SOLUTIONS = {
    "3.1": fading_weights,
    "3.2": stable_softmax,
    "3.3": cross(),
    "3.4": lambda D, sigma: 1 / (D ** 0.5 * sigma ** 2),
    "3.5": lambda T, w: window(T, 0, w),
    "3.6": drop_weights,
    "3.7": lambda C, H, bias: 4 * C * C + 4 * C * bias,
    "3.8": merge_heads,
    "3.9": grouped(),
    "3.10": alibi(),
    "3.11": lambda n, B, H: math.isqrt(n // (4 * B * H)),
    "3.12": chosen(lambda C, D, scaled: D ** -0.5 if scaled else 1.0),
}

WRONG = [
    ("3.1", fading_unnormalized, "don't sum to 1"),
    ("3.1", fading_both_ways, "collects from later ones"),
    ("3.1", fading_from_the_start, "wrong direction"),
    ("3.1", running_average, "equal weights"),
    ("3.1", lambda T, decay: fading_weights(T, 0.5), "is 0.5 fixed"),
    ("3.1", lambda T, decay: fading_weights(T, decay)[0], "shape (4,)"),
    ("3.2", lambda s: s.exp() / s.exp().sum(-1, keepdim=True), "give nan"),
    ("3.2", lambda s: s.softmax(0), "wrong axis"),
    ("3.2", lambda s: s.exp() / s.exp().sum(), "All numbers together"),
    ("3.2", softmax_with_one_maximum, "each row's own maximum"),
    ("3.2", softmax_in_place, "changes its input"),
    ("3.3", cross("self"), "self-attention"),
    ("3.3", cross("memory"), "one for each row of `x`"),
    ("3.3", cross(axis=0), "over the queries"),
    ("3.3", cross(divide=5 ** 0.5), "but for the scaling"),
    ("3.3", lambda x, memory, W_q, W_k, W_v: x @ W_q @ (memory @ W_k).T @ (memory @ W_v), "without a softmax"),
    ("3.3", lambda x, memory, W_q, W_k, W_v: (x @ W_q @ (memory @ W_k).T).softmax(-1), "These are the weights"),
    ("3.4", lambda D, sigma: D ** -0.5, "standard deviation of 1"),
    ("3.4", lambda D, sigma: D ** -0.5 / sigma, "One σ is missing"),
    ("3.4", lambda D, sigma: D ** 0.5 * sigma ** 2, "spread of the scores itself"),
    ("3.4", lambda D, sigma: 1 / (D * sigma ** 4), "undoes the variance"),
    ("3.4", lambda D, sigma: 1 / (D * sigma ** 2), "divided by D"),
    ("3.5", lambda T, w: window(T, 0, w, flip=True), "exchanged"),
    ("3.5", lambda T, w: window(T, 0, w + 1), "One too many"),
    ("3.5", lambda T, w: window(T, 1, w + 1), "should see itself"),
    ("3.5", lambda T, w: window(T, 1 - w, w), "later ones"),
    ("3.5", lambda T, w: window(T, 0, T), "cut off on the left"),
    ("3.5", lambda T, w: window(T, 0, w).float(), "booleans"),
    ("3.6", lambda w, p, g: w * (torch.rand(w.shape, generator=g) >= p), "scaled up"),
    ("3.6", lambda w, p, g: w * (torch.rand(w.shape, generator=g) >= p) * (1 - p), "scaled down"),
    ("3.6", lambda w, p, g: w * (torch.rand(w.shape, generator=g) < p) / p, "share to drop"),
    ("3.6", lambda w, p, g: w * (torch.rand(w.shape) >= p) / (1 - p), "draw from `generator`"),
    ("3.6", lambda w, p, g: w * (torch.rand(len(w), 1, generator=g) >= p) / (1 - p), "Whole rows"),
    ("3.6", lambda w, p, g: w * (torch.rand(w.shape[-1], generator=g) >= p) / (1 - p), "same columns"),
    ("3.7", lambda C, H, bias: 3 * C * C + 3 * C * bias, "output projection is missing"),
    ("3.7", lambda C, H, bias: 3 * H * C * C + C * C, "D = C / H"),
    ("3.7", lambda C, H, bias: 4 * C * C, "With biases there should be more"),
    ("3.7", lambda C, H, bias: 4 * C * C + C * bias, "Only the output has a bias"),
    ("3.7", lambda C, H, bias: 4 * C * C + 4 * bias, "isn't one number"),
    ("3.8", lambda m: m.reshape(m.shape[0], m.shape[2], -1), "rows mix tokens"),
    ("3.8", lambda m: m.permute(0, 2, 3, 1).reshape(m.shape[0], m.shape[2], -1), "interleaved"),
    ("3.8", lambda m: m.transpose(1, 2), "shape (2, 5, 3, 2)"),
    ("3.8", lambda m: m.transpose(1, 2).view(m.shape[0], m.shape[2], -1), "Your code raised RuntimeError"),
    ("3.9", grouped("cycle"), "repeat_interleave"),
    ("3.9", grouped(causal=False), "mask is missing"),
    ("3.9", grouped(scale=1.0), "aren't divided"),
    ("3.9", grouped("first"), "group 0"),
    ("3.9", grouped("two"), "fixed at 2"),
    ("3.10", alibi(sign=1), "sign is wrong"),
    ("3.10", alibi(future=None), "-inf"),
    ("3.10", alibi(first=0), "counted from 0"),
    ("3.10", alibi(same=True), "same slope"),
    ("3.10", alibi(sign=0), "Nothing is subtracted"),
    ("3.11", lambda n, B, H: n // (4 * B * H), "That's the number of cells"),
    ("3.11", lambda n, B, H: math.isqrt(n // (B * H)), "4 bytes"),
    ("3.11", lambda n, B, H: math.isqrt(n // (4 * B)), "divide by H"),
    ("3.11", lambda n, B, H: math.isqrt(n // (4 * H)), "divide by B"),
    ("3.11", lambda n, B, H: round((n / (4 * B * H)) ** 0.5), "round down"),
    ("3.12", chosen(lambda C, D, scaled: D ** -0.5), "the same result"),
    ("3.12", chosen(lambda C, D, scaled: 1.0 if scaled else D ** -0.5), "wrong way round"),
    ("3.12", chosen(lambda C, D, scaled: C ** -0.5 if scaled else 1.0), "root of C"),
    ("3.12", chosen(lambda C, D, scaled: 1 / D if scaled else 1.0), "divide by its root"),
    ("3.12", chosen(lambda C, D, scaled: D ** -0.5 if scaled else 1.0, causal=False), "mask is missing"),
    ("3.12", chosen(lambda C, D, scaled: D ** -0.5 if scaled else 1.0, bias=True), "without biases"),
]


def test_every_exercise_has_a_solution_and_three_wrong_answers():
    assert set(SOLUTIONS) == set(CHECKS)
    assert min(sum(number == n for n, _, _ in WRONG) for number in CHECKS) >= 3


@pytest.mark.parametrize("number", SOLUTIONS)
def test_a_right_answer_is_right(number):
    assert verdict(number, SOLUTIONS[number], CHECKS).startswith(f"Exercise {number}: right.")


@pytest.mark.parametrize(("number", "attempt", "hint"), WRONG, ids=[f"{n}: {h}" for n, _, h in WRONG])
def test_a_wrong_answer_gets_its_hint(number, attempt, hint):
    said = verdict(number, attempt, CHECKS)
    assert said.startswith(f"Exercise {number}: not yet.")
    assert hint in said, said


# ---------------------------------------------------------- the figures show the numbers that the notebook computes

def test_the_figures_numbers_are_the_notebooks():
    figures = importlib.import_module("images.ch03.figures")
    x = torch.tensor(figures.X)
    q, k = x @ torch.tensor(figures.W_Q).float(), x @ torch.tensor(figures.W_K).float()
    torch.testing.assert_close(torch.tensor(figures.SIMILARITY), x @ x.T)
    torch.testing.assert_close(torch.tensor(figures.SCORES), q @ k.T)
    torch.testing.assert_close(torch.tensor(figures.CAUSAL), ch03.causal_attention(q, k, q)[1])
    g = torch.Generator().manual_seed(3)
    assert torch.equal(torch.tensor(figures.KEPT), (torch.rand(6, 6, generator=g) >= 0.5).long())
    g = torch.Generator().manual_seed(3)
    for D in (4, 64, 1024):
        torch.randn(10_000, D, generator=g), torch.randn(10_000, D, generator=g)
    query, keys = torch.randn(1024, generator=g), torch.randn(8, 1024, generator=g)
    torch.testing.assert_close(torch.tensor(figures.EIGHT_SCORES), keys @ query, atol=0.006, rtol=0)
