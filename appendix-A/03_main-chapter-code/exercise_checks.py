"""The self-checks of appendix A's exercises."""

import math
import time

import torch
import torch.nn.functional as F
from torch import nn

from exercises import expect


def check_distances(distances):
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    got = distances(points.clone())
    expect(isinstance(got, torch.Tensor), "Return a tensor; you returned a " + type(got).__name__ + ".")
    expect(
        got.shape == (3, 3),
        f"Three points have 3 x 3 distances, but your result has shape {tuple(got.shape)}. Look at the "
        "directions that broadcasting made: the last one, over x and y, has to be summed.",
    )
    expect(not torch.allclose(got, torch.cdist(points, points) ** 2), "These are squared distances; take the root.")
    expect(
        not torch.allclose(got, (points[:, None] - points[None]).abs().sum(-1)),
        "That is the way along the streets of a grid. Square the differences before you sum them.",
    )
    expect(torch.allclose(got, torch.cdist(points, points)), "The distance from (0, 0) to (3, 4) should be 5; compare your table.")
    return "One subtraction of broadcast shapes replaced two loops."


def check_softmax(softmax):
    scores = torch.tensor([[0.0, math.log(2.0), 0.0], [1.0, 1.0, 1.0]])
    want = torch.tensor([[0.25, 0.5, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    got = softmax(scores.clone())
    expect(
        isinstance(got, torch.Tensor) and got.shape == scores.shape,
        "The result should be a tensor of the same shape as the scores.",
    )
    expect(
        not torch.allclose(got, scores.exp() / scores.exp().sum()),
        "All shares together add up to 1, but each row should. Sum along dim=-1.",
    )
    expect(
        not torch.allclose(got, scores.softmax(0)),
        "Your columns add up to 1; the rows should. Sum along dim=-1, with keepdim=True.",
    )
    row_wise = softmax(torch.tensor([[800.0, 800.0], [-800.0, -800.0]]))
    expect(torch.allclose(got, want, atol=1e-6), "For scores 0, ln 2, 0 the shares are 1/4, 1/2, 1/4; compare yours.")
    big = softmax(torch.tensor([[1000.0, 1000.0], [0.0, -1000.0]]))
    expect(
        not row_wise[0].isnan().any(), "Scores of 1,000 give nan: exp(1000) is infinite. Subtract each row's largest score first."
    )
    expect(not row_wise.isnan().any(), "Each row has to lose its own largest score, not the largest of the whole table.")
    expect(torch.allclose(big, torch.tensor([[0.5, 0.5], [1.0, 0.0]])), "For scores 1000, 1000 the shares are 1/2 and 1/2.")
    return "This is also how F.softmax keeps from overflowing."


def check_slope_of(slope_of):
    def cube(x):
        return x**3

    got = slope_of(cube, 2.0)
    expect(not torch.is_tensor(got), "Return a plain number: .item() of the gradient.")
    expect(not math.isclose(got, 8.0), "That is the value of the function; its slope is in the .grad of the input.")
    expect(math.isclose(got, 12.0, rel_tol=1e-5), f"The slope of x³ at 2 is 3 · 2² = 12; yours is {got:.4g}.")
    expect(
        math.isclose(slope_of(cube, 2.0), 12.0, rel_tol=1e-5),
        "The second call gives another answer: gradients piled up. Make a fresh tensor in every call.",
    )
    expect(math.isclose(slope_of(torch.sin, 0.5), math.cos(0.5), rel_tol=1e-4), "It fails for other functions than powers.")
    return "Autograd needs no list of rules from you."


def check_deep(Deep):
    model = Deep(4)
    count = sum(p.numel() for p in model.parameters())
    expect(
        count != 0, "The module has no parameters: layers in a plain list aren't registered. Use nn.ModuleList or nn.Sequential."
    )
    expect(
        count != 6, "There is one layer's worth of parameters. If you repeat one layer object, its weights are shared; make four."
    )
    expect(count == 4 * 6, f"Four layers 2 -> 2 with bias have 4 · (2 · 2 + 2) = 24 parameters; yours has {count}.")
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    want, bare = x, x
    for layer in linears:
        want, bare = F.relu(layer(want)), layer(bare)
    got = model(x)
    expect(got.shape == (5, 2), f"Points go in as (B, 2) and should come out so; yours have shape {tuple(got.shape)}.")
    expect(
        not torch.allclose(got, bare) or torch.allclose(want, bare), "The ReLUs are missing: four linear layers in a row are one."
    )
    expect(torch.allclose(got, want), "The layers should be applied in order, with a ReLU after each, the last one too.")
    return "Every parameter is registered."


def check_n_batches(n_batches):
    expect(
        n_batches(600, 64, True) == 9, "600 examples in batches of 64 with drop_last leave 9 full batches (and 24 examples over)."
    )
    expect(n_batches(600, 64, False) == 10, "Without drop_last the 24 left over make a batch of their own: 10.")
    expect(n_batches(640, 64, False) == 10, "640 examples make exactly 10 batches of 64; there is no empty one at the end.")
    expect(n_batches(5, 64, True) == 0, "Five examples don't fill a batch of 64; with drop_last nothing is left.")
    return "Rounded down with drop_last, up without."


def check_train_step(train_step):
    torch.manual_seed(0)
    model, points, labels = nn.Linear(2, 3), torch.randn(8, 2), torch.randint(3, (8,))
    want = nn.Linear(2, 3)
    want.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(want.parameters(), lr=0.1)
    for step in (1, 2, 3):
        loss = F.cross_entropy(want(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        old = model.weight.detach().clone()
        got = train_step(model, points, labels, 0.1)
        expect(
            not torch.is_tensor(got), "Return the loss as a plain float, with .item(): a tensor would keep the whole graph alive."
        )
        expect(isinstance(got, float), f"Return the loss as a float; you returned {type(got).__name__}.")
        expect(math.isclose(got, loss.item(), rel_tol=1e-5) or step > 1, "The loss returned should be the one before the step.")
        expect(
            not torch.equal(model.weight, old),
            "The parameters didn't move. Change them in place, e.g. p -= lr * p.grad under no_grad.",
        )
        moved = model.weight.detach() - old
        expect(not torch.allclose(moved, old - want.weight.detach(), atol=1e-6), "You went uphill: subtract the gradient.")
        agrees = torch.allclose(model.weight, want.weight, atol=1e-6) and torch.allclose(model.bias, want.bias, atol=1e-6)
        expect(
            agrees or step > 1,
            "After one step the parameters differ from plain gradient descent; move each by -lr times its gradient.",
        )
        expect(agrees, "The first step is right and a later one isn't: the gradients of earlier steps are still there. Zero them.")
    return "That is stochastic gradient descent, whole."


def check_gibibytes(gibibytes):
    got = gibibytes((1024, 1024, 256), torch.float32)
    expect(not math.isclose(got, 2**30), "That is the size in bytes; a GiB is 2**30 of them.")
    expect(not math.isclose(got, 1.073741824), "That is in units of 10**9 bytes; a GiB is 2**30 bytes.")
    expect(not math.isclose(got, 0.25), "You counted the numbers; each takes element_size() bytes.")
    expect(math.isclose(got, 1.0), f"(1024, 1024, 256) float32 numbers take 1 GiB; you say {got:.4g}.")
    expect(math.isclose(gibibytes((1024, 1024, 256), torch.bfloat16), 0.5), "It should depend on the dtype: bfloat16 takes half.")
    start = time.perf_counter()
    huge = gibibytes((10**6, 10**6), torch.float32)
    expect(math.isclose(huge, 4e12 / 2**30), "Count a tensor that no machine could hold: make it on the meta device.")
    expect(time.perf_counter() - start < 5, "It works by allocating the memory; use the meta device.")
    return "Counted without allocating."


class Machine:
    """A function that takes 0.6 s the first time, 0.3 s once later, and 0.03 s otherwise."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        time.sleep({1: 0.6, 3: 0.3}.get(self.calls, 0.03))


def check_achieved(achieved):
    machine = Machine()
    got = achieved(machine, 1e6)
    expect(
        machine.calls >= 4,
        f"You called the function {machine.calls} times; one call to warm up and at least three to measure are needed.",
    )
    expect(got > 0 and isinstance(got, float), "Return operations per second, a float.")
    expect(got > 1, "That looks like seconds per operation; turn it round.")
    expect(got > 2e7, "One slow call spoiled the result, either the first, which shouldn't count, or one later: use the median.")
    expect(got < 3.4e7, f"The function does 1e6 operations in about 0.03 s, which is about 3.3e7 a second; you say {got:.2g}.")
    return "Warm-up, repetition, median."


def check_shuffled(shuffled):
    state = torch.get_rng_state()
    first, again, other = shuffled(50, 3), shuffled(50, 3), shuffled(50, 4)
    expect(torch.is_tensor(first) and first.shape == (50,), "Return a tensor of n numbers.")
    expect(sorted(first.tolist()) == list(range(50)), "Every number from 0 to n - 1 should occur exactly once; see torch.randperm.")
    expect(torch.equal(first, again), "The same seed gave two orders: pass a generator made from the seed.")
    expect(not torch.equal(first, other), "Two seeds gave the same order: the seed isn't used.")
    expect(
        torch.equal(state, torch.get_rng_state()),
        "The global generator was disturbed: give randperm a generator of its own instead of calling torch.manual_seed.",
    )
    return "The order depends on the seed alone."


CHECKS = {
    "A.1": check_distances,
    "A.2": check_softmax,
    "A.3": check_slope_of,
    "A.4": check_deep,
    "A.5": check_n_batches,
    "A.6": check_train_step,
    "A.7": check_gibibytes,
    "A.8": check_achieved,
    "A.9": check_shuffled,
}
