"""Chapter 8's server: asked by programs, by the official client, by many at once, and by those who mean it ill."""

import asyncio
import contextlib
import gc
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import ROOT, chapter

SCRIPT = ROOT / "ch08" / "01_main-chapter-code" / "gpt_serve.py"
CHAT, COMPLETE, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "Write a tale about a kind bear."}]


@pytest.fixture(scope="module")
def serve():
    return chapter("ch08", "gpt_serve")


@pytest.fixture(scope="module")
def small(serve, tmp_path_factory):
    """A folder with a model of one layer and random weights, which rarely ends a text; context 128."""
    ch05 = chapter("ch05")
    torch.manual_seed(8)
    tokenizer = ch05.load_tokenizer(ROOT / "models" / "tokenizer")
    model = ch05.GPTModel(ch05.GPTConfig(tokenizer.n_vocab, context_length=128, n_channels=32, n_heads=2, n_layers=1))
    for weight in (w for w in model.parameters() if w.dim() == 2):            # large, so that its texts wander
        torch.nn.init.normal_(weight, std=0.15)
    torch.nn.init.normal_(model.blocks[0].feed_forward.contract.weight, std=1)
    folder = tmp_path_factory.mktemp("a folder with spaces") / "small"
    ch05.save_checkpoint(folder, model.eval(), tokenizer)
    return folder


