"""Chapter 6's definitions: rows and batches, the classifier's invariances, training, thresholds, the saved folder."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import chapter

ch04, ch05, ch06 = chapter("ch04"), chapter("ch05"), chapter("ch06")
TOKENIZER = ch05.load_tokenizer(ch05.bundled_folder("tales-small"))
END = TOKENIZER.eot_token
TEXTS = ["See you at eight", "WINNER! Claim your £500 prize now at www.prize.example", "", "ok", "Running late, start now " * 3]


def tiny(reads: str = "last", dropout: float = 0.0, seed: int = 0) -> ch06.SequenceClassifier:
    """A classifier of one narrow block, its weights large enough that its inputs matter."""
    torch.manual_seed(seed)
    classifier = ch06.SequenceClassifier(ch04.GPTModel(ch04.GPTConfig(2048, 64, 16, 2, 2, 0.0)), 2, reads, dropout)
    with torch.no_grad():
        for weight in classifier.parameters():
            weight.mul_(4)
    return classifier.eval()


def filter_of(reads: str = "last", **settings) -> ch06.TextClassifier:
    return ch06.TextClassifier(tiny(reads), TOKENIZER, max_length=64, **settings)


def toy(n: int, seed: int) -> ch06.MessageDataset:
    """Messages that a small model learns at once: spam says "win"."""
    g = torch.Generator().manual_seed(seed)
    words, texts, labels = ["see", "you", "at", "the", "bus", "late", "home", "soup"], [], []
    for i in range(n):
        text = [words[j] for j in torch.randint(len(words), (4,), generator=g)]
        labels.append("spam" if i % 2 else "ham")
        texts.append(" ".join([*text[:2], *["win"] * (i % 2), *text[2:]]))
    return ch06.MessageDataset(texts, labels, TOKENIZER, max_length=16)


# ---------------------------------------------------------------- rows, labels, batches

def test_rows_stand_between_separators_and_keep_their_beginning():
    rows = ch06.text_rows(["see you", "", "see you at eight"], TOKENIZER, max_length=4)
    assert [row[0] for row in rows] == [row[-1] for row in rows] == [END] * 3
    assert rows[1] == [END, END]
    assert rows[2][1:-1] == TOKENIZER.encode_ordinary("see you at eight")[:2]
    assert max(map(len, rows)) == 4


def test_a_special_token_in_a_message_is_text():
    row, = ch06.text_rows(["a <|endoftext|> b"], TOKENIZER, max_length=64)
    assert row.count(END) == 2


@pytest.mark.parametrize(("texts", "labels", "words"), [
    ([], [], "0 texts and 0 labels"),
    (["a", "b"], ["ham"], "2 texts and 1 labels"),
    (["a", "b"], ["ham", "eggs"], "label 'eggs' is none of ham, spam"),
    (["a", 3.5], ["ham", "spam"], "3.5 is no text but float"),
    (["a", None], ["ham", "spam"], "None is no text but NoneType"),
])
def test_messages_that_cannot_be(texts, labels, words):
    with pytest.raises(ValueError, match=words):
        ch06.MessageDataset(texts, labels, TOKENIZER)


def test_labels_become_their_index():
    data = ch06.MessageDataset(["a", "b", "c"], ["sad", "happy", "sad"], TOKENIZER, ("sad", "happy"))
    assert data.labels.tolist() == [0, 1, 0] and len(data) == 3
    assert data[1] == ([END, *TOKENIZER.encode_ordinary("b"), END], 1)


def test_padding_is_on_the_right_and_the_mask_says_so():
    token_ids, mask = ch06.right_pad([[5, 6, 7], [8]])
    assert token_ids[0].tolist() == [5, 6, 7] and token_ids[1, 0] == 8
    assert mask.tolist() == [[True, True, True], [True, False, False]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(1, 20), st.none() | st.integers(0, 9))
def test_batches_cover_every_row_once(lengths, batch_size, seed):
    rows = [[1] * n for n in lengths]
    g = None if seed is None else torch.Generator().manual_seed(seed)
    batches = ch06.batches_by_length(rows, batch_size, g)
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    assert max(map(len, batches)) <= batch_size and len(batches) >= -(-len(rows) // batch_size)


def test_batches_hold_neighbors_in_length_and_come_in_another_order():
    lengths = torch.randint(2, 100, (512,), generator=torch.Generator().manual_seed(0)).tolist()
    rows, g = [[1] * n for n in lengths], torch.Generator().manual_seed(1)
    first, second = ch06.batches_by_length(rows, 16, g), ch06.batches_by_length(rows, 16, g)
    assert first != second
    def padded(batches):
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    by_chance = torch.randperm(512, generator=g).split(16)
    assert padded(first) / sum(lengths) < 1.2 < padded([b.tolist() for b in by_chance]) / sum(lengths)


# ---------------------------------------------------------------- the classifier

@pytest.mark.parametrize("reads", ["last", "first", "mean"])
def test_logits_are_the_same_alone_in_company_and_with_more_padding(reads):
    classifier, rows = tiny(reads), ch06.text_rows(TEXTS, TOKENIZER, 64)
    with torch.no_grad():
        together = classifier(*ch06.right_pad(rows))
        for row, logits in zip(rows, together, strict=True):
            torch.testing.assert_close(classifier(*ch06.right_pad([row]))[0], logits, atol=1e-5, rtol=1e-5)
        token_ids, mask = ch06.right_pad(rows)
        wider = F.pad(token_ids, (0, 5), value=7), F.pad(mask, (0, 5), value=False)
        torch.testing.assert_close(classifier(*wider), together, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(classifier(token_ids.masked_fill(~mask, 9), mask), together, atol=1e-5, rtol=1e-5)
    spread = (together - together.mean(0)).abs().max()
    assert spread < 1e-5 if reads == "first" else spread > 0.05               # the first token is the separator in all of them


def test_each_way_of_reading_takes_its_vector():
    hidden = torch.arange(24.0).view(2, 4, 3)                                 # (B, T, C)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    torch.testing.assert_close(tiny("last").read(hidden, mask), torch.stack((hidden[0, 2], hidden[1, 0])))
    torch.testing.assert_close(tiny("first").read(hidden, mask), hidden[:, 0])
    torch.testing.assert_close(tiny("mean").read(hidden, mask), torch.stack((hidden[0, :3].mean(0), hidden[1, 0])))


def test_an_unknown_way_of_reading():
    with pytest.raises(ValueError, match="reads is 'middle'; choose 'last', 'first' or 'mean'"):
        tiny("middle")


def test_predictions_are_in_order_without_dropout_and_leave_the_mode_alone():
    classifier, rows = tiny(dropout=0.5), ch06.text_rows(TEXTS * 3, TOKENIZER, 64)
    classifier.train()
    a, b = (ch06.predict_logits(classifier, rows, batch_size=size) for size in (4, 100))
    assert classifier.training and not a.requires_grad
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    classifier.eval()
    with torch.no_grad():
        torch.testing.assert_close(classifier(*ch06.right_pad([rows[1]]))[0], a[1], atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- training

def test_class_weights_balance():
    labels = torch.tensor([0] * 6 + [1] * 2)
    weights = ch06.class_weights(labels)
    assert weights.tolist() == pytest.approx([8 / 12, 2.0])
    assert (weights[0] * 6).item() == pytest.approx((weights[1] * 2).item())
    with pytest.raises(ValueError, match="class 1 has no example among 3; add some"):
        ch06.class_weights(torch.zeros(3, dtype=torch.long))


def trained(seed: int = 0, **more) -> tuple[ch06.SequenceClassifier, list[dict]]:
    classifier = tiny("mean", dropout=0.1, seed=1)
    more = {"n_epochs": 6, "learning_rate": 5e-3, "batch_size": 8, "seed": seed} | more
    history = ch06.train_classifier(classifier, toy(128, 1), toy(40, 2), **more)
    return classifier, history


def test_training_lowers_the_loss_and_generalizes():
    classifier, history = trained()
    assert history[-1]["train"] < history[0]["train"] / 2
    test = toy(60, 3)
    assert (ch06.predict_logits(classifier, test.rows).argmax(1) == test.labels).float().mean() > 0.9


def test_the_best_epoch_is_kept():
    held_out = toy(40, 2)
    held_out.labels = 1 - held_out.labels  # the better it learns, the worse it is here
    classifier = tiny("mean", seed=1)
    history = ch06.train_classifier(classifier, toy(128, 1), held_out, n_epochs=5, learning_rate=5e-3, batch_size=8, patience=5)
    loss = F.cross_entropy(ch06.predict_logits(classifier, held_out.rows), held_out.labels).item()
    losses = [row["validation"] for row in history]
    assert len(losses) == 5 and min(losses) < losses[-1] - 0.5
    assert loss == pytest.approx(min(losses), rel=1e-4)


def test_training_stops_early():
    _, history = trained(learning_rate=0.3, n_epochs=30, patience=2)          # nothing becomes better for long
    losses = [row["validation"] for row in history]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 30


def test_training_is_repeatable_by_its_seed():
    (a, history_a), (b, history_b), (c, _) = trained(seed=3), trained(seed=3), trained(seed=4)
    assert history_a == history_b
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.head.weight, c.head.weight)


def test_frozen_weights_stay():
    classifier = tiny("mean", seed=1)
    classifier.gpt.requires_grad_(False)
    before = copy.deepcopy(classifier.state_dict())
    ch06.train_classifier(classifier, toy(32, 1), toy(16, 2), n_epochs=2, learning_rate=1e-2)
    moved = {name for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"head.weight", "head.bias"}


def test_a_loss_that_is_no_number():
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        trained(learning_rate=1e30)


# ---------------------------------------------------------------- texts in, probabilities out

READER = filter_of("mean")


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(), max_size=300))
def test_any_text_gets_a_probability(text):
    label, p = ch06.classify(text, READER)
    assert 0 <= p <= 1 and label in ("ham", "spam")


@pytest.mark.parametrize("text", ["half \ud83d", "\ude00 the other half", "\ufeff", "\0", "\ud83d\ude00", "a" * 20_000])
def test_strange_texts_get_one_as_well(text):
    assert 0 <= ch06.classify(text, READER)[1] <= 1


def test_two_halves_make_a_character():
    assert ch06.classify("\ud83d\ude00", READER) == ch06.classify("\U0001f600", READER)


def test_the_threshold_belongs_to_the_second_class():
    p = READER.probabilities(["hello"]).item()
    for threshold, label in ((p, "spam"), (p + 1e-3, "ham"), (0.0, "spam")):
        assert ch06.classify("hello", filter_of("mean", threshold=threshold))[0] == label


def test_temperature_divides_the_logits():
    logits = ch06.predict_logits(READER.classifier, ch06.text_rows(["hello"], TOKENIZER, 64))[0]
    p = filter_of("mean", temperature=3.0).probabilities(["hello"]).item()
    assert p == pytest.approx(torch.sigmoid((logits[1] - logits[0]) / 3).item(), abs=1e-6)


def test_a_long_text_is_as_suspicious_as_its_worst_piece():
    text = "see you at the bus " * 80
    ids, size = TOKENIZER.encode_ordinary(text), READER.max_length - 2
    rows = [[END, *ids[i:i + size], END] for i in range(0, len(ids), size)]
    assert len(rows) > 3
    pieces = ch06.predict_logits(READER.classifier, rows).softmax(1)[:, 1]    # (N,)
    assert READER.probabilities([text]).item() == pytest.approx(pieces.max().item(), abs=1e-5)


def test_no_texts_and_no_text():
    assert READER.probabilities([]).shape == (0,)
    with pytest.raises(ValueError, match="text 1 is None, of type NoneType; pass a string"):
        READER.probabilities(["a", None])


def test_a_stream_is_answered_chunk_by_chunk():
    taken = []
    def endless():
        while True:
            taken.append(TEXTS[len(taken) % len(TEXTS)])
            yield taken[-1]
    stream = ch06.classify_stream(endless(), READER, chunk=7)
    answers = [next(stream) for _ in range(10)]
    assert len(taken) == 14
    for text, (label, p) in zip(taken, answers, strict=False):
        assert (label, pytest.approx(p, abs=1e-5)) == ch06.classify(text, READER)
    assert list(ch06.classify_stream([], READER)) == []


# ---------------------------------------------------------------- the folder

def test_what_is_loaded_is_what_was_saved(tmp_path):
    reader = ch06.TextClassifier(tiny("first"), TOKENIZER, ("sad", "happy"), 1.7, 0.9, 32)
    reader.classifier.reads = "last"
    ch06.save_classifier(tmp_path / "filter", reader)
    loaded = ch06.load_classifier(tmp_path / "filter")
    assert torch.equal(loaded.probabilities(TEXTS), reader.probabilities(TEXTS))
    assert (loaded.labels, loaded.temperature, loaded.threshold, loaded.max_length) == (("sad", "happy"), 1.7, 0.9, 32)
    assert loaded.classifier.reads == "last" and not loaded.classifier.training
    assert [p.name for p in tmp_path.iterdir()] == ["filter"]
    ch05.load_pretrained(tmp_path / "filter")                                 # chapter 5 reads the model in it


def test_lora_is_merged_on_the_way_and_the_filter_in_memory_keeps_it(tmp_path):
    reader = filter_of("mean")
    ch06.add_lora(reader.classifier.gpt, rank=2)
    g = torch.Generator().manual_seed(0)
    for name, weight in reader.classifier.named_parameters():
        if name.endswith(".b"):
            weight.data = torch.randn(weight.shape, generator=g)
    ch06.save_classifier(tmp_path / "filter", reader)
    torch.testing.assert_close(ch06.load_classifier(tmp_path / "filter").probabilities(TEXTS), reader.probabilities(TEXTS),
                               atol=1e-4, rtol=1e-4)
    assert any(isinstance(module, ch06.LoRALinear) for module in reader.classifier.modules())
    assert not torch.allclose(reader.probabilities(TEXTS), filter_of("mean").probabilities(TEXTS), atol=1e-3)


@pytest.fixture
def folder(tmp_path):
    ch06.save_classifier(tmp_path / "filter", READER)
    return tmp_path / "filter"


def test_saving_over_an_older_filter(folder):
    ch06.save_classifier(folder, filter_of("last", threshold=0.25))
    assert ch06.load_classifier(folder).threshold == 0.25


@pytest.mark.parametrize("name", ["classifier.json", "classifier.safetensors", "model.safetensors", "config.json",
                                  "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name):
        ch06.load_classifier(folder)


@pytest.mark.parametrize("name", ["classifier.safetensors", "model.safetensors"])
@pytest.mark.parametrize("damage", ["a bit", "its end", "all of it"])
def test_a_damaged_file_is_named(folder, name, damage):
    file = folder / name
    sound = file.read_bytes()
    file.write_bytes({"a bit": sound[:-1] + bytes([sound[-1] ^ 1]), "its end": sound[:-8], "all of it": b""}[damage])
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        ch06.load_classifier(folder)


@pytest.mark.parametrize(("change", "words"), [
    ({"threshold": 90}, "threshold is 90; it is a probability, so choose 0 to 1"),
    ({"threshold": "high"}, "can't be used"),
    ({"temperature": 0}, "temperature is 0; it has to be above 0"),
    ({"labels": ["ham"]}, "labels are .'ham'.; there have to be two different ones"),
    ({"labels": ["ham", "ham"]}, "there have to be two different ones"),
    ({"labels": ["ham", 1]}, "both text"),
    ({"max_length": 65}, "max_length is 65; the model reads 3 to 64 tokens"),
    ({"reads": "middle"}, "reads is 'middle'"),
    ({"color": "red"}, "color"),
    (None, "can't be used"),
])
def test_settings_that_cannot_be(folder, change, words):
    file = folder / "classifier.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text("[1]" if change is None else json.dumps(settings | change), encoding="utf-8")
    with pytest.raises(ValueError, match=words) as caught:
        ch06.load_classifier(folder)
    assert str(folder) in str(caught.value)


def test_a_threshold_edited_by_hand_counts(folder):
    file = folder / "classifier.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"threshold": 0.125}), encoding="utf-8")
    assert ch06.load_classifier(folder).threshold == 0.125


def test_a_folder_without_a_filter(tmp_path):
    with pytest.raises(ValueError, match="there is no classifier in .*train and save one first"):
        ch06.load_classifier(tmp_path)


# ---------------------------------------------------------------- other devices

@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_training_and_use_on_an_accelerator():
    device = torch.accelerator.current_accelerator()
    classifier = tiny("mean", seed=1).to(device)
    ch06.train_classifier(classifier, toy(64, 1), toy(20, 2), n_epochs=2, learning_rate=5e-3)
    reader = ch06.TextClassifier(classifier, TOKENIZER, max_length=64)
    on_device = reader.probabilities(TEXTS)
    classifier.cpu()
    torch.testing.assert_close(on_device, reader.probabilities(TEXTS), atol=1e-3, rtol=1e-3)
