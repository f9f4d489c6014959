"""A page on your own machine to try a classifier of chapter 6: type a message, see the verdict, and which words moved it.

    python serve_page.py --model runs/filter              then open the address that it prints
    python serve_page.py --model runs/filter --port 8100

Nothing leaves the machine: the server listens on 127.0.0.1 only, and the page asks for nothing from elsewhere. Programs may use the
same address: POST /classify with {"text": "..."} answers with label and probability as JSON, and with "explain": true beside it
also with the words.
"""

import argparse
import base64
import hashlib
import json
import math
import os
import re
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import course

course.setup("ch06/04_user_interface")
from ch06 import TextClassifier, load_classifier  # noqa: E402

PAGE = Path(__file__).resolve().with_name("page.html")
MOST_BYTES, MOST_CHARACTERS, MOST_PIECES = 2**16, 2_000, 40
METHODS = {"/": "GET", "/classify": "POST"}


class Refused(Exception):
    """A request that can't be answered: the HTTP status, and a sentence that says what to do."""

    def __init__(self, status: int, sentence: str, **headers: str):
        super().__init__(sentence)
        self.status, self.headers = status, headers


# --------------------------------------------------------------------------------------------------------- what is computed


def log_odds(p: float) -> float:
    """log(p / (1 - p)), with the two ends kept finite."""
    p = min(max(p, 1e-7), 1 - 1e-7)
    return math.log(p / (1 - p))


def pieces_of(text: str, most: int = MOST_PIECES) -> list[str]:
    """The text cut before its words, into at most `most` pieces of equally many words; together they are the text."""
    words = re.findall(r"\s*\S+\s*\Z|\s*\S+", text)
    size = max(1, math.ceil(len(words) / most))
    return ["".join(words[i:i + size]) for i in range(0, len(words), size)]


def judge(text: str, reader: TextClassifier, explain: bool = False) -> dict:
    """The verdict on a text; with `explain` also what each piece of it did, by leaving that piece out.

    `moved` is how much the piece adds to the log-odds of `labels[1]`, `without` the probability that is left without it.
    """
    start = time.perf_counter()
    pieces = pieces_of(text) if explain else []
    rest = ["".join(pieces[:i] + pieces[i + 1:]).strip() for i in range(len(pieces))]
    p, *without = reader.probabilities([text, *rest]).tolist()
    answer = {"label": reader.labels[p >= reader.threshold], "labels": list(reader.labels), "probability": p,
              "threshold": reader.threshold}
    if explain:
        answer["pieces"] = [{"text": piece, "without": q, "moved": log_odds(p) - log_odds(q)}
                            for piece, q in zip(pieces, without, strict=True)]
    return answer | {"milliseconds": round(1_000 * (time.perf_counter() - start), 1)}


def read_request(body: bytes) -> tuple[str, bool]:
    """The text in the body of a request, and whether it wants an explanation. Raises Refused."""
    example = '{"text": "Are we still on for lunch?"}'
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, f"the body isn't JSON; send something like {example}") from None
    if not isinstance(request, dict) or not isinstance(request.get("text"), str):
        raise Refused(400, f"the body has no text; send something like {example}")
    text, explain = request["text"], request.get("explain", False)
    if not text.strip():
        raise Refused(400, "the text is empty; write a message first")
    if len(text) > MOST_CHARACTERS:
        raise Refused(400, f"the text has {len(text):,} characters, this page takes {MOST_CHARACTERS:,}; shorten it, or let "
                           "gpt_class_finetune.py read a file")
    if not isinstance(explain, bool):
        raise Refused(400, "explain must be true or false")
    return text, explain


# --------------------------------------------------------------------------------------------------------------- the server


class Handler(BaseHTTPRequestHandler):
    """Answers GET / with the page and POST /classify with a verdict, and everything else with one sentence."""

    timeout = 20                                                              # seconds for a client that falls silent

    def answer(self) -> None:
        try:
            path = self.path.split("?")[0]
            if path not in METHODS:
                raise Refused(404, "there is nothing here; the page is at /")
            allowed = ("GET", "HEAD") if METHODS[path] == "GET" else (METHODS[path],)
            if self.command not in allowed:
                raise Refused(405, f"{path} takes {METHODS[path]}, not {self.command}", Allow=", ".join(allowed))
            if path == "/":
                self.send(200, self.server.page, "text/html", **self.server.page_headers)
                return
            text, explain = read_request(self.read_body())
            with self.server.one_at_a_time:                                   # two at once would take each other's cores
                verdict = judge(text, self.server.reader, explain)
            self.send(200, json.dumps(verdict).encode(), "application/json")
        except Refused as refused:
            self.send(refused.status, json.dumps({"error": str(refused)}).encode(), "application/json", **refused.headers)
        except (ConnectionError, TimeoutError):                               # the client has gone, so nobody is there to be told
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def read_body(self) -> bytes:
        """The body of the request. Raises Refused for one that is too long, after reading past it without keeping it."""
        stated = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,15}", stated):
            raise Refused(411, "say how long the body is, with a Content-Length")
        length = left = int(stated)
        if length > MOST_BYTES:
            while left > 0 and left > length - 2**26 and (block := self.rfile.read(min(left, 2**16))):
                left -= len(block)                                            # a client listens only once it has sent its body
            raise Refused(413, f"the body has {length:,} bytes, this server reads {MOST_BYTES:,}; shorten the message")
        return self.rfile.read(length)

    def send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        """One whole answer."""
        self.send_response(status)
        headers |= {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), "Cache-Control": "no-store",
                    "X-Content-Type-Options": "nosniff"}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        """Nothing: what you type is nobody's business."""


class Server(ThreadingHTTPServer):
    """A server of one classifier on 127.0.0.1. Raises OSError if the port is taken."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"                                     # on Windows this would share a port that is taken

    def __init__(self, reader: TextClassifier, port: int):
        self.reader, self.one_at_a_time, self.page = reader, threading.Lock(), PAGE.read_bytes()
        self.page_headers = {"Content_Security_Policy": policy(self.page)}
        super().__init__(("127.0.0.1", port), Handler)


def policy(page: bytes) -> str:
    """What a browser may do with the page: run its own script and style, which it knows by their hashes, and ask this server."""
    rules = ["default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    for tag in ("script", "style"):
        own = re.search(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.S)[1]
        rules.append(f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(own).digest()).decode()}'")
    return "; ".join(rules)


def stop(*_) -> None:
    """What the signals do: leave `serve_forever` as if it had ended."""
    raise SystemExit(0)


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until Ctrl+C or SIGTERM."""
    parser = argparse.ArgumentParser(description="A page on your own machine to try a classifier of chapter 6.")
    parser.add_argument("--model", type=Path, default=course.ROOT / "runs" / "filter",
                        help="the folder of a saved classifier (default: runs/filter)")
    parser.add_argument("--port", type=int, default=8006, help="the port to serve on (8006; 0: any that is free)")
    options = parser.parse_args(arguments)
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, stop)
    try:
        reader = load_classifier(options.model)
    except ValueError as error:
        parser.error(f"{error}; this trains one: python ch06/01_main-chapter-code/gpt_class_finetune.py --out {options.model}")
    try:
        server = Server(reader, options.port)
    except (OSError, OverflowError) as error:
        parser.error(f"port {options.port} can't be used ({error}); choose another with --port")
    print(f"open http://127.0.0.1:{server.server_port}/ in a browser; Ctrl+C ends the server", flush=True)
    with server:
        server.serve_forever(poll_interval=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