class Running:
    """gpt_serve.py as a reader starts it, on a free port."""

    def __init__(self, *arguments):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
        command = [sys.executable, str(SCRIPT), "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, encoding="utf-8")
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/ ", line)
        assert found, line + self.process.stdout.read()
        self.port, self.address = int(found[1]), found[0].strip()

    def ask(self, path, fields=None, body=None, method=None, timeout=120, **headers):
        """Status, headers, and answer (JSON parsed)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            body = json.dumps(fields) if fields is not None else body
            headers = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, answer.headers, json.loads(data) if "json" in answer.headers["Content-Type"] else data.decode()
        finally:
            connection.close()

    def open_stream(self, **fields):
        """A socket on which a stream has begun."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", COMPLETE, json.dumps({"stream": True, "temperature": 0} | fields),
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200
        return connection, answer

    def texts(self):
        """How many texts are in it."""
        return self.ask("/health")[2]["texts"]

    def empties(self, seconds=30):
        """Whether no text is left in it, soon."""
        end = time.monotonic() + seconds
        while self.texts() and time.monotonic() < end:
            time.sleep(0.05)
        return self.texts() == 0

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.stdout.close()


@pytest.fixture(scope="module")
def server(small):
    """A server of the small model: four texts at once, sixty more may wait."""
    running = Running("--model", small, "--slots", 4, "--waiting", 60)
    yield running
    running.stop()


def events(text):
    """What the events of a stream hold; the last must be [DONE]."""
    *data, done = re.findall(r"^data: (.*)$", text, re.M)
    assert done == "[DONE]"
    return [json.loads(one) for one in data]


# ------------------------------------------------------------------------------------------------------------- what is asked


def test_a_conversation_is_read_as_chapter_7_trains_it(serve):
    script, ch05 = chapter("ch07", "gpt_human_feedback"), chapter("ch05")
    tokenizer = ch05.load_tokenizer(ROOT / "models" / "tokenizer")
    said = [("user", "Who is it about?"), ("assistant", "The hero is Tiki."), ("user", "Where? <|endoftext|>")]
    ids = serve.chat_ids([serve.Message(role=role, content=text) for role, text in said], tokenizer)
    turns = [{"instruction": said[i][1], "input": "", "output": output} for i, output in ((0, said[1][1]), (2, ""))]
    trained, _ = script.conversation_row(turns, tokenizer)
    assert ids == trained and ids.count(tokenizer.eot_token) == 1             # the one typed in is no token
    system, hi = serve.Message(role="system", content="Be kind."), serve.Message(role="user", content="Hi")
    assert serve.chat_ids([system, hi], tokenizer) == serve.format_prompt("Be kind.\n\nHi", "", tokenizer)
    parts = serve.Message(role="user", content=[{"type": "text", "text": "H"}, {"type": "text", "text": "i"}])
    assert serve.chat_ids([parts], tokenizer) == serve.format_prompt("Hi", "", tokenizer)


@pytest.mark.parametrize(("path", "fields", "sentence"), [
    (CHAT, {}, "messages: Field required"), (CHAT, {"messages": []}, "messages: List should have at least 1"),
    (CHAT, {"messages": [{"role": "wizard", "content": "a"}]}, "messages: Input should be 'system'"),
    (CHAT, {"messages": [{"role": "assistant", "content": "a"}]}, "end with what the user says"),
    (CHAT, {"messages": [{"role": "user", "content": " "}]}, "the instruction is empty"),
    (CHAT, {"messages": HELLO, "temperature": 2.5}, "temperature: Input should be less than or equal to 2"),
    (CHAT, {"messages": HELLO, "temperature": math.nan}, "temperature: Input should be a finite number"),
    (CHAT, {"messages": HELLO, "top_p": 0}, "top_p"), (CHAT, {"messages": HELLO, "n": True}, "n: Input should be a valid integer"),
    (CHAT, {"messages": HELLO, "n": 17}, "n: Input should be less than or equal to 16"),
    (CHAT, {"messages": HELLO, "max_tokens": 0}, "max_tokens"), (CHAT, {"messages": HELLO, "stop": ""}, "stop: String should have"),
    (CHAT, {"messages": HELLO, "seed": 2**63}, "seed"), (CHAT, {"messages": HELLO, "top_logprobs": 2}, "needs logprobs to be true"),
    (CHAT, {"messages": HELLO, "logit_bias": {"cat": 1}}, "has the key 'cat'; ids are 0 to 2047"),
    (CHAT, {"messages": HELLO, "logit_bias": {"2048": 1}}, "has the key '2048'"),
    (CHAT, {"messages": HELLO, "tools": [{"type": "function"}]}, "tools isn't built into this server; leave it out"),
    (CHAT, {"messages": HELLO, "response_format": {"type": "json_schema"}}, "give the schema there"),
    (CHAT, {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "number"}}}},
     "this schema can't be used: a schema has the type 'number'"),
    (CHAT, {"messages": [{"role": "user", "content": "word " * 200}]}, "the model's context is 128; shorten it"),
    (COMPLETE, {"prompt": []}, "prompt"), (COMPLETE, {"prompt": [5000]}, "holds the id 5000"),
    (COMPLETE, {"prompt": [[1], []]}, "prompt"),
    (COMPLETE, {"prompt": [1] * 128}, "has 128 tokens, the model's context is 128; shorten it"),
    (COMPLETE, {"prompt": ["a"] * 64, "n": 16}, "this asks for 1024 texts, the server takes 64 at a time"),
    (COMPLETE, {"prompt": "a", "suffix": "b"}, "suffix isn't built"), (COMPLETE, {"prompt": "\ud800"}, "lone surrogate"),
    (EMBED, {"input": []}, "input"), (EMBED, {"input": [-1]}, "the input holds the id -1"),
    (EMBED, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
])
def test_what_cannot_be_answered_gets_a_sentence(server, path, fields, sentence):
    status, _, answer = server.ask(path, fields)
    assert status == 400 and sentence in answer["error"]["message"] and answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"nonsense", b"\xff", b"[]", b"7", b"[" * 50_000, b'{"prompt": "a"'])
def test_what_is_not_json_is_refused(server, body):
    status, _, answer = server.ask(COMPLETE, body=body)
    assert status == 400 and re.search("the body isn't a JSON object|parsing the body", answer["error"]["message"])


def test_a_body_that_is_not_declared_as_json_is_refused(server):
    """Any page could let a browser send it, without being asked first."""
    status, _, answer = server.ask(COMPLETE, body=b'{"prompt": "a"}', Content_Type="text/plain")
    assert status == 400 and "Content-Type: application/json" in answer["error"]["message"]


