"""Chapter 4: our GPT is `transformers`' GPT-2, rows of a batch don't notice each other, and the checks know right from wrong."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from exercises import verdict
from tests.support import chapter

ch04 = chapter("ch04")
CHECKS = chapter("ch04", "exercise_checks").CHECKS
GPTConfig, GPTModel, generate = ch04.GPTConfig, ch04.GPTModel, ch04.generate
SMALL = {"vocab_size": 61, "context_length": 12, "n_channels": 24, "n_heads": 3, "n_layers": 2}


def ids(*shape, high=61, seed=4):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def opinionated(**changes):
    """A small model whose weights are so large that its choices differ."""
    torch.manual_seed(4)
    model = GPTModel(GPTConfig(**SMALL | changes))
    for matrix in (p for p in model.parameters() if p.dim() == 2):
        nn.init.normal_(matrix, std=0.3)
    return model.eval()


# ------------------------------------------------------------------------------------- parity with transformers' GPT-2

def gpt2_and_ours(tied, **shape):
    """`transformers`' GPT-2 with random weights everywhere, our model with the same ones, and pairs of their parameters."""
    transformers = pytest.importorskip("transformers")
    ours = GPTModel(GPTConfig(**shape, tie_head=tied))
    c = ours.config
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.n_channels, n_head=c.n_heads, n_layer=c.n_layers,
        attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0))
    torch.manual_seed(4)
    for name, p in theirs.named_parameters():
        nn.init.normal_(p, mean=1.0 if ".ln_" in name and name.endswith("weight") else 0.0, std=0.05)
    pairs = [(theirs.transformer.wte.weight, ours.token_embedding.weight, False),
             (theirs.transformer.wpe.weight, ours.position_embedding.weight, False),
             *both(theirs.transformer.ln_f, ours.final_norm)]
    if not tied:
        pairs.append((theirs.lm_head.weight, ours.head.weight, False))
    for their, our in zip(theirs.transformer.h, ours.blocks, strict=True):
        pairs += both(their.ln_1, our.norm1) + both(their.ln_2, our.norm2)
        pairs += both(their.attn.c_attn, our.attention.qkv, True) + both(their.attn.c_proj, our.attention.out, True)
        pairs += both(their.mlp.c_fc, our.feed_forward.expand, True) + both(their.mlp.c_proj, our.feed_forward.contract, True)
    assert len(pairs) == len(list(ours.parameters())) == len(list(theirs.parameters()))
    with torch.no_grad():
        for their, our, transposed in pairs:
            our.copy_(their.T if transposed else their)
    return theirs.eval(), ours.eval(), pairs


def both(their, our, transposed=False):
    return [(their.weight, our.weight, transposed), (their.bias, our.bias, False)]


def compare(theirs, ours, pairs, token_ids, targets):
    """Logits, loss and every gradient, once through our logits and once through our loss; all to 1e-5."""
    expected = theirs(token_ids).logits
    logits = ours(token_ids)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    expected_loss = F.cross_entropy(expected.flatten(0, 1), targets.flatten())
    expected_loss.backward()
    for compute in (lambda: ours(token_ids, targets=targets), lambda: F.cross_entropy(logits.flatten(0, 1), targets.flatten())):
        ours.zero_grad()
        loss = compute()
        torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
        loss.backward()
        for their, our, transposed in pairs:
            torch.testing.assert_close(our.grad, their.grad.T if transposed else their.grad, atol=1e-5, rtol=1e-5)
    theirs.zero_grad()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_parity_at_every_length_of_a_small_shape(tied):
    theirs, ours, pairs = gpt2_and_ours(tied, **SMALL)
    for T in range(1, SMALL["context_length"] + 1):
        compare(theirs, ours, pairs, ids(3, T), ids(3, T, seed=T))


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_parity_on_gpt2s_real_shape(tied):
    theirs, ours, pairs = gpt2_and_ours(tied, vocab_size=50_257)
    compare(theirs, ours, pairs, ids(1, 24, high=50_257), ids(1, 24, high=50_257, seed=5))


