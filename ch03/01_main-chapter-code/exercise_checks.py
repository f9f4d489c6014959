"""The self-checks of chapter 3: each gets the reader's attempt, and the first thing that doesn't hold is the hint."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exercises import expect


def noise(*shape: int) -> Tensor:
    """Normal random numbers, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree to 1e-5 in shape and numbers."""
    return isinstance(a, Tensor) and a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=1e-5, rtol=1e-5)


def expect_shape(result: object, shape: tuple[int, ...]) -> None:
    """Give the hint on a wrong type or shape."""
    expect(isinstance(result, Tensor), f"Return a tensor, not {type(result).__name__}; is there a `return`?")
    expect(result.shape == shape, f"The result has the shape {tuple(result.shape)}; it should be {tuple(shape)}.")


def fading_weights(attempt) -> str:
    result = attempt(4, 0.5)
    expect_shape(result, (4, 4))
    expect(not result.triu(1).any(), "A word collects from later ones: everything above the diagonal should be 0.")
    expect(close(result.sum(-1), torch.ones(4)), "The rows don't sum to 1 yet; divide each row by its own sum.")
    steps = torch.arange(4)[:, None] - torch.arange(4)
    right = torch.where(steps >= 0, 0.5 ** steps.double(), 0.0)
    right = right / right.sum(-1, keepdim=True)
    expect(not close(result, torch.ones(4, 4).tril() / torch.arange(1, 5)[:, None]),
           "These are equal weights: multiply the weight of a word s steps back by decay ** s.")
    expect(result[3, 3] > result[3, 0],
           "The weights fade in the wrong direction: the present word is 0 steps back and weighs most.")
    expect(close(result, right), "Row 3 should be 1/15, 2/15, 4/15, 8/15 for a decay of 0.5.")
    expect(close(attempt(4, 1.0), torch.ones(4, 4).tril() / torch.arange(1, 5)[:, None]),
           "With decay = 1 nothing fades; is 0.5 fixed somewhere?")
    return "With a decay of 1 it's the running average again."


def stable_softmax(attempt) -> str:
    scores = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]])
    result = attempt(scores)
    expect_shape(result, (2, 3))
    expect(not close(result, scores.softmax(0)), "The columns sum to 1: this is softmax over the wrong axis. Use dim=-1.")
    expect(not close(result, scores.exp() / scores.exp().sum()),
           "All numbers together sum to 1; each row should. Sum over dim=-1 and keepdim=True.")
    expect(close(result, scores.softmax(-1)), "For the scores 1, 2, 3 the weights should be 0.09, 0.24 and 0.67.")
    large = attempt(torch.tensor([[1000.0, 999.0, 0.0]]))
    expect(not large.isnan().any(),
           "Scores of 1,000 give nan, as e to the power of 1,000 is infinite. Subtract the row's maximum first.")
    uneven = attempt(torch.tensor([[1000.0, 999.0], [0.0, 1.0]]))
    expect(not uneven.isnan().any(),
           "A row with small scores gives nan when another row's are large: subtract each row's own maximum.")
    expect(close(attempt(noise(2, 3, 4)), noise(2, 3, 4).softmax(-1)),
           "It fails for a tensor of three axes; use dim=-1 and keepdim=True.")
    expect(torch.equal(scores, torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]])),
           "It changes its input; subtract without `-=`.")
    return "The subtraction changes no weight, because only differences count."


def cross_attention(attempt) -> str:
    x, memory = noise(4, 3), noise(6, 3) + 0.5
    W_q, W_k, W_v = noise(3, 3, 5) * torch.tensor([1.0, 0.7, 1.3])[:, None, None]
    result = attempt(x, memory, W_q, W_k, W_v)
    q, k, v = x @ W_q, memory @ W_k, memory @ W_v
    expect(isinstance(result, Tensor), f"Return a tensor, not {type(result).__name__}; is there a `return`?")
    expect(result.shape != (6, 5),
           "There is a row for each row of `memory`; it should be one for each row of `x`, as x asks the questions.")
    expect(result.shape != (4, 6), "These are the weights (T, S); mix the values with them.")
    expect_shape(result, (4, 5))
    expect(not close(result, (x @ W_q @ (x @ W_k).T).softmax(-1) @ (x @ W_v)),
           "This is self-attention: keys and values should come from `memory`.")
    expect(not close(result, (q @ k.T).softmax(0) @ v),
           "Softmax ran over the queries; each query's weights over the memory should sum to 1.")
    expect(not close(result, (q @ k.T / 5**0.5).softmax(-1) @ v),
           "Right but for the scaling; leave the scores as they are in this exercise.")
    expect(not close(result, q @ k.T @ v), "The scores mix the values without a softmax.")
    expect(close(result, (q @ k.T).softmax(-1) @ v),
           "Queries from x, keys and values from memory, softmax over the last axis, then mix the values.")
    return "The side that asks decides how many rows there are."


def score_factor(attempt) -> str:
    value = attempt(64, 2.0)
    expect(isinstance(value, int | float | Tensor), f"Return a number, not {type(value).__name__}.")
    value = float(value)
    expect(abs(value - 1 / 8) > 1e-9,
           "That's the factor for a standard deviation of 1. What's the variance of a product of two numbers with variance σ²?")
    expect(abs(value - 1 / 16) > 1e-9, "One σ is missing: the query and the key each bring one.")
    expect(abs(value - 1 / 256) > 1e-9, "It's divided by D; the spread is the root of a variance, so √D.")
    expect(abs(value - 1 / 1024) > 1e-9, "That undoes the variance; the spread is its root.")
    expect(abs(value - 32) > 1e-9, "That's the spread of the scores itself; the factor is what brings it back to 1.")
    expect(abs(value - 1 / 32) < 1e-9,
           "A little product has variance σ⁴, the sum of D of them D·σ⁴. What is its root, and what undoes it?")
    expect(abs(float(attempt(9, 1.0)) - 1 / 3) < 1e-9, "For σ = 1 and D = 9 it should be the chapter's 1/√D, a third.")
    return "Where σ is 1, it's 1/√D."


def window_mask(attempt) -> str:
    result = attempt(5, 2)
    expect_shape(result, (5, 5))
    expect(result.dtype == torch.bool, f"Return booleans, not {result.dtype}.")
    steps = torch.arange(5)[:, None] - torch.arange(5)
    right = (steps >= 0) & (steps < 2)
    expect(not torch.equal(result, ~right), "True and False are exchanged: True is where looking is allowed.")
    expect(not result.triu(1).any(), "Some words may look at later ones.")
    expect(result.diagonal().all(), "Every word should see itself; it counts as one of the window.")
    expect(not torch.equal(result, (steps >= 0) & (steps <= 2)),
           "One too many: a window of 2 is the word itself and one before it.")
    expect(not torch.equal(result, torch.ones(5, 5, dtype=torch.bool).tril()),
           "Nothing is cut off on the left: forbid what is `window` or more steps back.")
    expect(torch.equal(result, right), "With T = 5 and a window of 2, row 3 should be False, False, True, True, False.")
    expect(torch.equal(attempt(4, 9), torch.ones(4, 4, dtype=torch.bool).tril()),
           "A window wider than the text should allow all of the past.")
    return "A row has at most `window` True values, so the cost grows with T and not with T²."


def drop_weights(attempt) -> str:
    weights = torch.full((100, 100), 0.5)
    result = attempt(weights, 0.2, torch.Generator().manual_seed(3))
    expect_shape(result, (100, 100))
    expect(torch.equal(weights, torch.full((100, 100), 0.5)), "It changes its input; make a new tensor.")
    zeros, kept = (result == 0).float().mean().item(), result[result != 0]
    expect(0 < zeros < 1, "Some weights should be zero and some not.")
    rows = (result == 0).all(-1) | (result != 0).all(-1)
    expect(not rows.all(), "Whole rows are dropped together; draw a number for every weight.")
    expect(not (result == result[0]).all(), "Every row loses the same columns; draw a number for every weight.")
    expect(abs(zeros - 0.8) > 0.05, "It keeps a share p and drops the rest; p is the share to drop.")
    expect(abs(zeros - 0.2) < 0.05, f"It drops a share of {zeros:.2f} for p = 0.2.")
    expect(not close(kept, torch.full_like(kept, 0.5)),
           "The weights that survive should be scaled up, or the expected sum shrinks.")
    expect(not close(kept, torch.full_like(kept, 0.4)), "They are scaled down: divide by 1 - p, don't multiply.")
    expect(close(kept, torch.full_like(kept, 0.625)), "The surviving weights of 0.5 should become 0.5 / 0.8 = 0.625.")
    again = attempt(weights, 0.2, torch.Generator().manual_seed(3))
    expect(torch.equal(result, again), "The same generator gives another result the second time; draw from `generator`.")
    return "The expected sum is what it was, so evaluation needs no correction."


def attention_parameters(attempt) -> str:
    plain, biased = attempt(12, 3, False), attempt(12, 3, True)
    expect(plain != 3 * 144, "The output projection is missing: it has C × C parameters.")
    expect(plain not in (3 * 3 * 144 + 144, 3 * 4 * 144),
           "Each head has D = C / H components, so all heads together have matrices of C × C.")
    expect(plain == 4 * 144, "For C = 12 without biases there are four C × C matrices: 576 parameters.")
    expect(biased != plain, "With biases there should be more.")
    expect(biased != plain + 12, "Only the output has a bias so far; queries, keys and values have one each too.")
    expect(biased != plain + 4, "A bias isn't one number: it has one for each output channel.")
    expect(biased == plain + 48, "With biases, each of the four projections has C more.")
    expect(attempt(12, 1, True) == biased, "The number of heads shouldn't matter.")
    return f"GPT-2's twelve layers have {12 * attempt(768, 12, True):,}."


def merge_heads(attempt) -> str:
    original = noise(2, 5, 6)                                                        # (B, T, C)
    split = original.view(2, 5, 3, 2).transpose(1, 2).contiguous()                   # (B, H, T, D), lying in this order
    result = attempt(split)
    expect_shape(result, (2, 5, 6))
    expect(not close(result, split.reshape(2, 5, 6)),
           "The heads stand before the tokens when you join: the rows mix tokens. Transpose first.")
    expect(not close(result, split.permute(0, 2, 3, 1).reshape(2, 5, 6)),
           "The channels of the heads are interleaved: put H before D when you join, not behind it.")
    expect(close(result, original),
           "Splitting and merging should give back the original: (B, H, T, D) -> (B, T, H, D) -> (B, T, C).")
    return "It undoes the split, number by number."


def grouped_query_attention(attempt) -> str:
    q, k, v = noise(2, 4, 5, 6), noise(2, 2, 5, 6) * 1.5, noise(2, 2, 5, 6) - 0.3
    def reference(k, v, **options): return F.scaled_dot_product_attention(q, k, v, **options)
    pairs, cycled = (t.repeat_interleave(2, dim=1) for t in (k, v)), (t.repeat(1, 2, 1, 1) for t in (k, v))
    (k_pairs, v_pairs), (k_cycled, v_cycled) = pairs, cycled
    result = attempt(q, k, v)
    expect_shape(result, (2, 4, 5, 6))
    expect(not close(result, reference(k_cycled, v_cycled, is_causal=True)),
           "Heads 0, 1, 2, 3 got the groups 0, 1, 0, 1; it should be 0, 0, 1, 1. See `repeat_interleave`.")
    expect(not close(result, reference(k_pairs, v_pairs)), "It sees the future: the mask is missing.")
    expect(not close(result, reference(k_pairs, v_pairs, is_causal=True, scale=1.0)), "The scores aren't divided by √D.")
    expect(not close(result, reference(k_pairs, v_cycled, is_causal=True)),
           "The keys are matched to the heads rightly, the values aren't.")
    expect(not close(result, reference(k[:, :1], v[:, :1], is_causal=True)),
           "All heads use group 0; that would be multi-query attention.")
    expect(close(result, reference(k_pairs, v_pairs, is_causal=True)),
           "Let heads 0 and 1 use group 0, and heads 2 and 3 group 1; causal and scaled.")
    hint = "With one group for all four heads it's wrong; is H/G fixed at 2?"
    try:
        single = attempt(q, k[:, :1], v[:, :1])
    except RuntimeError:
        single = None
    expect(single is not None and close(single, reference(k[:, :1], v[:, :1], is_causal=True)), hint)
    return "The keys and values to be kept shrink by H/G."


def alibi_bias(attempt) -> str:
    result = attempt(4, 6)
    expect_shape(result, (4, 6, 6))
    past = torch.ones(6, 6, dtype=torch.bool).tril()
    distance = (torch.arange(6)[:, None] - torch.arange(6)).double()
    slopes = (2.0 ** (-8 * torch.arange(1, 5) / 4)).double()[:, None, None]
    finite = result.double()[:, past]
    expect(finite.isfinite().all(), "Something in the past is infinite; only the future should be.")
    expect((result[:, ~past] == -torch.inf).all(), "The future should be -inf, so that the softmax gives it nothing.")
    expect(not close(finite, (slopes * distance)[:, past]), "The sign is wrong: what's far away should lose score.")
    expect((finite != 0).any(), "Nothing is subtracted; take the slope times the distance from each score.")
    expect(not close(finite, (-(2.0 ** (-8 * torch.arange(0, 4) / 4)).double()[:, None, None] * distance)[:, past]),
           "The heads are counted from 0: the first slope should be 2 ** (-8 / H), not 1.")
    expect(not all(close(result[0].double()[past], r.double()[past]) for r in result), "All heads have the same slope.")
    expect(close(finite, (-slopes * distance)[:, past]),
           "With 4 heads, the slopes are 1/4, 1/16, 1/64, 1/256, each times the distance t - s.")
    return "One tensor does the mask's work and tells the distance."


def longest_context(attempt) -> str:
    n_bytes = 4 * 8 * 12 * 1000 ** 2
    result = attempt(n_bytes, 8, 12)
    expect(result != n_bytes // (4 * 8 * 12), "That's the number of cells of one table, T². The context is its root.")
    expect(result != 2000, "A number in float32 takes 4 bytes, not 1.")
    expect(int(result) != 3464, "Every head has a table of its own; divide by H too.")
    expect(int(result) != 2828, "Every sequence of the batch has its own tables; divide by B too.")
    expect(int(result) == 1000, "The tables take 4·B·H·T² bytes; solve that for T.")
    expect(int(attempt(n_bytes - 1, 8, 12)) == 999, "One byte less, and 1,000 tokens don't fit any more; round down.")
    expect(isinstance(result, int), f"Return a whole number, an int, not {type(result).__name__}.")
    return "Four times the memory buys twice the length."


def chosen_scale(attempt) -> str:
    expect(isinstance(attempt, type) and issubclass(attempt, nn.Module), "Pass the class itself, a subclass of nn.Module.")
    layer, plain = attempt(12, 64, True), attempt(12, 64, False)
    names = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    expect(names == {"qkv.weight": (192, 12), "out.weight": (12, 64)},
           f"The parameters are {names}; they should be qkv.weight (3D, C) and out.weight (C, D), without biases.")
    plain.load_state_dict(layer.state_dict())
    x = noise(2, 7, 12) * 3
    q, k, v = layer.qkv(x).split(64, dim=-1)
    def right(scale, causal=True): return layer.out(F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale))
    result = layer(x)
    expect_shape(result, (2, 7, 12))
    expect(not close(result, right(1 / 8, causal=False)), "It sees the future: the mask is missing.")
    expect(not close(layer(x), plain(x)), "scaled=True and scaled=False give the same result.")
    expect(not (close(layer(x), right(1.0)) and close(plain(x), right(1 / 8))),
           "It's the wrong way round: scaled=True should divide by √D.")
    expect(not close(result, right(12 ** -0.5)), "It scales by the root of C; D is the size of the head.")
    expect(not close(result, right(1 / 64)), "It divides by D; divide by its root.")
    expect(close(result, right(1 / 8)),
           "With scaled=True, the result should be causal attention with scores divided by √head_size.")
    expect(close(plain(x), right(1.0)), "With scaled=False, the scores should be left as they come (scale=1.0).")
    return "Now train the four models."


CHECKS = {
    "3.1": fading_weights,
    "3.2": stable_softmax,
    "3.3": cross_attention,
    "3.4": score_factor,
    "3.5": window_mask,
    "3.6": drop_weights,
    "3.7": attention_parameters,
    "3.8": merge_heads,
    "3.9": grouped_query_attention,
    "3.10": alibi_bias,
    "3.11": longest_context,
    "3.12": chosen_scale,
}
