"""How much chapter 8's server gains from many at once: `python course.py bench serve` runs it.

The server runs as a reader starts it, with the bundled model. The same prompts are asked one after the other, and all at once by 64
clients that read a stream each; both take turns, so that a busy moment of the machine hits both. The clients run in another process
than the server and share its cores, as on a reader's machine.
"""

import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET, N_STREAMS, N_NEW = 5.0, 64, 64


def stream(port: int, i: int, n_new: int, spent: list[float]) -> int:
    """Read one stream to its end; notes the seconds to its first piece. Returns how many tokens came, asserts that it's whole."""
    connection, begun = http.client.HTTPConnection("127.0.0.1", port, timeout=300), time.perf_counter()
    fields = {"prompt": [i % 1_000 + 4, 5, 6], "max_tokens": n_new, "temperature": 0, "stream": True,
              "stream_options": {"include_usage": True}}
    connection.request("POST", "/v1/completions", json.dumps(fields), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    first = answer.readline()
    spent.append(time.perf_counter() - begun)
    text = (first + answer.read()).decode()
    connection.close()
    assert answer.status == 200 and text.endswith("data: [DONE]\n\n"), text[-200:]
    return int(re.search(r'"completion_tokens":(\d+)', text)[1])


def one_by_one(port: int, n: int, n_new: int) -> tuple[float, float]:
    """Tokens a second, and the median seconds to a first token."""
    spent, begun = [], time.perf_counter()
    tokens = sum(stream(port, i, n_new, spent) for i in range(n))
    return tokens / (time.perf_counter() - begun), statistics.median(spent)


def at_once(port: int, n: int, n_new: int) -> tuple[float, float]:
    """The same for n streams in n threads."""
    spent, tokens, begun = [], [], time.perf_counter()
    threads = [threading.Thread(target=lambda i=i: tokens.append(stream(port, i, n_new, spent))) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == n, f"{n - len(tokens)} of {n} streams failed"
    return sum(tokens) / (time.perf_counter() - begun), statistics.median(spent)


def bench(arguments: list[str], n_streams: int, n_new: int, rounds: int) -> None:
    """Start the server, measure, print, stop it."""
    script = ROOT / "ch08" / "01_main-chapter-code" / "gpt_serve.py"
    command = [sys.executable, str(script), "--port", "0", "--slots", str(n_streams)]
    server = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, encoding="utf-8")
    try:
        port = int(re.search(r":(\d+)/ ", server.stdout.readline())[1])
        at_once(port, 4, 8)                                                          # warm up
        rows = [(one_by_one(port, max(1, n_streams // 4), n_new), at_once(port, n_streams, n_new)) for _ in range(rounds)]
    finally:
        server.terminate()
        server.wait(60)
        server.stdout.close()
    alone, together = (tuple(map(statistics.median, zip(*column, strict=True))) for column in zip(*rows, strict=True))
    for name, (speed, first) in ((" one by one", alone), (f"{n_streams:3d} at once", together)):
        print(f"  {name:12s}{speed:8.0f} tokens/s, first token after {1e3 * first:.0f} ms")
    ratio = together[0] / alone[0]
    print(f"  target {TARGET} x one by one: {ratio:.2f}, {'reached' if ratio >= TARGET else 'not reached'}")


def main() -> None:
    """Run it with the server's own model."""
    print(f"serve: the bundled model, streams of {N_NEW} tokens, greedy; medians of 3 rounds")
    bench([], N_STREAMS, N_NEW, 3)