def test_parity_with_left_padding():
    theirs, ours, _ = gpt2_and_ours(True, **SMALL)
    token_ids, mask = ch04.left_pad([[5, 6], [1, 2, 3, 4, 9], [7]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(token_ids, attention_mask=mask.long(), position_ids=positions).logits
        torch.testing.assert_close(ours(token_ids, mask)[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_greedy_generation_equals_transformers():
    theirs, ours, _ = gpt2_and_ours(False, **SMALL)
    theirs.generation_config.pad_token_id = 0
    expected = theirs.generate(ids(1, 4), attention_mask=torch.ones(1, 4), max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert generate(ours, ids(1, 4).tolist(), 8) == expected.tolist()


# ------------------------------------------------------------------------------------------------- the loss in strips

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 6), st.integers(2, 30), st.integers(1, 40), st.integers(0, 3))
def test_the_loss_in_strips_is_cross_entropy(B, T, C, V, strip, ignored):
    g = torch.Generator().manual_seed(B * T * C * V)
    hidden = torch.randn(B, T, C, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, C, generator=g, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(V, (B, T), generator=g)
    targets.view(-1)[:min(ignored, B * T - 1)] = -100
    expected = F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten())
    loss = ch04.linear_cross_entropy(hidden, weight, targets, strip=strip)
    torch.testing.assert_close(loss, expected)
    for scale in (1.0, 0.25):
        for found, wanted in zip(torch.autograd.grad(loss * scale, (hidden, weight), retain_graph=True),
                                 torch.autograd.grad(expected * scale, (hidden, weight), retain_graph=True), strict=True):
            torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(ch04.linear_cross_entropy(hidden, weight, targets, strip=strip), expected)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this PyTorch has no linear_cross_entropy of its own")
def test_the_loss_in_strips_is_pytorchs_own():
    hidden, weight, targets = torch.randn(20, 6), torch.randn(11, 6), ids(20, high=11)
    torch.testing.assert_close(ch04.linear_cross_entropy(hidden, weight, targets), F.linear_cross_entropy(hidden, weight, targets))


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""
    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, tuple | list) else [result]:
            self.numbers = max(self.numbers, t.numel() if isinstance(t, torch.Tensor) else 0)
        return result


@pytest.mark.parametrize("grad", [True, False])
def test_the_loss_in_strips_never_holds_all_logits(grad):
    N, V, C, strip = 400, 500, 8, 50
    hidden, weight = torch.randn(N, C, requires_grad=grad), torch.randn(V, C, requires_grad=grad)
    with Largest() as largest:
        loss = ch04.linear_cross_entropy(hidden, weight, ids(N, high=V), strip=strip)
        if grad:
            loss.backward()
    assert largest.numbers <= max(strip * V, V * C, N * C) < N * V


def test_a_frozen_head_and_a_frozen_body_get_no_gradient_and_the_other_does():
    hidden, weight, targets = torch.randn(7, 3), torch.randn(5, 3), ids(7, high=5)
    for h, w in ((hidden.clone().requires_grad_(), weight), (hidden, weight.clone().requires_grad_())):
        ch04.linear_cross_entropy(h, w, targets).backward()
        assert [t.grad is not None for t in (h, w)] == [t.requires_grad for t in (h, w)]


def test_the_loss_in_strips_under_autocast():
    torch.manual_seed(4)
    model, token_ids, targets = GPTModel(GPTConfig(**SMALL)), ids(4, 12), ids(4, 12, seed=5)
    for matrix in (p for p in model.parameters() if p.dim() == 2):
        nn.init.normal_(matrix, std=0.1)
    exact = model(token_ids, targets=targets)
    exact.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(token_ids, targets=targets)
        with torch.no_grad():
            torch.testing.assert_close(model(token_ids, targets=targets), loss.detach(), atol=1e-3, rtol=0)
        plain = F.cross_entropy(model(token_ids).float().flatten(0, 1), targets.flatten())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain, atol=1e-3, rtol=0)
    torch.testing.assert_close(loss, exact, atol=0.02, rtol=0)
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad.dtype == torch.float32
        assert F.cosine_similarity(p.grad.flatten(), gradients[name].flatten(), dim=0) > 0.99, name


def test_wrong_targets_are_refused():
    hidden, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"targets have shape \(2, 2\), hidden vectors \(2, 3, 4\); pass one target"):
        ch04.linear_cross_entropy(hidden, weight, torch.zeros(2, 2, dtype=torch.long))
    for strange in (5, -1):
        with pytest.raises((IndexError, RuntimeError)):
            ch04.linear_cross_entropy(hidden, weight, torch.full((2, 3), strange))