def test_other_addresses_and_other_hosts(server):
    assert server.ask("/nothing")[0] == 404 and server.ask("/v1/models/other")[0] == 404
    status, headers, answer = server.ask(CHAT, method="PUT", body="{}")
    assert status == 405 and headers["Allow"] == "POST" and "PUT /v1/chat/completions" in answer["error"]["message"]
    status, _, answer = server.ask("/", Host="evil.example:80")               # a name that somebody let lead to this machine
    assert status == 403 and "not to 'evil.example:80'" in answer["error"]["message"]
    assert server.ask("/health", Host=f"localhost:{server.port}")[0] == 200


# ------------------------------------------------------------------------------------------------------------- what comes back


def test_greedy_answers_are_the_models_own(server, serve, small):
    model, tokenizer = serve.load_pretrained(small)
    rows = [[1, 2, 3], [7], list(range(20, 60))]
    engine = serve.Engine(model, 1)
    requests = [engine.submit(serve.Request(row, 30, tokenizer.eot_token)) for row in rows]
    while engine.waiting or engine.active:
        engine.step()
    expected = [tokenizer.decode(r.new_ids) for r in requests]
    status, _, answer = server.ask(COMPLETE, {"prompt": rows, "temperature": 0, "max_tokens": 30})
    assert status == 200 and [choice["text"] for choice in answer["choices"]] == expected
    assert answer["usage"] == {"prompt_tokens": 44, "completion_tokens": 90, "total_tokens": 134}
    _, _, streamed = server.ask(COMPLETE, {"prompt": rows, "temperature": 0, "max_tokens": 30, "stream": True,
                                           "stream_options": {"include_usage": True}})
    *parts, last = events(streamed)
    for i, text in enumerate(expected):
        assert "".join(p["choices"][0]["text"] for p in parts if p["choices"][0]["index"] == i) == text
    assert last["choices"] == [] and last["usage"] == answer["usage"]


def test_a_seed_repeats_and_n_differ(server):
    fields = {"prompt": "Once", "max_tokens": 12, "n": 3, "seed": 5, "temperature": 1}
    first, again = (server.ask(COMPLETE, fields)[2]["choices"] for _ in range(2))
    assert first == again and len({choice["text"] for choice in first}) == 3
    assert server.ask(COMPLETE, fields | {"seed": 6, "n": 2})[2]["choices"][0]["text"] == first[1]["text"]
    assert server.ask(COMPLETE, fields | {"seed": 2**63 - 1})[0] == 200


def test_stop_strings_and_limits(server):
    whole = server.ask(COMPLETE, {"prompt": [1, 2, 3], "temperature": 0, "max_tokens": 30})[2]["choices"][0]
    assert whole["finish_reason"] == "length"
    stop = whole["text"][5:8]
    for more in ({}, {"stream": True}):
        answer = server.ask(COMPLETE, {"prompt": [1, 2, 3], "temperature": 0, "max_tokens": 30, "stop": ["never", stop]} | more)[2]
        choices = [p["choices"][0] for p in events(answer)] if more else answer["choices"]
        assert "".join(c["text"] for c in choices) == whole["text"][:whole["text"].index(stop)]
        assert choices[-1]["finish_reason"] == "stop"
    assert server.ask(COMPLETE, {"prompt": [1, 2, 3], "max_tokens": 500})[2]["usage"]["total_tokens"] <= 128
    assert server.ask(COMPLETE, {"prompt": [1, 2, 3]})[2]["usage"]["completion_tokens"] <= 16
    assert server.empties()


def test_log_probabilities_are_the_models(server, serve, small):
    model, tokenizer = serve.load_pretrained(small)
    answer = server.ask(COMPLETE, {"prompt": [1, 2, 3], "temperature": 0, "max_tokens": 5, "logprobs": 2})[2]["choices"][0]
    noted, ids = answer["logprobs"], [1, 2, 3]
    for token, log_prob, best in zip(noted["tokens"], noted["token_logprobs"], noted["top_logprobs"], strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([ids]))[0, -1].log_softmax(dim=-1)
        ids.append(int(expected.argmax()))
        assert token == tokenizer.decode_bytes([ids[-1]]).decode("utf-8", "replace")
        assert log_prob == pytest.approx(expected.max().item(), abs=1e-4) and len(best) <= 2 and log_prob == max(best.values())
    assert noted["text_offset"][0] == 0 and len(noted["tokens"]) == 5
    asked = {"messages": HELLO, "temperature": 0, "max_tokens": 3, "logprobs": True, "top_logprobs": 4}
    for entry in server.ask(CHAT, asked)[2]["choices"][0]["logprobs"]["content"]:
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"] and len(entry["top_logprobs"]) == 4
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]


