"""Chapter 5: loss, batches, optimizer and loop do what they say; the loop equals a plain one; the checks know right from wrong."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exercises import verdict
from tests.support import chapter

ch05 = chapter("ch05")
CHECKS = chapter("ch05", "exercise_checks").CHECKS
GPTConfig, GPTModel, TokenBatches = ch05.GPTConfig, ch05.GPTModel, ch05.TokenBatches
SMALL = {"vocab_size": 31, "context_length": 16, "n_channels": 16, "n_heads": 2, "n_layers": 2}


def small(seed=5, **changes):
    torch.manual_seed(seed)
    return GPTModel(GPTConfig(**SMALL | changes))


def text(n=400, high=31):
    return np.random.default_rng(5).integers(high, size=n).astype(np.uint16)


# ------------------------------------------------------------------------------------------------------------ measuring

@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_the_mean_loss_without_dropout_and_gives_the_mode_back(training):
    model, batches = small(dropout=0.5).train(training), TokenBatches(text(), 8, 4)
    some = [batches[i] for i in range(3)]
    found = ch05.evaluate_loss(model, some)
    assert model.training is training
    assert found == ch05.evaluate_loss(model, some)                              # no dropout, so twice the same
    model.eval()
    expected = [F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item() for x, y in some]
    assert found == pytest.approx(sum(expected) / 3, abs=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_evaluating_nothing_is_refused():
    with pytest.raises(ValueError, match="there is no batch to evaluate; pass at least one"):
        ch05.evaluate_loss(small(), [])


# -------------------------------------------------------------------------------------------------------------- batches

@settings(max_examples=60, deadline=None)
@given(st.integers(2, 80), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_visits_every_window_once(n, T, B, epoch):
    ids = np.arange(n)
    if (n - 1) // T < B:
        with pytest.raises(ValueError, match="use more text, a shorter context or a smaller batch"):
            TokenBatches(ids, T, B)
        return
    batches = TokenBatches(ids, T, B)
    steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
    inputs, targets = (torch.cat(parts) for parts in zip(*(batches[step] for step in steps), strict=True))
    assert inputs.shape == targets.shape == (B * batches.per_epoch, T) and inputs.dtype == torch.long
    assert torch.equal(inputs + 1, targets)
    begun = inputs[:, 0].tolist()
    assert len(set(begun)) == len(begun) and set(begun) <= set(range(0, n, T))
    assert len(begun) > (n - 1) // T - B                                         # only what fills no batch is left out


def test_a_batch_depends_on_nothing_but_its_number():
    ids = text()
    in_order, other = TokenBatches(ids, 8, 4, seed=3), TokenBatches(ids, 8, 4, seed=3)
    expected = [in_order[step] for step in range(3 * in_order.per_epoch)]
    for step in torch.randperm(len(expected), generator=torch.Generator().manual_seed(0)).tolist():
        assert all(map(torch.equal, other[step], expected[step]))
    assert not torch.equal(TokenBatches(ids, 8, 4, seed=4)[0][0], expected[0][0])
    assert not torch.equal(expected[in_order.per_epoch][0], expected[0][0])      # another epoch, another order


def test_windows_begin_where_they_are_told_to():
    ids = np.arange(100)
    batches = TokenBatches(ids, 10, 2, starts=[3, 20, 55, 77, 95])               # 95 has too little after it
    begun = sorted(batches[step][0][row, 0].item() for step in range(2) for row in range(2))
    assert begun == [3, 20, 55, 77]


# ------------------------------------------------------------------------------------------------- optimizer and schedule

def test_matrices_decay_and_nothing_else_does():
    model = small()
    optimizer = ch05.configure_optimizer(model, 1e-2, weight_decay=0.3)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        name: 0.3 if p.ndim == 2 else 0.0 for name, p in model.named_parameters()}
    model.head.weight.requires_grad_(False)                                      # tied: one tensor, now frozen
    frozen = ch05.configure_optimizer(model)
    assert id(model.token_embedding.weight) not in {id(p) for group in frozen.param_groups for p in group["params"]}


def test_the_schedule_rises_in_a_line_then_falls_along_a_cosine():
    rates = [ch05.cosine_schedule(step, 110, 0.5, 10, floor=0.2) for step in range(130)]
    assert rates[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert rates[10] == 0.5 and rates[60] == pytest.approx(0.3) and rates[110] == pytest.approx(0.1)
    assert all(a > b for a, b in zip(rates[10:110], rates[11:111], strict=True))
    assert rates[110:] == pytest.approx([0.1] * 20)                              # and stays there
    assert ch05.cosine_schedule(0, 5, 1.0, 0) == 1.0


def test_bfloat16_only_where_the_processor_has_it(monkeypatch):
    for found, expected in (({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16),
                            ({"avx512": True, "avx512_bf16": False}, torch.float32), ({}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert ch05.autocast_dtype("cpu") is expected
    assert ch05.autocast_dtype("mps") is torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert ch05.autocast_dtype(torch.device("cuda", 0)) is torch.float32         # emulation doesn't count


# ------------------------------------------------------------------------------------------------------------- the loop

def plain_training(model, batches, n_steps, rate):
    """The loop without any of its comforts."""
    optimizer = torch.optim.AdamW([{"params": [p for p in model.parameters() if p.ndim == n], "weight_decay": decay}
                                   for n, decay in ((2, 0.1), (1, 0.0))], betas=(0.9, 0.95))
    losses = []
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        x, y = batches[step]
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def rate(step):
    return ch05.cosine_schedule(step, 12, 1e-2, 3)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_loop_is_the_plain_loop_also_in_parts(accumulate):
    batches, ours, theirs = TokenBatches(text(), 8, 4), small().double(), small().double()
    expected = plain_training(theirs, batches, 12, rate)
    found = dict(ch05.train(ours, batches, ch05.configure_optimizer(ours), 12, rate, every=5, accumulate=accumulate))
    assert list(found) == [5, 10, 12]
    for (step, loss), begin in zip(found.items(), (0, 5, 10), strict=True):
        assert loss == pytest.approx(sum(expected[begin:step]) / (step - begin), abs=1e-9)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_the_loop_trains_in_training_mode_whatever_the_caller_did_in_between():
    model, modes = small(dropout=0.5), []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    for _ in ch05.train(model, TokenBatches(text(), 8, 4), ch05.configure_optimizer(model), 4, rate, every=1):
        model.eval()
    assert modes == [True] * 4


def test_the_loop_begins_where_it_is_told_to():
    batches, model, asked = TokenBatches(text(), 8, 4), small(), []

    class Watched:
        def __getitem__(self, step):
            asked.append(step)
            return batches[step]
    steps = [step for step, _ in ch05.train(model, Watched(), ch05.configure_optimizer(model), 10, rate, start=6, every=3)]
    assert asked == [6, 7, 8, 9] and steps == [9, 10]


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_do():
    model = small()
    with torch.no_grad():
        model.blocks[0].norm1.weight[0] = math.nan
    with pytest.raises(FloatingPointError, match="the loss before step 2 is nan; lower the learning rate, lengthen the warm-up"):
        list(ch05.train(model, TokenBatches(text(), 8, 4), ch05.configure_optimizer(model), 4, rate, every=2))


# ---------------------------------------------------------- the exercises: each solution, and wrong answers with their hints

def adamw(order="mv", corrected=True, decay_by=lambda rate, decay: rate * decay, sign=1, root=True, square=True, in_place=False):
    def step(w, g, m, v, t, rate, decay=0.1, betas=(0.9, 0.95), eps=1e-8):
        b1, b2 = betas if order == "mv" else (1 - betas[0], betas[1])
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * (g * g if square else g)
        fixed = (1 - betas[0]**t, 1 - betas[1]**t) if corrected else (1, 1)
        below = v / fixed[1]
        move = rate * (m / fixed[0]) / ((below.sqrt() if root else below) + eps)
        if in_place:
            w.mul_(1 - rate * decay)
            return w - move, m, v
        return w * (1 - decay_by(rate, decay)) - sign * move, m, v
    return step


def runs(row, n, last=0):
    return {tuple(row[i:i + n]) for i in range(len(row) - n + 1 - last)}


def contaminated(train, validation, n=13, runs=runs, share=True, together=False):
    train = [[i for row in train for i in row]] if together else train
    known = set().union(*(runs(row, n) for row in train))
    count = sum(bool(runs(row, n) & known) for row in validation)
    return count / len(validation) if share else count


def starts(ids, end_id, T, inside=True, offset=0, zero=True):
    begins = sorted({*([0] if zero else []), *(i for i, token in enumerate(ids) if token == end_id)})
    found = [start for begin, end in zip(begins, [*begins[1:], len(ids)], strict=True)
             for start in (range(begin, end, T) if inside else [begin])]
    return [start + offset for start in found]


def ablated(replace, own=lambda D, h, H: slice(h * D, (h + 1) * D), layer_of=lambda layer: layer, remove=True, answer=True):
    @torch.no_grad()
    def logits(model, layer, head, token_ids):
        def hook(_, inputs):
            x, H = inputs[0].clone(), model.config.n_heads
            part = own(x.shape[-1] // H, head, H)
            x[..., part] = replace(x[..., part])
            return (x,) if answer else None
        handle = model.blocks[layer_of(layer)].attention.out.register_forward_pre_hook(hook)
        y = model(token_ids)
        if remove:
            handle.remove()
        return y
    return logits


def over(*dims):
    return lambda x: x.mean(dim=dims, keepdim=True).expand_as(x)


@torch.no_grad()
def spoiling(model, layer, head, token_ids):
    D = model.config.n_channels // model.config.n_heads
    model.blocks[layer].attention.out.weight[:, head * D:(head + 1) * D] = 0
    return model(token_ids)


SOLUTIONS = {
    "5.1": lambda loss, n_tokens, n_bytes: loss / math.log(2) * n_tokens / n_bytes,
    "5.2": adamw(),
    "5.3": contaminated,
    "5.6": starts,
    "5.7": ablated(over(0, 1)),
}

WRONG = [
    ("5.1", lambda loss, t, b: loss * t / b, "That is in nats"),
    ("5.1", lambda loss, t, b: loss * math.log(2) * t / b, "divide by ln 2"),
    ("5.1", lambda loss, t, b: loss / math.log(2) * b / t, "changed places"),
    ("5.1", lambda loss, t, b: loss / math.log(2), "bits per token"),
    ("5.1", lambda loss, t, b: loss / math.log(2) * t, "the whole text"),
    ("5.1", lambda loss, t, b: math.exp(loss) * t / b, "perplexities don't"),
    ("5.1", lambda loss, t, b: loss, "The number differs"),
    ("5.2", adamw(order="vm"), "β₁ belongs to the old one"),
    ("5.2", adamw(corrected=False), "not corrected"),
    ("5.2", adamw(decay_by=lambda rate, decay: 0), "The decay is missing"),
    ("5.2", adamw(decay_by=lambda rate, decay: decay), "by rate · decay"),
    ("5.2", adamw(sign=-1), "up the slope"),
    ("5.2", adamw(sign=-1, decay_by=lambda rate, decay: 0), "without decay"),
    ("5.2", adamw(root=False), "The root of v̂"),
    ("5.2", adamw(square=False), "averages the squares"),
    ("5.2", adamw(in_place=True), "return new ones"),
    ("5.2", lambda *given: adamw()(*given)[0], "Return three tensors"),
    ("5.3", lambda train, val, n=13: contaminated(train, val, n, runs=lambda row, n: {frozenset(r) for r in runs(row, n)}),
     "The order matters"),
    ("5.3", lambda train, val, n=13: contaminated(train, val, n, together=True), "crosses from one text"),
    ("5.3", lambda train, val, n=13: contaminated(train, val, n, runs=lambda row, n: runs(row, n, last=1)), "last runs"),
    ("5.3", lambda train, val, n=13: contaminated(train, val, n, share=False), "return the share"),
    ("5.3", lambda train, val, n=13: sum(len(runs(row, n) & set().union(*(runs(r, n) for r in train))) for row in val)
     / max(1, sum(len(runs(row, n)) for row in val)), "counts the shared runs"),
    ("5.3", lambda train, val, n=13: sum(len(runs(row, n) & set().union(*(runs(r, n) for r in train))) for row in val),
     "counts the shared runs"),
    ("5.3", lambda train, val, n=13: 0.0, "it is contaminated"),
    ("5.6", lambda ids, end, T: starts(ids, end, T, inside=False), "one window only"),
    ("5.6", lambda ids, end, T: list(range(0, len(ids), T)), "cuts anywhere"),
    ("5.6", lambda ids, end, T: starts(ids, end, T, offset=1), "begin after the separator"),
    ("5.6", lambda ids, end, T: starts(ids, end, T, zero=False), "position 0 is missing"),
    ("5.6", lambda ids, end, T: [0, *starts(ids, end, T)], "come twice"),
    ("5.6", lambda ids, end, T: starts(ids, end, T)[::-1], "in order"),
    ("5.7", ablated(torch.zeros_like), "That is silence"),
    ("5.7", ablated(over(1)), "over the rows as well"),
    ("5.7", ablated(over(0, 1, 2)), "keep the channels apart"),
    ("5.7", ablated(over(2)), "taken over the channels"),
    ("5.7", ablated(over(0, 1), own=lambda D, h, H: slice(h, None, H)), "Wrong slice"),
    ("5.7", ablated(over(0, 1), own=lambda D, h, H: slice(None)), "All heads are replaced"),
    ("5.7", ablated(over(0, 1), layer_of=lambda layer: layer - 1), "Wrong layer"),
    ("5.7", ablated(over(0, 1), remove=False), "still there"),
    ("5.7", ablated(over(0, 1), answer=False), "Nothing changed"),
    ("5.7", spoiling, "weights have changed"),
]


@pytest.mark.parametrize("number", SOLUTIONS)
def test_a_right_answer_is_right(number):
    said = verdict(number, SOLUTIONS[number], CHECKS)
    assert said.startswith(f"Exercise {number}: right."), said


@pytest.mark.parametrize(("number", "attempt", "hint"), WRONG, ids=[f"{n}: {h}" for n, _, h in WRONG])
def test_a_wrong_answer_gets_its_hint(number, attempt, hint):
    said = verdict(number, attempt, CHECKS)
    assert said.startswith(f"Exercise {number}: not yet.")
    assert hint in said, said