# --------------------------------------------------------------------------------------------------- parts and model

@pytest.mark.parametrize(("changes", "parts"), [
    ({"vocab_size": 0}, ("vocab_size is 0", "at least 1")),
    ({"n_layers": 2.0}, ("n_layers is 2.0", "whole number")),
    ({"context_length": "8"}, ("context_length is '8'", "whole number")),
    ({"n_heads": True}, ("n_heads is True", "whole number")),
    ({"n_channels": 50, "n_heads": 4}, ("n_channels is 50", "n_heads 4", "multiple")),
    ({"dropout": 1.0}, ("dropout is 1.0", "share")),
    ({"dropout": -0.1}, ("dropout is -0.1", "share")),
])
def test_an_impossible_shape_is_named(changes, parts):
    with pytest.raises(ValueError) as error:
        GPTConfig(**changes)
    assert all(part in str(error.value) for part in parts)


def test_gelu_names_what_it_knows():
    with pytest.raises(ValueError, match="approximate is 'sigmoid'; choose"):
        ch04.GELU("sigmoid")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 40))
def test_layer_norm_is_pytorchs(B, T, C):
    ours, theirs, x = ch04.LayerNorm(C), nn.LayerNorm(C), torch.randn(B, T, C) * 5 + 3
    nn.init.normal_(ours.weight), nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("name", "count"), [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168),
                                             ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)])
def test_parameters_and_flops_of_gpt2(name, count):
    config = ch04.GPT2_SIZES[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = GPTModel(config)
        model(torch.zeros(1, 128, dtype=torch.long))
    assert sum(p.numel() for p in model.parameters()) == ch04.count_parameters(config) == count
    assert counter.get_total_flops() == 128 * ch04.flops_per_token(config, 128)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_parameters_and_flops_of_any_shape(V, P, H, D, L, tied):
    config = GPTConfig(V, P, H * D, H, L, tie_head=tied)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = GPTModel(config)
        model(torch.zeros(2, P, dtype=torch.long))
    assert sum(p.numel() for p in model.parameters()) == ch04.count_parameters(config)
    assert counter.get_total_flops() == 2 * P * ch04.flops_per_token(config, P)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_start_as_gpt2s(tied):
    torch.manual_seed(4)
    model = GPTModel(GPTConfig(vocab_size=500, n_channels=128, n_heads=4, n_layers=8, tie_head=tied))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" in name:
            assert (p == 1).all(), name
        else:
            expected = 0.02 / (4 if ("attention.out" in name or "contract" in name) else 1)           # √(2 · 8) = 4
            assert p.std().item() == pytest.approx(expected, rel=0.03), name
    assert (model.head.weight is model.token_embedding.weight) == tied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("V", [10, 1_000, 50_257])
def test_the_first_loss_is_ln_v(V, tied):
    for seed in range(2):
        torch.manual_seed(seed)
        model = GPTModel(GPTConfig(vocab_size=V, context_length=64, n_channels=64, n_heads=4, n_layers=2, tie_head=tied))
        with torch.no_grad():
            loss = model(torch.randint(V, (8, 64)), targets=torch.randint(V, (8, 64))).item()
        assert loss == pytest.approx(math.log(V) + 0.02**2 * 64 / 2, abs=0.05)


def test_no_token_sees_the_future():
    model, token_ids = opinionated(), ids(2, 12)
    with torch.no_grad():
        before = model(token_ids)
        for t in range(12):
            changed = token_ids.clone()
            changed[:, t:] = (changed[:, t:] + 1) % 61
            after = model(changed)
            assert torch.equal(after[:, :t], before[:, :t])
            assert (after[:, t] != before[:, t]).any(-1).all()


def test_padding_on_either_side_has_no_influence():
    model, real = opinionated(), ids(1, 5)
    with torch.no_grad():
        alone = model(real)[0]
        for left in range(5):
            token_ids = torch.cat([ids(1, left, seed=1), real, ids(1, 4 - left, seed=2)], 1)
            mask = torch.zeros(1, 9, dtype=torch.bool)
            mask[:, left:left + 5] = True
            torch.testing.assert_close(model(token_ids, mask)[mask], alone, atol=1e-5, rtol=1e-5)


def test_targets_of_minus_100_do_not_count():
    model, token_ids, targets = opinionated(), ids(2, 6), ids(2, 6, seed=5)
    partly = targets.clone()
    partly[0, 3:] = -100
    logits = model(token_ids)
    torch.testing.assert_close(model(token_ids, targets=partly), F.cross_entropy(logits.flatten(0, 1), partly.flatten()))


def test_dropout_works_in_training_and_only_there():
    torch.manual_seed(4)
    model = GPTModel(GPTConfig(**SMALL | {"dropout": 0.5}))
    assert not torch.equal(model(ids(1, 5)), model(ids(1, 5)))
    model.eval()
    assert torch.equal(model(ids(1, 5)), model(ids(1, 5)))


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="the input has 13 tokens, the model's context is 12; shorten it"):
        opinionated()(ids(1, 13))