def test_a_bias_forbids_and_a_schema_forces(server):
    fields = {"prompt": [1, 2, 3], "temperature": 0, "max_tokens": 1}
    best = server.ask(COMPLETE, fields)[2]["choices"][0]["text"]
    tokenizer = chapter("ch05").load_tokenizer(ROOT / "models" / "tokenizer")
    bias = {str(tokenizer.encode_ordinary(best)[0]): -100}
    assert server.ask(COMPLETE, fields | {"logit_bias": bias})[2]["choices"][0]["text"] != best
    schema = {"type": "object", "properties": {"hero": {"enum": ["Ben", "Mia"]}, "old": {"type": "boolean"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = server.ask(CHAT, {"messages": HELLO, "response_format": wanted, "seed": 1, "n": 4})[2]
    for choice in answer["choices"]:
        said = json.loads(choice["message"]["content"])
        assert said["hero"] in ("Ben", "Mia") and said["old"] in (True, False)


def test_embeddings_are_the_functions(server, serve, small):
    model, tokenizer = serve.load_pretrained(small)
    rows = [[tokenizer.eot_token, *tokenizer.encode_ordinary(text)] for text in ("a cat", "a dog and a cat")]
    answer = server.ask(EMBED, {"input": ["a cat", "a dog and a cat"]})[2]
    torch.testing.assert_close(torch.tensor([d["embedding"] for d in answer["data"]]), serve.embed_texts(model, rows))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, rows))
    alone = server.ask(EMBED, {"input": rows[0]})[2]["data"][0]["embedding"]
    assert alone == pytest.approx(answer["data"][0]["embedding"], abs=1e-6)


def test_health_and_metrics_tell_what_happened(server):
    def figure(name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", server.ask("/metrics")[2], re.M)
        return float(found[1]) if found else 0.0
    names = ('chat_tokens_total{kind="completion"}', f'chat_requests_total{{path="{COMPLETE}",status="200"}}',
             'chat_requests_total{path="other",status="404"}', "chat_first_token_seconds_count")
    before = [figure(name) for name in names]
    server.ask(COMPLETE, {"prompt": [1, 2, 3], "temperature": 0, "max_tokens": 7})
    server.ask("/strange/address")
    assert [figure(name) - was for name, was in zip(names, before, strict=True)] == [7, 1, 1, 1]
    assert server.ask("/health")[2] == {"status": "ok", "model": "small", "slots": 4, "texts": 0}


# ------------------------------------------------------------------------------------------------------------- many, and strange


def solo(serve, model, tokenizer, row, n):
    """A greedy continuation, and the smallest lead of its best token over the second."""
    engine, leads = serve.Engine(model, 1), []

    def choose(logits):
        best = logits.topk(2).values
        leads.append((best[0] - best[1]).item())
        return int(logits.argmax())
    request = engine.submit(serve.Request(row, n, tokenizer.eot_token, choose))
    while engine.waiting or engine.active:
        engine.step()
    return request.new_ids, leads


def same_up_to_ties(ids, other, leads):
    """Whether two greedy texts are the same, or part where either choice was right."""
    parted = next((i for i, (a, b) in enumerate(zip(ids, other)) if a != b), None)
    return ids == other if parted is None else leads[parted] < 1e-4


def test_sixty_four_streams_are_not_mixed_up(serve, small):
    model, tokenizer = serve.load_pretrained(small)
    running, answers = Running("--model", small, "--slots", 64, "--waiting", 0), {}
    g = torch.Generator().manual_seed(64)
    rows = [torch.randint(4, 2000, (int(n),), generator=g).tolist() for n in torch.randint(1, 30, (64,), generator=g)]

    def ask(i):
        answers[i] = running.ask(COMPLETE, {"prompt": rows[i], "temperature": 0, "max_tokens": 40, "logprobs": 0, "stream": True})
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    try:
        for i, row in enumerate(rows):
            ids, leads = solo(serve, model, tokenizer, row, 40)
            status, _, text = answers[i]
            assert status == 200
            parts = [p["choices"][0] for p in events(text)]
            tokens = [token for p in parts for token in p["logprobs"]["tokens"]]
            assert same_up_to_ties([tokenizer.decode_bytes([j]).decode("utf-8", "replace") for j in ids], tokens, leads), i
        assert running.texts() == 0
    finally:
        assert running.stop() == 0 or os.name == "nt"


def test_who_comes_when_all_is_full_waits_or_is_told_to_come_back(serve, small):
    """On the application itself, with a worker that begins only later, so that whoever has come is still there."""
    httpx = pytest.importorskip("httpx")
    service = serve.Service(*serve.load_pretrained(small), "small", 2, 1)
    fields = {"prompt": [1, 2, 3], "max_tokens": 5}

    async def ask():
        service.worker = worker = serve.Worker(lambda: serve.Engine(service.model, 2), asyncio.get_running_loop())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(serve.make_app(service)), base_url="http://127.0.0.1") as client:
            waiting = [asyncio.create_task(client.post(COMPLETE, json=fields)) for _ in range(3)]
            while worker.n_open < 3:
                await asyncio.sleep(0.01)
            refused = await client.post(COMPLETE, json=fields)
            worker.start()
            answers = await asyncio.gather(*waiting)
            again = await client.post(COMPLETE, json=fields)
        worker.commands.put(("leave", None))
        return refused, [answer.status_code for answer in answers], again.status_code
    refused, *statuses = asyncio.run(ask())
    assert refused.status_code == 429 and refused.headers["Retry-After"] == "1" and statuses == [[200] * 3, 200]
    assert "3 texts are being written or wait; come back" in refused.json()["error"]["message"]
    assert refused.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(server, stream):
    def written():
        return float(re.search(r'^chat_tokens_total{kind="completion"} (\S+)$', server.ask("/metrics")[2], re.M)[1])
    server.ask(COMPLETE, {"prompt": [1], "max_tokens": 1})
    body = json.dumps({"prompt": [[1], [2], [3], [4]], "n": 15, "max_tokens": 127, "temperature": 1, "stream": stream})
    before = written()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"POST {COMPLETE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        if stream:
            connection.recv(100)
        while not server.texts():
            time.sleep(0.001)
    assert server.empties() and written() - before < 60 * 64                 # it was not written to its end


NUMBERS = st.one_of(st.integers(-2**70, 2**70), st.floats(), st.booleans(), st.none())
VALUES = st.recursive(st.one_of(NUMBERS, st.text(max_size=20)), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.text(max_size=8), inner, max_size=4), max_leaves=8)
FIELDS = ("temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "stream", "max_tokens", "logit_bias", "logprobs",
          "top_logprobs", "repetition_penalty", "stream_options", "response_format", "encoding_format", "model", "user", "tools")
