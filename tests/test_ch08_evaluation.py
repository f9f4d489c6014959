"""Chapter 8's measures, its retrieval, its tools and its adapters, against hand examples, definitions and other libraries."""

import ast
import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import ROOT, chapter

ch05, ch06, ch08 = chapter("ch05"), chapter("ch06"), chapter("ch08")
TEXTS = st.text(alphabet="ab cé-漢\n", max_size=30)


@pytest.fixture(scope="module")
def tokenizer():
    return ch05.load_tokenizer(ROOT / "models" / "tokenizer")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(8)
    return ch05.GPTModel(ch05.GPTConfig(2048, context_length=24, n_channels=16, n_heads=2, n_layers=2)).eval()


# ------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(("window", "stride"), [(24, 24), (24, 5), (7, 7), (8, 1), (1, 1)])
def test_every_token_is_counted_once_with_what_its_window_shows(model, window, stride):
    ids = torch.randint(0, 2048, (50,), generator=torch.Generator().manual_seed(1)).tolist()
    expected = 0.0
    for i in range(1, len(ids)):
        end = min(-(-i // stride) * stride, len(ids) - 1)                     # the window in which token i is new
        row = torch.tensor([ids[max(0, end - window):i]])
        with torch.no_grad():
            expected -= model(row)[0, -1].log_softmax(dim=-1)[ids[i]].item()
    assert ch08.total_nats(model, ids, window, stride) == pytest.approx(expected, rel=1e-5)


def test_one_window_is_the_loss_of_chapter_5(model):
    ids = torch.randint(0, 2048, (1, 25), generator=torch.Generator().manual_seed(2))
    loss = model(ids[:, :-1], targets=ids[:, 1:]).item()
    assert ch08.total_nats(model, ids[0].tolist(), 24, 24) == pytest.approx(24 * loss, rel=1e-5)
    assert ch08.total_nats(model, [5], 24, 24) == 0


@pytest.mark.parametrize(("window", "stride"), [(25, 5), (5, 6), (5, 0), (0, 0)])
def test_windows_that_cannot_be(model, window, stride):
    with pytest.raises(ValueError, match=rf"stride {stride}, window {window}: choose 1 <= stride <= window <= 24"):
        ch08.total_nats(model, [1, 2, 3], window, stride)


def test_choices_get_their_log_probability(model):
    prompt, choices = [1, 2, 3], [[4], [5, 6, 7], [8, 9]]
    scores = ch08.choice_scores(model, prompt, choices)
    for (total, mean), choice in zip(scores.tolist(), choices, strict=True):
        expected, row = 0.0, list(prompt)
        for token in choice:
            with torch.no_grad():
                expected += model(torch.tensor([row]))[0, -1].log_softmax(dim=-1)[token].item()
            row.append(token)
        assert total == pytest.approx(expected, rel=1e-5) and mean == pytest.approx(expected / len(choice), rel=1e-5)


def test_the_probabilities_of_all_single_tokens_add_up_to_one(model):
    scores = ch08.choice_scores(model, [1, 2], [[i] for i in range(2048)])
    assert scores[:, 0].exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_paired_differences_by_hand():
    before, after = torch.tensor([1.0, 0.0, 0.5, 0.0]), torch.tensor([1.0, 0.5, 0.5, 0.0])
    mean, half = ch08.paired_difference(before, after)                        # differences 0, 1/2, 0, 0
    assert mean == pytest.approx(0.125) and half == pytest.approx(1.96 * 0.25 / 2)
    assert ch08.paired_difference(before, before) == (0, 0)
    for wrong in (after[:3], after[:1]):
        with pytest.raises(ValueError, match="give both models the same questions"):
            ch08.paired_difference(before[:len(wrong)] if len(wrong) == 1 else before, wrong)


def test_the_paired_interval_covers_the_truth():
    g, covered = torch.Generator().manual_seed(0), 0
    for _ in range(300):
        hard = torch.randn(80, generator=g)                                   # of the questions, the same for both
        before, after = (hard + shift + 0.2 * torch.randn(80, generator=g) for shift in (0, 0.1))
        mean, half = ch08.paired_difference(before, after)
        covered += abs(mean - 0.1) <= half
    assert 0.9 < covered / 300 < 0.99


def test_a_regression_is_found_and_noise_is_not():
    g = torch.Generator().manual_seed(0)
    before = {"a": torch.rand(200, generator=g), "b": torch.rand(200, generator=g)}
    noisy = {name: s + 0.01 * torch.randn(200, generator=g) for name, s in before.items()}
    noisy["b"] -= (noisy["b"] - before["b"]).mean()
    assert ch08.regressions(before, before) == []
    assert ch08.regressions(before, {"a": before["a"] + 0.1, "b": noisy["b"]}) == []
    [worse] = ch08.regressions(before, {"a": before["a"] - 0.1, "b": noisy["b"]})
    assert worse.startswith(f"a: {before['a'].mean():.3f} before, ")
    with pytest.raises(ValueError, match="'b' wasn't measured this time"):
        ch08.regressions(before, {"a": before["a"]})


# ------------------------------------------------------------------------------------------------------------- retrieval


def test_bm25_by_hand():
    """N = 3, mean length 4; in the first text, "kite" stands twice of 4 words, and in one text of three."""
    bm25 = ch08.BM25(["a kite, a KITE", "the dog ran off fast now", "a dog"])
    rarity = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    assert bm25.scores("Kite!")[0].item() == pytest.approx(rarity * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 4 / 4)), rel=1e-5)
    assert bm25.scores("kite kite").tolist() == bm25.scores("kite").tolist()
    common = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    assert bm25.scores("dog")[2].item() == pytest.approx(common * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 4)), rel=1e-5)
    assert bm25.scores("dog")[2] > bm25.scores("dog")[1] > bm25.scores("dog")[0] == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), TEXTS)