def test_the_model_survives_a_round_trip_and_stays_tied(tmp_path):
    model, again = opinionated(), GPTModel(GPTConfig(**SMALL))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert again.head.weight is again.token_embedding.weight
    assert torch.equal(again.eval()(ids(1, 5)), model(ids(1, 5)))


# --------------------------------------------------------------------------------------------------------- generation

prompts = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(prompts, st.integers(0, 14), st.one_of(st.none(), st.integers(0, 60)))
def test_a_row_does_not_notice_its_companions(prompts, n, end_id):
    model = opinionated(tie_head=False)
    together = generate(model, prompts, n, end_id)
    assert together == [generate(model, [prompt], n, end_id)[0] for prompt in prompts]
    for prompt, row in zip(prompts, together, strict=True):
        new = row[len(prompt):]
        assert row[:len(prompt)] == prompt
        assert end_id not in new[:-1]
        assert len(new) == min(n, 12 - len(prompt)) or new[-1:] == [end_id]


def test_every_row_ends_at_its_own_end_token_and_no_other():
    model, prompts = opinionated(tie_head=False), [[5, 6], [1, 2, 3, 4, 9], [7, 8, 9]]
    free, ended = generate(model, prompts, 6), 0
    for end_id in {row[len(prompt) + 1] for prompt, row in zip(prompts, free, strict=True)}:       # each is written by some row
        expected = []
        for prompt, row in zip(prompts, free, strict=True):
            new = row[len(prompt):]
            expected.append(prompt + (new[:new.index(end_id) + 1] if end_id in new else new))
        assert generate(model, prompts, 6, end_id) == expected
        ended += expected != free
    assert ended


def test_generation_is_the_plain_loop():
    model = opinionated()
    row = [3, 1, 4]
    with torch.no_grad():
        while len(row) < 12:
            row.append(model(torch.tensor([row]))[0, -1].argmax().item())
    assert generate(model, [[3, 1, 4]], 100) == [row]


def test_choose_is_given_the_logits_of_active_rows_and_decides():
    model, seen = opinionated(), []

    def choose(logits):
        seen.append(tuple(logits.shape))
        return torch.arange(len(logits)) + 7

    assert generate(model, [[1], [2], [3]], 3, end_id=7, choose=choose) == [[1, 7], [2, 8, 7], [3, 9, 8, 7]]
    assert seen == [(3, 61), (2, 61), (1, 61)]


@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_model_and_prompts_as_they_were(training):
    model, prompts = GPTModel(GPTConfig(**SMALL | {"dropout": 0.5})).train(training), [[1, 2], [3]]
    assert generate(model, prompts, 5) == generate(model, prompts, 5)                   # no dropout while writing
    assert model.training is training
    assert prompts == [[1, 2], [3]]


@pytest.mark.parametrize(("prompts", "message"), [
    ([[1], []], "prompt 1 is empty; begin it with a token"),
    ([list(range(13))], "prompt 0 has 13 tokens, the model's context is 12; shorten it"),
    ([[1], [2, 61]], "prompt 1 holds the id 61, the vocabulary ends at 60; use the tokenizer"),
    ([[-1]], "prompt 0 holds the id -1,"),
    ([1, 2, 3], "prompt 0 is the number 1; pass a list of lists"),
])
def test_a_wrong_prompt_is_named(prompts, message):
    with pytest.raises(ValueError) as error:
        generate(opinionated(), prompts, 3)
    assert message in str(error.value)


