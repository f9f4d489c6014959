"""Chapter 5, sampling and the cache: draws follow the distribution, filters are `transformers`', a cache changes no token."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exercises import verdict
from tests.support import chapter

ch05 = chapter("ch05")
CHECKS = chapter("ch05", "exercise_checks").CHECKS
CachedAttention, CachedGPTModel = ch05.CachedAttention, ch05.CachedGPTModel
GPTConfig, GPTModel, generate_cached, sample_next = ch05.GPTConfig, ch05.GPTModel, ch05.generate_cached, ch05.sample_next
generate, left_pad = (getattr(chapter("ch04"), name) for name in ("generate", "left_pad"))
SMALL = {"vocab_size": 61, "context_length": 12, "n_channels": 24, "n_heads": 3, "n_layers": 2}


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def opinionated(**changes):
    """A small model whose weights are so large that its choices differ."""
    torch.manual_seed(5)
    model = GPTModel(GPTConfig(**SMALL | changes))
    for matrix in (p for p in model.parameters() if p.dim() == 2):
        nn.init.normal_(matrix, std=0.3)
    return model.eval()


def shares(logits, n=20_000, **settings):
    """How often each of the V tokens is drawn from logits (V,)."""
    rows = torch.as_tensor(logits).repeat(n, 1)
    return sample_next(rows, generator=seeded(), **settings).bincount(minlength=rows.shape[1]) / n


# --------------------------------------------------------------------------------------------------------- sample_next

UNSORTED = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, [0.1, 0.4, 0.2, 0.3]),
    ({"temperature": 0.5}, [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]),
    ({"temperature": 1e9}, [0.25] * 4),
    ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
    ({"top_k": 4}, [0.1, 0.4, 0.2, 0.3]),
    ({"top_k": 99}, [0.1, 0.4, 0.2, 0.3]),
    ({"top_p": 0.65}, [0, 4 / 7, 0, 3 / 7]),                    # 0.4 isn't enough, 0.7 is
    ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
    ({"min_p": 0.45}, [0, 4 / 9, 2 / 9, 3 / 9]),                # half of the best counts
    ({"top_k": 3, "top_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),         # 0.7 of the three that are left
    ({"top_k": 2, "min_p": 0.8}, [0, 1, 0, 0]),
    ({"temperature": 0.5, "top_p": 0.75}, [0, 0.64, 0, 0.36]),  # the filter sees the colder probabilities
])
def test_draws_follow_the_distribution(settings, expected):
    found = shares(UNSORTED, **settings)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=0.012, rtol=0)
    assert ((found > 0) == (torch.tensor(expected) > 0)).all()


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.0}, {"temperature": 1e-45}, {"temperature": 1e-8},
                                      {"top_k": 1}, {"top_p": 1e-9}, {"top_p": 1e-300}, {"min_p": 1.0}, {"min_p": 1}])
def test_what_keeps_one_token_keeps_the_best(settings):
    logits = torch.randn(40, 61, generator=seeded()) * 5
    assert torch.equal(sample_next(logits, **settings), logits.argmax(dim=-1))


def test_equally_good_tokens():
    level = torch.tensor([[1.0, 3.0, 3.0, 3.0]]).repeat(3000, 1)
    assert set(sample_next(level, min_p=1.0, generator=seeded()).tolist()) == {1, 2, 3}
    assert set(sample_next(level, top_k=2, generator=seeded()).tolist()) == {1, 2}                      # the lower ids
    assert set(sample_next(level, top_k=1).tolist()) == {1} == set(sample_next(level, temperature=0).tolist())
    assert set(sample_next(torch.zeros(3000, 4), top_p=0.5, generator=seeded()).tolist()) == {0, 1}


def test_without_a_filter_the_last_of_the_tail_can_be_drawn():
    logits = torch.full((1, 5000), -20.0)
    logits[0, 0] = 0.0                                     # a sum in float32 reaches 1 before the tail does
    scaled = logits.repeat(400, 1)
    scaled[:, 0] = -20.0 + math.log(5000)
    assert sample_next(scaled, generator=seeded()).max() > 4900
    assert sample_next(scaled, top_p=1.0, generator=seeded()).max() > 4900


def test_masked_and_huge_logits():
    logits = torch.tensor([[0.0, -math.inf, 0.0, -math.inf]]).repeat(2000, 1)
    assert set(sample_next(logits, generator=seeded()).tolist()) == {0, 2}
    assert sample_next(torch.tensor([[1e30, 3e38, -3e38]]), temperature=1e-3).tolist() == [1]
    assert sample_next(torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float16), top_k=1).tolist() == [1]


def test_the_seed_decides_and_the_logits_stay():
    logits = torch.randn(50, 61, generator=seeded())
    before = logits.clone()
    first, again, other = (sample_next(logits, 0.8, 20, 0.9, 0.01, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(logits, before)
    assert first.shape == (50,) and first.dtype == torch.long


@pytest.mark.parametrize(("settings", "message"), [
    ({"temperature": -0.1}, "temperature is -0.1; choose 0 (always the best token) or more"),
    ({"temperature": math.inf}, "temperature is inf;"),
    ({"temperature": math.nan}, "temperature is nan;"),
    ({"top_k": 0}, "top_k is 0; choose None (all) or a whole number from 1"),
    ({"top_k": 2.5}, "top_k is 2.5;"),
    ({"top_p": 0}, "top_p is 0; choose a share above 0"),
    ({"top_p": 1.1}, "top_p is 1.1;"),
    ({"min_p": -0.1}, "min_p is -0.1; choose a share from 0"),
    ({"min_p": 40}, "min_p is 40;"),
])
@pytest.mark.parametrize("greedy", [{}, {"temperature": 0}])
def test_a_setting_without_sense_is_named(settings, message, greedy):
    with pytest.raises(ValueError) as error:
        sample_next(torch.zeros(1, 4), **greedy | settings)
    assert str(error.value).startswith(message)


def kept(logits, **settings):
    """Which tokens (B, V) can be drawn: the probabilities that reach `torch.multinomial`, at their tokens."""
    seen = []
    original = torch.multinomial
    torch.multinomial = lambda probs, *args, **kwargs: seen.append(probs) or original(probs, *args, **kwargs)
    try:
        sample_next(logits, **settings)
    finally:
        torch.multinomial = original
    order = (logits / settings.get("temperature", 1.0)).sort(dim=-1, descending=True, stable=True).indices
    probs = torch.zeros_like(logits).scatter(1, order[:, :seen[0].shape[1]], seen[0])
    return probs / probs.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_k": 7}, {"top_k": 500}, {"top_p": 0.8}, {"top_p": 0.05},
                                      {"min_p": 0.1}, {"top_k": 5, "top_p": 0.9},
                                      {"temperature": 1.3, "top_k": 20, "top_p": 0.7, "min_p": 0.2}])
def test_filters_are_those_of_transformers(settings):
    transformers = pytest.importorskip("transformers")
    warpers = {"temperature": transformers.TemperatureLogitsWarper, "top_k": transformers.TopKLogitsWarper,
               "top_p": transformers.TopPLogitsWarper, "min_p": transformers.MinPLogitsWarper}
    for seed in range(5):
        logits = torch.randn(8, 61, generator=seeded(seed)) * 3
        theirs = logits
        for name, warper in warpers.items():                                             # in their order
            if name in settings:
                theirs = warper(settings[name])(None, theirs)
        torch.testing.assert_close(kept(logits, **settings), theirs.softmax(dim=-1), atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- penalize_repetition

@pytest.mark.parametrize("penalty", [1.0, 1.3, 5.0, 0.8])
def test_the_penalty_is_that_of_transformers(penalty):
    transformers = pytest.importorskip("transformers")
    logits, rows = torch.randn(3, 61, generator=seeded()), [[3, 3, 7, 60], [0, 1, 2, 3], [5, 5, 5, 5]]
    before = logits.clone()
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(rows), logits.clone())
    torch.testing.assert_close(ch05.penalize_repetition(logits, rows, penalty), theirs)
    assert torch.equal(logits, before)


def test_an_empty_row_has_nothing_to_penalize():
    assert ch05.penalize_repetition(torch.ones(2, 3), [[], [1]], 2.0).tolist() == [[1, 1, 1], [1, 0.5, 1]]


@pytest.mark.parametrize("penalty", [0, -1.0, math.nan, math.inf])
def test_a_penalty_without_sense_is_refused(penalty):
    with pytest.raises(ValueError, match=r"the penalty is .*; choose 1 \(none\) or more"):
        ch05.penalize_repetition(torch.ones(1, 3), [[1]], penalty)


# ------------------------------------------------------------------------------------------------------------ the cache

@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3))
def test_attention_in_pieces_is_attention_in_one_go(pieces, B):
    torch.manual_seed(5)
    whole, cached = ch05.MultiHeadAttention(24, 3).eval(), CachedAttention(24, 3).eval()
    cached.load_state_dict(whole.state_dict())
    x, past, mixed = torch.randn(B, sum(pieces), 24), None, []
    with torch.no_grad():
        for part in x.split(pieces, dim=1):
            y, past = cached(part, past=past)
            mixed.append(y)
        torch.testing.assert_close(torch.cat(mixed, dim=1), whole(x), atol=1e-5, rtol=1e-5)
    assert [tuple(t.shape) for t in past] == [(B, 3, sum(pieces), 8)] * 2


prompts = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(prompts, st.data())
def test_scores_with_a_cache_are_those_without_to_the_last_position(prompts, data):
    """Left-padded prompts of any lengths, read in pieces, then a token at a time until the longest row is full: logits to 1e-5."""
    model = opinionated()
    cached, (token_ids, mask) = CachedGPTModel.sharing(model), left_pad(prompts)
    cut, cache, T = data.draw(st.integers(1, token_ids.shape[1])), None, token_ids.shape[1]
    rest = torch.randint(61, (len(prompts), 12 - T), generator=seeded())
    token_ids, mask = torch.cat([token_ids, rest], 1), torch.cat([mask, torch.ones_like(rest, dtype=torch.bool)], 1)
    with torch.no_grad():
        expected = model(token_ids, mask)                                                # (B, 12, V)
        begin = 0
        for end in sorted({cut, T, *range(T, 13)}):
            hidden, cache = cached.read(token_ids[:, begin:end], mask[:, :end], cache)
            real = mask[:, end - 1]
            torch.testing.assert_close(cached.head(hidden)[real], expected[real, end - 1], atol=1e-5, rtol=1e-5)
            begin = end
    assert [k.shape[2] for k, _ in cache] == [12, 12]


def same_or_tied(model, plain, quick):
    """Rows agree token for token; where they part, the two best logits differ by under 1e-4, so that either is right."""
    for one, other in zip(plain, quick, strict=True):
        for t in range(min(len(one), len(other))):
            if one[t] != other[t]:
                best = model(torch.tensor([one[:t]]))[0, -1].topk(2).values
                return (best[0] - best[1]).item() < 1e-4
        if len(one) != len(other):
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(prompts, st.integers(0, 14), st.one_of(st.none(), st.integers(0, 60)), st.booleans())
def test_a_cache_changes_no_token(prompts, n, end_id, tied):
    model = opinionated(tie_head=tied)
    quick = generate_cached(model, prompts, n, end_id)
    assert same_or_tied(model, generate(model, prompts, n, end_id), quick)
    for prompt, row in zip(prompts, quick, strict=True):
        new = row[len(prompt):]
        assert row[:len(prompt)] == prompt and end_id not in new[:-1]
        assert len(new) == min(n, 12 - len(prompt)) or new[-1:] == [end_id]


def test_a_cache_changes_no_token_of_a_larger_model():
    model = opinionated(vocab_size=500, context_length=96, n_channels=64, n_heads=4, n_layers=3)
    prompts = [[7], list(range(60)), [1, 2, 3]]
    plain, quick = generate(model, prompts, 200), generate_cached(model, prompts, 200)
    assert same_or_tied(model, plain, quick) and [len(row) for row in quick] == [96] * 3


def test_every_row_ends_at_its_own_end_token():
    seen = []

    def choose(logits):
        seen.append(tuple(logits.shape))
        return torch.arange(len(logits)) + 7

    assert generate_cached(opinionated(), [[1], [2], [3]], 3, end_id=7, choose=choose) == [[1, 7], [2, 8, 7], [3, 9, 8, 7]]
    assert seen == [(3, 61), (2, 61), (1, 61)]


def test_when_a_row_leaves_the_others_keep_their_own_past():
    """The first row leaves after one token; what the others write afterwards is what each writes alone."""
    model = opinionated(tie_head=False)
    prompts = [[5, 6], [1, 2, 3, 4, 9], [7, 8, 9]]
    end_id = generate(model, prompts[:1], 1)[0][-1]
    together = generate_cached(model, prompts, 7, end_id)
    assert len(together[0]) == 3
    assert together == [generate_cached(model, [prompt], 7, end_id)[0] for prompt in prompts]


def test_each_token_is_read_once(monkeypatch):
    read, counts = CachedGPTModel.read, []
    monkeypatch.setattr(CachedGPTModel, "read", lambda self, ids, *rest: counts.append(ids.numel()) or read(self, ids, *rest))
    assert len(generate_cached(opinionated(), [[1, 2, 3]], 6)[0]) == 9
    assert counts == [3, 1, 1, 1, 1, 1]


def test_drawn_rows_are_the_same_with_the_same_seed():
    def write(loop, seed):
        g = seeded(seed)
        return loop(opinionated(), [[1], [2, 3]], 9, choose=lambda logits: sample_next(logits, 1.0, generator=g))

    assert write(generate_cached, 1) == write(generate_cached, 1) == write(generate, 1) != write(generate_cached, 2)


def test_the_penalty_reaches_the_loop():
    model = opinionated()
    rows = generate_cached(model, [[3, 1], [4]], 9, repetition_penalty=1e6)
    seen = []

    def choose(logits):
        seen.append(logits)
        return logits.argmax(dim=-1)

    assert rows[0][:2] == [3, 1] and rows != generate_cached(model, [[3, 1], [4]], 9)
    generate_cached(model, [[3, 1]], 1, choose=choose, repetition_penalty=2.0)
    plain = model(torch.tensor([[3, 1]]))[0, -1]
    torch.testing.assert_close(seen[0], ch05.penalize_repetition(plain[None], [[3, 1]], 2.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_writing_leaves_model_and_prompts_as_they_were(training):
    torch.manual_seed(5)
    model, prompts = GPTModel(GPTConfig(**SMALL | {"dropout": 0.5})).train(training), [[1, 2], [3]]
    before = {name: p.clone() for name, p in model.state_dict().items()}
    assert generate_cached(model, prompts, 5) == generate_cached(model, prompts, 5)     # no dropout while writing
    assert model.training is training and prompts == [[1, 2], [3]]
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_a_cached_model_shares_weights_and_can_be_passed_itself():
    model = opinionated()
    cached = CachedGPTModel.sharing(model)
    assert {p.data_ptr() for p in cached.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert generate_cached(cached.train(), [[1, 2]], 6) == generate_cached(model, [[1, 2]], 6)


def test_a_full_or_a_forbidden_row_writes_nothing():
    full = list(range(12))
    assert generate_cached(opinionated(), [full, [1]], 1)[0] == full
    assert generate_cached(opinionated(), [full], 5) == [full]
    assert generate_cached(opinionated(), [[1]], 0) == [[1]]
    assert generate_cached(opinionated(), [], 5) == []


@pytest.mark.parametrize(("prompts", "message"), [
    ([[1], []], "prompt 1 is empty; begin it with a token"),
    ([list(range(13))], "prompt 0 has 13 tokens, the model's context is 12; shorten it"),
    ([[1], [2, 61]], "prompt 1 holds the id 61, the vocabulary ends at 60; use the tokenizer"),
    ([1, 2, 3], "prompt 0 is the number 1; pass a list of lists"),
])
def test_a_wrong_prompt_is_named(prompts, message):
    with pytest.raises(ValueError) as error:
        generate_cached(opinionated(), prompts, 3)
    assert message in str(error.value)


# ---------------------------------------------------------- the exercises: each solution, and wrong answers with their hints

def gumbel(temper=lambda logits, noise, t: logits / t + noise, noise=lambda u: -(-u.log()).log(), draw=None, best=torch.argmax):
    """Gumbel sampling with one part exchanged."""
    def gumbel_sample(logits, temperature=1.0, generator=None):
        u = torch.rand(logits.shape, generator=generator) if draw is None else draw(logits, generator)
        return best(temper(logits, noise(u), temperature), dim=-1)
    return gumbel_sample


def in_place(logits, temperature=1.0, generator=None):
    logits += gumbel(lambda logits, noise, t: noise)(logits, temperature, generator)[:, None] * 0 + 1.0
    return logits.argmax(dim=-1)


def cache_size(factor):
    return lambda config, batch, n_tokens, bytes_each=4: int(
        factor(config, batch, n_tokens) * 2 * config.n_layers * config.n_channels * batch * n_tokens * bytes_each)


def size(factor, swap=False):
    def best_size(flops):
        n, d = (flops / factor) ** 0.5, 20 * (flops / factor) ** 0.5
        return (d, n) if swap else (n, d)
    return best_size


SOLUTIONS = {"5.4": gumbel(), "5.5": cache_size(lambda config, batch, n: 1), "5.10": size(120)}

WRONG = [
    ("5.4", lambda logits, temperature=1.0, generator=None: logits.argmax(dim=-1), "always takes the best"),
    ("5.4", gumbel(draw=lambda logits, g: torch.rand(logits.shape[-1:], generator=g)), "noise of its own"),
    ("5.4", gumbel(draw=lambda logits, g: torch.randn(logits.shape, generator=g), noise=lambda z: z), "normal noise"),
    ("5.4", gumbel(noise=lambda u: u), "differ from softmax"),
    ("5.4", gumbel(noise=lambda u: (-u.log()).log()), "two minus signs"),
    ("5.4", gumbel(best=torch.argmin), "Take the largest"),
    ("5.4", gumbel(lambda logits, noise, t: (logits + noise) / t), "temperature changes nothing"),
    ("5.4", gumbel(lambda logits, noise, t: logits * t + noise), "multiply the logits"),
    ("5.4", gumbel(lambda logits, noise, t: logits + noise / t), "divide the noise"),
    ("5.4", gumbel(draw=lambda logits, g: torch.rand(logits.shape)), "pass `generator` on"),
    ("5.4", in_place, "logits that you were given have changed"),
    ("5.4", gumbel(best=lambda scores, dim: scores.argmax(dim=dim, keepdim=True)), "shape (B,)"),
    ("5.5", cache_size(lambda config, batch, n: 0.5), "not both"),
    ("5.5", cache_size(lambda config, batch, n: 1 / config.n_layers), "one layer"),
    ("5.5", cache_size(lambda config, batch, n: config.n_heads), "counted twice"),
    ("5.5", cache_size(lambda config, batch, n: 1 / config.n_heads), "one head"),
    ("5.5", cache_size(lambda config, batch, n: 1.5), "Queries"),
    ("5.5", cache_size(lambda config, batch, n: 1 / batch), "one row"),
    ("5.5", cache_size(lambda config, batch, n: config.context_length / n), "full context"),
    ("5.5", lambda config, batch, n, bytes_each=4: 2 * config.n_layers * config.n_channels * batch * n, "number of numbers"),
    ("5.10", size(20), "costs six"),
    ("5.10", size(40), "forward pass alone"),
    ("5.10", size(120, swap=True), "parameters first"),
    ("5.10", lambda flops: (flops / 120, flops / 6), "root is missing"),
    ("5.10", lambda flops: ((flops * 20 / 6) ** 0.5, (flops / 120) ** 0.5), "on the wrong side"),
    ("5.10", lambda flops: (flops / 120) ** 0.5, "Return two numbers"),
    ("5.10", lambda flops: ((flops / 120) ** 0.5,) * 2, "aren't 20"),
]


@pytest.mark.parametrize("number", SOLUTIONS)
def test_a_right_answer_is_right(number):
    assert verdict(number, SOLUTIONS[number], CHECKS).startswith(f"Exercise {number}: right.")


@pytest.mark.parametrize(("number", "attempt", "hint"), WRONG, ids=[f"{n}: {h}" for n, _, h in WRONG])
def test_a_wrong_answer_gets_its_hint(number, attempt, hint):
    said = verdict(number, attempt, CHECKS)
    assert said.startswith(f"Exercise {number}: not yet.")
    assert hint in said, said