LIKELY = st.sampled_from([0, 1, 2, 0.5, True, False, None, "a", ["a", "b"], {"1": -5}, {"include_usage": True}, {"type": "text"},
                          "float"])
TEXTS = st.text(max_size=30) | VALUES
ROLES = st.sampled_from(["user", "assistant", "system", "x"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}), max_size=3)


@st.composite
def bodies(draw):
    """A path and a body: any bytes, any JSON, or a request with some fields that may be right."""
    path = draw(st.sampled_from([CHAT, COMPLETE, EMBED]))
    kind = draw(st.sampled_from(["bytes", "json", "fields", "fields", "fields"]))
    if kind == "bytes":
        return path, draw(st.binary(max_size=200))
    if kind == "json":
        return path, json.dumps(draw(VALUES)).encode()
    fields = draw(st.dictionaries(st.sampled_from(FIELDS), LIKELY | VALUES, max_size=5)) | {
        "messages": draw(MESSAGES), "prompt": draw(TEXTS | st.lists(st.integers(-1, 3000), max_size=9)), "input": draw(TEXTS)}
    if not isinstance(fields.get("max_tokens"), int) or fields["max_tokens"] > 3:
        fields["max_tokens"] = 2                                              # short, since there are many
    return path, json.dumps(fields).encode()