def test_left_pad():
    token_ids, mask = ch04.left_pad([[5, 6], [1, 2, 3]])
    assert token_ids.tolist() == [[0, 5, 6], [1, 2, 3]]
    assert mask.tolist() == [[False, True, True], [True] * 3]


# ---------------------------------------------------------- the exercises: each solution, and wrong answers with their hints

def rms(x, weight, eps=1e-5, axis=-1, mean=True, root=True):
    size = x.square().mean(axis, keepdim=True) if mean else x.square().sum(axis, keepdim=True)
    return x / ((size + eps).sqrt() if root else size + eps) * weight


def cdf(x):
    return (1 + torch.erf(x / math.sqrt(2))) / 2


def bell(x):
    return (-x.square() / 2).exp() / math.sqrt(2 * math.pi)


def gated(forward, bias=False, names=("gate", "expand", "contract")):
    """A gated feed-forward whose forward is forward(layer, x)."""
    class Gated(nn.Module):
        def __init__(self, n_channels, n_hidden):
            super().__init__()
            for name, sizes in zip(names, ((n_channels, n_hidden), (n_channels, n_hidden), (n_hidden, n_channels)), strict=True):
                setattr(self, name, nn.Linear(*sizes, bias=bias))

        def forward(self, x):
            return forward(self, x)
    return Gated


def swiglu(layer, x):
    return layer.contract(F.silu(layer.gate(x)) * layer.expand(x))


def log_probs(model, token_ids):
    return model(token_ids)[:, :-1].log_softmax(-1).gather(2, token_ids[:, 1:, None])[..., 0]


def own_log_probs(model, token_ids):
    return model(token_ids).log_softmax(-1).gather(2, token_ids[..., None])[..., 0]


def shifted_wrong_way(model, token_ids):
    return model(token_ids)[:, 1:].log_softmax(-1).gather(2, token_ids[:, :-1, None])[..., 0]


def ban(token_ids):
    def choose(logits):
        logits = logits.clone()
        logits[:, token_ids] = -torch.inf
        return logits.argmax(-1)
    return choose


def ban_in_place(token_ids):
    def choose(logits):
        logits[:, token_ids] = -torch.inf
        return logits.argmax(-1)
    return choose


def ban_with_zero(token_ids):
    def choose(logits):
        logits = logits.clone()
        logits[:, token_ids] = 0
        return logits.argmax(-1)
    return choose


def beyond(window, drop_prompt=False, stop=None):
    """A loop that shows the model window(ids, context)."""
    @torch.no_grad()
    def continue_(model, prompt, max_new_tokens):
        row = list(prompt)
        for _ in range(max_new_tokens):
            if stop and len(row) >= stop:
                break
            shown = window(row, model.config.context_length)
            row.append(model(torch.tensor([shown]))[0, -1].argmax().item())
        return row[len(prompt):] if drop_prompt else row
    return continue_


@torch.no_grad()
def forgetful(model, prompt, max_new_tokens):
    row = list(prompt)
    for _ in range(max_new_tokens):
        row = row[-model.config.context_length:]
        row.append(model(torch.tensor([row]))[0, -1].argmax().item())
    return row


SOLUTIONS = {
    "4.1": rms,
    "4.2": lambda x: cdf(x) + x * bell(x),
    "4.3": gated(swiglu),
    "4.4": lambda block, x: x + block.attention(block.norm1(x)) + block.feed_forward(block.norm2(x)),
    "4.5": log_probs,
    "4.6": lambda config: 16 * ch04.count_parameters(config),
    "4.7": ban,
    "4.8": beyond(lambda row, n: row[-n:]),
}