def test_bm25_takes_any_text(texts, query):
    scores = ch08.BM25(texts).scores(query)
    assert scores.shape == (len(texts),) and (scores >= 0).all() and scores.isfinite().all()
    shared = [bool(set(ch08.words_of(query)) & set(ch08.words_of(text))) for text in texts]
    assert (scores > 0).tolist() == shared


def test_a_search_finds_or_says_that_it_did_not():
    bm25 = ch08.BM25(["a red kite", "an old dog"])
    number, score = ch08.search(bm25, "my dog")
    assert number == 1 and score > 0
    assert ch08.search(bm25, "my dog", least=score) == (None, 0.0) and ch08.search(bm25, "whale") == (None, 0.0)
    assert ch08.search(ch08.BM25([]), "dog") == (None, 0.0) and ch08.search(bm25, "") == (None, 0.0)


def test_embeddings_are_means_and_padding_changes_nothing(model):
    g = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 2048, (int(n),), generator=g).tolist() for n in torch.randint(1, 25, (70,), generator=g)]
    vectors = ch08.embed_texts(model, rows)
    assert vectors.shape == (70, 16) and torch.allclose(vectors.norm(dim=1), torch.ones(70), atol=1e-5)
    for row, vector in zip(rows, vectors, strict=True):
        with torch.no_grad():
            alone = F.normalize(model.hidden_states(torch.tensor([row]))[0].mean(dim=0), dim=0)
        torch.testing.assert_close(vector, alone, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------------------- tools


@given(st.integers(-10**6, 10**6), st.sampled_from("+-*"), st.integers(-10**6, 10**6))
def test_the_calculator_is_right(a, sign, b):
    tree = ast.parse(f"({a}) {sign} ({b})", mode="eval")
    assert ch08.calculate(f"{a} {sign} {b}") == str(eval(compile(tree, "", "eval")))


@pytest.mark.parametrize("text", ["", "1", "1+2", "1 / 2", "__import__('os')", "1 + 2 + 3", "1 + 1234567890", "١ + ٢", "1 + 2\n",
                                  "9**9"])
def test_the_calculator_takes_nothing_else(text):
    with pytest.raises(ValueError, match="is no sum; write two whole numbers"):
        ch08.calculate(text)


TOOLS = {"calculate": ch08.calculate, "find": lambda about: "tale 3"}


@pytest.mark.parametrize("text", ["", "It is 3.", "[]", "{}", "null", '{"calculate": 3}', '{"other": "a"}', '{"calculate": null}',
                                  '{"calculate": "a", "find": "b"}', '{"calculate": "1 + 2"', "[" * 10_000,
                                  'I say {"calculate": "1 + 2"}'])
def test_what_is_no_call_is_text(text):
    assert ch08.parse_call(text, TOOLS) is None


@given(st.text())
def test_any_text_is_read(text):
    call = ch08.parse_call(json.dumps({"find": text}), TOOLS)
    assert call == ("find", text)
    assert ch08.parse_call(text, {}) is None


def scripted(answers, tokenizer, seen):
    """A `write` that says these texts, one after the other."""
    rest = iter(answers)

    def write(row):
        seen.append(tokenizer.decode(row))
        return [*tokenizer.encode_ordinary(next(rest)), tokenizer.eot_token]
    return write


def test_a_call_is_run_and_its_result_is_shown(tokenizer):
    seen = []
    write = scripted(['{"calculate": "2 * 21"}', "It is 42."], tokenizer, seen)
    said, calls = ch08.run_tools(write, "What is 2 * 21?", TOOLS, tokenizer)
    assert said == "It is 42." and calls == [("calculate", "2 * 21", "42")]
    assert seen[1].endswith('{"calculate": "2 * 21"}<|endoftext|><|user|>Result: 42<|assistant|>')


def test_an_error_is_shown_to_the_model_and_the_loop_has_an_end(tokenizer):
    seen = []
    said, calls = ch08.run_tools(scripted(['{"calculate": "two"}', "I don't know."], tokenizer, seen), "Two?", TOOLS, tokenizer)
    assert said == "I don't know." and calls[0][2].startswith("error: 'two' is no sum") and "error: 'two' is no sum" in seen[1]
    with pytest.raises(RuntimeError, match="has called tools 2 times and wants more"):
        ch08.run_tools(scripted(['{"find": "a"}'] * 9, tokenizer, []), "Find!", TOOLS, tokenizer, most=2)


# ------------------------------------------------------------------------------------------------------------- adapters


def with_adapters(model, seed):
    """The model with LoRA, and an adapter with random numbers."""
    torch.manual_seed(seed)
    adapted = ch06.add_lora(copy.deepcopy(model), rank=2)
    return adapted, {name: torch.randn_like(p) for name, p in adapted.named_parameters() if name.endswith((".a", ".b"))}


def written(model, prompt):
    engine = ch08.Engine(model, 1)
    request = engine.submit(ch08.Request(prompt, 12))
    ch08.run(engine)
    return request.new_ids


def test_texts_after_a_swap_are_the_merged_models(model):
    model = copy.deepcopy(model)
    adapted, _ = with_adapters(model, 0)
    adapters = [with_adapters(model, seed)[1] for seed in (1, 2)]
    engine = ch08.Engine(adapted, 2)
    for adapter in (*adapters, adapters[0]):
        ch08.swap_adapter(engine, adapter)
        merged = ch06.merge_lora(copy.deepcopy(adapted))
        request = engine.submit(ch08.Request([1, 2, 3], 12))
        ch08.run(engine)
        assert request.new_ids == written(merged, [1, 2, 3])
    assert written(adapted, [1, 2, 3]) != written(model, [1, 2, 3])


def test_no_swap_in_the_middle_of_a_text_and_no_foreign_adapter(model):
    adapted, adapter = with_adapters(model, 1)
    engine = ch08.Engine(adapted, 2)
    request = engine.submit(ch08.Request([1, 2, 3], 12))
    engine.step()
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    with pytest.raises(ValueError, match="1 texts are being written with the old adapter"):
        ch08.swap_adapter(engine, adapter)
    ch08.cancel(engine, request)
    torch.manual_seed(0)
    foreign = {name: t[:1] if name.endswith(".a") else t[:, :1] for name, t in adapter.items()}
    for wrong in (foreign, {}, dict(list(adapter.items())[1:])):
        with pytest.raises(ValueError, match="train it with this model and rank"):
            ch08.swap_adapter(engine, wrong)
    assert all(torch.equal(before[name], p) for name, p in adapted.named_parameters())
    ch08.swap_adapter(engine, adapter)
