"""GPT-2's released weights through `load_pretrained`: from a small hub on this machine, whole, interrupted, cut short, damaged.

The hub speaks as much of the Hugging Face hub's HTTP as `huggingface_hub` asks for: which commit, which files, and each file with
its fingerprint, in ranges if wanted. The models on it are random, written by `transformers` itself.
"""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import ROOT, chapter

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow
COMMIT = "0123456789abcdef0123456789abcdef01234567"
IDS = torch.tensor([[15496, 995, 11, 314, 716, 257, 50256, 0]])             # (1, T)


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves `folders`: {"gpt2": Path, ...}; `trouble` says what goes wrong with a repository's weights."""

    folders: dict[str, Path] = {}
    trouble: dict[str, str] = {}
    ranges: list[str] = []                                                   # the Range headers that came

    def do_HEAD(self):
        self.do_GET(with_body=False)

    def do_GET(self, with_body: bool = True):
        parts = [*self.path.split("?")[0].strip("/").split("/"), "", "", "", "", ""]
        if parts[:2] == ["api", "models"] and parts[4] == "revision":
            return self.answer({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": []}, with_body)
        if parts[:2] == ["api", "models"] and parts[4] == "tree":
            return self.answer([self.entry(path) for path in sorted(self.folders[parts[3]].iterdir())], with_body)
        if parts[2] == "resolve":
            return self.file(parts[1], self.folders[parts[1]] / parts[4], with_body)
        return self.answer({"error": "not here"}, with_body, 404)

    @staticmethod
    def entry(path: Path) -> dict:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": digest[:40],
                "lfs": {"oid": digest, "size": path.stat().st_size, "pointerSize": 130}}

    def answer(self, content, with_body: bool, status: int = 200):
        data = json.dumps(content).encode()
        self.reply(status, {"Content-Type": "application/json", "Content-Length": len(data)}, data if with_body else b"")

    def reply(self, status: int, headers: dict, data: bytes):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def file(self, name: str, path: Path, with_body: bool):
        data, trouble = path.read_bytes(), self.trouble.get(name) if path.suffix == ".safetensors" else None
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not with_body:
            return self.reply(200, headers | {"Content-Length": len(data)}, b"")
        if trouble == "cut short":
            data = data[:-1_000]
        if trouble == "a wrong byte":
            data = data[:-1] + bytes([data[-1] ^ 1])
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if asked:
            self.ranges.append(asked)
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if trouble == "interrupted" and not asked:                           # promises all, sends half, hangs up
            self.close_connection = True
            return self.reply(200, headers | {"Content-Length": len(body)}, body[:len(body) // 2])
        return self.reply(206 if asked else 200, headers | {"Content-Length": len(body)}, body)

    def log_message(self, *arguments):
        pass


CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import course
course.setup("ch05/01_main-chapter-code")
import torch
from safetensors.torch import save_file
from ch05 import load_pretrained
for name in sys.argv[3:]:
    try:
        model, tokenizer = load_pretrained(name)
        with torch.no_grad():
            save_file({"logits": model(torch.tensor(json.loads(sys.argv[2])))}, f"{name}.logits")
        print(json.dumps([name, type(tokenizer).__name__, tokenizer.n_vocab]))
    except ValueError as error:
        print(json.dumps([name, "ValueError", str(error)]))
"""


def load(folder: Path, *names: str, **environment: str) -> dict[str, list]:
    """Let another process load these models; {name: [type of the tokenizer, its size]} or {name: ["ValueError", message]}."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))} | environment
    env |= {"HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", CHILD, str(ROOT), json.dumps(IDS.tolist()), *names], cwd=folder, env=env,
                          capture_output=True, encoding="utf-8", timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return {line[0]: line[1:] for line in map(json.loads, done.stdout.splitlines())}


def reference(seed: int, n_channels: int = 16):
    """A small random GPT-2 with the real vocabulary."""
    torch.manual_seed(seed)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=n_channels, n_head=2, n_layer=2, n_positions=64)).eval()


def release(model, folder: Path, with_prefix: bool) -> None:
    """Save as `transformers` does; without the prefix and with the stray masks, as OpenAI's weights lie on the hub."""
    model.save_pretrained(folder)
    if not with_prefix:
        model.transformer.save_pretrained(folder)
        model.config.save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        assert "wte.weight" in tensors
        tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64).tril() for i in range(2)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """What one process got from the hub: its folder, the models on the hub, and what it said about each."""
    folder = tmp_path_factory.mktemp("hub")
    models = {name: reference(seed) for seed, name in enumerate(("gpt2-medium", "gpt2-large", "gpt2-xl"))}
    models["gpt2"] = reference(3, n_channels=128)                            # 26 MB: the hub's client counts in 10 MB
    for name, model in models.items():
        release(model, folder / "served" / name, with_prefix=name == "gpt2-medium")
    Hub.folders = {name: folder / "served" / name for name in models}
    Hub.trouble = {"gpt2": "interrupted", "gpt2-large": "cut short", "gpt2-xl": "a wrong byte"}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        said = load(folder, *models, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
    return folder, models, said


def logits(folder: Path, name: str) -> torch.Tensor:
    return load_file(folder / f"{name}.logits")["logits"]


def assert_same_logits(folder: Path, models: dict, name: str) -> None:
    with torch.no_grad():
        torch.testing.assert_close(logits(folder, name), models[name](IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium"])
def test_a_download_has_the_logits_of_transformers_and_tiktokens_tokenizer(hub, name):
    folder, models, said = hub
    assert said[name] == ["Encoding", 50_257], said[name]
    assert_same_logits(folder, models, name)


def test_a_broken_connection_is_taken_up_where_it_broke(hub):
    assert Hub.ranges == [f"bytes={10 * 2**20}-"]
    assert hub[2]["gpt2"][0] == "Encoding"


def test_a_file_cut_short_is_refused(hub):
    kind, message = hub[2]["gpt2-large"]
    assert kind == "ValueError"
    assert message.startswith("could not get gpt2-large (OSError); go online, or set HF_ENDPOINT to a mirror"), message


def test_a_wrong_byte_is_refused(hub):
    kind, message = hub[2]["gpt2-xl"]
    assert kind == "ValueError"
    assert message.startswith("model.safetensors of gpt2-xl is damaged; delete ")


def test_offline_what_is_there_loads_and_what_is_not_is_named(hub):
    folder, models, _ = hub
    (folder / "gpt2.logits").unlink()
    medium, = (folder / "hub").glob("**/models--openai-community--gpt2-medium/snapshots/*/model.safetensors")
    blob = medium.resolve()
    blob.write_bytes(blob.read_bytes()[:-100])                               # a disk that forgets
    said = load(folder, "gpt2", "gpt2-medium", "gpt2-large", HF_HUB_OFFLINE="1")
    assert said["gpt2"] == ["Encoding", 50_257]
    assert_same_logits(folder, models, "gpt2")
    assert said["gpt2-medium"][1].startswith("model.safetensors of gpt2-medium is damaged")
    assert said["gpt2-large"][1].startswith("could not get gpt2-large (")


# ------------------------------------------------- folders: what we save, the library reads, and the other way round

def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer.encode_ordinary(text) if hasattr(tokenizer, "encode_ordinary") else tokenizer(text)["input_ids"]


@pytest.mark.parametrize("which", ["tales", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_reads_what_we_save(tmp_path, which, dtype, tied):
    ch05, ch04 = chapter("ch05"), chapter("ch04")
    tokenizer = ch05.load_tokenizer(ROOT / "models" / "tokenizer" if which == "tales" else "gpt2")
    torch.manual_seed(1)
    model = ch04.GPTModel(ch04.GPTConfig(tokenizer.n_vocab, 64, 16, 2, 2, tie_head=tied)).eval()
    ch05.save_checkpoint(tmp_path / "model", model, tokenizer, dtype=dtype)
    ours, own_tokenizer = ch05.load_pretrained(tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    library_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "Once upon a time, Naïve models weren't\n\n  alone 🙂: 12345 \ttokens."
    assert ids_of(own_tokenizer, text) == ids_of(library_tokenizer, text) == tokenizer.encode_ordinary(text)
    assert library_tokenizer.eos_token_id == own_tokenizer.eot_token == tokenizer.eot_token
    assert (library_tokenizer.chat_template is None) == (which == "gpt2")
    ids = torch.tensor([ids_of(own_tokenizer, text)])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)
        if dtype == torch.float32:
            assert torch.equal(ours(ids), model(ids))


def test_a_folder_that_transformers_saved_loads(tmp_path):
    ch05, model = chapter("ch05"), reference(5)
    release(model, tmp_path / "theirs", with_prefix=True)
    ours, state = ch05.load_checkpoint(tmp_path / "theirs")
    assert state is None
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), model(IDS).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"there is no tokenizer\.json"):
        ch05.load_pretrained(tmp_path / "theirs")


def test_gpt2s_own_tokenizer_files_are_read_beside_its_weights(tmp_path):
    ch05 = chapter("ch05")
    release(reference(6), tmp_path / "gpt2-copy", with_prefix=False)
    ch05.from_tiktoken(ch05.load_tokenizer("gpt2")).save(tmp_path / "gpt2-copy")
    _, tokenizer = ch05.load_pretrained(tmp_path / "gpt2-copy")
    assert tokenizer.n_vocab == 50_257
    assert tokenizer.encode("Hello world") == [15496, 995]


def test_a_tokenizer_that_is_not_the_models_is_refused(tmp_path):
    ch05, ch04 = chapter("ch05"), chapter("ch04")
    model = ch04.GPTModel(ch04.GPTConfig(5_000, 16, 16, 2, 1))
    ch05.save_checkpoint(tmp_path / "model", model, ch05.load_tokenizer(ROOT / "models" / "tokenizer"))
    with pytest.raises(ValueError, match=r"has 2,048 tokens, the model knows 5,000; put the model's own tokenizer there"):
        ch05.load_pretrained(tmp_path / "model")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no model 'gpt3' here; name one of tales-small, .* gpt2, .*, or a folder"):
        chapter("ch05").load_pretrained("gpt3")


def test_only_gpt2s_encoding_can_be_taken_over():
    ch05 = chapter("ch05")
    tiny = ch05.BytePairTokenizer([], ["<|endoftext|>"]).to_tiktoken()
    with pytest.raises(ValueError, match="the encoding is 'from-bytes-to-chat'; only tiktoken's 'gpt2' can be taken over"):
        ch05.from_tiktoken(tiny)