WRONG = [
    ("4.1", lambda x, w, eps=1e-5: F.layer_norm(x, w.shape, w), "You subtract the mean"),
    ("4.1", lambda x, w, eps=1e-5: rms(x, 1.0), "learned scale is missing"),
    ("4.1", lambda x, w, eps=1e-5: rms(x, w, root=False), "the root is missing"),
    ("4.1", lambda x, w, eps=1e-5: rms(x, w, axis=1), "Tokens are mixed"),
    ("4.1", lambda x, w, eps=1e-5: x / (x.square().mean() + eps).sqrt() * w, "Tokens are mixed"),
    ("4.1", lambda x, w, eps=1e-5: rms(x, w, mean=False), "root of the sum of squares"),
    ("4.1", lambda x, w, eps=1e-5: rms(x, w, eps=0.0), "add eps inside the root"),
    ("4.1", lambda x, w, eps=1e-5: rms(x, w)[0], "should have the same"),
    ("4.2", cdf, "first term of the product rule"),
    ("4.2", lambda x: x * bell(x), "second term of the product rule"),
    ("4.2", lambda x: cdf(x) + bell(x), "has to be multiplied by x"),
    ("4.2", lambda x: x * cdf(x), "That is GELU itself"),
    ("4.2", lambda x: cdf(x) + x * (-x.square() / 2).exp(), "factor 1 / √(2π)"),
    ("4.3", gated(lambda layer, x: layer.contract(layer.gate(x) * F.silu(layer.expand(x)))), "on the wrong branch"),
    ("4.3", gated(lambda layer, x: layer.contract(layer.gate(x).sigmoid() * layer.expand(x))), "That is GLU"),
    ("4.3", gated(lambda layer, x: layer.contract(F.silu(layer.gate(x)) + layer.expand(x))), "multiplied, not added"),
    ("4.3", gated(lambda layer, x: layer.contract(F.gelu(layer.gate(x)) * layer.expand(x))), "GEGLU"),
    ("4.3", gated(swiglu, bias=True), "has a bias"),
    ("4.3", gated(swiglu, names=("w1", "w2", "w3")), "linear layer named `gate`"),
    ("4.4", lambda block, x: block(x), "still waits for attention"),
    ("4.4", lambda block, x: block.attention(block.norm1(x)) + block.feed_forward(block.norm2(x)), "stream is missing"),
    ("4.4", lambda block, x: 2 * x + block.attention(block.norm1(x)) + block.feed_forward(block.norm2(x)), "twice"),
    ("4.4", lambda block, x: x + block.attention(x) + block.feed_forward(x), "norms are missing"),
    ("4.4", lambda block, x: x + block.attention(block.norm1(x)) + block.feed_forward(block.norm1(x)), "norm2, not norm1"),
    ("4.5", own_log_probs, "one fewer"),
    ("4.5", lambda model, ids: own_log_probs(model, ids)[:, 1:], "Not shifted"),
    ("4.5", shifted_wrong_way, "Shifted the wrong way"),
    ("4.5", lambda model, ids: model(ids)[:, :-1].gather(2, ids[:, 1:, None])[..., 0], "Those are logits"),
    ("4.5", lambda model, ids: log_probs(model, ids).exp(), "Those are probabilities"),
    ("4.5", lambda model, ids: -log_probs(model, ids), "sign is turned"),
    ("4.6", ch04.count_parameters, "number of parameters"),
    ("4.6", lambda config: 4 * ch04.count_parameters(config), "weights alone"),
    ("4.6", lambda config: 8 * ch04.count_parameters(config), "two running averages are missing"),
    ("4.6", lambda config: 12 * ch04.count_parameters(config), "Three numbers"),
    ("4.6", lambda config: 16 * (ch04.count_parameters(config) + config.tie_head * config.vocab_size * config.n_channels),
     "counted though it is tied"),
    ("4.7", ban_in_place, "logits that you were given have changed"),
    ("4.7", ban_with_zero, "0 isn't low enough"),
    ("4.7", lambda token_ids: lambda logits: logits.argmax(-1), "still chosen"),
    ("4.7", lambda token_ids: lambda logits: logits.argmax(), "one id for each row"),
    ("4.7", lambda token_ids: torch.tensor(token_ids), "return a function"),
    ("4.8", generate, "Your code raised"),
    ("4.8", beyond(lambda row, n: row[-n:], stop=8), "stops at the context"),
    ("4.8", beyond(lambda row, n: row[:n]), "stands still"),
    ("4.8", beyond(lambda row, n: row[1 - n:]), "one token too short"),
    ("4.8", beyond(lambda row, n: row[-n:], drop_prompt=True), "without the prompt"),
    ("4.8", beyond(lambda row, n: row), "Your code raised ValueError"),
    ("4.8", forgetful, "forgets what left the window"),
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
