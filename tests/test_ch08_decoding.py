"""Chapter 8, decoding: whole characters, stop strings, samplers, beams, drafts that change no distribution, forms that hold."""

import itertools
import json
import math

import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support import chapter

ch05, ch08 = chapter("ch05"), chapter("ch08")
TOKENIZER = ch05.load_pretrained("tales-small")[1]
END = TOKENIZER.eot_token
generate = chapter("ch04").generate


def tiny(seed=0, vocab_size=6, std=0.5):
    torch.manual_seed(seed)
    model = ch05.GPTModel(ch05.GPTConfig(vocab_size, 16, 8, 2, 1))
    for matrix in (p for p in model.parameters() if p.dim() == 2):
        nn.init.normal_(matrix, std=std)
    return model.eval()


# ------------------------------------------------------------- streams

def stream(ids, stop=()):
    text = ch08.TextStream(TOKENIZER, stop)
    return [*(text.push(i) for i in ids), text.close()], text


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_pieces_are_whole_characters_and_join_to_the_text(text):
    pieces, _ = stream(TOKENIZER.encode_ordinary(text))
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(st.text("ab\n"), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_nothing_from_a_stop_string_on_is_shown(text, stops):
    pieces, text_stream = stream(TOKENIZER.encode_ordinary(text), stops)
    places = sorted((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)    # first complete, first
    expected = text[:places[0][1]] if places else text
    assert "".join(pieces) == expected and text_stream.stopped == bool(places)
    for n in range(len(pieces)):                                       # at no time was more shown than could be
        assert expected.startswith("".join(pieces[:n]))


def test_a_half_character_at_the_end_is_shown_as_such():
    ids = [TOKENIZER.tokens.index(bytes([byte])) for byte in "🙂".encode()[:2]]
    pieces, _ = stream(ids)
    assert pieces[:-1] == ["", ""] and pieces[-1] == "\ufffd"
    text = ch08.TextStream(TOKENIZER)
    assert text.push(ids[0]) == "" and text.push(ids[1], last=True) == "\ufffd"


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="a stop string is empty"):
        ch08.TextStream(TOKENIZER, [""])


# ------------------------------------------------------------- samplers

def test_a_seeded_sampler_draws_the_same_alone_and_beside_others():
    model = tiny()
    texts = []
    for n_rows in (1, 4):
        engine = ch08.Engine(model, n_rows)
        requests = [engine.submit(ch08.Request([1], 10, choose=ch08.sampler(0.9, seed=s))) for s in range(4)]
        ch08.run(engine)
        texts.append([r.new_ids for r in requests])
    assert texts[0] == texts[1] and len({tuple(t) for t in texts[0]}) > 1


def test_bias_and_repetition_penalty():
    logits = torch.tensor([1.0, 2.0, 3.0, 0.5])
    assert ch08.sampler(0)(logits) == 2
    assert ch08.sampler(0, bias={2: -100})(logits) == 1
    assert ch08.sampler(0, bias={3: 5})(logits) == 3
    again = ch08.sampler(0, repetition_penalty=2.0)
    assert [again(logits), again(logits), again(logits)] == [2, 1, 2]   # 3 -> 1.5 < 2 -> 1 < 1.5
    assert ch08.sampler(0, repetition_penalty=2.0, seen=[2])(logits) == 1
    assert logits.tolist() == [1.0, 2.0, 3.0, 0.5]


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_k": 0}, {"min_p": 2}])
def test_a_sampler_refuses_at_once(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ch08.sampler(**wrong)


# ------------------------------------------------------------- beams

@pytest.mark.parametrize("end_id", [None, 2])
@torch.no_grad()
def test_enough_beams_find_the_most_probable_of_all(end_id):
    model, prompt, n = tiny(seed=3), [1, 4], 3
    scores = {}
    for new in itertools.product(range(6), repeat=n):
        if end_id in new[:-1]:
            new = new[:new.index(end_id) + 1]
        log_probs = model(torch.tensor([prompt + list(new)]))[0].log_softmax(dim=-1)
        scores[new] = sum(log_probs[len(prompt) - 1 + i, token].item() for i, token in enumerate(new))
    best = sorted(scores.items(), key=lambda item: -item[1])
    found = ch08.beam_search(model, prompt, 6**n, n, end_id)
    assert [tuple(new) for _, new in found[:10]] == [new for new, _ in best[:10]]
    assert found[0][0] == pytest.approx(best[0][1], abs=1e-4)


def test_one_beam_is_greedy_and_more_are_never_worse_here():
    model = tiny(seed=1)
    best = generate(model, [[1, 2]], 8, 3)[0][2:]
    (score, new), = ch08.beam_search(model, [1, 2], 1, 8, 3)
    assert new == best and ch08.beam_search(model, [1, 2], 5, 8, 3)[0][0] >= score - 1e-5
    scores = [s for s, _ in ch08.beam_search(model, [1], 4, 5)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 4
    assert len(ch08.beam_search(model, [1] * 15, 2, 5)[0][1]) == 1     # one token fits into the context
    with pytest.raises(ValueError, match="the prompt is empty"):
        ch08.beam_search(model, [], 2, 5)


# ------------------------------------------------------------- drafts

@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=6), st.lists(st.floats(0.001, 1), min_size=6, max_size=6))
def test_the_rule_gives_the_targets_distribution_exactly(p, q):
    """By arithmetic, not by drawing: kept with min(1, p/q), and what is left over after a refusal."""
    p, q = torch.tensor(p, dtype=torch.float64) + 1e-3, torch.tensor(q[:len(p)], dtype=torch.float64)
    p, q = p / p.sum(), q / q.sum()
    kept = torch.minimum(p, q)
    left = (p - q).clamp(min=0)
    refused = 1 - kept.sum()
    out = kept + (refused * left / left.sum() if left.sum() > 0 else 0)
    torch.testing.assert_close(out, p, atol=1e-9, rtol=0)


@pytest.mark.parametrize("n_drafted", [1, 3])
@torch.no_grad()
def test_speculative_decoding_draws_from_the_target(n_drafted):
    """Chi-square over all texts of two tokens, against the target's own probabilities."""
    target, draft, n = tiny(seed=0), tiny(seed=7), 3_000
    first = target(torch.tensor([[1]]))[0, -1].softmax(dim=-1)                               # (V,)
    second = target(torch.tensor([[1, t] for t in range(6)]))[:, -1].softmax(dim=-1)         # (V, V)
    expected = (first[:, None] * second * n).flatten()                                       # (V * V,)
    g, counts = torch.Generator().manual_seed(0), torch.zeros(36)
    for _ in range(n):
        (a, b), _ = ch08.speculative_decode(target, draft, [1], 2, None, n_drafted, 1.0, g)
        counts[6 * a + b] += 1
    often = expected >= 5
    chi_square = ((counts - expected) ** 2 / expected)[often].sum().item()
    freedom = int(often.sum()) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
    wrong = (draft(torch.tensor([[1]]))[0, -1].softmax(dim=-1)[:, None] * second * n).flatten()
    assert ((counts - wrong) ** 2 / wrong)[often].sum() > 5 * chi_square                     # the test can tell the two apart


@pytest.mark.parametrize("n_drafted", [1, 2, 5])
@pytest.mark.parametrize("end_id", [None, 3])
def test_greedy_drafts_change_no_token(n_drafted, end_id):
    for seed in range(4):
        target, draft = tiny(seed), tiny(seed + 10)
        new, n_passes = ch08.speculative_decode(target, draft, [1, 2], 30, end_id, n_drafted, temperature=0)
        assert new == generate(target, [[1, 2]], 30, end_id)[0][2:] and 1 <= n_passes <= len(new)


def test_a_draft_that_is_the_target_is_always_kept():
    target = tiny()
    new, n_passes = ch08.speculative_decode(target, target, [1], 12, None, 3, temperature=0)
    assert len(new) == 12 and n_passes == 3


def test_drafts_need_one_vocabulary():
    with pytest.raises(ValueError, match="the vocabularies have 6, 7 ids"):
        ch08.speculative_decode(tiny(), tiny(vocab_size=7), [1], 4)
    with pytest.raises(ValueError, match="the prompt holds the id 9"):
        ch08.speculative_decode(tiny(), tiny(), [9], 4)
    with pytest.raises(ValueError, match="temperature is -1"):
        ch08.speculative_decode(tiny(), tiny(), [1], 4, temperature=-1)


# ------------------------------------------------------------- forms

def written(pattern, seed, n=200):
    """A text under a constraint, by a choice that is nearly uniform over all ids."""
    form = ch08.Constraint(pattern, TOKENIZER, ch08.sampler(1.0, seed=seed))
    g, ids = torch.Generator().manual_seed(seed), []
    while len(ids) < n and ids[-1:] != [END]:
        ids.append(form(torch.randn(TOKENIZER.n_vocab, generator=g)))
    return TOKENIZER.decode([i for i in ids if i != END]), ids


SCHEMAS = [{"enum": ["yes", "no", 3, None, {"a": [1]}]}, {"type": "integer"}, {"type": "boolean"}, {"type": "null"},
           {"type": "string", "maxLength": 5}, {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
           {"type": "array", "items": {"type": "boolean"}, "maxItems": 1},
           {"type": "array", "items": {"type": "null"}, "maxItems": 0},
           {"type": "object", "properties": {}}, {"type": "object"},
           {"type": "object", "properties": {"a \"b\" ü": {"type": "boolean"},
                                             "in": {"type": "object", "properties": {"n": {"type": "null"}}}}}]


def valid(value, schema) -> bool:
    """A second reading of the schema, independent of patterns."""
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema["type"]
    if kind == "object":
        properties = schema.get("properties", {})
        return list(value) == list(properties) and all(valid(v, properties[k]) for k, v in value.items())
    if kind == "array":
        fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 8)
        return fits and all(valid(v, schema["items"]) for v in value)
    if kind == "string":
        return isinstance(value, str) and len(value) <= schema.get("maxLength", 40)
    return value is None if kind == "null" else type(value) is {"integer": int, "boolean": bool}[kind]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_what_is_written_fits_the_schema(schema):
    for seed in range(3):
        text, ids = written(ch08.json_pattern(schema), seed)
        assert ids[-1] == END and valid(json.loads(text), schema), text


def test_a_choice_list_allows_its_texts_and_no_others():
    texts = {written("yes|no|yesterday|naïve", seed)[0] for seed in range(60)}
    assert texts <= {"yes", "no", "yesterday", "naïve"} and len(texts) >= 3


def test_the_end_token_fits_only_where_the_text_is_whole():
    form = ch08.Constraint("a{3}", TOKENIZER)
    logits = torch.zeros(TOKENIZER.n_vocab)
    logits[END] = 9
    ids = []
    while ids[-1:] != [END]:
        ids.append(form(logits))
    assert TOKENIZER.decode(ids[:-1]) == "aaa"
    broken = ch08.Constraint("a", TOKENIZER)
    broken.text = b"b"
    with pytest.raises(ValueError, match="nothing can follow b'b'"):
        broken(logits)


def test_probabilities_are_divided_among_what_fits():
    logits = torch.zeros(TOKENIZER.n_vocab)
    yes, no = (TOKENIZER.encode_ordinary(word)[0] for word in ("y", "n"))
    logits[yes], logits[no] = 2.0, 1.0
    seen = []
    ch08.Constraint("y|n", TOKENIZER, lambda masked: seen.append(masked.softmax(dim=-1)) or yes)(logits)
    assert seen[0][yes].item() == pytest.approx(math.exp(2) / (math.exp(2) + math.exp(1)), abs=1e-6)
    assert seen[0].count_nonzero() == 2


def test_special_tokens_are_no_text():
    form = ch08.Constraint(r"<\|user\|>x?", TOKENIZER)
    special = TOKENIZER.encode("<|user|>", allowed_special="all")[0]
    assert special not in form.allowed() and form.allowed()


@pytest.mark.parametrize(("schema", "message"), [
    ({"type": "number"}, "has the type 'number'"), ({}, "has the type None"), ({"enum": []}, "has the type None"),
    ({"type": "array"}, "has the type None"), ({"type": "array", "items": {"type": "date"}}, "has the type 'date'"),
    ({"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 2}, "minItems 3 and maxItems 2")])
def test_schemas_that_cant_be_written_are_refused(schema, message):
    with pytest.raises(ValueError, match=message):
        ch08.json_pattern(schema)


def test_patterns_match_what_json_writes():
    pattern = ch08.json_pattern(SCHEMAS[5])
    for value in ([1, 2], [0, -5, 999_999_999]):
        assert regex.fullmatch(pattern, json.dumps(value, separators=(",", ":")))
    for value in ([], [1], [1, 2, 3, 4], [1.5, 2]):
        assert not regex.fullmatch(pattern, json.dumps(value, separators=(",", ":")))