def held(process):
    """The bytes that a process holds now, where Linux tells; 0 elsewhere."""
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status", encoding="utf-8") as status:
        return 1024 * int(re.search(r"VmRSS:\s*(\d+)", status.read())[1])
    return 0


@pytest.mark.slow
def test_two_thousand_strange_requests(small):
    running, statuses = Running("--model", small, "--slots", 4, "--waiting", 60), {}
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)

    @settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(bodies(), st.sampled_from(["whole", "whole", "whole", "aborted", "in pieces"]))
    def strange(request, manner):
        path, body = request
        head = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode()
        if manner == "whole":
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            assert answer.status in (200, 400, 429), data
            assert answer.status == 200 or json.loads(data)["error"]["message"]
            assert b'"server_error"' not in data
            return
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as raw:
            if manner == "aborted":
                raw.sendall(head + body[:len(body) // 2])
                return
            for piece in (head[:30], head[30:], body[:5], body[5:]):
                raw.sendall(piece)
                time.sleep(0.001)
            assert int(raw.recv(12)[9:12]) in (200, 400, 429)

    try:
        for _ in range(50):
            running.ask(COMPLETE, {"prompt": "warm", "max_tokens": 3})
        before = held(running.process)
        strange()
        for _ in range(2):                                                    # ten megabytes
            status, _, answer = running.ask(COMPLETE, {"prompt": "a" * 10_000_000})
            assert status == 413 and "this server reads 1,048,576; shorten it" in answer["error"]["message"]
        assert running.empties() and statuses[200] > 50 and statuses[400] > 200
        assert held(running.process) - before < 60e6
        assert running.ask(COMPLETE, {"prompt": "still there?", "max_tokens": 3})[0] == 200
    finally:
        connection.close()
        assert running.stop() == 0 or os.name == "nt"


def test_a_slow_request_is_given_up(serve, small, monkeypatch):
    monkeypatch.setattr(serve, "MOST_SECONDS", 0.2)
    guard, sent = serve.Guard(None, serve.Service(*serve.load_pretrained(small), "small", 1, 0)), []

    async def ask():
        async def receive():
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message):
            sent.append(message)
        await guard({"type": "http", "path": COMPLETE, "headers": [(b"host", b"localhost")]}, receive, send)
    asyncio.run(ask())
    assert sent[0]["status"] == 408 and b"send it faster" in sent[1]["body"]


def test_a_text_that_fails_fails_alone(serve, small, capfd):
    """One text's choice raises; its client is told, the other's text is as it would be alone."""
    model, tokenizer = serve.load_pretrained(small)

    async def both():
        worker = serve.Worker(lambda: serve.Engine(model, 2), asyncio.get_running_loop())
        worker.start()
        pieces = [asyncio.Queue(), asyncio.Queue()]

        def fail(logits):
            raise RuntimeError("a bad day")
        for queue, choose in zip(pieces, (fail, None), strict=True):
            worker.submit(serve.Job([1, 2, 3], 20, 0, queue, tokenizer, [], choose, None))
        said = []
        for queue in pieces:
            said.append([await queue.get()])
            while not said[-1][-1]["finish"]:
                said[-1].append(await queue.get())
        assert worker.n_open == 0
        worker.commands.put(("leave", None))
        await asyncio.to_thread(worker.join)
        return said
    failed, fine = asyncio.run(both())
    assert failed[-1]["finish"] == "error" and serve.failure(failed[-1]["error"]).status == 500
    assert "a text has failed: RuntimeError: a bad day" in capfd.readouterr().err
    assert "".join(p["text"] for p in fine) == tokenizer.decode(solo(serve, model, tokenizer, [1, 2, 3], 20)[0])


def test_an_engine_that_fails_is_replaced(serve, small):
    model, tokenizer = serve.load_pretrained(small)

    async def twice():
        worker = serve.Worker(lambda: serve.Engine(model, 2), asyncio.get_running_loop())
        worker.engine.step = lambda: 1 / 0
        worker.start()
        ends = []
        for _ in range(2):
            queue = asyncio.Queue()
            worker.submit(serve.Job([1], 5, 0, queue, tokenizer, [], None, None))
            piece = await queue.get()
            while not piece["finish"]:
                piece = await queue.get()
            ends.append(piece["finish"])
        worker.commands.put(("leave", None))
        return ends
    assert asyncio.run(twice()) == ["error", "length"]
    gc.collect()


# ------------------------------------------------------------------------------------------------------------- starting, stopping


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could answer")
def test_sigterm_finishes_open_streams(small):
    running = Running("--model", small, "--slots", 4)
    streams = [running.open_stream(prompt=[[i]] * 4, max_tokens=120, n=4) for i in range(1, 4)]
    n_then = running.texts()
    running.process.send_signal(signal.SIGTERM)
    for connection, answer in streams:
        parts = events(answer.read().decode())
        finished = [p for p in parts if p["choices"][0]["finish_reason"]]
        assert len(finished) == 16 and all(p["choices"][0]["finish_reason"] in ("length", "stop") for p in finished)
        connection.close()
    assert running.process.wait(60) == 0 and running.process.stdout.read() == "" and n_then > 0
    running.process.stdout.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", running.port), timeout=5).close()


def start(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, encoding="utf-8", timeout=120,
                          env=os.environ | {"PYTHONUTF8": "1"})


def test_what_cannot_be_started_says_why(server, small, tmp_path):
    taken = start("--model", small, "--port", server.port)
    assert taken.returncode == 2 and f"port {server.port} can't be used" in taken.stderr and "another with --port" in taken.stderr
    for arguments, sentence in ((("--model", tmp_path / "none"), "there is no model"),
                                (("--slots", 0), "'0' is not a whole number of at least 1"),
                                (("--model", small, "--port", 99_999), "port 99999 can't be used")):
        done = start(*arguments)
        assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------------------- the official client


@pytest.mark.slow
def test_the_official_client():
    openai = pytest.importorskip("openai", reason="the client isn't installed; requirements-dev.txt lists it")
    running = Running("--int8")
    try:
        client = openai.OpenAI(base_url=f"{running.address}v1", api_key="none", max_retries=0)
        name = client.models.list().data[0].id
        assert client.models.retrieve(name).id == name
        asked = {"model": name, "messages": HELLO, "temperature": 0, "max_completion_tokens": 60}
        whole = client.chat.completions.create(**asked)
        assert "bear" in whole.choices[0].message.content and whole.usage.total_tokens > whole.usage.completion_tokens > 5
        *parts, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        assert "".join(p.choices[0].delta.content or "" for p in parts) == whole.choices[0].message.content
        assert last.usage == whole.usage and parts[0].choices[0].delta.role == "assistant"
        assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        drawn = [client.chat.completions.create(model=name, messages=HELLO, seed=3, n=2, max_tokens=20, stop=".", logprobs=True,
                                                top_logprobs=2) for _ in range(2)]
        assert [c.message.content for c in drawn[0].choices] == [c.message.content for c in drawn[1].choices]
        assert all("." not in c.message.content and len(c.logprobs.content[0].top_logprobs) == 2 for c in drawn[0].choices)
        text = client.completions.create(model=name, prompt="Once there was", max_tokens=8, temperature=0, logprobs=1).choices[0]
        assert text.text and len(text.logprobs.tokens) == 8
        vectors = client.embeddings.create(model=name, input=["a red kite", "the red kite"]).data
        assert sum(a * b for a, b in zip(vectors[0].embedding, vectors[1].embedding, strict=True)) > 0.5
        with pytest.raises(openai.BadRequestError, match="less than or equal to 2"):
            client.chat.completions.create(model=name, messages=HELLO, temperature=3)
        with pytest.raises(openai.NotFoundError, match="this server has"):
            client.models.retrieve("gpt-17")
    finally:
        assert running.stop() == 0 or os.name == "nt"
