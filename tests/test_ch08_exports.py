"""What leaves home: the same logits in onnxruntime, the same tokens in llama.cpp and in transformers."""

import json

import numpy as np
import pytest
import torch

from tests.support import ROOT, chapter

ch05, ch07, ch08 = chapter("ch05"), chapter("ch07"), chapter("ch08")
FOLDER = ROOT / "models" / "tales-sft"
TEXT = "Naïve 🙂 foxes don't say “42”,\n\n   do they?  Once upon a time, there was a kind bear."


@pytest.fixture(scope="module")
def bundled():
    return ch05.load_pretrained(FOLDER)


@pytest.fixture(scope="module")
def untied():
    """A small model with random weights and a head of its own, and a vocabulary rounded up."""
    torch.manual_seed(1)
    tokenizer = ch05.load_tokenizer(ROOT / "models" / "tokenizer")
    config = ch05.GPTConfig(2112, context_length=64, n_channels=32, n_heads=4, n_layers=3, tie_head=False)
    return ch05.GPTModel(config).eval(), tokenizer


def template():
    return json.loads((FOLDER / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]


# ------------------------------------------------------------------------------------------------------------- GGUF


def test_gguf_holds_all_weights_and_settings(untied, tmp_path):
    gguf, (model, tokenizer) = pytest.importorskip("gguf"), untied
    ch08.export_gguf(tmp_path / "m.gguf", model, tokenizer, template())
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert sum(t.size for t in tensors.values()) == sum(p.numel() for p in model.parameters())
    assert np.array_equal(tensors["output.weight"], model.head.weight.detach().numpy())
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["gpt2.block_count"] == 3 and values["gpt2.attention.head_count"] == 4 and values["gpt2.context_length"] == 64
    assert values["tokenizer.ggml.eos_token_id"] == tokenizer.eot_token and values["tokenizer.chat_template"] == template()
    assert len(values["tokenizer.ggml.tokens"]) == len(set(values["tokenizer.ggml.tokens"])) == 2112
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_gguf_needs_known_merges_and_leaves_nothing_half_written(untied, tmp_path, monkeypatch):
    model, tokenizer = untied
    with pytest.raises(ValueError, match="doesn't tell its merges; load the course's own"):
        ch08.export_gguf(tmp_path / "m.gguf", model, tokenizer.to_tiktoken())
    (tmp_path / "m.gguf").write_bytes(b"as it was")
    monkeypatch.setattr(ch08.gguf.GGUFWriter, "write_tensors_to_file", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ch08.export_gguf(tmp_path / "m.gguf", model, tokenizer)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("m.gguf", b"as it was")]


@pytest.fixture(scope="module")
def llama(bundled, tmp_path_factory):
    """A llama.cpp server, in this process, of the bundled model."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp's bindings aren't installed; requirements-dev.txt lists them")
    path = tmp_path_factory.mktemp("gguf") / "tales.gguf"
    ch08.export_gguf(path, *bundled, template())
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = str(path), 512, 1, False
    return xllamacpp.Server(params)


def greedy(bundled, prompt, n):
    model, tokenizer = bundled
    ids = ch05.generate_cached(model, [prompt], n, end_id=tokenizer.eot_token)[0][len(prompt):]
    return tokenizer.decode([i for i in ids if i != tokenizer.eot_token])


def test_llama_cpp_writes_the_same_tokens(llama, bundled):
    _, tokenizer = bundled
    for text in (TEXT, "Once there was a little mouse", "Tim had a red kite. Then"):
        prompt = [tokenizer.eot_token, *tokenizer.encode_ordinary(text)]
        answer = llama.handle_completions({"prompt": prompt, "max_tokens": 60, "temperature": 0})
        assert answer["choices"][0]["text"] == greedy(bundled, prompt, 60)


def test_llama_cpp_reads_text_and_chats_as_we_do(llama, bundled):
    _, tokenizer = bundled
    ids = tokenizer.encode_ordinary(TEXT)
    answer = llama.handle_completions({"prompt": TEXT, "max_tokens": 30, "temperature": 0})
    assert answer["usage"]["prompt_tokens"] == len(ids) and answer["choices"][0]["text"] == greedy(bundled, ids, 30)
    question = "Write a tale about a kind bear and a red kite."
    messages = [{"role": "user", "content": question}]
    answer = llama.handle_chat_completions({"messages": messages, "max_tokens": 60, "temperature": 0})
    expected = greedy(bundled, ch07.format_prompt(question, "", tokenizer), 60)
    assert answer["choices"][0]["message"]["content"].strip() == expected.strip() and len(expected) > 50


# ------------------------------------------------------------------------------------------------------------- ONNX, transformers


@pytest.mark.parametrize("which", ["bundled", "untied"])
def test_onnxruntime_gives_the_same_logits(which, request, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, _ = request.getfixturevalue(which)
    ch08.export_onnx(tmp_path / "m.onnx", model)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for shape in ((1, 1), (1, 7), (3, 40), (2, model.config.context_length)):
        ids = torch.randint(0, 2048, shape, generator=torch.Generator().manual_seed(sum(shape)))
        theirs = torch.from_numpy(session.run(None, {"token_ids": ids.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(theirs, model(ids), atol=2e-4, rtol=0)


def test_transformers_writes_the_same_tokens(bundled):
    transformers = pytest.importorskip("transformers")
    _, tokenizer = bundled
    theirs = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    reader = transformers.AutoTokenizer.from_pretrained(FOLDER)
    prompt = ch07.format_prompt("Write a tale about a kind bear.", "", tokenizer)
    said = reader.apply_chat_template([{"role": "user", "content": "Write a tale about a kind bear."}], add_generation_prompt=True,
                                      return_dict=True, return_tensors="pt")
    assert said["input_ids"][0].tolist() == prompt
    with torch.no_grad():
        ids = theirs.generate(**said, max_new_tokens=60, do_sample=False, pad_token_id=tokenizer.eot_token)[0].tolist()
    text = tokenizer.decode([i for i in ids[len(prompt):] if i != tokenizer.eot_token])
    assert text == greedy(bundled, prompt, 60)
