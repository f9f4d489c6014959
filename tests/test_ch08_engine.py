"""Chapter 8, the serving model and the engine: as without a cache, whoever else is in the batch, and nothing is left behind."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support import chapter

ch05, ch08 = chapter("ch05"), chapter("ch08")
Engine, Request, ServingModel, window = ch08.Engine, ch08.Request, ch08.ServingModel, ch08.window
GPTConfig, GPTModel = ch05.GPTConfig, ch05.GPTModel
generate, left_pad = (getattr(chapter("ch04"), name) for name in ("generate", "left_pad"))
L = 16


@pytest.fixture(scope="module")
def model():
    """A small model whose weights are so large that its choices differ."""
    torch.manual_seed(5)
    model = GPTModel(GPTConfig(vocab_size=31, context_length=L, n_channels=24, n_heads=3, n_layers=2))
    for matrix in (p for p in model.parameters() if p.dim() == 2):
        nn.init.normal_(matrix, std=0.3)
    return model.double().eval()


def ids(n, seed=0):
    return torch.randint(31, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def alone(model, request):
    return generate(model, [request.prompt], request.max_new_tokens, request.end_id)[0][len(request.prompt):]


# ------------------------------------------------------------- the serving model

@pytest.mark.parametrize("pieces", [[16], [1] * 16, [3, 1, 12], [15, 1], [1, 15]])
@torch.no_grad()
def test_reading_in_pieces_is_reading_at_once(model, pieces):
    row, serving, hidden, at = torch.tensor([ids(L)]), ServingModel(model, 3), [], 0
    for n in pieces:
        hidden.append(serving.read(row[:, at:at + n], first_row=1))
        at += n
    torch.testing.assert_close(torch.cat(hidden, dim=1), model.hidden_states(row), atol=1e-9, rtol=0)
    assert serving.lengths.tolist() == [0, L, 0]


@torch.no_grad()
def test_rows_of_different_lengths_equal_left_padded_rows(model):
    prompts = [ids(n, seed=n) for n in (1, 9, 15, 4)]
    padded, mask = left_pad(prompts)
    expected = model(padded, mask)[:, -1]
    serving = ServingModel(model, 4)
    for i, prompt in enumerate(prompts):
        if len(prompt) > 1:
            serving.read(torch.tensor([prompt[:-1]]), first_row=i)
    together = model.head(serving.read(torch.tensor([[prompt[-1]] for prompt in prompts])))[:, 0]
    torch.testing.assert_close(together, expected, atol=1e-9, rtol=0)


@torch.no_grad()
def test_float32_agrees_to_a_hundred_thousandth(model):
    import copy
    single = copy.deepcopy(model).float()
    row, serving = torch.tensor([ids(L)]), ServingModel(single)
    for t in range(L):
        logits = single.head(serving.read(row[:, t:t + 1]))[0, 0]
        torch.testing.assert_close(logits, single(row[:, :t + 1])[0, -1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_length_is_the_only_state(model):
    """What stands to the right of a row's length doesn't count, whatever it is."""
    row, serving = torch.tensor([ids(L)]), ServingModel(model, 2)
    serving.keys.fill_(1e100)
    serving.values.fill_(1e100)
    serving.read(row[:, :9])
    serving.lengths[0] = 4                                            # take five tokens back
    hidden = serving.read(row[:, 4:7])
    torch.testing.assert_close(hidden, model.hidden_states(row[:, :7])[:, 4:], atol=1e-9, rtol=0)


@torch.no_grad()
def test_a_moved_row_goes_on(model):
    row, serving = torch.tensor([ids(L)]), ServingModel(model, 3)
    serving.read(torch.tensor([ids(12, seed=9)]), first_row=0)
    serving.read(row[:, :6], first_row=2)
    ch08.move_row(serving, 2, 0)
    torch.testing.assert_close(serving.read(row[:, 6:7]), model.hidden_states(row[:, :7])[:, 6:], atol=1e-9, rtol=0)


def test_a_full_row_is_refused(model):
    serving = ServingModel(model)
    serving.read(torch.tensor([ids(L)]))
    with pytest.raises(ValueError, match="a row would have 17 tokens, the context is 16"):
        serving.read(torch.tensor([[1]]))
    assert serving.lengths.tolist() == [L]
    with pytest.raises(ValueError, match="n_rows is 0"):
        ServingModel(model, 0)


# ------------------------------------------------------------- the engine

requests_of = st.lists(st.tuples(st.integers(1, L), st.integers(1, 20), st.sampled_from([None, 3, 7])), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(wanted=requests_of, n_rows=st.integers(1, 5), late=st.integers(0, 12))
def test_each_text_is_as_if_written_alone(model, wanted, n_rows, late):
    """Some are there at the beginning; the others come while it runs, one before each step."""
    engine = Engine(model, n_rows)
    requests = [Request(ids(n, seed=i), most, end) for i, (n, most, end) in enumerate(wanted)]
    for request in requests[late:]:
        engine.submit(request)
    for request in requests[:late]:
        engine.submit(request)
        engine.step()
    ch08.run(engine)
    assert not engine.active and not engine.waiting
    for request in requests:
        expected = alone(model, request)
        if len(request.prompt) == L:                                  # the plain loop has no room; the engine has one more
            assert request.finished in ("stop", "length") and len(request.new_ids) == 1
            continue
        assert request.new_ids == expected
        assert request.finished == ("stop" if expected[-1] == request.end_id else "length")


def test_rows_are_never_idle_while_somebody_waits(model):
    engine, lengths = Engine(model, 3), [5, 1, 2, 4, 1, 1, 3]
    for n in lengths:
        engine.submit(Request([1], n))
    while engine.waiting:
        assert len(engine.step()) == 3
    ch08.run(engine)


def test_a_request_is_served_with_its_own_choice(model):
    engine = Engine(model, 4)
    best = engine.submit(Request([4, 5], 6))
    worst = engine.submit(Request([4, 5], 6, choose=lambda logits: logits.argmin()))
    fixed = engine.submit(Request([4, 5], 6, choose=lambda logits: 11))
    ch08.run(engine)
    assert fixed.new_ids == [11] * 6 and best.new_ids == alone(model, best) != worst.new_ids


@pytest.mark.parametrize("when", ["waiting", "active", "ended"])
def test_a_cancelled_request_frees_its_row(model, when):
    engine = Engine(model, 2)
    requests = [engine.submit(Request([i + 1], 8)) for i in range(3)]
    engine.step()
    gone = {"waiting": requests[2], "active": requests[0], "ended": requests[0]}[when]
    if when == "ended":
        ch08.run(engine)
    n = len(gone.new_ids)
    ch08.cancel(engine, gone)
    ch08.cancel(engine, gone)
    ch08.run(engine)
    assert gone.finished == ("length" if when == "ended" else "cancelled") and len(gone.new_ids) == n
    for request in requests:
        assert request is gone or request.new_ids == alone(model, request)


@torch.no_grad()
def test_a_text_rolls_on_past_the_context(model):
    engine = Engine(model, 2, roll=True)
    long, short = engine.submit(Request(ids(5), 40)), engine.submit(Request(ids(3), 7))
    ch08.run(engine)
    row, start = long.prompt + long.new_ids, 0
    for n in range(5, len(row)):
        if n - start > L:                                             # the row was full: its newest half was read again
            start = n - L // 2
        assert row[n] == int(model(torch.tensor([row[start:n]]))[0, -1].argmax())
    assert len(long.new_ids) == 40 and short.new_ids == alone(model, short)


def test_the_window_keeps_the_newest_half():
    assert window([1, 2, 3], 4) == [1, 2, 3] and window([1, 2, 3, 4], 4) == [1, 2, 3, 4] and window([1, 2, 3, 4, 5], 4) == [4, 5]


@pytest.mark.parametrize(("request_", "message"), [
    (Request([], 5), "the prompt is empty"), (Request([99], 5), "holds the id 99"), (Request([1] * 17, 5), "has 17 tokens"),
    (Request([1], 0), "max_new_tokens is 0")])
def test_what_cant_be_served_is_refused_at_once(model, request_, message):
    engine = Engine(model, 2)
    with pytest.raises(ValueError, match=message):
        engine.submit(request_)
    assert not engine.waiting


def test_an_engine_leaves_the_model_as_it_was(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    engine = Engine(model, 2)
    engine.submit(Request([1], 5))
    ch08.run(engine)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
