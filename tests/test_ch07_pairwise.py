"""The bonus on judges: verdicts by hand, a biased judge found out, the local judge over loopback, errors that name the remedy."""

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from data.instructions import make_instructions
from tests.support import ROOT, program

pairwise = program("ch07/03_bonus_model-evaluation/pairwise.py")
local = program("ch07/03_bonus_model-evaluation/local_judge.py")
SFT = str(ROOT / "models" / "tales-sft")
REQUESTS = list(make_instructions(21, 3, "simple"))
RIGHT, WRONG = [r["output"] for r in REQUESTS], ["I like soup."] * 21


def served(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/v1"


def replying(status, body):
    """A server that answers everything alike."""
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return served(Handler)


@pytest.mark.parametrize(("reply", "verdict"), [
    ("A", "A"), ("B.", "B"), (" Answer B is better", "B"), ("Tie", "tie"), ("tie!", "tie"), ("A or B", "unreadable"),
    ("", "unreadable"), ("both", "unreadable"), ("**A**", "A")])
def test_replies(reply, verdict):
    assert pairwise.read_verdict(reply) == verdict


@pytest.mark.parametrize(("front", "behind", "outcome"), [
    ("2", "2", 1.0), ("1", "1", 0.0), ("1", "2", 0.5), ("2", "1", 0.5), ("tie", "2", 0.5), ("unreadable", "1", 0.5)])
def test_a_verdict_counts_only_if_it_holds_in_either_order(front, behind, outcome):
    assert pairwise.Verdict(front, behind).outcome == outcome


def test_a_judge_that_reads_and_one_that_looks_at_the_place():
    def reads(text):
        a, b = (text.split(f"[Answer {name}]\n")[1].split(f"\n[/Answer {name}]")[0] for name in "AB")
        return "A" if a != "I like soup." else "B"

    good = pairwise.compare(reads, REQUESTS, WRONG, RIGHT)
    assert good.front_wins() == (21, 42) and good.turned() == (0, 21) and good.agrees() == (21, 21)
    assert "wins by the judge                1.000" in "\n".join(good.lines(["x", "y"]))
    front = pairwise.compare(lambda text: "A", REQUESTS, WRONG, RIGHT)
    assert front.front_wins() == (42, 42) and front.turned() == (21, 21) and front.agrees() == (0, 0)
    assert "wins by the judge                0.500" in "\n".join(front.lines(["x", "y"]))
    mute = pairwise.compare(lambda text: "Well.", REQUESTS, WRONG, RIGHT)
    assert mute.front_wins() == (0, 0) and "unreadable replies                 42 of   42" in "\n".join(mute.lines(["x", "y"]))


def test_equal_answers_are_a_tie_and_the_judge_is_not_asked():
    report = pairwise.compare(lambda text: pytest.fail("asked"), REQUESTS, RIGHT, RIGHT)
    assert report.asked == [] and not report.truth.any()


def test_the_local_judge_over_loopback():
    server, address = served(local.handler_for(local.likelihood_judge(SFT)))
    leaning, biased = served(local.handler_for(local.likelihood_judge(SFT, leans=100.0)))
    try:
        def ask(at):
            return lambda text: pairwise.ask_server(at, "local-judge", text)

        fair, front = (pairwise.compare(ask(at), REQUESTS[:8], WRONG[:8], RIGHT[:8]) for at in (address, biased))
        assert fair.turned() == (0, 8) and fair.front_wins() == (8, 16) and fair.agrees()[0] >= 6
        assert front.turned() == (8, 8) and front.front_wins() == (16, 16)
        for body, status in ((b"{}", 400), (b"no json", 400), (json.dumps({"messages": [{"content": "Hello"}]}).encode(), 400)):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(urllib.request.Request(address + "/chat/completions", body), timeout=20)
            assert caught.value.code == status and "judged" in json.load(caught.value)["error"]["message"]
        with pytest.raises(ValueError, match="status 404"):
            pairwise.ask_server(address + "/else", "m", "x")
        with pytest.raises(ValueError, match="don't fit into the judge's 512 tokens"):
            local.likelihood_judge(SFT)(pairwise.question("Well?", "so " * 600, "no"))
    finally:
        server.shutdown()
        leaning.shutdown()


@pytest.mark.parametrize(("status", "body", "words"), [
    (401, b"no key", "status 401: no key; check --model, and JUDGE_API_KEY"),
    (200, b"<html>", "did not reply in OpenAI's format"),
    (200, b'{"choices": []}', "did not reply in OpenAI's format"),
    (200, b'{"choices": [{"message": {"content": null}}]}', "replied with None instead of a text"),
])
def test_servers_that_cannot_judge(status, body, words):
    server, address = replying(status, body)
    with pytest.raises(ValueError, match=words):
        pairwise.ask_server(address, "m", "text")
    server.shutdown()


def test_the_key_is_sent_and_not_shown(monkeypatch):
    seen = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.update(self.headers.items(), body=json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500)
            self.end_headers()

        def log_message(self, *_):
            pass

    server, address = served(Handler)
    monkeypatch.setenv("JUDGE_API_KEY", "secret-key")
    with pytest.raises(ValueError, match="status 500") as caught:
        pairwise.ask_server(address, "some-model", "text")
    server.shutdown()
    assert seen["Authorization"] == "Bearer secret-key" and "secret-key" not in str(caught.value)
    assert seen["body"]["model"] == "some-model" and seen["body"]["temperature"] == 0


def test_nobody_there(capsys):
    with pytest.raises(ValueError, match="could not reach .*; is the judge running there"):
        pairwise.ask_server("http://127.0.0.1:9/v1", "m", "text", timeout=5)
    assert pairwise.main(["no-such-model", SFT]) == 2
    assert "no-such-model" in capsys.readouterr().err


def test_the_outcome_of_scores():
    report = pairwise.Report([pairwise.Verdict("2", "2"), pairwise.Verdict("1", "1")], torch.tensor([0.5, 0.5]))
    assert report.agrees() == (1, 2)
